//! What goes wrong, as clients see it: RFC 9457 problems with a stable code.
//!
//! Handlers return [`ApiError`]; the middleware in `context.rs` writes it out, because only there the request's
//! id and language are at hand. What the rooms below say is turned into problems in `mapping.rs` and nowhere
//! else. A problem never holds a source text, an address or a secret.

mod code;
mod mapping;

pub use code::ErrorCode;
pub use mapping::asked_twice;

use super::language::{Language, Text};
use actix_web::{
    HttpResponse, HttpResponseBuilder, ResponseError,
    http::{
        StatusCode,
        header::{ALLOW, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use serde::Serialize;
use std::fmt;
use utoipa::ToSchema;

/// The media type of problems.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// One thing wrong with a request.
#[derive(Clone, Debug)]
pub struct FieldError {
    /// A JSON pointer into the body, or `/` and the name of a parameter or header.
    pub path: String,
    /// What is wrong with it.
    pub message: Text,
}

/// Letters of a path or message that are shown: what a client has sent is not sent back whole.
const FIELD_ERROR_MAX: usize = 512;

/// Why a request was not done.
#[derive(Debug)]
pub struct ApiError(Box<Refusal>);

#[derive(Debug)]
struct Refusal {
    code: ErrorCode,
    status: StatusCode,
    detail: Text,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A problem as it is sent.
#[derive(Serialize, ToSchema)]
pub struct Problem<'a> {
    /// An address that stands for the code.
    #[schema(example = "https://greenroom.dev/errors/QUOTA_INSUFFICIENT")]
    r#type: String,
    /// A few words, the same for every problem of this code.
    title: &'a str,
    /// The HTTP status.
    status: u16,
    /// One of the codes at `GET /api/v1/errors`.
    #[schema(example = "QUOTA_INSUFFICIENT")]
    code: &'a str,
    /// What is wrong this time.
    detail: &'a str,
    /// The request in the service's log.
    #[serde(rename = "requestId")]
    request_id: &'a str,
    /// What is wrong with which part of the request.
    errors: Vec<ProblemField<'a>>,
}

/// One thing wrong with one part of a request.
#[derive(Serialize, ToSchema)]
pub struct ProblemField<'a> {
    /// A JSON pointer into the body, or `/` and the name of a parameter or header.
    #[schema(example = "/input/prompt")]
    path: &'a str,
    /// What is wrong with it.
    message: &'a str,
}

fn clipped(text: &str) -> &str {
    text.char_indices().nth(FIELD_ERROR_MAX).map_or(text, |(end, _)| &text[..end])
}

impl ApiError {
    /// A problem that says what its code always means.
    #[must_use]
    pub fn new(code: ErrorCode) -> Self {
        Self(Box::new(Refusal {
            code,
            status: code.status(),
            detail: code.meaning(),
            errors: Vec::new(),
            headers: Vec::new(),
        }))
    }

    /// A problem with one part of the request.
    pub fn at(code: ErrorCode, path: impl Into<String>, message: Text) -> Self {
        Self::new(code).with_errors(vec![FieldError { path: path.into(), message }])
    }

    /// 404.
    #[must_use]
    pub fn not_found() -> Self {
        Self::new(ErrorCode::NotFound)
    }

    /// 401 with the challenge that belongs to it.
    #[must_use]
    pub fn unauthenticated(challenge: &'static str) -> Self {
        Self::new(ErrorCode::Unauthenticated).with_challenge(challenge)
    }

    /// 405 with the methods that there are, such as `GET, POST`.
    #[must_use]
    pub fn method_not_allowed(allow: &str) -> Self {
        let error = Self::new(ErrorCode::MethodNotAllowed);
        match HeaderValue::from_str(allow) {
            Ok(value) => error.with_header(ALLOW, value),
            Err(_) => error,
        }
    }

    /// The same, saying something more particular.
    #[must_use]
    pub fn with_detail(mut self, detail: Text) -> Self {
        self.0.detail = detail;
        self
    }

    /// The same, naming the parts of the request that are wrong.
    #[must_use]
    pub fn with_errors(mut self, errors: Vec<FieldError>) -> Self {
        self.0.errors = errors;
        self
    }

    /// The same, with another status than its code usually has.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.0.status = status;
        self
    }

    /// The same, telling the client when to come back.
    #[must_use]
    pub fn with_retry_after(self, seconds: u64) -> Self {
        self.with_header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The same, saying how to sign in, as every 401 must.
    #[must_use]
    pub fn with_challenge(self, challenge: &'static str) -> Self {
        self.with_header(WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
    }

    fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.push((name, value));
        self
    }

    /// Its code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// What another library refused, by its status; its text stays inside.
    #[must_use]
    pub fn of_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::UNAUTHORIZED => return Self::unauthenticated("Bearer"),
            StatusCode::FORBIDDEN => ErrorCode::Forbidden,
            StatusCode::NOT_FOUND => ErrorCode::NotFound,
            StatusCode::METHOD_NOT_ALLOWED => ErrorCode::MethodNotAllowed,
            StatusCode::REQUEST_TIMEOUT => ErrorCode::RequestTimeout,
            StatusCode::PAYLOAD_TOO_LARGE => ErrorCode::BodyTooLarge,
            StatusCode::URI_TOO_LONG => ErrorCode::UriTooLong,
            StatusCode::UNSUPPORTED_MEDIA_TYPE => ErrorCode::UnsupportedMediaType,
            StatusCode::TOO_MANY_REQUESTS => ErrorCode::RateLimited,
            StatusCode::SERVICE_UNAVAILABLE => ErrorCode::Unavailable,
            status if status.is_client_error() => ErrorCode::BadRequest,
            _ => ErrorCode::Internal,
        };
        Self::new(code)
    }

    /// The body to send.
    #[must_use]
    pub fn body(&self, language: Language, request_id: &str) -> Vec<u8> {
        let refusal = &*self.0;
        let problem = Problem {
            r#type: format!("https://greenroom.dev/errors/{}", refusal.code.name()),
            title: refusal.code.title(language),
            status: refusal.status.as_u16(),
            code: refusal.code.name(),
            detail: refusal.detail.in_language(language),
            request_id,
            errors: refusal
                .errors
                .iter()
                .map(|error| ProblemField {
                    path: clipped(&error.path),
                    message: clipped(error.message.in_language(language)),
                })
                .collect(),
        };
        // strings and numbers only: this cannot fail
        serde_json::to_vec(&problem).unwrap_or_default()
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.code.name())
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.0.status
    }

    /// The status and headers; the body is written by the middleware.
    fn error_response(&self) -> HttpResponse {
        let mut response = HttpResponseBuilder::new(self.0.status);
        for (name, value) in &self.0.headers {
            response.insert_header((name.clone(), value.clone()));
        }
        response.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_the_members_of_the_contract() {
        let error = ApiError::at(ErrorCode::InputInvalid, "/input/prompt", Text::new("缺失", "missing"));
        let body: serde_json::Value = serde_json::from_slice(&error.body(Language::English, "r-1")).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "type": "https://greenroom.dev/errors/INPUT_INVALID",
                "title": "Input not valid",
                "status": 422,
                "code": "INPUT_INVALID",
                "detail": "The input does not fit the pipeline; see errors.",
                "requestId": "r-1",
                "errors": [{"path": "/input/prompt", "message": "missing"}],
            })
        );
    }
}
