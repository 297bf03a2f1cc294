//! What a request shows to say who calls: an access token, or an API key.
//!
//! A token says all by itself. A key is looked up, once for each request, by the middleware [`look_up_key`]: an extractor
//! that waited for PostgreSQL would be overtaken by those of path and body, and a stranger would hear of those. No other
//! request uses what was found, so that a key that is revoked works nowhere from then on. Routes say by the type of their
//! caller what they take: [`User`] an access token alone, [`Scoped`] also a key that is for it.

use super::{
    error::{ApiError, ErrorCode},
    extract::{Caller, User},
    limits::is_limited,
    state::State,
};
use crate::ws::handshake::bearer_protocol;
use actix_web::{
    Error, FromRequest, HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    http::header::AUTHORIZATION,
    middleware::Next,
};
use chrono::{DateTime, TimeDelta, Utc};
use greenroom_actors::{
    clock::{Clock, SystemClock},
    ids::{ApiKeyId, SessionId, UserId},
    records::api_keys::{ApiKey, PREFIX, Scope},
    session::{Claims, InvalidToken},
};
use std::{
    future::{Ready, ready},
    marker::PhantomData,
    ops::Deref,
};

/// What a request without a token is told.
const CHALLENGE: &str = "Bearer realm=\"greenroom\"";
/// What a request with a bad token is told.
const CHALLENGE_INVALID: &str = "Bearer realm=\"greenroom\", error=\"invalid_token\"";
/// What a request with a key for something else is told.
const CHALLENGE_SCOPE: &str = "Bearer realm=\"greenroom\", error=\"insufficient_scope\"";

/// How long a socket of a key lasts at most; then the key is looked at again.
const SOCKET_OF_KEY: TimeDelta = TimeDelta::hours(24);

/// What was shown, and is good.
#[derive(Clone, Debug)]
pub enum Shown {
    /// An access token.
    Token(User),
    /// A key.
    Key(ApiKey),
}

/// Who calls, where a token and a key are the same.
#[derive(Clone, Copy, Debug)]
pub struct Bearer {
    /// Who.
    pub id: UserId,
    /// By which key, where it is one.
    pub key: Option<ApiKeyId>,
    /// What its sockets are opened in, and closed with.
    pub session: SessionId,
    /// When its sockets end.
    pub expires_at: DateTime<Utc>,
}

/// What a route is for; a key needs one of its scopes.
pub trait Purpose: 'static {
    /// The scopes.
    const ANY_OF: &'static [Scope];
}

/// Starting and cancelling tasks.
#[derive(Clone, Copy, Debug)]
pub struct Tasks;
/// Changing files.
#[derive(Clone, Copy, Debug)]
pub struct Files;
/// Looking.
#[derive(Clone, Copy, Debug)]
pub struct Read;
/// Looking at files.
#[derive(Clone, Copy, Debug)]
pub struct ReadFiles;

impl Purpose for Tasks {
    const ANY_OF: &'static [Scope] = &[Scope::Tasks];
}
impl Purpose for Files {
    const ANY_OF: &'static [Scope] = &[Scope::Files];
}
impl Purpose for Read {
    const ANY_OF: &'static [Scope] = &[Scope::Read];
}
impl Purpose for ReadFiles {
    const ANY_OF: &'static [Scope] = &[Scope::Files, Scope::Read];
}

/// Somebody signed in, or a key for `P`.
#[derive(Clone, Copy, Debug)]
pub struct Scoped<P>(Bearer, PhantomData<P>);

impl<P> Deref for Scoped<P> {
    type Target = Bearer;

    fn deref(&self) -> &Bearer {
        &self.0
    }
}

impl<P: Purpose> Scoped<P> {
    fn of(shown: Shown) -> Result<Self, ApiError> {
        let bearer = match shown {
            Shown::Token(user) => {
                Bearer { id: user.id, key: None, session: user.session, expires_at: user.expires_at }
            }
            Shown::Key(key) if key.scopes.iter().any(|scope| P::ANY_OF.contains(scope)) => {
                let latest = SystemClock.now() + SOCKET_OF_KEY;
                let expires_at = key.expires_at.map_or(latest, |at| at.min(latest));
                Bearer { id: key.user, key: Some(key.id), session: key.session(), expires_at }
            }
            Shown::Key(_) => return Err(scope_missing()),
        };
        Ok(Self(bearer, PhantomData))
    }

