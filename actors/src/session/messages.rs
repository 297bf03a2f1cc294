//! What is said to and by the session actor.

use super::HashingFailed;
use crate::{
    ask::AskError,
    database::DatabaseError,
    ids::{SessionId, UserId},
    redis_client::RedisUnavailable,
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

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

/// Make an account and open its first session.
#[derive(Clone, Debug)]
pub struct Register {
    /// The id the account will have, made by the caller: the same command again is recognised by it.
    pub user: UserId,
    /// As the client wrote it.
    pub phone: String,
    /// As the client wrote it.
    pub password: SecretString,
    /// The user who brought them, by id.
    pub referrer: Option<UserId>,
    /// The user who brought them, by their invite code.
    pub invite_code: Option<String>,
}

/// Open a session by password.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// As the client wrote it.
    pub phone: String,
    /// As the client wrote it.
    pub password: SecretString,
}

/// A session was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOpened {
    /// Whose.
    pub user: UserId,
    /// What they may do.
    pub role: Role,
    /// Its id, `sid` in tokens.
    pub session: SessionId,
}

/// Why no session was opened.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// Not a mainland mobile number of 11 digits.
    #[error("the phone is not a mobile number")]
    PhoneInvalid,
    /// The password breaks the rules.
    #[error("the password is not acceptable")]
    PasswordWeak,
    /// The phone has an account.
    #[error("the phone has an account already")]
    PhoneTaken,
    /// There is no such referrer, or the invite code names another.
    #[error("the referrer is not valid")]
    ReferrerInvalid,
    /// There is no such invite code.
    #[error("the invite code is not valid")]
    InviteCodeInvalid,
    /// Wrong phone or password; which of them is not said.
    #[error("the phone or the password is wrong")]
    InvalidCredentials,
    /// The account is banned.
    #[error("the account is banned")]
    Banned,
    /// Too many failures.
    #[error("password sign-in of this phone is locked for {retry_after_s} s")]
    Locked {
        /// When it opens again.
        retry_after_s: u64,
    },
    /// As many passwords of this phone as may be are being checked at this moment. Not done.
    #[error("too many sign-ins of this phone at once")]
    Busy,
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Redis, which counts failures; without it nobody may guess.
    #[error(transparent)]
    Redis(#[from] RedisUnavailable),
    /// Hashing failed; a defect.
    #[error(transparent)]
    Hashing(#[from] HashingFailed),
    /// No answer of the actor.
    #[error(transparent)]
    Ask(#[from] AskError),
}
