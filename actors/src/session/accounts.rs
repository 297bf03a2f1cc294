//! Making accounts: for those who register, for those who sign in for the first time, and for admins by whoever holds
//! the machine.

use super::{
    NewIds, Origin, Referral, Register, Role, Scene, SessionError, SessionOpened,
    codes::Shown,
    passwords::Passwords,
    state::{Phone, check_password, invite_code, normal_invite_code},
    store::{self, Inserted, NewIdentity},
    tools::Tools,
};
use crate::{
    ask::AskError,
    database::{Database, DatabaseError},
    faults,
    ids::UserId,
    quota::{Grant, GrantKind},
};
use secrecy::{ExposeSecret, SecretString};

/// Tries to find an invite code nobody has; the second is hardly ever needed.
const INVITE_TRIES: usize = 8;
/// Tries of an insertion whose outcome is unknown.
const INSERT_TRIES: usize = 2;

/// What is given where somebody brings a new user; 0 is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct InvitationGifts {
    /// Units for the new user.
    pub newcomer: u32,
    /// Units for who brought them.
    pub referrer: u32,
}

impl InvitationGifts {
    /// The gifts for `newcomer`, whom `referrer` has brought. An account is made once, and so are they given.
    pub(super) fn of(self, newcomer: UserId, referrer: Option<UserId>) -> Vec<Grant> {
        let Some(referrer) = referrer else { return Vec::new() };
        let gift = |(user, amount, side): (UserId, u32, &str)| Grant {
            user,
            amount: amount.into(),
            kind: GrantKind::Gift,
            reference: format!("invitation:{newcomer}:{side}"),
            priority: 0,
            expires_at: None,
            reason: "invitation".to_owned(),
            idempotency: None,
            audit: None,
        };
        let sides = [(newcomer, self.newcomer, "newcomer"), (referrer, self.referrer, "referrer")];
        sides.into_iter().filter(|(_, amount, _)| *amount > 0).map(gift).collect()
    }
}

impl Tools {
    pub(super) async fn register(&self, command: Register) -> Result<SessionOpened, SessionError> {
        let Register { ids, phone, password, code, referral, origin } = command;
        let phone = Phone::parse(&phone)?;
        check_password(password.expose_secret())?;
        let referrer = self.referrer(&referral).await?;
        let Some(code) = code else {
            if self.register_requires_code {
                return Err(SessionError::CodeInvalid);
            }
            return self.register_as_owner(ids, &phone, password, referrer, &origin).await;
        };
        let by = ids.session.0;
        if self.codes.consume(&phone, Scene::Register, &code, by).await? != Shown::Right {
            return Err(SessionError::CodeInvalid);
        }
        let work = self.register_as_owner(ids, &phone, password, referrer, &origin);
        self.with_code((&phone, Scene::Register, by), work).await
    }

    /// Makes an account for whoever may say that the phone is theirs.
    async fn register_as_owner(
        &self,
        ids: NewIds,
        phone: &Phone,
        password: SecretString,
        referrer: Option<UserId>,
        origin: &Origin,
    ) -> Result<SessionOpened, SessionError> {
        // the constraint decides; looking first spares a hash
        let taken = store::identity_of_phone(&self.database, phone).await?;
        if taken.is_some_and(|taken| taken.user != ids.user) {
            return Err(SessionError::PhoneTaken);
        }
        let hash = self.passwords.hash(password).await?;
        let new = NewIdentity {
            user: ids.user,
            phone: Some(phone),
            password_hash: Some(&hash),
            wechat: None,
            role: Role::User,
            referrer,
            session: Some(ids.session),
            origin,
            gifts: self.gifts.of(ids.user, referrer),
            digests: self.gifted_keys.digests(Some(phone), None),
        };
        self.make(&new, ids, origin).await
    }

    /// Opens the first session of an account and makes the account. In this order: a session of nobody harms nobody,
    /// and where Redis is away nothing is done.
    pub(super) async fn make(
        &self,
        new: &NewIdentity<'_>,
        ids: NewIds,
        origin: &Origin,
    ) -> Result<SessionOpened, SessionError> {
        let refresh_token = self.open(ids.user, ids.session, 0, origin).await?;
        let made = create(&self.database, new).await;
        if let Err(SessionError::PhoneTaken | SessionError::WechatTaken) = made {
            // nobody ever learns of its token
            drop(self.devices.close(ids.user, ids.session).await);
        }
        made?;
        // their sockets are told of what is committed
        self.stream.mark_behind(new.gifts.iter().map(|gift| gift.user));
        faults::point("session.registered");
        // it is made, whatever becomes of the look at it
        let user = self.users.get(ids.user).await.inspect_err(|error| {
            tracing::warn!(error = %crate::causes(error), "an account cannot be read after it was made");
        });
        let user = user.ok().flatten().ok_or(AskError::OutcomeUnknown("session"))?;
        Ok(SessionOpened { user, session: ids.session, refresh_token, is_new_user: true })
    }

    /// Who brought a new user.
    pub(super) async fn referrer(&self, referral: &Referral) -> Result<Option<UserId>, SessionError> {
        let by_code = match referral.invite_code.as_deref().map(normal_invite_code) {
            Some(code) => Some(
                store::referrer_by_invite_code(&self.database, &code)
                    .await?
                    .ok_or(SessionError::InviteCodeInvalid)?,
            ),
            None => None,
        };
        let Some(id) = referral.referrer else { return Ok(by_code) };
        let by_id = store::referrer_by_id(&self.database, id).await?.ok_or(SessionError::ReferrerInvalid)?;
        match by_code {
            Some(other) if other != by_id => Err(SessionError::ReferrerInvalid),
            _ => Ok(Some(by_id)),
        }
    }
}

async fn create(database: &Database, new: &NewIdentity<'_>) -> Result<(), SessionError> {
    let mut unknown = false;
    for _ in 0..INSERT_TRIES {
        match insert(database, new).await {
            Err(error) if store::may_be_done(&error) => unknown = true,
            // no connection for the second try does not undo the first
            Err(SessionError::Database(_)) if unknown => break,
            answer => return answer,
        }
    }
    Err(AskError::OutcomeUnknown("session").into())
}

async fn insert(database: &Database, new: &NewIdentity<'_>) -> Result<(), SessionError> {
    for number in 0..INVITE_TRIES {
        match store::insert(database, new, &invite_code(rand::random()), number == 0).await? {
            Inserted::Done => return Ok(()),
            Inserted::PhoneTaken => return Err(SessionError::PhoneTaken),
            Inserted::WechatTaken => return Err(SessionError::WechatTaken),
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
    let hash = Passwords::new(bcrypt_cost).hash(password).await?;
    let new = NewIdentity {
        user,
        phone: Some(&phone),
        password_hash: Some(&hash),
        wechat: None,
        role,
        referrer: None,
        session: None,
        origin: &Origin::default(),
        gifts: Vec::new(),
        digests: Vec::new(),
    };
    create(database, &new).await?;
    Ok(user)
}
