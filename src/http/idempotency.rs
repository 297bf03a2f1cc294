//! `Idempotency-Key`: the header, the hash of what it stands for, and who is still working on it.
//!
//! The key's row is written by the transaction that does the work. "In progress" is only this process's memory;
//! another replica waits at the row's unique key.

use super::{
    error::{ApiError, ErrorCode},
    language::Text,
    state::State,
};
use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    http::{StatusCode, header::HeaderName},
};
use greenroom_actors::{
    idempotency::{Answer, Idempotent},
    ids::UserId,
};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::HashSet,
    future::{Ready, ready},
    sync::{Arc, Mutex, PoisonError},
};

/// Tells a repeat from a first answer.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const LONGEST: usize = 128;

/// The header, where the client sent it.
#[derive(Clone, Debug)]
pub struct IdempotencyKey(Option<String>);

impl FromRequest for IdempotencyKey {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let mut headers = request.headers().get_all(IDEMPOTENCY_KEY);
        let Some(first) = headers.next() else { return ready(Ok(Self(None))) };
        let printable = |text: &&str| {
            (1..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        };
        let key = first.to_str().ok().map(str::trim).filter(printable).filter(|_| headers.next().is_none());
        ready(key.map(|key| Self(Some(key.to_owned()))).ok_or_else(|| {
            let message = Text::new(
                "须为 1 到 128 个可打印字符。",
                "1 to 128 printable ASCII characters are expected.",
            );
            ApiError::at(ErrorCode::BadRequest, "/Idempotency-Key", message)
        }))
    }
}

impl IdempotencyKey {
    /// The key itself, for what is remembered otherwise than by an answer.
    #[must_use]
    pub fn into_text(self) -> Option<String> {
        self.0
    }

    /// Marks the key as in progress until the claim is dropped. `render` makes the body of the first answer.
    ///
    /// # Errors
    /// 409 where another request with this key is running here.
    pub fn claim<R>(
        self,
        request: &HttpRequest,
        user: UserId,
        document: &Value,
        status: StatusCode,
        render: fn(&R) -> Value,
    ) -> Result<Claim<R>, ApiError> {
        let Some(key) = self.0 else {
            return Ok(Claim { idempotent: None, status, render, _running: None });
        };
        let running = State::of(request)?
            .in_progress
            .start(user, &key)
            .ok_or_else(|| ApiError::new(ErrorCode::IdempotencyInProgress).with_retry_after(1))?;
        let request_hash = hash(request.method().as_str(), request.path(), document);
        let idempotent = Idempotent { user, key, request_hash, status: status.as_u16(), render };
        Ok(Claim { idempotent: Some(idempotent), status, render, _running: Some(running) })
    }
}

/// A request that may be a repeat, on its way.
pub struct Claim<R> {
    idempotent: Option<Idempotent<R>>,
    status: StatusCode,
    render: fn(&R) -> Value,
    _running: Option<Running>,
}

impl<R> Claim<R> {
    /// What goes with the command.
    #[must_use]
    pub fn idempotent(&self) -> Option<Idempotent<R>> {
        self.idempotent.clone()
    }

    /// The response and its body: the first one's, whichever this is.
    #[must_use]
    pub fn respond(self, answer: Answer<R>) -> (HttpResponse, Value) {
        match answer {
            Answer::First(reply) => {
                let body = (self.render)(&reply);
                (HttpResponse::build(self.status).json(&body), body)
            }
            Answer::Replayed(stored) => {
                let status = StatusCode::from_u16(stored.status).unwrap_or(self.status);
                let mut response = HttpResponse::build(status);
                response.insert_header((IDEMPOTENCY_REPLAYED, "true"));
                (response.json(&stored.body), stored.body)
            }
        }
    }
}

/// The keys whose first request is still running in this process; as many as there are requests.
#[derive(Clone, Default)]
pub struct InProgress(Arc<Mutex<HashSet<(UserId, String)>>>);

struct Running {
    keys: InProgress,
    key: (UserId, String),
}

impl InProgress {
    fn start(&self, user: UserId, key: &str) -> Option<Running> {
        let key = (user, key.to_owned());
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        fresh.then(|| Running { keys: self.clone(), key })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.keys.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

/// The same for two requests that ask for the same: the order of an object's fields does not count.
fn hash(method: &str, path: &str, document: &Value) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(method);
    hasher.update([0]);
    hasher.update(path);
    hasher.update([0]);
    feed(&mut hasher, document);
    hasher.finalize().into()
}

fn feed(hasher: &mut Sha256, value: &Value) {
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| *key);
            hasher.update(b"{");
            for (key, value) in sorted {
                feed(hasher, &Value::String(key.clone()));
                feed(hasher, value);
            }
            hasher.update(b"}");
        }
        Value::Array(items) => {
            hasher.update(b"[");
            for item in items {
                feed(hasher, item);
            }
            hasher.update(b"]");
        }
        scalar => {
            hasher.update(scalar.to_string());
            hasher.update(b",");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_hash_is_of_what_was_asked_and_not_of_how_it_was_written() {
        let hash_of = |text: &str| hash("POST", "/tasks", &serde_json::from_str(text).unwrap());
        assert_eq!(hash_of(r#"{"a":1,"b":[2]}"#), hash_of(r#"{ "b": [2], "a": 1 }"#));
        for other in [r#"{"a":1,"b":[3]}"#, r#"{"a":1,"b":2}"#, r#"{"a":1}"#, r#"{"a":"1","b":[2]}"#] {
            assert_ne!(hash_of(r#"{"a":1,"b":[2]}"#), hash_of(other));
        }
        assert_ne!(hash("POST", "/tasks", &json!({})), hash("POST", "/orders", &json!({})));
        assert_ne!(
            hash("POST", "/tasks", &json!([["a"], "b"])),
            hash("POST", "/tasks", &json!([["a", "b"]]))
        );
    }

    #[test]
    fn a_key_is_in_progress_until_its_request_has_ended() {
        let keys = InProgress::default();
        let user = UserId::new();
        let first = keys.start(user, "k").unwrap();
        assert!(keys.start(user, "k").is_none());
        assert!(keys.start(UserId::new(), "k").is_some());
        drop(first);
        assert!(keys.start(user, "k").is_some());
    }
}
