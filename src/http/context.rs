//! What surrounds every request: its id, its log line and figures, panics, problems, security headers.

use super::{
    client_address::ClientAddress,
    error::{ApiError, ErrorCode, PROBLEM_JSON},
    extract::{Caller, RequestId},
    language::Language,
    state::State,
};
use actix_web::{
    Error, HttpMessage, HttpResponse, ResponseError,
    body::{BoxBody, MessageBody},
    dev::{ResponseHead, ServiceRequest, ServiceResponse},
    error::InternalError,
    http::{
        Method, StatusCode,
        header::{self, HeaderMap, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use futures_util::FutureExt;
use std::{panic::AssertUnwindSafe, time::Instant};
use tracing::Instrument;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What is kept of a request while it is being handled.
struct Facts {
    id: String,
    method: Method,
    path: String,
    client: ClientAddress,
    language: Language,
    https: bool,
    started: Instant,
}

/// The outermost middleware.
///
/// # Errors
/// A finished response, where the handler panicked and left none to write into.
pub async fn context<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let facts = Facts::of(&request);
    request.extensions_mut().insert(RequestId(facts.id.clone()));
    let span = tracing::info_span!("request", request_id = %facts.id);
    let answer = AssertUnwindSafe(next.call(request)).catch_unwind().instrument(span.clone()).await;
    let answer = match answer {
        Ok(Ok(response)) => Ok(facts.finish(response.map_into_boxed_body())),
        Ok(Err(error)) => Err(facts.finish_error(&error)),
        // the panic hook has logged it
        Err(_) => Err(facts.finish_error(&ApiError::new(ErrorCode::Internal).into())),
    };
    span.in_scope(|| facts.report(answer.as_ref()));
    answer.map_err(|response| InternalError::from_response("handled", response).into())
}

impl Facts {
    fn of(request: &ServiceRequest) -> Self {
        let headers = request.headers();
        Self {
            id: request_id(headers),
            method: request.method().clone(),
            path: request.path().to_owned(),
            client: ClientAddress::of(request.request()),
            language: Language::of(headers),
            https: request.app_data::<web::Data<State>>().is_some_and(|state| state.settings.https),
            started: Instant::now(),
        }
    }

    /// Completes a response: a refusal becomes a problem, and every response gets our headers.
    fn finish(&self, response: ServiceResponse<BoxBody>) -> ServiceResponse<BoxBody> {
        let status = response.status();
        let own = response.response().error().and_then(|error| error.as_error::<ApiError>());
        let body = match own {
            Some(error) => Some(error.body(self.language, &self.id)),
            None if status.as_u16() >= 400 && !is_json(response.headers()) => {
                Some(ApiError::of_status(status).body(self.language, &self.id))
            }
            None => None,
        };
        let is_problem = body.is_some();
        let mut response = match body {
            Some(body) => response.map_body(|_, _| BoxBody::new(body)),
            None => response,
        };
        self.decorate(response.response_mut().head_mut(), is_problem);
        response
    }

    /// A whole response for an error that came up through the services, such as a panic.
    fn finish_error(&self, error: &Error) -> HttpResponse {
        let foreign;
        let problem = match error.as_error::<ApiError>() {
            Some(own) => own,
            None => {
                foreign = ApiError::of_status(error.as_response_error().status_code());
                &foreign
            }
        };
        let body = problem.body(self.language, &self.id);
        let mut response = problem.error_response().set_body(BoxBody::new(body));
        self.decorate(response.head_mut(), true);
        response
    }

    fn decorate(&self, head: &mut ResponseHead, is_problem: bool) {
        let headers = head.headers_mut();
        if is_problem {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
            headers.insert(header::CONTENT_LANGUAGE, HeaderValue::from_static(self.language.tag()));
            headers.append(header::VARY, HeaderValue::from_static("Accept-Language"));
        }
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            headers.insert(X_REQUEST_ID, id);
        }
        let mut unless_set = |name: HeaderName, value: &'static str| {
            if !headers.contains_key(&name) {
                headers.insert(name, HeaderValue::from_static(value));
            }
        };
        unless_set(header::CACHE_CONTROL, "no-store");
        unless_set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        unless_set(header::X_FRAME_OPTIONS, "DENY");
        unless_set(header::REFERRER_POLICY, "no-referrer");
        unless_set(header::CONTENT_SECURITY_POLICY, self.content_security_policy());
        if self.https {
            unless_set(header::STRICT_TRANSPORT_SECURITY, "max-age=31536000");
        }
    }

    /// Only the page that shows the contract runs scripts, all of them our own.
    fn content_security_policy(&self) -> &'static str {
        if self.path.starts_with("/docs/") {
            "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
        } else {
            "default-src 'none'; frame-ancestors 'none'"
        }
    }

    /// Writes the request's log line and figures. Queries are left out: they may hold tickets and signatures.
    fn report(&self, answer: Result<&ServiceResponse<BoxBody>, &HttpResponse>) {
        let (status, request) = match answer {
            Ok(response) => (response.status(), Some(response.request())),
            Err(response) => (response.status(), None),
        };
        let route = request.and_then(|request| request.match_pattern());
        let route = route.as_deref().unwrap_or("unmatched");
        let caller = request.and_then(|request| request.extensions().get::<Caller>().map(|caller| caller.0));
        let elapsed = self.started.elapsed();
        let method = if is_common(&self.method) { self.method.as_str() } else { "other" };
        let labels = [
            ("method", method.to_owned()),
            ("route", route.to_owned()),
            ("status", status.as_u16().to_string()),
        ];
        metrics::histogram!("greenroom_http_request_seconds", &labels[..2]).record(elapsed.as_secs_f64());
        metrics::counter!("greenroom_http_requests_total", &labels).increment(1);
        let duration_ms = elapsed.as_micros() as f64 / 1000.0;
        macro_rules! line {
            ($level:ident) => {
                tracing::$level!(
                    method,
                    route,
                    path = loggable_path(route, &self.path),
                    status = status.as_u16(),
                    duration_ms,
                    user = caller.map(tracing::field::display),
                    peer = %self.client.0,
                    "request"
                )
            };
        }
        if status == StatusCode::INTERNAL_SERVER_ERROR { line!(error) } else { line!(info) }
    }
}

/// The path, where it can hold no secret: tokens of callbacks and mistyped addresses are left out.
fn loggable_path<'a>(route: &str, path: &'a str) -> Option<&'a str> {
    let open = route.starts_with("/api/") && !route.contains("{token}");
    open.then_some(path)
}

fn is_common(method: &Method) -> bool {
    [
        &Method::GET,
        &Method::POST,
        &Method::PUT,
        &Method::PATCH,
        &Method::DELETE,
        &Method::HEAD,
        &Method::OPTIONS,
    ]
    .contains(&method)
}

/// The client's id where it is one that can stand in a log line, else a fresh one.
fn request_id(headers: &HeaderMap) -> String {
    let sane = |id: &&str| {
        (1..=128).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    headers
        .get(X_REQUEST_ID)
        .and_then(|value| value.to_str().ok())
        .filter(sane)
        .map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("application/json") || value.starts_with(PROBLEM_JSON))
}
