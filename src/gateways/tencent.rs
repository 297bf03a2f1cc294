//! Requests to Tencent Cloud (API 3.0), signed with TC3-HMAC-SHA256.
//!
//! The signature covers what is sent, byte for byte: the host with its port where it is not the scheme's own, the
//! content type, and the body. [`authorization`] is the pure calculation; [`request`] sends exactly what it signs.
//! Answers carry no signature: TLS is what guards them.

use aws_lc_rs::{digest, hmac};
use chrono::{DateTime, Utc};
use reqwest::{
    Method, Request,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

const ALGORITHM: &str = "TC3-HMAC-SHA256";
/// The headers that are signed, in the order they are signed in.
const SIGNED_HEADERS: &str = "content-type;host";
const JSON: &str = "application/json";

/// An access key of an account.
#[derive(Clone, Debug)]
pub struct TencentKey {
    /// Its id, which is sent.
    pub id: String,
    /// The key itself, which never is.
    pub secret: SecretString,
}

/// What is asked of the cloud.
#[derive(Clone, Copy, Debug)]
pub struct Action<'a> {
    /// The service, such as `sms`.
    pub service: &'a str,
    /// The version of its interface, a date.
    pub version: &'a str,
    /// The action, such as `SendSms`.
    pub name: &'a str,
    /// Where it is done, such as `ap-guangzhou`.
    pub region: &'a str,
}

/// The parts of a request that are signed.
#[derive(Clone, Copy, Debug)]
pub struct SignedParts<'a> {
    /// The service, such as `sms`.
    pub service: &'a str,
    /// The `Host` that is sent.
    pub host: &'a str,
    /// The `Content-Type` that is sent.
    pub content_type: &'a str,
    /// The body that is sent.
    pub body: &'a [u8],
    /// The `X-TC-Timestamp` that is sent, to the second.
    pub at: DateTime<Utc>,
}

/// The `Authorization` of a POST to `/` without a query.
#[must_use]
pub fn authorization(key: &TencentKey, parts: &SignedParts<'_>) -> String {
    let SignedParts { service, host, content_type, body, at } = *parts;
    let canonical = format!(
        "POST\n/\n\ncontent-type:{content_type}\nhost:{host}\n\n{SIGNED_HEADERS}\n{}",
        sha256_hex(body)
    );
    let date = at.format("%Y-%m-%d").to_string();
    let scope = format!("{date}/{service}/tc3_request");
    let to_sign = format!("{ALGORITHM}\n{}\n{scope}\n{}", at.timestamp(), sha256_hex(canonical.as_bytes()));

    let start = SecretString::from(format!("TC3{}", key.secret.expose_secret()));
    let of_date = hmac_sha256(start.expose_secret().as_bytes(), &date);
    let of_service = hmac_sha256(of_date.as_ref(), service);
    let of_request = hmac_sha256(of_service.as_ref(), "tc3_request");
    let signature = hex::encode(hmac_sha256(of_request.as_ref(), &to_sign));
    format!(
        "{ALGORITHM} Credential={}/{scope}, SignedHeaders={SIGNED_HEADERS}, Signature={signature}",
        key.id
    )
}

/// A signed request to `endpoint`, of which only the origin counts: every action is a POST to `/`.
///
/// # Errors
/// If the key's id or the region cannot stand in a header.
pub fn request(
    endpoint: &Url,
    key: &TencentKey,
    action: Action<'_>,
    body: Vec<u8>,
    at: DateTime<Utc>,
) -> Result<Request, InvalidHeaderValue> {
    let mut url = endpoint.clone();
    url.set_path("/");
    url.set_query(None);
    url.set_fragment(None);
    let host = host_sent(&url);
    let parts = SignedParts { service: action.service, host: &host, content_type: JSON, body: &body, at };
    let mut authorization = HeaderValue::from_str(&authorization(key, &parts))?;
    authorization.set_sensitive(true);
    let headers = HeaderMap::from_iter([
        (CONTENT_TYPE, HeaderValue::from_static(JSON)),
        (AUTHORIZATION, authorization),
        (HeaderName::from_static("x-tc-action"), HeaderValue::from_str(action.name)?),
        (HeaderName::from_static("x-tc-version"), HeaderValue::from_str(action.version)?),
        (HeaderName::from_static("x-tc-region"), HeaderValue::from_str(action.region)?),
        (HeaderName::from_static("x-tc-timestamp"), HeaderValue::from(at.timestamp())),
    ]);
    let mut request = Request::new(Method::POST, url);
    *request.headers_mut() = headers;
    *request.body_mut() = Some(body.into());
    Ok(request)
}

