//! What the session actor needs from outside: somebody who sends short messages, and the platform that knows who a
//! mini-program's user is.

use super::Phone;
use async_trait::async_trait;
use secrecy::SecretString;
use std::time::Duration;

/// Sends codes to phones.
#[async_trait]
pub trait SmsSender: Send + Sync {
    /// Sends `code`, which is good for `lifetime`, to `phone`.
    ///
    /// # Errors
    /// [`SmsError`]. A message whose outcome is unknown may have been sent.
    async fn send_code(&self, phone: &Phone, code: &SecretString, lifetime: Duration)
    -> Result<(), SmsError>;
}

/// Why no code was sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SmsError {
    /// The service says that it did not send. Its code says why, such as `LimitExceeded.PhoneNumberDailyLimit`.
    #[error("the message service refuses: {0}")]
    Refused(String),
    /// It was not reached, so nothing was sent.
    #[error("the message service cannot be reached")]
    Unreachable,
    /// No answer, or none that can be understood: the message may have been sent.
    #[error("the message service did not say what it did")]
    Unknown,
}

/// Knows the users of a mini-program.
#[async_trait]
pub trait WechatLogin: Send + Sync {
    /// Who the user is that got `code` from `wx.login`. A code works once, so this is never repeated.
    ///
    /// # Errors
    /// [`WechatError`].
    async fn exchange(&self, code: &SecretString) -> Result<WechatUser, WechatError>;
}

/// A user of the mini-program, as the platform knows them.
#[derive(Clone, Debug)]
pub struct WechatUser {
    /// Their id in this mini-program.
    pub openid: SecretString,
    /// Their id in all applications of the same owner, where the platform says it.
    pub unionid: Option<SecretString>,
    /// Opens what the mini-program encrypts; must never leave the service.
    pub session_key: SecretString,
}

/// Why the platform does not say who somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WechatError {
    /// The code is wrong, was used or is too old.
    #[error("the code is not valid")]
    CodeInvalid,
    /// The user asks too often.
    #[error("too many sign-ins of this user")]
    TooOften,
    /// The platform holds the user for a risk.
    #[error("the platform blocks this user")]
    Blocked,
    /// It is not set up, cannot be reached, or says what we do not understand.
    #[error("the platform is not available")]
    Unavailable,
}
