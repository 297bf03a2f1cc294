//! Refresh tokens: `gr1.{user}.{session}.{n}.{mac}`. Pure.
//!
//! A token is derived from its session's nonce and its number in a chain, so the one that was given can be given
//! again byte for byte, and nothing that lies in Redis can be used as a token.

use super::keyed_hash::keyed_hash;
use crate::ids::{SessionId, UserId};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretBox, SecretString};
use sha2::{Digest, Sha256};
use std::{fmt, sync::Arc};
use uuid::Uuid;

const FORM: &str = "gr1";
/// Longer than any token of ours; longer ones are not looked at.
const LONGEST: usize = 256;

/// The keys that refresh tokens are derived with.
#[derive(Clone)]
pub struct RefreshKeys {
    current: RefreshKey,
    previous: Vec<RefreshKey>,
}

/// Never the keys themselves.
impl fmt::Debug for RefreshKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshKeys").field("current", &self.current.id).finish_non_exhaustive()
    }
}

impl RefreshKeys {
    /// Keys of these bytes, which must be random and used for nothing else. The current one derives tokens; those of
    /// previous ones are good until they are taken for the next.
    #[must_use]
    pub fn new(current: [u8; 32], previous: &[[u8; 32]]) -> Self {
        let previous = previous.iter().map(|bytes| RefreshKey::new(*bytes)).collect();
        Self { current: RefreshKey::new(current), previous }
    }

    /// Names the current key without telling anything of it.
    pub(super) fn current_id(&self) -> &str {
        &self.current.id
    }

    /// The token of that number under the key of that id, if we have it.
    pub(super) fn token(
        &self,
        key_id: &str,
        (user, session): (UserId, SessionId),
        nonce: &str,
        number: u64,
    ) -> Option<SecretString> {
        let key = self.all().find(|key| *key.id == *key_id)?;
        let mac = key.mac(user, session, nonce, number).finalize().into_bytes();
        let (user, session) = (user.0.simple(), session.0.simple());
        Some(format!("{FORM}.{user}.{session}.{number}.{}", URL_SAFE_NO_PAD.encode(mac)).into())
    }

    /// Whether `claimed` was derived from this nonce.
    pub(super) fn prove(&self, claimed: &ClaimedToken, nonce: &str) -> bool {
        self.all().any(|key| {
            let mac = key.mac(claimed.user, claimed.session, nonce, claimed.number);
            mac.verify_slice(&claimed.mac).is_ok()
        })
    }

    fn all(&self) -> impl Iterator<Item = &RefreshKey> {
        std::iter::once(&self.current).chain(&self.previous)
    }
}

#[derive(Clone)]
struct RefreshKey {
    id: Arc<str>,
    key: Arc<SecretBox<[u8; 32]>>,
}

impl RefreshKey {
    fn new(bytes: [u8; 32]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(b"greenroom refresh key\0");
        hasher.update(bytes);
        let id = hex::encode(&hasher.finalize()[..8]);
        Self { id: id.into(), key: Arc::new(SecretBox::new(Box::new(bytes))) }
    }

    fn mac(&self, user: UserId, session: SessionId, nonce: &str, number: u64) -> Hmac<Sha256> {
        let mut mac = keyed_hash(&self.key);
        mac.update(format!("{user}|{session}|{nonce}|{number}").as_bytes());
        mac
    }
}

/// A token as somebody shows it: whether it is genuine only its session's nonce can tell.
pub(super) struct ClaimedToken {
    pub(super) user: UserId,
    pub(super) session: SessionId,
    /// Its place in the chain; the first is 1.
    pub(super) number: u64,
    mac: Vec<u8>,
}

impl ClaimedToken {
    /// Reads a token, if it has the form of ours.
    pub(super) fn parse(token: &SecretString) -> Option<Self> {
        let token = Some(token.expose_secret()).filter(|token| token.len() <= LONGEST)?;
        let mut parts = token.split('.');
        let mut next = || parts.next();
        let (FORM, user, session, number, mac) = (next()?, next()?, next()?, next()?, next()?) else {
            return None;
        };
        // one form only: what is written otherwise is not what we gave
        let id = |text: &str| Uuid::try_parse(text).ok().filter(|id| id.simple().to_string() == text);
        let number = number.parse::<u64>().ok().filter(|known| known.to_string() == number)?;
        let number = Some(number).filter(|number| (1..=u64::from(u32::MAX)).contains(number))?;
        let claimed = Self {
            user: UserId(id(user)?),
            session: SessionId(id(session)?),
            number,
            mac: URL_SAFE_NO_PAD.decode(mac).ok()?,
        };
        parts.next().is_none().then_some(claimed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(bytes: u8) -> RefreshKeys {
        RefreshKeys::new([bytes; 32], &[])
    }

    fn token(keys: &RefreshKeys, of: (UserId, SessionId), nonce: &str, number: u64) -> SecretString {
        keys.token(keys.current_id(), of, nonce, number).unwrap()
    }

    #[test]
    fn the_same_token_is_made_again_and_another_number_is_another_token() {
        let of = (UserId::new(), SessionId::new());
        let token = |number| token(&keys(7), of, "nonce", number).expose_secret().to_owned();
        assert_eq!(token(3), token(3));
        assert_ne!(token(3), token(4));
    }

    #[test]
    fn a_token_of_an_earlier_key_is_proven_and_made_again_while_we_have_the_key() {
        let of = (UserId::new(), SessionId::new());
        let (before, changed) = (keys(1), RefreshKeys::new([2; 32], &[[1; 32]]));
        let old = token(&before, of, "nonce", 3);
        assert!(changed.prove(&ClaimedToken::parse(&old).unwrap(), "nonce"));
        let again = changed.token(before.current_id(), of, "nonce", 3).unwrap();
        assert_eq!(again.expose_secret(), old.expose_secret());
        assert_ne!(token(&changed, of, "nonce", 3).expose_secret(), old.expose_secret());
        assert!(keys(2).token(before.current_id(), of, "nonce", 3).is_none());
    }

    proptest! {
        #[test]
        fn a_token_proves_what_it_was_made_of_and_nothing_else(
            number in 1..=u64::from(u32::MAX), nonce in "[a-f0-9]{32}", other in "[a-f0-9]{32}",
        ) {
            let (user, session) = (UserId::new(), SessionId::new());
            let token = token(&keys(7), (user, session), &nonce, number);
            let claimed = ClaimedToken::parse(&token).unwrap();
            prop_assert_eq!((claimed.user, claimed.session, claimed.number), (user, session, number));
            prop_assert!(keys(7).prove(&claimed, &nonce));
            prop_assert_eq!(keys(7).prove(&claimed, &other), nonce == other);
            prop_assert!(!keys(8).prove(&claimed, &nonce));
        }

        #[test]
        fn a_changed_token_proves_nothing(at in 0_usize..200, letter in "[A-Za-z0-9._-]") {
            let token = token(&keys(7), (UserId::new(), SessionId::new()), "nonce", 17);
            let mut text = token.expose_secret().to_owned();
            let at = at % text.len();
            let same = text[at..=at] == letter;
            text.replace_range(at..=at, &letter);
            let proven = ClaimedToken::parse(&text.into()).is_some_and(|token| keys(7).prove(&token, "nonce"));
            prop_assert_eq!(proven, same);
        }

        #[test]
        fn anything_else_is_no_token(text in ".{0,300}") {
            prop_assert!(ClaimedToken::parse(&text.into()).is_none());
        }
    }
}
