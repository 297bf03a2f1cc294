//! What somebody signs in with: set, replaced, bound.

use super::{
    BindWechat, ChangePhone, DeleteAccount, Proof, ResetPassword, Scene, SessionError, SetPassword,
    codes::Shown,
    state::{Phone, check_password, mask_phone},
    store::{self, Kept},
    tools::Tools,
};
use crate::records::security_log::{NewEntry, SecurityEvent};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;

impl Tools {
    pub(super) async fn set_password(&self, command: SetPassword) -> Result<(), SessionError> {
        let SetPassword { user, session, old, new, origin } = command;
        check_password(new.expose_secret())?;
        self.must_be_open(user, session).await?;
        let identity = store::identity_of_user(&self.database, user).await?.ok_or(SessionError::NotFound)?;
        if identity.password_hash.is_some() {
            let old = old.ok_or(SessionError::PasswordWrong)?;
            let failure = NewEntry::of(user, SecurityEvent::SignInFailed, &origin).in_session(session);
            self.must_be_password_of(&identity, old, failure).await?;
        }
        let hash = self.passwords.hash(new).await?;
        let entry = NewEntry::of(user, SecurityEvent::PasswordSet, &origin).in_session(session);
        let before = identity.password_hash.as_deref();
        let generation = store::set_password(&self.database, user, before, &hash, &entry).await?;
        // somebody else has set another one meanwhile
        let generation = generation.ok_or(SessionError::PasswordWrong)?;
        self.forget_before(user, Some(generation), Some(session)).await;
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
        let identity = store::identity_of_phone(&self.database, &phone).await?;
        let shown = self.codes.consume(&phone, Scene::ResetPassword, &code, id.0).await?;
        // nobody learns whether the phone has an account
        let identity = identity.filter(|_| shown == Shown::Right).ok_or(SessionError::CodeInvalid)?;
        let reset = async {
            let hash = self.passwords.hash(new).await?;
            let entry = NewEntry::of(identity.user, SecurityEvent::PasswordReset, &origin);
            Ok(store::reset_password(&self.database, identity.user, &hash, &entry).await?)
        };
        let generation = self.with_code((&phone, Scene::ResetPassword, id.0), reset).await?;
        self.throttle.forget(&self.throttled(&identity)).await;
        self.forget_before(identity.user, generation, None).await;
        Ok(())
    }

    pub(super) async fn change_phone(&self, command: ChangePhone) -> Result<(), SessionError> {
        let ChangePhone { id, user, session, phone, code, origin } = command;
        let phone = Phone::parse(&phone)?;
        self.must_be_open(user, session).await?;
        for scene in [Scene::Register, Scene::Login] {
            if self.codes.consume(&phone, scene, &code, id.0).await? == Shown::Right {
                let detail = json!({ "phone": mask_phone(phone.digits()) });
                let entry = NewEntry::of(user, SecurityEvent::PhoneChanged, &origin);
                let entry = entry.in_session(session).with(detail);
                let change = async {
                    match store::set_phone(&self.database, user, &phone, &entry).await {
                        Ok(Some(_)) => Ok(()),
                        Ok(None) => Err(SessionError::NotFound),
                        Err(error) if error.constraint() == Some("users_phone_key") => {
                            Err(SessionError::PhoneTaken)
                        }
                        Err(error) => Err(error.into()),
                    }
                };
                return self.with_code((&phone, scene, id.0), change).await;
            }
        }
        Err(SessionError::CodeInvalid)
    }

    pub(super) async fn delete_account(&self, command: DeleteAccount) -> Result<(), SessionError> {
        let DeleteAccount { id, user, proof, origin } = command;
        let identity = store::identity_of_user(&self.database, user).await?.ok_or(SessionError::NotFound)?;
        let entry = NewEntry::of(user, SecurityEvent::AccountDeleted, &origin);
        let delete = async { Ok(store::delete_account(&self.database, &identity, &entry).await?) };
        let generation = match proof {
            Proof::Password(password) => {
                let failure = NewEntry::of(user, SecurityEvent::SignInFailed, &origin);
                self.must_be_password_of(&identity, password, failure).await?;
                // it was changed meanwhile
                delete.await?.ok_or(SessionError::PasswordWrong)?
            }
            Proof::Code(code) => {
                let phone = identity.phone.as_deref().ok_or(SessionError::CodeInvalid)?;
                let phone = Phone::parse(phone)?;
                if self.codes.consume(&phone, Scene::Login, &code, id.0).await? != Shown::Right {
                    return Err(SessionError::CodeInvalid);
                }
                let deleted: Option<i64> = self.with_code((&phone, Scene::Login, id.0), delete).await?;
                deleted.ok_or(SessionError::CodeInvalid)?
            }
        };
        self.forget_before(user, Some(generation), None).await;
        Ok(())
    }

    pub(super) async fn bind_wechat(&self, command: BindWechat) -> Result<(), SessionError> {
        let BindWechat { user, session, code, origin } = command;
        self.must_be_open(user, session).await?;
        let (wechat, sealed) = self.wechat_user(&code).await?;
        if let Some(identity) = store::identity_of_wechat(&self.database, &wechat).await?
            && identity.user != user
        {
            return Err(SessionError::WechatTaken);
        }
        let entry = NewEntry::of(user, SecurityEvent::WechatBound, &origin).in_session(session);
        match store::keep_wechat(&self.database, user, &wechat, &sealed, Some(&entry)).await? {
            Kept::Done => Ok(()),
            Kept::Taken => Err(SessionError::WechatTaken),
            Kept::Gone => Err(SessionError::NotFound),
        }
    }
}
