//! What is said to and by the session actor.

use super::{HashingFailed, SmsError, WechatError};
use crate::{
    ask::AskError,
    database::DatabaseError,
    ids::{SessionId, UserId},
    records::users::UserRecord,
    redis_client::RedisUnavailable,
    sealer::SealError,
};
use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Their own things.
    User,
    /// And see what belongs to others.
    Support,
    /// And change it.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::User, Self::Support, Self::Admin];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Support => "support",
            Self::Admin => "admin",
        }
    }

    /// The role of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }
}

/// Where a command comes from, for the list of devices and the security log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The client's address.
    pub address: Option<IpAddr>,
    /// What the client calls itself, bounded.
    pub user_agent: Option<String>,
}

/// What a code that is sent to a phone is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scene {
    /// Signing in.
    Login,
    /// Making an account, or taking a new phone.
    Register,
    /// Setting a password that was forgotten.
    ResetPassword,
}

impl Scene {
    /// The name in the API and in Redis.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Register => "register",
            Self::ResetPassword => "reset_password",
        }
    }
}

/// Send a code to a phone.
#[derive(Clone, Debug)]
pub struct SendCode {
    /// As the client wrote it.
    pub phone: String,
    /// What it is for.
    pub scene: Scene,
}

/// Who brought a new user, as the client says; both name the same or nobody is believed.
#[derive(Clone, Debug, Default)]
pub struct Referral {
    /// By id.
    pub referrer: Option<UserId>,
    /// By invite code.
    pub invite_code: Option<String>,
}

/// The ids that a session and a new account would have, made by the caller: the same command again is recognised by
/// them.
#[derive(Clone, Copy, Debug)]
pub struct NewIds {
    /// Of the session.
    pub session: SessionId,
    /// Of the account, where one is made.
    pub user: UserId,
}

impl NewIds {
    /// Fresh ones.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "two calls differ; a default would not say so")]
    pub fn new() -> Self {
        Self { session: SessionId::new(), user: UserId::new() }
    }
}

/// Make an account and open its first session.
#[derive(Clone, Debug)]
pub struct Register {
    /// The ids.
    pub ids: NewIds,
    /// As the client wrote it.
    pub phone: String,
    /// As the client wrote it.
    pub password: SecretString,
    /// The code that was sent for [`Scene::Register`].
    pub code: Option<SecretString>,
    /// Who brought them.
    pub referral: Referral,
    /// Where it comes from.
    pub origin: Origin,
}

/// What shows that a phone is one's own.
#[derive(Clone, Debug)]
pub enum Proof {
    /// The account's password.
    Password(SecretString),
    /// A code that was sent to the phone.
    Code(SecretString),
}

/// Open a session by phone; a phone that has no account gets one where a code was sent to it.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// The ids.
    pub ids: NewIds,
    /// As the client wrote it.
    pub phone: String,
    /// That it is theirs.
    pub proof: Proof,
    /// Where it comes from.
    pub origin: Origin,
}

/// Open a session by a code of `wx.login`; a user who has no account gets one. Works once: the platform takes a code
/// only once.
#[derive(Clone, Debug)]
pub struct SignInByWechat {
    /// The ids.
    pub ids: NewIds,
    /// The code.
    pub code: SecretString,
    /// Who brought them, if they are new.
    pub referral: Referral,
    /// Where it comes from.
    pub origin: Origin,
}

/// Take a refresh token for its successor.
#[derive(Clone, Debug)]
pub struct Refresh {
    /// As the client has it.
    pub token: SecretString,
    /// Where it comes from.
    pub origin: Origin,
}

/// Close a session, or all of a user.
#[derive(Clone, Debug)]
pub struct SignOut {
    /// A refresh token of the session.
    pub token: Option<SecretString>,
    /// Whose access token came with it, and of which session.
    pub bearer: Option<(UserId, SessionId)>,
    /// Close all sessions of the user.
    pub everywhere: bool,
    /// Where it comes from.
    pub origin: Origin,
}

/// Close one of the user's sessions by its id.
#[derive(Clone, Debug)]
pub struct CloseSession {
    /// Whose.
    pub user: UserId,
    /// Which.
    pub session: SessionId,
    /// Where it comes from.
    pub origin: Origin,
}

/// Set a password for the first time, or a new one for the old; closes the user's other sessions.
#[derive(Clone, Debug)]
pub struct SetPassword {
    /// Whose.
    pub user: UserId,
    /// The session that goes on.
    pub session: SessionId,
    /// The old one, where there is one.
    pub old: Option<SecretString>,
    /// As the client wrote it.
    pub new: SecretString,
    /// Where it comes from.
    pub origin: Origin,
}

/// Set a password that was forgotten; closes all sessions.
#[derive(Clone, Debug)]
pub struct ResetPassword {
    /// Recognises the same command again.
    pub id: SessionId,
    /// As the client wrote it.
    pub phone: String,
    /// The code that was sent for [`Scene::ResetPassword`].
    pub code: SecretString,
    /// As the client wrote it.
    pub new: SecretString,
    /// Where it comes from.
    pub origin: Origin,
}

