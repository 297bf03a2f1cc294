//! How often anybody may ask: the middleware of everything below `/api/v1`.
//!
//! It goes by method and path and not by handlers, so a route that is added later is under the limit without a
//! word. Who is limited is the user of a valid access token or API key, else the address; a ticket of a websocket counts
//! for the address, because only its handler may use it up. Sign-ins, registrations and codes, whatever their outcome, count
//! for the address and for the network around it as well.
//!
//! Answers say where the caller stands (`RateLimit-*`); of several limits they tell the one with the fewest
//! requests left. The counting is `greenroom_actors::limits`.

use super::{bearer::Shown, client_address::ClientAddress, error::ApiError, state::State};
use crate::ws::handshake::bearer_protocol;
use actix_web::{
    Error, HttpRequest,
    body::{BoxBody, MessageBody},
    dev::{ServiceRequest, ServiceResponse},
    http::{
        Method,
        header::{AUTHORIZATION, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use greenroom_actors::limits::{Charge, Standing, WithoutRedis};

/// Sign-ins of a network, as a multiple of those of one address: an office shares a network, and a guesser who has
/// many addresses has them in few.
pub const SIGN_IN_NETWORK_FACTOR: u32 = 5;

/// Below it everything is under the general limit.
const BASE: &str = "/api/v1/";

/// What is worth guessing at, or costs an SMS: where phones, passwords and codes come in. A refresh token is no guess.
const SIGN_IN: [&str; 5] =
    ["auth/login", "auth/register", "auth/send-code", "auth/reset-password", "auth/wechat-login"];

const RATE_LIMIT_LIMIT: HeaderName = HeaderName::from_static("ratelimit-limit");
const RATE_LIMIT_REMAINING: HeaderName = HeaderName::from_static("ratelimit-remaining");
const RATE_LIMIT_RESET: HeaderName = HeaderName::from_static("ratelimit-reset");

/// Limits of requests.
#[derive(Clone, Copy, Debug)]
pub struct RequestLimits {
    /// Requests of a user, or of an address without a token; 0 is off.
    pub per_minute: u32,
    /// Sign-ins, registrations and codes of an address; 0 is off.
    pub sign_in_per_minute: u32,
}

/// The middleware.
///
/// # Errors
/// What the service inside answers; a refusal of its own is a response.
pub async fn limit<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let standing = match charge(request.request()).await {
        Ok(standing) => standing,
        Err(error) => return Ok(request.error_response(error)),
    };
    let mut response = next.call(request).await?.map_into_boxed_body();
    // a refusal by a limit of the handler's own tells of that one
    if let Some(standing) = standing.filter(|_| !response.headers().contains_key(RATE_LIMIT_LIMIT)) {
        for (name, value) in headers_of(&standing) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}

/// Where a caller stands, as it is answered.
#[must_use]
pub fn headers_of(standing: &Standing) -> [(HeaderName, HeaderValue); 3] {
    headers(standing.per_minute, standing.remaining(), standing.reset_s())
}

/// Of `limit` are `remaining` left, and all of them after `reset_s` seconds.
#[must_use]
pub fn headers(limit: u32, remaining: u32, reset_s: u64) -> [(HeaderName, HeaderValue); 3] {
    [
        (RATE_LIMIT_LIMIT, HeaderValue::from(limit)),
        (RATE_LIMIT_REMAINING, HeaderValue::from(remaining)),
        (RATE_LIMIT_RESET, HeaderValue::from(reset_s)),
    ]
}

/// Whether requests of this path count. Not those of providers and payment platforms: they come from few addresses,
/// they tell of work and money that wait for them, and a platform that is refused comes back hours later or never.
/// Each names a secret address or bears a signature, which is looked at first.
#[must_use]
pub fn is_limited(path: &str) -> bool {
    let Some(path) = path.strip_prefix(BASE) else { return false };
    let told_by_others = match path.split_once('/') {
        Some(("provider-callbacks", token)) => !token.contains('/'),
        Some(("payments", rest)) => {
            rest.strip_suffix("/notify").is_some_and(|platform| !platform.contains('/'))
        }
        _ => false,
    };
    !told_by_others
}

async fn charge(request: &HttpRequest) -> Result<Option<Standing>, ApiError> {
    // the path as routes see it, so that no way of writing it leads around the limit
    let path = request.match_info().as_str();
    let Some(state) = request.app_data::<web::Data<State>>().filter(|_| is_limited(path)) else {
        return Ok(None);
    };
    Ok(state.limiter.charge(&charges(request, path, state.settings.request_limits)).await?)
}

fn charges(request: &HttpRequest, path: &str, limits: RequestLimits) -> Vec<Charge> {
    let mut charges = Vec::new();
    if limits.per_minute > 0 {
        charges.push(Charge {
            limit: "requests",
            subject: caller(request),
            per_minute: limits.per_minute,
            without_redis: WithoutRedis::CountHere,
        });
    }
    if limits.sign_in_per_minute > 0 && is_sign_in(request.method(), path) {
        let client = ClientAddress::of(request);
        let guess = |limit, subject, per_minute| Charge {
            limit,
            subject,
            per_minute,
            without_redis: WithoutRedis::Refuse,
        };
        let of_network = limits.sign_in_per_minute.saturating_mul(SIGN_IN_NETWORK_FACTOR);
        charges.push(guess("sign_in_address", client.subject(), limits.sign_in_per_minute));
        charges.push(guess("sign_in_network", client.network(), of_network));
    }
    charges
}

fn is_sign_in(method: &Method, path: &str) -> bool {
    method == Method::POST && path.strip_prefix(BASE).is_some_and(|path| SIGN_IN.contains(&path))
}

/// The user whose token or key the request shows, else the address. What it said is kept for the handler.
fn caller(request: &HttpRequest) -> String {
    let shown = if request.headers().contains_key(AUTHORIZATION) {
        Shown::in_header(request).ok()
    } else {
        bearer_protocol(request).and_then(|text| Shown::of_text(request, &text).ok())
    };
    match shown {
        Some(Shown::Token(user)) => format!("user:{}", user.id),
        Some(Shown::Key(key)) => format!("user:{}", key.user),
        None => format!("address:{}", ClientAddress::of(request).subject()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_interface_counts_but_what_others_tell_us() {
        for path in [
            "/api/v1/plans",
            "/api/v1/nothing",
            "/api/v1/",
            "/api/v1/payments/orders",
            "/api/v1/payments/wechat/notify/more",
            "/api/v1/provider-callbacks",
            "/api/v1/provider-callbacks/token/more",
            "/api/v1/ws",
        ] {
            assert!(is_limited(path), "{path}");
        }
        for path in [
            "/",
            "/health/ready",
            "/docs/",
            "/openapi.json",
            "/objects/file",
            "/api/v2/plans",
            "/api/v1/provider-callbacks/token",
            "/api/v1/payments/wechat/notify",
            "/api/v1/payments/alipay/notify",
        ] {
            assert!(!is_limited(path), "{path}");
        }
    }

    #[test]
    fn sign_ins_are_those_where_guesses_come_in() {
        for path in SIGN_IN {
            assert!(is_sign_in(&Method::POST, &format!("{BASE}{path}")));
        }
        assert!(!is_sign_in(&Method::GET, "/api/v1/auth/login"));
        assert!(!is_sign_in(&Method::POST, "/api/v1/auth/refresh"));
        assert!(!is_sign_in(&Method::POST, "/api/v1/auth/logout"));
    }
}
