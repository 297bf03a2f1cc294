//! What somebody signs in with: set, replaced, bound.

use super::{
    BindWechat, ChangePhone, DeleteAccount, Proof, ResetPassword, Scene, SessionError, SetPassword,
    codes::Shown,
    state::{Phone, check_password, mask_phone},
    store,
    tools::Tools,
};
use crate::{
    records::security_log::{NewEntry, SecurityEvent},
    signals::Signal,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

impl Tools {
    pub(super) async fn set_password(&self, command: SetPassword) -> Result<(), SessionError> {
        let SetPassword { user, session, old, new, origin } = command;
        check_password(new.expose_secret())?;
        let identity = store::identity_of_user(&self.database, user).await?.ok_or(SessionError::NotFound)?;
        if identity.password_hash.is_some() {
            let old = old.ok_or(SessionError::PasswordWrong)?;
            let failure = NewEntry::of(user, SecurityEvent::SignInFailed, &origin).in_session(session);
            self.must_be_password_of(&identity, old, failure).await?;
        }
        let hash = self.passwords.hash(new).await?;
        // where Redis is away nothing is done
        self.devices.find(user, session).await?;
        let entry = NewEntry::of(user, SecurityEvent::PasswordSet, &origin).in_session(session);
        let before = identity.password_hash.as_deref();
        let generation = store::set_password(&self.database, user, before, &hash, &entry).await?;
        // somebody else has set another one meanwhile
        let generation = generation.ok_or(SessionError::PasswordWrong)?;
        self.signals.send(Signal::SessionsClosed { user, kept: Some(session) });
        if let Err(error) = self.devices.close_others(user, session, generation).await {
            // it is done; this session ends with its access token
            tracing::warn!(error = %crate::causes(&error), "the session that set a password does not go on");
        }
        Ok(())
    }

    /// Guesses of somebody who holds a stolen token count like those at the door, and `failure` is written down.
    async fn must_be_password_of(
        &self,
        identity: &store::Identity,
        password: SecretString,
        failure: NewEntry<'_>,
    ) -> Result<(), SessionError> {
        let guess = self.throttle.begin(&self.throttled(identity)).await?;
        match self.passwords.verify(password, identity.password_hash.clone()).await {
            Ok(true) => {
                self.throttle.succeeded(guess).await;
                Ok(())
            }
            Ok(false) => {
                self.guess_failed(guess, failure.with(json!({ "by": "password" }))).await?;
                Err(SessionError::PasswordWrong)
            }
            Err(error) => {
                self.throttle.abandoned(guess).await;
                Err(error)
            }
        }
    }

    fn throttled(&self, identity: &store::Identity) -> String {
        identity.phone.clone().unwrap_or_else(|| identity.user.to_string())
    }

    pub(super) async fn reset_password(&self, command: ResetPassword) -> Result<(), SessionError> {
        let ResetPassword { id, phone, code, new, origin } = command;
        let phone = Phone::parse(&phone)?;
        check_password(new.expose_secret())?;
        let shown = self.codes.consume(&phone, Scene::ResetPassword, &code, id.0).await?;
        let identity =
            store::identity_of_phone(&self.database, &phone).await?.filter(|_| shown == Shown::Right);
        // nobody learns whether the phone has an account
        let identity = identity.ok_or(SessionError::CodeInvalid)?;
        let hash = self.passwords.hash(new).await?;
        let entry = NewEntry::of(identity.user, SecurityEvent::PasswordReset, &origin);
        store::reset_password(&self.database, identity.user, &hash, &entry).await?;
        self.throttle.forget(&self.throttled(&identity)).await;
        self.forget_all(identity.user).await
    }

    pub(super) async fn change_phone(&self, command: ChangePhone) -> Result<(), SessionError> {
        let ChangePhone { id, user, phone, code, origin } = command;
        let phone = Phone::parse(&phone)?;
        let mut is_right = false;
        for scene in [Scene::Register, Scene::Login] {
            is_right = is_right || self.codes.consume(&phone, scene, &code, id.0).await? == Shown::Right;
        }
        if !is_right {
            return Err(SessionError::CodeInvalid);
        }
        let detail = json!({ "phone": mask_phone(phone.digits()) });
        let entry = NewEntry::of(user, SecurityEvent::PhoneChanged, &origin).with(detail);
        match store::set_phone(&self.database, user, &phone, &entry).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err(SessionError::NotFound),
            Err(error) if error.constraint() == Some("users_phone_key") => Err(SessionError::PhoneTaken),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn delete_account(&self, command: DeleteAccount) -> Result<(), SessionError> {
        let DeleteAccount { id, user, proof, origin } = command;
        let identity = store::identity_of_user(&self.database, user).await?.ok_or(SessionError::NotFound)?;
        match proof {
            Proof::Password(password) => {
                let failure = NewEntry::of(user, SecurityEvent::SignInFailed, &origin);
                self.must_be_password_of(&identity, password, failure).await?;
            }
            Proof::Code(code) => {
                let phone = identity.phone.as_deref().ok_or(SessionError::CodeInvalid)?;
                let phone = Phone::parse(phone)?;
                if self.codes.consume(&phone, Scene::Login, &code, id.0).await? != Shown::Right {
                    return Err(SessionError::CodeInvalid);
                }
            }
        }
        let entry = NewEntry::of(user, SecurityEvent::AccountDeleted, &origin);
        store::delete_account(&self.database, user, &entry).await?;
        if let Err(error) = self.forget_all(user).await {
            // it is done, and PostgreSQL lets none of its sessions go on
            tracing::warn!(error = %crate::causes(&error), "sessions of a deleted account are not forgotten");
        }
        Ok(())
    }

    pub(super) async fn bind_wechat(&self, command: BindWechat) -> Result<(), SessionError> {
        let BindWechat { user, code, origin } = command;
        let (wechat, sealed) = self.wechat_user(&code).await?;
        if let Some(identity) = store::identity_of_wechat(&self.database, &wechat).await?
            && identity.user != user
        {
            return Err(SessionError::WechatTaken);
        }
        let entry = NewEntry::of(user, SecurityEvent::WechatBound, &origin);
        if store::keep_wechat(&self.database, user, &wechat, &sealed, Some(&entry)).await? {
            Ok(())
        } else {
            Err(SessionError::WechatTaken)
        }
    }
}
