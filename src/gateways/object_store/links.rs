//! Links to objects that carry their own permission: what may be done with which object until when, signed.
//!
//! The signature is an HMAC-SHA256 over everything a link says, in the form of a JSON list, so that no two
//! links read the same to it. It is compared in constant time.

use crate::sealing::DerivedKeys;
use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use greenroom_actors::object_store::UploadGrant;
use std::collections::HashMap;
use url::{Url, form_urlencoded};

/// Makes and checks links.
pub(super) struct LinkSigner {
    public_url: Url,
    key: hmac::Key,
    previous: Vec<hmac::Key>,
}

/// What a download link lets its holder fetch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Download {
    pub(super) key: String,
    pub(super) content_type: String,
    pub(super) name: String,
}

impl LinkSigner {
    pub(super) fn new(public_url: Url, keys: &DerivedKeys) -> Self {
        let key = |key: &[u8; 32]| hmac::Key::new(hmac::HMAC_SHA256, key);
        Self { public_url, key: key(&keys.current), previous: keys.previous.iter().map(key).collect() }
    }

    /// A link to upload with `PUT`.
    pub(super) fn upload(&self, grant: &UploadGrant, expires_at: DateTime<Utc>) -> String {
        let size = grant.size.to_string();
        self.link("PUT", &grant.key, [("type", &grant.content_type), ("size", &size)], expires_at)
    }

    /// A link to download with `GET`.
    pub(super) fn download(&self, download: &Download, expires_at: DateTime<Utc>) -> String {
        let parts = [("type", download.content_type.as_str()), ("name", download.name.as_str())];
        self.link("GET", &download.key, parts, expires_at)
    }

    /// What an upload link grants, if it is ours and its time is not over.
    pub(super) fn check_upload(&self, key: &str, query: &str, now: DateTime<Utc>) -> Option<UploadGrant> {
        let [content_type, size] = self.check("PUT", key, ["type", "size"], query, now)?;
        Some(UploadGrant { key: key.to_owned(), content_type, size: size.parse().ok()? })
    }

    /// What a download link grants, if it is ours and its time is not over.
    pub(super) fn check_download(&self, key: &str, query: &str, now: DateTime<Utc>) -> Option<Download> {
        let [content_type, name] = self.check("GET", key, ["type", "name"], query, now)?;
        Some(Download { key: key.to_owned(), content_type, name })
    }

    fn link(&self, method: &str, key: &str, parts: [(&str, &str); 2], expires_at: DateTime<Utc>) -> String {
        let expires = expires_at.timestamp().to_string();
        let said = signed(method, key, parts.map(|(_, value)| value), &expires);
        let signature = hmac::sign(&self.key, &said);
        let mut url = self.public_url.clone();
        url.set_path(&format!("/objects/{key}"));
        url.query_pairs_mut()
            .clear()
            .extend_pairs(parts)
            .append_pair("expires", &expires)
            .append_pair("signature", &BASE64_URL_SAFE_NO_PAD.encode(signature));
        url.into()
    }

    fn check(
        &self,
        method: &str,
        key: &str,
        names: [&str; 2],
        query: &str,
        now: DateTime<Utc>,
    ) -> Option<[String; 2]> {
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        let said: HashMap<&str, &str> =
            pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        if pairs.len() != 4 || said.len() != 4 {
            return None; // no more than was signed, and nothing twice
        }
        let parts = [*said.get(names[0])?, *said.get(names[1])?];
        let expires = *said.get("expires")?;
        let signature = BASE64_URL_SAFE_NO_PAD.decode(said.get("signature")?).ok()?;
        let said = signed(method, key, parts, expires);
        let is_ours = |key| hmac::verify(key, &said, &signature).is_ok();
        if !is_ours(&self.key) && !self.previous.iter().any(is_ours) {
            return None;
        }
        (now.timestamp() < expires.parse().ok()?).then(|| parts.map(str::to_owned))
    }
}

/// What a signature is made over.
fn signed(method: &str, key: &str, parts: [&str; 2], expires: &str) -> Vec<u8> {
    serde_json::json!([method, key, parts[0], parts[1], expires]).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(key: u8) -> LinkSigner {
        LinkSigner::new("https://files.example".parse().unwrap(), &[key; 32].into())
    }

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn parts(link: &str) -> (String, String) {
        let url: Url = link.parse().unwrap();
        assert_eq!(url.origin().ascii_serialization(), "https://files.example");
        (url.path().strip_prefix("/objects/").unwrap().to_owned(), url.query().unwrap().to_owned())
    }

    #[test]
    fn a_link_says_what_was_granted_until_its_time_is_over() {
        let grant = UploadGrant { key: "a/b".to_owned(), content_type: "image/jpeg".to_owned(), size: 7 };
        let (key, query) = parts(&signer(1).upload(&grant, at(100)));
        assert_eq!(signer(1).check_upload(&key, &query, at(99)), Some(grant));
        assert_eq!(signer(1).check_upload(&key, &query, at(100)), None);

        let download = Download {
            key: "a/b".to_owned(),
            content_type: "image/png".to_owned(),
            name: "Mantel & Hut 大衣.png".to_owned(),
        };
        let (key, query) = parts(&signer(1).download(&download, at(100)));
        assert_eq!(signer(1).check_download(&key, &query, at(0)), Some(download));
    }

    #[test]
    fn a_link_that_was_touched_is_refused() {
        let grant = UploadGrant { key: "a/b".to_owned(), content_type: "image/jpeg".to_owned(), size: 7 };
        let (key, query) = parts(&signer(1).upload(&grant, at(100)));
        let signer = signer(1);
        assert!(signer.check_upload(&key, &query, at(0)).is_some());
        for touched in [
            query.replace("size=7", "size=8"),
            query.replace("size=7", "size=07"),
            query.replace("jpeg", "png"),
            query.replace("expires=100", "expires=999"),
            query.replace("signature=", "signature=A"),
            query.replace("signature=", "signatur="),
            format!("{query}&more=1"),
            format!("{query}&size=9"),
            query.split_once('&').unwrap().1.to_owned(),
            String::new(),
        ] {
            assert_ne!(touched, query);
            assert_eq!(signer.check_upload(&key, &touched, at(0)), None, "{touched}");
        }
        assert_eq!(signer.check_upload("a/c", &query, at(0)), None, "another object");
        assert_eq!(signer.check_download(&key, &query, at(0)), None, "another method");
        assert_eq!(super::tests::signer(2).check_upload(&key, &query, at(0)), None, "another key");
    }

    #[test]
    fn a_link_of_an_earlier_key_is_good() {
        let grant = UploadGrant { key: "a/b".to_owned(), content_type: "image/jpeg".to_owned(), size: 7 };
        let keys = DerivedKeys { current: [2; 32], previous: vec![[1; 32]] };
        let changed = LinkSigner::new("https://files.example".parse().unwrap(), &keys);
        let (key, query) = parts(&signer(1).upload(&grant, at(100)));
        assert_eq!(changed.check_upload(&key, &query, at(0)), Some(grant.clone()));
        let (key, query) = parts(&changed.upload(&grant, at(100)));
        assert!(signer(2).check_upload(&key, &query, at(0)).is_some());
        assert_eq!(signer(1).check_upload(&key, &query, at(0)), None);
    }
}
