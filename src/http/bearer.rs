//! What a request shows to say who calls: an access token, or an API key.
//!
//! A token says all by itself. A key is looked up, once for each request: the limit of requests and the handler share
//! what was found, and no other request does, so that a key that is revoked works nowhere from then on. Routes say by the
//! type of their caller what they take: [`User`] an access token alone, [`Scoped`] also a key that is for it.

use super::{
    error::{ApiError, ErrorCode},
    extract::{Caller, User},
    state::State,
};
use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::header::AUTHORIZATION};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::{Either, LocalBoxFuture};
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

/// Who calls, known at once or when it was looked up: only a key costs a box.
pub type Looked<T> = Either<Ready<Result<T, ApiError>>, LocalBoxFuture<'static, Result<T, ApiError>>>;

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
    pub async fn of_text(request: &HttpRequest, text: &str) -> Result<Self, ApiError> {
        look_at(request, text, Self::of).await
    }
}

impl<P: Purpose> FromRequest for Scoped<P> {
    type Error = ApiError;
    type Future = Looked<Self>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        look(request, Self::of)
    }
}

/// A key that is good, and not for this.
pub(super) fn scope_missing() -> ApiError {
    ApiError::new(ErrorCode::ScopeMissing).with_challenge(CHALLENGE_SCOPE)
}

/// Looks at what the header for it shows, and takes of it what is wanted.
pub(super) fn look<T: 'static>(request: &HttpRequest, take: fn(Shown) -> Result<T, ApiError>) -> Looked<T> {
    match in_header(request) {
        Ok(text) => look_at(request, text, take),
        Err(refusal) => Either::Left(ready(Err(refusal))),
    }
}

/// The same of `text`, wherever it was shown.
pub(super) fn look_at<T: 'static>(
    request: &HttpRequest,
    text: &str,
    take: fn(Shown) -> Result<T, ApiError>,
) -> Looked<T> {
    if !text.starts_with(PREFIX) {
        return Either::Left(ready(token(request, text).and_then(take)));
    }
    if let Some(known) = request.extensions().get::<LookedUp>().and_then(|known| known.says_of(text)) {
        return Either::Left(ready(known.and_then(take)));
    }
    let (request, text) = (request.clone(), text.to_owned());
    Either::Right(Box::pin(async move { look_up(&request, text).await.and_then(take) }))
}

fn in_header(request: &HttpRequest) -> Result<&str, ApiError> {
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

/// Left in the request, so that limit and handler look its key up once.
struct LookedUp {
    text: String,
    found: Result<ApiKey, ErrorCode>,
}

impl LookedUp {
    fn says_of(&self, text: &str) -> Option<Result<Shown, ApiError>> {
        (self.text == text).then(|| self.found.clone().map(Shown::Key).map_err(refused))
    }
}

async fn look_up(request: &HttpRequest, text: String) -> Result<Shown, ApiError> {
    let found = State::of(request)?.api_keys.find(&text).await;
    let found = found.map_err(|error| ApiError::from(error).code());
    if let Ok(key) = &found {
        request.extensions_mut().insert(Caller(key.user));
    }
    request.extensions_mut().insert(LookedUp { text, found: found.clone() });
    found.map(Shown::Key).map_err(refused)
}

fn refused(code: ErrorCode) -> ApiError {
    match code {
        ErrorCode::Unauthenticated => ApiError::unauthenticated(CHALLENGE_INVALID),
        ErrorCode::Unavailable => ApiError::unavailable(),
        code => ApiError::new(code),
    }
}
