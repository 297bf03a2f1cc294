//! Bodies: JSON in UTF-8, of bounded size and depth, without surprises, or a 4xx that names the place.

use super::{
    error::{ApiError, ErrorCode, FieldError},
    language::Text,
    state::State,
};
use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE},
};
use futures_util::{StreamExt, future::LocalBoxFuture};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};
use std::time::Duration;

/// A client may take this long to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// Fields that are hashed and never stored; they have a rule of their own about NUL.
const NEVER_STORED: [&str; 3] = ["password", "oldPassword", "newPassword"];

/// A body that fits `T`.
#[derive(Debug)]
pub struct ValidJson<T> {
    /// What was sent.
    pub body: T,
    /// The same as it was sent, for the request's hash.
    pub document: Value,
}

/// A body that fits `T`, or none at all.
#[derive(Debug)]
pub struct OptionalJson<T>(pub T);

/// A body as it is, of whatever type, within the limit of all bodies.
#[derive(Debug)]
pub struct AnyBody(pub Vec<u8>);

impl FromRequest for AnyBody {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move { Ok(Self(read(&request, payload).await?)) })
    }
}

impl<T: DeserializeOwned + 'static> FromRequest for ValidJson<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            must_be_json(&request)?;
            parse(&read(&request, payload).await?)
        })
    }
}

impl<T: DeserializeOwned + Default + 'static> FromRequest for OptionalJson<T> {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let bytes = read(&request, payload).await?;
            if bytes.is_empty() {
                return Ok(Self(T::default()));
            }
            must_be_json(&request)?;
            Ok(Self(parse(&bytes)?.body))
        })
    }
}

/// Reads `bytes` as a `T`.
///
/// # Errors
/// 400: [`ErrorCode::MalformedJson`], or [`ErrorCode::BadRequest`] with the path of what does not fit.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<ValidJson<T>, ApiError> {
    let malformed = |message: String| ApiError::at(ErrorCode::MalformedJson, "/", Text::only(message));
    // the parser refuses more than 128 levels by itself
    let text = std::str::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    let document: Value = serde_json::from_str(text).map_err(|error| malformed(error.to_string()))?;
    if !document.is_object() {
        // a list would be read as a structure's fields in their order
        let message = Text::new("须为 JSON 对象。", "An object is expected.");
        return Err(ApiError::at(ErrorCode::BadRequest, "/", message));
    }
    if let Some(path) = find_nul(&document, "") {
        let message = Text::new("不能包含 NUL 字符。", "A NUL character is not allowed.");
        return Err(ApiError::at(ErrorCode::BadRequest, path, message));
    }
    let body = from_value(&document)?;
    Ok(ValidJson { body, document })
}

/// Reads `document` as a `T`.
///
/// # Errors
/// 400 with the path of what does not fit.
pub fn from_value<T: DeserializeOwned>(document: &Value) -> Result<T, ApiError> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let message = error.inner().to_string();
        let path = pointer(error.path(), &message);
        ApiError::new(ErrorCode::BadRequest)
            .with_errors(vec![FieldError { path, message: Text::only(message) }])
    })
}

/// The JSON pointer to what an error is about. A missing or repeated field is named too, though the path ends
/// above it.
pub(super) fn pointer(path: &Path, message: &str) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => push(&mut pointer, &index.to_string()),
            Segment::Map { key } => push(&mut pointer, key),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    for prefix in ["missing field `", "duplicate field `"] {
        if let Some(rest) = message.strip_prefix(prefix) {
            push(&mut pointer, rest.trim_end_matches('`'));
        }
    }
    if pointer.is_empty() { "/".to_owned() } else { pointer }
}

fn push(pointer: &mut String, segment: &str) {
    pointer.push('/');
    pointer.push_str(&segment.replace('~', "~0").replace('/', "~1"));
}

