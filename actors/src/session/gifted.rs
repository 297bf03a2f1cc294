//! Whom an invitation has given something: a phone and a user of the mini-program once, however often they delete their
//! account and come again.
//!
//! `gifted_identities` keeps keyed hashes and no names, so it tells nobody who they were.

use super::{Phone, WechatUser, keyed_hash::keyed_hash};
use hmac::Mac;
use secrecy::{ExposeSecret, SecretBox};
use std::sync::Arc;

/// Hash those who were given something; random and used for nothing else.
#[derive(Clone)]
pub struct GiftedKeys(Arc<[SecretBox<[u8; 32]>]>);

impl GiftedKeys {
    /// `current`, and those of earlier: who was given something then is known.
    #[must_use]
    pub fn new(current: [u8; 32], previous: &[[u8; 32]]) -> Self {
        let keys = std::iter::once(current).chain(previous.iter().copied());
        Self(keys.map(|key| SecretBox::new(Box::new(key))).collect())
    }

    /// All by which somebody would be known again.
    pub(super) fn digests(&self, phone: Option<&Phone>, wechat: Option<&WechatUser>) -> Vec<Vec<u8>> {
        let names = [
            phone.map(|phone| format!("phone|{}", phone.digits())),
            wechat.map(|wechat| format!("openid|{}", wechat.openid.expose_secret())),
            wechat.and_then(|it| it.unionid.as_ref()).map(|id| format!("unionid|{}", id.expose_secret())),
        ];
        let digest = |key, name: &String| {
            let mut mac = keyed_hash(key);
            mac.update(name.as_bytes());
            mac.finalize().into_bytes().to_vec()
        };
        let names: Vec<String> = names.into_iter().flatten().collect();
        self.0.iter().flat_map(|key| names.iter().map(move |name| digest(key, name))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phone(digits: &str) -> Phone {
        Phone::parse(digits).unwrap()
    }

    fn wechat(openid: &str, unionid: Option<&str>) -> WechatUser {
        let (openid, unionid) = (openid.into(), unionid.map(Into::into));
        WechatUser { openid, unionid, session_key: "key".into() }
    }

    #[test]
    fn somebody_is_known_by_each_of_their_names() {
        let keys = GiftedKeys::new([1; 32], &[]);
        let of_phone = keys.digests(Some(&phone("13800138000")), None);
        assert_eq!(of_phone, keys.digests(Some(&phone("+86 13800138000")), None));
        assert_ne!(of_phone, keys.digests(Some(&phone("13800138001")), None));
        let both = keys.digests(None, Some(&wechat("o", Some("u"))));
        let other = keys.digests(None, Some(&wechat("p", Some("u"))));
        assert_eq!((both.len(), &both[1]), (2, &other[1]));
        assert_ne!(both[0], other[0]);
        // an openid that reads like a unionid is not one
        assert_ne!(keys.digests(None, Some(&wechat("u", None)))[0], both[1]);
    }

    #[test]
    fn an_earlier_key_knows_them_still() {
        let phone = phone("13800138000");
        let before = GiftedKeys::new([1; 32], &[]).digests(Some(&phone), None);
        let after = GiftedKeys::new([2; 32], &[[1; 32]]).digests(Some(&phone), None);
        assert!(after.len() == 2 && after.contains(&before[0]));
    }
}
