//! Making and finding accounts: what the actor does for a command, and the command line for an admin.

use super::{
    Register, Role, SessionError, SessionOpened, SignIn,
    passwords::Passwords,
    state::{Phone, check_password, invite_code, normal_invite_code},
    store::{self, Inserted, NewIdentity},
    throttle::Throttle,
};
use crate::{
    ask::AskError,
    database::{Database, DatabaseError},
    faults,
    ids::{SessionId, UserId},
};
use secrecy::{ExposeSecret, SecretString};

/// Tries to find an invite code nobody has; the second is hardly ever needed.
const INVITE_TRIES: usize = 8;
/// Tries of an insertion whose outcome is unknown.
const INSERT_TRIES: usize = 2;

/// The work of the session actor, cheap to clone into its futures.
#[derive(Clone)]
pub(super) struct Accounts {
    pub(super) database: Database,
    pub(super) passwords: Passwords,
    pub(super) throttle: Throttle,
}

impl Accounts {
    pub(super) async fn register(&self, command: Register) -> Result<SessionOpened, SessionError> {
        let phone = Phone::parse(&command.phone)?;
        check_password(command.password.expose_secret())?;
        let referrer = self.referrer(command.referrer, command.invite_code.as_deref()).await?;
        // the constraint decides; looking first spares a hash
        if let Some(taken) = store::identity_of(&self.database, &phone).await?
            && taken.user != command.user
        {
            return Err(SessionError::PhoneTaken);
        }
        let account =
            Account { user: command.user, phone, password: command.password, role: Role::User, referrer };
        create(&self.database, &self.passwords, account).await?;
        faults::point("session.registered");
        Ok(SessionOpened { user: command.user, role: Role::User, session: SessionId::new() })
    }

    pub(super) async fn sign_in(&self, command: SignIn) -> Result<SessionOpened, SessionError> {
        let phone = Phone::parse(&command.phone)?;
        let guess = self.throttle.begin(&phone).await?;
        faults::point("session.sign_in");
        match self.compare(&phone, command.password).await {
            Ok(Some(identity)) => {
                self.throttle.succeeded(guess).await;
                if identity.banned {
                    return Err(SessionError::Banned);
                }
                Ok(SessionOpened { user: identity.user, role: identity.role, session: SessionId::new() })
            }
            Ok(None) => {
                self.throttle.failed(guess).await?;
                Err(SessionError::InvalidCredentials)
            }
            Err(error) => {
                self.throttle.abandoned(guess).await;
                Err(error)
            }
        }
    }

    async fn compare(
        &self,
        phone: &Phone,
        password: SecretString,
    ) -> Result<Option<store::Identity>, SessionError> {
        let mut identity = store::identity_of(&self.database, phone).await?;
        let hash = identity.as_mut().and_then(|identity| identity.password_hash.take());
        let matches = self.passwords.verify(password, hash).await?;
        Ok(identity.filter(|_| matches))
    }

    async fn referrer(&self, id: Option<UserId>, code: Option<&str>) -> Result<Option<UserId>, SessionError> {
        let by_code = match code.map(normal_invite_code) {
            Some(code) => Some(
                store::referrer_by_invite_code(&self.database, &code)
                    .await?
                    .ok_or(SessionError::InviteCodeInvalid)?,
            ),
            None => None,
        };
        let Some(id) = id else { return Ok(by_code) };
        let by_id = store::referrer_by_id(&self.database, id).await?.ok_or(SessionError::ReferrerInvalid)?;
        match by_code {
            Some(other) if other != by_id => Err(SessionError::ReferrerInvalid),
            _ => Ok(Some(by_id)),
        }
    }
}

/// An account to be made; phone and password have been checked.
struct Account {
    user: UserId,
    phone: Phone,
    password: SecretString,
    role: Role,
    referrer: Option<UserId>,
}

async fn create(database: &Database, passwords: &Passwords, account: Account) -> Result<(), SessionError> {
    let hash = passwords.hash(account.password).await?;
    let new = NewIdentity {
        user: account.user,
        phone: &account.phone,
        password_hash: &hash,
        role: account.role,
        referrer: account.referrer,
    };
    let mut unknown = false;
    for _ in 0..INSERT_TRIES {
        match insert(database, &new).await {
            Err(error) if store::may_be_done(&error) => unknown = true,
            // no connection for the second try does not undo the first
            Err(SessionError::Database(_)) if unknown => break,
            answer => return answer,
        }
    }
    Err(AskError::OutcomeUnknown("session").into())
}

async fn insert(database: &Database, new: &NewIdentity<'_>) -> Result<(), SessionError> {
    for _ in 0..INVITE_TRIES {
        match store::insert(database, new, &invite_code(rand::random())).await? {
            Inserted::Done => return Ok(()),
            Inserted::PhoneTaken => return Err(SessionError::PhoneTaken),
            Inserted::InviteCodeTaken => {}
        }
    }
    let used_up = "no free invite code was found";
    Err(DatabaseError::Unavailable(used_up.into()).into())
}

/// Makes an account outside of any session: an admin's, by whoever holds the machine.
///
/// # Errors
/// [`SessionError::PhoneInvalid`], [`SessionError::PasswordWeak`], [`SessionError::PhoneTaken`] or a failure of
/// the database.
pub async fn create_account(
    database: &Database,
    phone: &str,
    password: SecretString,
    role: Role,
    bcrypt_cost: u32,
) -> Result<UserId, SessionError> {
    let phone = Phone::parse(phone)?;
    check_password(password.expose_secret())?;
    let user = UserId::new();
    let account = Account { user, phone, password, role, referrer: None };
    create(database, &Passwords::new(bcrypt_cost), account).await?;
    Ok(user)
}
