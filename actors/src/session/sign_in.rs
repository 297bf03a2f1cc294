//! The ways in: by password, by a code that is sent, by the mini-program.

use super::{
    Proof, Role, Scene, SendCode, SessionError, SessionOpened, SignIn, SignInByWechat, SmsError, WechatError,
    WechatUser,
    codes::{self, Shown},
    state::{Phone, mask_phone},
    store::{self, Identity, Kept, NewIdentity},
    tools::Tools,
};
use crate::{
    faults,
    records::security_log::{NewEntry, SecurityEvent},
};
use secrecy::SecretString;
use serde_json::json;

/// What session keys of the mini-program are sealed for.
const SESSION_KEY: &str = "wechat session key";

impl Tools {
    pub(super) async fn send_code(&self, command: SendCode) -> Result<(), SessionError> {
        let phone = Phone::parse(&command.phone)?;
        let Some(sms) = &self.sms else {
            tracing::warn!("a code was asked for, and gateways.sms is not set up");
            return Err(SmsError::Unreachable.into());
        };
        let code = self.codes.issue(&phone, command.scene).await?;
        let sent = sms.send_code(&phone, &code, codes::CODE_LIFETIME).await;
        if let Err(error) = &sent {
            tracing::warn!(%error, phone = %mask_phone(phone.digits()), "a code was not sent");
        }
        if sent == Err(SmsError::Unreachable) {
            self.codes.forget(&phone, command.scene).await;
        }
        Ok(sent?)
    }

    pub(super) async fn sign_in(&self, command: SignIn) -> Result<SessionOpened, SessionError> {
        let phone = Phone::parse(&command.phone)?;
        match &command.proof {
            Proof::Password(password) => self.sign_in_by_password(&command, &phone, password.clone()).await,
            Proof::Code(code) => self.sign_in_by_code(&command, &phone, code).await,
        }
    }

    async fn sign_in_by_password(
        &self,
        command: &SignIn,
        phone: &Phone,
        password: SecretString,
    ) -> Result<SessionOpened, SessionError> {
        let identity = store::identity_of_phone(&self.database, phone).await?;
        let guess = self.throttle.begin(phone.digits()).await?;
        faults::point("session.sign_in");
        match self.is_password_of(identity.as_ref(), password).await {
            Ok(true) => {
                self.throttle.succeeded(guess).await;
                // only an account's own password is right
                let identity = identity.ok_or(SessionError::InvalidCredentials)?;
                self.sign_in_as(&identity, command.ids, "password", &command.origin).await
            }
            Ok(false) => {
                self.guess_failed(guess, failure(identity.as_ref(), "password", phone, command)).await?;
                Err(SessionError::InvalidCredentials)
            }
            Err(error) => {
                self.throttle.abandoned(guess).await;
                Err(error)
            }
        }
    }

    /// Whether somebody has this password; takes as long where there is nobody. A hash that costs less than one does
    /// now is replaced.
    async fn is_password_of(
        &self,
        identity: Option<&Identity>,
        password: SecretString,
    ) -> Result<bool, SessionError> {
        let hash = identity.and_then(|identity| identity.password_hash.clone());
        let is_right = self.passwords.verify(password.clone(), hash.clone()).await?;
        if is_right
            && let (Some(identity), Some(old)) = (identity, hash)
            && self.passwords.is_too_cheap(&old)
        {
            // it is right all the same, and the next sign-in tries again
            if let Err(error) = self.rehash(identity, password, &old).await {
                tracing::warn!(error = %crate::causes(&error), "a password keeps the hash of an earlier cost");
            }
        }
        Ok(is_right)
    }

    async fn rehash(
        &self,
        identity: &Identity,
        password: SecretString,
        old: &str,
    ) -> Result<(), SessionError> {
        let new = self.passwords.hash(password).await?;
        Ok(store::rehash(&self.database, identity.user, old, &new).await?)
    }

    async fn sign_in_by_code(
        &self,
        command: &SignIn,
        phone: &Phone,
        code: &SecretString,
    ) -> Result<SessionOpened, SessionError> {
        let ids = command.ids;
        // before the code is used up
        let identity = store::identity_of_phone(&self.database, phone).await?;
        let shown = self.codes.consume(phone, Scene::Login, code, ids.session.0).await?;
        if shown != Shown::Right {
            // who guesses where there is no code learns nothing and fills no log
            if shown == Shown::Wrong {
                self.log_failure(&failure(identity.as_ref(), "code", phone, command)).await;
            }
            return Err(SessionError::InvalidCredentials);
        }
        self.with_code((phone, Scene::Login, ids.session.0), self.sign_in_as_owner(command, phone, identity))
            .await
    }