/// Take another phone.
#[derive(Clone, Debug)]
pub struct ChangePhone {
    /// Recognises the same command again.
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// By which session.
    pub session: SessionId,
    /// The new one, as the client wrote it.
    pub phone: String,
    /// The code that was sent to it for [`Scene::Register`] or [`Scene::Login`].
    pub code: SecretString,
    /// Where it comes from.
    pub origin: Origin,
}

/// Bind the mini-program's user to an account.
#[derive(Clone, Debug)]
pub struct BindWechat {
    /// Whose.
    pub user: UserId,
    /// By which session.
    pub session: SessionId,
    /// The code of `wx.login`.
    pub code: SecretString,
    /// Where it comes from.
    pub origin: Origin,
}

/// Delete an account: what signs in to it and what it says of somebody. Its ledger is kept.
#[derive(Clone, Debug)]
pub struct DeleteAccount {
    /// Recognises the same command again.
    pub id: SessionId,
    /// Whose.
    pub user: UserId,
    /// That it is theirs; a code is one of [`Scene::Login`].
    pub proof: Proof,
    /// Where it comes from.
    pub origin: Origin,
}

/// A session was opened or goes on.
#[derive(Clone, Debug)]
pub struct SessionOpened {
    /// Whose, as they are now.
    pub user: UserRecord,
    /// Its id, `sid` in tokens.
    pub session: SessionId,
    /// The refresh token that is good now.
    pub refresh_token: SecretString,
    /// Whether this made the account.
    pub is_new_user: bool,
}

/// A session of a user, as they see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedSession {
    /// Its id.
    pub id: SessionId,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When it was last refreshed.
    pub used_at: DateTime<Utc>,
    /// When it ends, unless it is refreshed before.
    pub expires_at: DateTime<Utc>,
    /// What its client called itself.
    pub user_agent: String,
    /// Where it was last refreshed from.
    pub address: String,
}

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not a mainland mobile number of 11 digits.
    #[error("the phone is not a mobile number")]
    PhoneInvalid,
    /// The password breaks the rules.
    #[error("the password is not acceptable")]
    PasswordWeak,
    /// The old password is wrong, or is missing.
    #[error("the old password is wrong")]
    PasswordWrong,
    /// The phone has an account.
    #[error("the phone has an account already")]
    PhoneTaken,
    /// The mini-program's user has another account.
    #[error("the user of the mini-program has another account")]
    WechatTaken,
    /// There is no such referrer, or the invite code names another.
    #[error("the referrer is not valid")]
    ReferrerInvalid,
    /// There is no such invite code.
    #[error("the invite code is not valid")]
    InviteCodeInvalid,
    /// Wrong phone, password or code; which of them is not said.
    #[error("the phone or what should prove it is wrong")]
    InvalidCredentials,
    /// The code is wrong, was used or is too old.
    #[error("the code is not valid")]
    CodeInvalid,
    /// No code may be sent to this phone yet.
    #[error("too many codes for this phone; the next in {retry_after_s} s")]
    TooManyCodes {
        /// When one may be.
        retry_after_s: u64,
        /// Of how many that are let through the last was sent: of one a minute, or of ten a day.
        most: u32,
    },
    /// The refresh token is of no open session.
    #[error("the refresh token is not valid")]
    RefreshTokenInvalid,
    /// The refresh token was used before; its session is closed now.
    #[error("the refresh token was used before")]
    RefreshTokenReused,
    /// There is no such session or user.
    #[error("there is no such session or user")]
    NotFound,
    /// Neither a token nor a session is named.
    #[error("nobody is signed in")]
    Unauthenticated,
    /// The account is banned.
    #[error("the account is banned")]
    Banned,
    /// Too many failures.
    #[error("password sign-in of this phone is locked for {retry_after_s} s")]
    Locked {
        /// When it opens again.
        retry_after_s: u64,
    },
    /// As many passwords as may be are being checked at this moment. Not done.
    #[error("too many sign-ins at once")]
    Busy,
    /// The message service.
    #[error(transparent)]
    Sms(#[from] SmsError),
    /// The platform of the mini-program.
    #[error(transparent)]
    Wechat(#[from] WechatError),
    /// What is sealed does not seal; a defect.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Redis, which holds sessions and counts failures; without it nobody signs in.
    #[error(transparent)]
    Redis(#[from] RedisUnavailable),
    /// Hashing failed; a defect.
    #[error(transparent)]
    Hashing(#[from] HashingFailed),
    /// No answer of the actor.
    #[error(transparent)]
    Ask(#[from] AskError),
}

impl SessionError {
    /// Whether certainly nothing was done, and the same command may succeed when it comes again.
    #[must_use]
    pub fn is_not_done(&self) -> bool {
        match self {
            Self::Redis(_) | Self::Busy => true,
            Self::Ask(error) => !matches!(error, AskError::OutcomeUnknown(_)),
            Self::Database(error) => error.is_transient() && !matches!(error, DatabaseError::Unanswered(_)),
            _ => false,
        }
    }
}
