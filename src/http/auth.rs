//! Signing up and in.

use super::{
    error::{ApiError, ErrorCode, asked_twice},
    json::ValidJson,
    state::State,
    users::UserView,
};
use actix_web::{HttpResponse, http::StatusCode, post, web};
use greenroom_actors::{
    clock::{Clock, SystemClock},
    ids::UserId,
    session::{Register, SessionError, SessionOpened, SignIn},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A sign-up.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Registration {
    /// A mainland number of 11 digits; `+86` may stand before it.
    #[schema(example = "13800138000")]
    phone: String,
    /// 8 to 64 characters, at most 71 bytes.
    #[schema(value_type = String, format = Password)]
    password: SecretString,
    /// The id of the user who brought them.
    #[serde(alias = "referrer_id")]
    referrer_id: Option<String>,
    /// The invite code of the user who brought them.
    #[serde(alias = "invite_code")]
    invite_code: Option<String>,
}

/// A sign-in.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Login {
    /// As at registration.
    #[schema(example = "13800138000")]
    phone: String,
    /// As at registration.
    #[schema(value_type = String, format = Password)]
    password: SecretString,
}

/// What a sign-in gives.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Tokens {
    /// To be sent as `Authorization: Bearer <accessToken>`.
    access_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds until the access token ends.
    #[schema(example = 900)]
    expires_in: u32,
    /// Whether this sign-in made the account.
    is_new_user: bool,
    user: UserView,
}

/// Makes an account and signs in.
#[utoipa::path(
    tag = "auth",
    request_body = Registration,
    responses(
        (status = 201, description = "Signed in.", body = Tokens),
        (status = 409, description = "`PHONE_TAKEN`"),
        (status = 422, description = "`PASSWORD_WEAK`, `REFERRER_INVALID`, `INVITE_CODE_INVALID`, `VALIDATION_FAILED`"),
    )
)]
#[post("/auth/register")]
pub(super) async fn register(
    state: web::Data<State>,
    request: ValidJson<Registration>,
) -> Result<HttpResponse, ApiError> {
    let body = request.body;
    let referrer = body.referrer_id.map(|id| id.parse().map_err(|_| SessionError::ReferrerInvalid));
    let command = Register {
        user: UserId::new(),
        phone: body.phone,
        password: body.password,
        referrer: referrer.transpose()?,
        invite_code: body.invite_code,
    };
    // its id tells the second asking from somebody else's registration
    let opened = asked_twice(|| state.session.register(command.clone())).await?;
    tokens(&state, opened, true).await
}

/// Signs in by phone and password.
#[utoipa::path(
    tag = "auth",
    request_body = Login,
    responses(
        (status = 200, description = "Signed in.", body = Tokens),
        (status = 401, description = "`INVALID_CREDENTIALS`, also for a phone without an account"),
        (status = 403, description = "`USER_BANNED`"),
        (status = 422, description = "`VALIDATION_FAILED`: not a phone"),
        (status = 429, description = "`LOGIN_LOCKED` for 15 minutes after five failures"),
    )
)]
#[post("/auth/login")]
pub(super) async fn login(
    state: web::Data<State>,
    request: ValidJson<Login>,
) -> Result<HttpResponse, ApiError> {
    let command = SignIn { phone: request.body.phone, password: request.body.password };
    let opened = asked_twice(|| state.session.sign_in(command.clone())).await?;
    tokens(&state, opened, false).await
}

async fn tokens(state: &State, opened: SessionOpened, is_new_user: bool) -> Result<HttpResponse, ApiError> {
    let user = state.users.get(opened.user).await?.ok_or_else(ApiError::not_found)?;
    let now = SystemClock.now();
    let access = state.tokens.issue(opened.user, opened.role, opened.session, now).map_err(|error| {
        tracing::error!(%error, "an access token could not be signed");
        ApiError::new(ErrorCode::Internal)
    })?;
    let status = if is_new_user { StatusCode::CREATED } else { StatusCode::OK };
    Ok(HttpResponse::build(status).json(Tokens {
        access_token: access.token.expose_secret().to_owned(),
        token_type: "Bearer",
        expires_in: access.lifetime_s,
        is_new_user,
        user: UserView::from(&user),
    }))
}