    /// Signs in whoever has shown that the phone is theirs: to its account, or a new one.
    async fn sign_in_as_owner(
        &self,
        command: &SignIn,
        phone: &Phone,
        identity: Option<Identity>,
    ) -> Result<SessionOpened, SessionError> {
        let ids = command.ids;
        if let Some(identity) = identity.filter(|identity| identity.user != ids.user) {
            return self.sign_in_as(&identity, ids, "code", &command.origin).await;
        }
        let new = NewIdentity {
            user: ids.user,
            phone: Some(phone),
            password_hash: None,
            wechat: None,
            role: Role::User,
            referrer: None,
            session: Some(ids.session),
            origin: &command.origin,
            gifts: Vec::new(),
            digests: Vec::new(),
        };
        match self.make(&new, ids, &command.origin).await {
            // somebody with the same phone was faster: it is the same person
            Err(SessionError::PhoneTaken) => {
                let identity = store::identity_of_phone(&self.database, phone).await?;
                let identity = identity.ok_or(SessionError::InvalidCredentials)?;
                self.sign_in_as(&identity, ids, "code", &command.origin).await
            }
            made => made,
        }
    }

    pub(super) async fn sign_in_by_wechat(
        &self,
        command: SignInByWechat,
    ) -> Result<SessionOpened, SessionError> {
        let SignInByWechat { ids, code, referral, origin } = command;
        let referrer = self.referrer(&referral).await;
        let (wechat, sealed) = self.wechat_user(&code).await?;
        if let Some(identity) = store::identity_of_wechat(&self.database, &wechat).await? {
            self.refresh_wechat(&identity, &wechat, &sealed).await?;
            return self.sign_in_as(&identity, ids, "wechat", &origin).await;
        }
        // who brought them matters to those alone who are new
        let referrer = referrer?;
        let new = NewIdentity {
            user: ids.user,
            phone: None,
            password_hash: None,
            wechat: Some((&wechat, &sealed)),
            role: Role::User,
            referrer,
            session: Some(ids.session),
            origin: &origin,
            gifts: self.gifts.of(ids.user, referrer),
            digests: self.gifted_keys.digests(None, Some(&wechat)),
        };
        match self.make(&new, ids, &origin).await {
            // the same user signed in twice at once for the first time
            Err(SessionError::WechatTaken) => {
                let identity = store::identity_of_wechat(&self.database, &wechat).await?;
                let identity = identity.ok_or(SessionError::WechatTaken)?;
                self.sign_in_as(&identity, ids, "wechat", &origin).await
            }
            made => made,
        }
    }

    /// Who the mini-program's user is, and their session key, sealed.
    pub(super) async fn wechat_user(
        &self,
        code: &SecretString,
    ) -> Result<(WechatUser, Vec<u8>), SessionError> {
        let Some(login) = &self.wechat else {
            tracing::warn!("somebody signs in by WeChat, and gateways.wechat is not set up");
            return Err(WechatError::Unavailable.into());
        };
        let wechat = login.exchange(code).await?;
        let sealed = self.sealer.seal(SESSION_KEY, &wechat.session_key)?;
        Ok((wechat, sealed))
    }

    async fn refresh_wechat(
        &self,
        identity: &Identity,
        wechat: &WechatUser,
        sealed: &[u8],
    ) -> Result<(), SessionError> {
        let kept = store::keep_wechat(&self.database, identity.user, wechat, sealed, None).await?;
        if kept == Kept::Taken {
            // the openid is one account's and the unionid another's: whoever signs in has the first
            tracing::warn!(user = %identity.user, "openid and unionid belong to two accounts");
        }
        Ok(())
    }
}

/// What is written down of a sign-in that failed.
fn failure<'a>(identity: Option<&Identity>, by: &str, phone: &Phone, command: &'a SignIn) -> NewEntry<'a> {
    NewEntry {
        user: identity.map(|identity| identity.user),
        event: SecurityEvent::SignInFailed,
        session: None,
        origin: &command.origin,
        detail: json!({ "by": by, "phone": mask_phone(phone.digits()) }),
    }
}
