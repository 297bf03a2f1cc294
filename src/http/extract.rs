//! Who calls, and which thing the path names.
//!
//! Handlers take the caller as their first argument: it is looked at before path, query and body, so that nobody
//! learns from a stranger's request whether an id exists. The types here are for access tokens, which decide alone; no
//! store is read. An API key, which `bearer.rs` looks up, is none of them, whoever's it is.

use super::{
    bearer::{Shown, scope_missing},
    client_address::ClientAddress,
    error::{ApiError, ErrorCode},
    state::State,
};
use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::header::USER_AGENT, web};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    ids::{SessionId, UserId},
    session::{Origin, Role},
};
use std::{
    future::{Ready, ready},
    str::FromStr,
};

/// Anybody signed in. An API key is refused: it is for its scopes alone.
#[derive(Clone, Copy, Debug)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// What they may do.
    pub role: Role,
    /// The session the token belongs to.
    pub session: SessionId,
    /// When the token ends.
    pub expires_at: DateTime<Utc>,
}

/// Somebody who may change what belongs to others.
#[derive(Clone, Copy, Debug)]
pub struct Admin(pub User);

/// Somebody who may see what belongs to others.
#[derive(Clone, Copy, Debug)]
pub struct Support(pub User);

/// Where a request comes from, as sessions and the security log remember it.
#[derive(Clone, Debug)]
pub struct ClientOrigin(pub Origin);

/// Characters of a client's name that are kept.
const USER_AGENT_MAX: usize = 256;

impl FromRequest for ClientOrigin {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let printable = |text: &str| -> String {
            text.chars().filter(|letter| !letter.is_control()).take(USER_AGENT_MAX).collect()
        };
        let user_agent = request.headers().get(USER_AGENT).and_then(|value| value.to_str().ok());
        let address = ClientAddress::of(request).0;
        ready(Ok(Self(Origin { address: Some(address), user_agent: user_agent.map(printable) })))
    }
}

/// Left in the request for its log line.
#[derive(Clone, Copy, Debug)]
pub struct Caller(pub UserId);

impl State {
    /// The state of the service that handles `request`.
    ///
    /// # Errors
    /// 500 where the service was put together without one.
    pub fn of(request: &HttpRequest) -> Result<&Self, ApiError> {
        request.app_data::<web::Data<Self>>().map(|state| &***state).ok_or_else(|| {
            tracing::error!("the service has no state");
            ApiError::new(ErrorCode::Internal)
        })
    }
}

impl User {
    fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        match Shown::in_header(request)? {
            Shown::Token(user) => Ok(user),
            Shown::Key(_) => Err(scope_missing()),
        }
    }
}

impl FromRequest for User {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request))
    }
}

impl FromRequest for Admin {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(User::of(request).and_then(|user| match user.role {
            Role::Admin => Ok(Self(user)),
            Role::User | Role::Support => Err(ApiError::new(ErrorCode::Forbidden)),
        }))
    }
}

impl FromRequest for Support {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(User::of(request).and_then(|user| match user.role {
            Role::Admin | Role::Support => Ok(Self(user)),
            Role::User => Err(ApiError::new(ErrorCode::Forbidden)),
        }))
    }
}

/// The path's `{id}`, a UUID in its usual form; anything else names nothing and is 404.
#[derive(Clone, Copy, Debug)]
pub struct Id<T>(pub T);

impl<T: FromStr> FromRequest for Id<T> {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        const HYPHENATED: usize = 36;
        let text = request.match_info().get("id").filter(|text| text.len() == HYPHENATED);
        ready(text.and_then(|text| text.parse().ok()).map(Self).ok_or_else(ApiError::not_found))
    }
}

/// The request's id, as it is answered and logged.
#[derive(Clone, Debug)]
pub struct RequestId(pub String);

impl FromRequest for RequestId {
    type Error = ApiError;
    type Future = Ready<Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let id = request.extensions().get::<Self>().cloned();
        ready(Ok(id.unwrap_or_else(|| Self(String::new()))))
    }
}