    /// Whoever shows `text` with `request`, elsewhere than in the header for it.
    ///
    /// # Errors
    /// As those of the extractor.
    pub fn of_text(request: &HttpRequest, text: &str) -> Result<Self, ApiError> {
        Shown::of_text(request, text).and_then(Self::of)
    }
}

impl<P: Purpose> FromRequest for Scoped<P> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Shown::in_header(request).and_then(Self::of))
    }
}

impl Shown {
    /// What the header for it shows.
    ///
    /// # Errors
    /// 401 where it shows nothing that is good; what the look for a key has met.
    pub fn in_header(request: &HttpRequest) -> Result<Self, ApiError> {
        Self::of_text(request, text_in_header(request)?)
    }

    /// What `text` is, shown with `request` wherever.
    ///
    /// # Errors
    /// The same.
    pub fn of_text(request: &HttpRequest, text: &str) -> Result<Self, ApiError> {
        if text.starts_with(PREFIX) { key(request, text) } else { token(request, text) }
    }
}

/// The middleware: looks the key up that a request shows, before anybody asks who calls.
///
/// # Errors
/// What the service inside answers.
pub async fn look_up_key<B: MessageBody + 'static>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    look_up(request.request()).await;
    next.call(request).await
}

async fn look_up(request: &HttpRequest) {
    // where nobody counts requests nothing takes a key
    if !is_limited(request.match_info().as_str()) {
        return;
    }
    let text = if request.headers().contains_key(AUTHORIZATION) {
        text_in_header(request).ok().map(str::to_owned)
    } else {
        bearer_protocol(request)
    };
    let Some(text) = text.filter(|text| text.starts_with(PREFIX)) else { return };
    let Ok(state) = State::of(request) else { return };
    let found = state.api_keys.find(&text).await.map_err(|error| ApiError::from(error).code());
    request.extensions_mut().insert(LookedUp { text, found });
}

/// A key that is good, and not for this.
pub(super) fn scope_missing() -> ApiError {
    ApiError::new(ErrorCode::ScopeMissing).with_challenge(CHALLENGE_SCOPE)
}

fn text_in_header(request: &HttpRequest) -> Result<&str, ApiError> {
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next().ok_or_else(|| ApiError::unauthenticated(CHALLENGE))?;
    let invalid = || ApiError::unauthenticated(CHALLENGE_INVALID);
    if headers.next().is_some() {
        return Err(invalid());
    }
    let (scheme, text) = header.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(invalid)?;
    if scheme.eq_ignore_ascii_case("bearer") {
        Ok(text.trim())
    } else {
        Err(ApiError::unauthenticated(CHALLENGE))
    }
}

/// Left in the request, so that limit and handler verify its token once.
struct Verified {
    token: String,
    claims: Result<Claims, InvalidToken>,
}

impl Verified {
    fn says_of(&self, token: &str) -> Option<Result<Claims, InvalidToken>> {
        (self.token == token).then_some(self.claims)
    }
}

fn token(request: &HttpRequest, token: &str) -> Result<Shown, ApiError> {
    let known = request.extensions().get::<Verified>().and_then(|verified| verified.says_of(token));
    let claims = match known {
        Some(claims) => claims,
        None => {
            let claims = State::of(request)?.tokens.verify(token);
            request.extensions_mut().insert(Verified { token: token.to_owned(), claims });
            claims
        }
    };
    let claims = claims.map_err(|_| ApiError::unauthenticated(CHALLENGE_INVALID))?;
    request.extensions_mut().insert(Caller(claims.user));
    Ok(Shown::Token(User {
        id: claims.user,
        role: claims.role,
        session: claims.session,
        expires_at: claims.expires_at,
    }))
}

/// Left in the request by the middleware.
struct LookedUp {
    text: String,
    found: Result<ApiKey, ErrorCode>,
}

fn key(request: &HttpRequest, text: &str) -> Result<Shown, ApiError> {
    let known =
        request.extensions().get::<LookedUp>().filter(|known| known.text == text).map(|it| it.found.clone());
    let Some(found) = known else {
        tracing::error!("an API key was shown and not looked up");
        return Err(ApiError::new(ErrorCode::Internal));
    };
    let key = found.map_err(|code| match code {
        ErrorCode::Unauthenticated => ApiError::unauthenticated(CHALLENGE_INVALID),
        ErrorCode::Unavailable => ApiError::unavailable(),
        code => ApiError::new(code),
    })?;
    request.extensions_mut().insert(Caller(key.user));
    Ok(Shown::Key(key))
}