/// PostgreSQL stores no NUL, neither in text nor in JSON.
fn find_nul(value: &Value, path: &str) -> Option<String> {
    let below = |segment: &str| {
        let mut path = path.to_owned();
        push(&mut path, segment);
        path
    };
    match value {
        Value::String(text) => text.contains('\0').then(|| path.to_owned()),
        Value::Array(items) => {
            items.iter().enumerate().find_map(|(index, item)| find_nul(item, &below(&index.to_string())))
        }
        Value::Object(fields) => fields.iter().find_map(|(key, value)| {
            if key.contains('\0') {
                return Some(below(&key.replace('\0', "")));
            }
            if path.is_empty() && NEVER_STORED.contains(&key.as_str()) {
                return None;
            }
            find_nul(value, &below(key))
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => None,
    }
}

fn must_be_json(request: &HttpRequest) -> Result<(), ApiError> {
    let text = |name| request.headers().get(name).map(|value| value.to_str().unwrap_or("?"));
    let essence = text(CONTENT_TYPE).map(|value| value.split(';').next().unwrap_or_default().trim());
    if !essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        let message = Text::new("须为 application/json。", "It must be application/json.");
        return Err(ApiError::at(ErrorCode::UnsupportedMediaType, "/Content-Type", message));
    }
    if text(CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        let message = Text::new("不支持压缩的请求体。", "Compressed bodies are not taken.");
        return Err(ApiError::at(ErrorCode::UnsupportedMediaType, "/Content-Encoding", message));
    }
    Ok(())
}

async fn read(request: &HttpRequest, payload: Payload) -> Result<Vec<u8>, ApiError> {
    let limit = State::of(request)?.settings.body_limit_bytes;
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length: u64| length > limit as u64) {
        return Err(too_large(limit));
    }
    match tokio::time::timeout(BODY_TIMEOUT, read_up_to(payload, limit)).await {
        Ok(bytes) => bytes,
        Err(_) => Err(ApiError::new(ErrorCode::RequestTimeout)),
    }
}

async fn read_up_to(mut payload: Payload, limit: usize) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = payload.next().await {
        let chunk =
            chunk.map_err(|error| ApiError::at(ErrorCode::BadRequest, "/", Text::only(error.to_string())))?;
        if bytes.len() + chunk.len() > limit {
            return Err(too_large(limit));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

fn too_large(limit: usize) -> ApiError {
    let message = Text::new(format!("最多 {limit} 字节。"), format!("At most {limit} bytes are taken."));
    ApiError::at(ErrorCode::BodyTooLarge, "/", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    struct Order {
        #[expect(dead_code, reason = "only its type matters")]
        item_count: u8,
        lines: Option<Vec<Line>>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        #[expect(dead_code, reason = "only its type matters")]
        name: String,
    }

    fn refused(bytes: &[u8]) -> (String, String) {
        let error = parse::<Order>(bytes).unwrap_err();
        let body = error.body(crate::http::language::Language::English, "");
        let body: Value = serde_json::from_slice(&body).unwrap();
        (body["code"].as_str().unwrap().to_owned(), body["errors"][0]["path"].as_str().unwrap().to_owned())
    }

    #[test]
    fn what_does_not_fit_is_named_by_its_path() {
        for (body, path) in [
            (r#"{"itemCount":"1"}"#, "/itemCount"),
            (r#"{"itemCount":256}"#, "/itemCount"),
            (r#"{}"#, "/itemCount"),
            (r#"{"itemCount":1,"color":"red"}"#, "/color"),
            (r#"{"itemCount":1,"lines":[{"name":"a"},{"name":7}]}"#, "/lines/1/name"),
            (r#"{"itemCount":1,"lines":[{}]}"#, "/lines/0/name"),
            (r#"{"itemCount":1,"lines":[{"name":"a","a/b~":1}]}"#, "/lines/0/a~1b~0"),
            (r#"{"itemCount":1,"lines":[{"name":"a\u0000"}]}"#, "/lines/0/name"),
            (r#"[1]"#, "/"),
            (r#"7"#, "/"),
        ] {
            assert_eq!(refused(body.as_bytes()), ("BAD_REQUEST".to_owned(), path.to_owned()), "{body}");
        }
    }

    #[test]
    fn what_is_no_json_is_malformed() {
        let deep = "[".repeat(200) + &"]".repeat(200);
        for body in [&b""[..], b"{", b"{\"itemCount\":1}x", b"\"\xff\"", b"\"\\ud800\"", deep.as_bytes()] {
            assert_eq!(refused(body).0, "MALFORMED_JSON");
        }
    }

    #[test]
    fn what_fits_is_read() {
        let order = parse::<Order>(br#"{"itemCount":1,"lines":[{"name":"a"}]}"#).unwrap();
        assert_eq!(order.body.lines.unwrap().len(), 1);
        assert_eq!(order.document["itemCount"], 1);
    }
}
