//! Identity: who has an account, who is signed in, and the tokens that speak for them.
//!
//! Owns the identity columns of `users`, `closed_sessions`, `invite_codes`, `gifted_identities`, `security_log`, and in Redis
//! the sessions `refresh:<userId>`, codes (`code:`, `codes_sent:`) and failures (`login:`).
//!
//! - A **session** is a device that is signed in: a field of its user's hash in Redis, with a nonce and the number of the
//!   refresh token that is good. Tokens are derived from these (`refresh.rs`), so none lies anywhere.
//! - [`Refresh`] takes token *n* for *n + 1*, by one script. Within ten seconds *n* gives *n + 1* again, byte for byte: the
//!   answer may have been lost. Any other number closes the session: somebody has a copy.
//! - Closing is written to PostgreSQL (`closed_sessions`, or `users.session_generation` for all sessions at once) and looked up
//!   at each refresh: a Redis that goes back to an older state revives nobody. PostgreSQL comes first, but where a script
//!   in Redis decides: a token that was used twice, and the oldest device that makes room.
//! - [`Register`], [`SignIn`] and [`SignInByWechat`] open sessions. Ids are made by the caller, so that the same command
//!   again is recognised; unique constraints decide between replicas.
//! - A password is compared only by who has one of the phone's five places in Redis (`throttle.rs`); a code has five tries
//!   and is used once (`codes.rs`).
//! - Access tokens are made and verified by [`AccessTokens`] without any store, so they live on for their quarter of an
//!   hour whatever is closed; open sockets end at once. What would outlast the session (another phone, WeChat, password, an
//!   API key) asks whether it is open.
//!
//! The actor bounds the work and holds no state that matters.
//!
//! If the process dies: before a session is in Redis, nobody is signed in; after it, the client has no answer and signs in
//! again (the session without an owner ends by itself) or, at a refresh, asks again within ten seconds. A new account's
//! session comes before the account: of nobody, it harms nobody. A guess under way keeps its place for a minute and then
//! counts as a failure. If Redis is down nobody signs in, refreshes or signs out; if it is lost, everybody signs in again.

mod accounts;
mod actor;
mod codes;
mod credentials;
mod devices;
mod gifted;
mod invite_codes;
mod keyed_hash;
mod messages;
mod outside;
mod passwords;
mod refresh;
mod scripts;
mod sessions;
mod sign_in;
mod state;
mod store;
mod throttle;
mod token;
mod tools;

pub use accounts::{InvitationGifts, create_account};
pub use actor::{SessionHandle, SessionParts, SessionSettings};
pub use codes::{CODE_GAP, CODE_LIFETIME};
pub use gifted::GiftedKeys;
pub(crate) use invite_codes::fill_invite_codes;
pub use messages::*;
pub use outside::{SmsError, SmsSender, WechatError, WechatLogin, WechatUser};
pub use passwords::HashingFailed;
pub use refresh::RefreshKeys;
pub use state::{Phone, mask_phone};
pub(crate) use store::delete_old_closings;
pub use token::{AccessToken, AccessTokens, Claims, InvalidToken, TokenSettings};
