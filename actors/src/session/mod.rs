//! Identity: accounts by phone and password, and the access tokens that speak for them.
//!
//! Owns the identity columns of `users` (phone, password hash, role, invite code, referrer, ban) and the Redis keys
//! `login:<phone>`.
//!
//! - [`Register`] makes an account. Its id is made by the caller, so that the same command again is recognised; the
//!   unique constraints on phone and invite code decide between replicas.
//! - [`SignIn`] compares a password. Each comparison first takes one of the phone's five places in Redis
//!   (`throttle.rs`), so the bound on guesses holds over all replicas and for any number at once. An unknown phone
//!   costs the same time and locks alike.
//! - Both open a session, which today is only its id in the tokens; tokens are made and verified by
//!   [`AccessTokens`] without any store.
//!
//! The actor bounds the work (bcrypt takes a third of a second) and holds no state that matters.
//!
//! If the process dies: before the insertion, there is no account; after it, the account is there and its owner can
//! sign in. A guess under way keeps its place for a minute and then counts as a failure. If Redis is down nobody
//! signs in by password; if it is lost, failures are forgotten.

mod accounts;
mod actor;
mod messages;
mod outside;
mod passwords;
mod state;
mod store;
mod throttle;
mod token;

pub use accounts::create_account;
pub use actor::SessionHandle;
pub use messages::*;
pub use outside::{SmsError, SmsSender, WechatError, WechatLogin, WechatUser};
pub use passwords::HashingFailed;
pub use state::{Phone, mask_phone};
pub use token::{AccessToken, AccessTokens, Claims, InvalidToken, TokenSettings};