/// The `Host` the client sends: with the port, unless it is the scheme's own.
fn host_sent(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    match url.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    }
}

fn sha256_hex(bytes: &[u8]) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes))
}

fn hmac_sha256(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> TencentKey {
        TencentKey {
            id: "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE".to_owned(),
            secret: "Gu5t9xGARNpq86cd98joQYCN3EXAMPLE".into(),
        }
    }

    #[test]
    fn the_published_example_gives_the_published_signature() {
        let body =
            br#"{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}"#;
        let parts = SignedParts {
            service: "cvm",
            host: "cvm.tencentcloudapi.com",
            content_type: "application/json; charset=utf-8",
            body,
            at: DateTime::from_timestamp(1_551_113_065, 0).unwrap(),
        };
        assert_eq!(
            authorization(&key(), &parts),
            "TC3-HMAC-SHA256 Credential=AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE/2019-02-25/cvm/tc3_request, \
             SignedHeaders=content-type;host, \
             Signature=72e494ea809ad7a8c8f7a4507b9bddcbaa8e581f516e8da2f66e2c5a96525168"
        );
    }

    #[test]
    fn the_date_is_that_of_utc() {
        let at = |time: &str| {
            let parts = SignedParts {
                service: "sms",
                host: "h",
                content_type: JSON,
                body: b"",
                at: time.parse().unwrap(),
            };
            authorization(&key(), &parts)
        };
        assert!(at("2026-01-01T07:59:59+08:00").contains("/2025-12-31/sms/"));
        assert!(at("2026-01-01T08:00:00+08:00").contains("/2026-01-01/sms/"));
    }

    #[test]
    fn the_host_carries_a_port_only_where_it_is_sent() {
        for (url, host) in [
            ("https://sms.tencentcloudapi.com", "sms.tencentcloudapi.com"),
            ("https://SMS.example:443/", "sms.example"),
            ("http://sms.example:80", "sms.example"),
            ("http://127.0.0.1:4010", "127.0.0.1:4010"),
            ("http://[::1]:4010", "[::1]:4010"),
        ] {
            assert_eq!(host_sent(&Url::parse(url).unwrap()), host);
        }
    }

    #[test]
    fn what_is_sent_is_what_is_signed() {
        let action = Action { service: "kms", version: "2019-01-18", name: "Encrypt", region: "ap-shanghai" };
        let endpoint = Url::parse("http://127.0.0.1:4010/left?out#of-it").unwrap();
        let at = DateTime::from_timestamp(1_700_000_000, 999_000_000).unwrap();
        let request = request(&endpoint, &key(), action, b"{}".to_vec(), at).unwrap();
        assert_eq!((request.method(), request.url().as_str()), (&Method::POST, "http://127.0.0.1:4010/"));
        assert_eq!(request.body().unwrap().as_bytes(), Some(&b"{}"[..]));
        let header = |name: &str| request.headers()[name].to_str().unwrap();
        let parts = SignedParts {
            service: "kms",
            host: "127.0.0.1:4010",
            content_type: header("content-type"),
            body: b"{}",
            at: DateTime::from_timestamp(header("x-tc-timestamp").parse().unwrap(), 0).unwrap(),
        };
        assert_eq!(header("authorization"), authorization(&key(), &parts));
        let told = (header("x-tc-action"), header("x-tc-version"), header("x-tc-region"));
        assert_eq!(told, ("Encrypt", "2019-01-18", "ap-shanghai"));
        assert!(!format!("{request:?}").contains("Signature="), "{request:?}");
    }

    #[test]
    fn what_no_header_can_hold_is_not_sent() {
        let action = Action { service: "sms", version: "v", name: "n", region: "ap\nguangzhou" };
        let endpoint = Url::parse("https://sms.tencentcloudapi.com").unwrap();
        let at = DateTime::from_timestamp(0, 0).unwrap();
        assert!(request(&endpoint, &key(), action, Vec::new(), at).is_err());
    }

    #[test]
    fn a_key_does_not_show_its_secret() {
        assert!(!format!("{:?}", key()).contains("Gu5t9x"));
    }
}
