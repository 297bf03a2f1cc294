//! Signing up, in and out.

use super::{
    error::{ApiError, ErrorCode, asked_twice},
    extract::{ClientOrigin, User},
    json::{OptionalJson, ValidJson},
    language::Text,
    state::State,
    users::UserView,
};
use actix_web::{HttpResponse, http::StatusCode, post, web};
use greenroom_actors::{
    clock::{Clock, SystemClock},
    ids::SessionId,
    session::{
        CODE_GAP, CODE_LIFETIME, NewIds, Proof, Referral, Refresh, Register, ResetPassword, Scene, SendCode,
        SessionError, SessionOpened, SignIn, SignInByWechat, SignOut,
    },
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A code that is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WantedCode {
    /// A mainland number of 11 digits; `+86` may stand before it.
    #[schema(example = "13800138000")]
    phone: String,
    #[schema(value_type = SceneView)]
    scene: Scene,
}

/// What a code is for.
#[derive(ToSchema)]
#[schema(as = Scene, rename_all = "snake_case")]
#[expect(dead_code, reason = "it only describes the scene in the contract")]
enum SceneView {
    Login,
    Register,
    ResetPassword,
}

/// A code is on its way.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SentCode {
    /// Seconds until it is void.
    #[schema(example = 300)]
    expires_in: u64,
    /// Seconds until another may be asked for.
    #[schema(example = 60)]
    retry_after: u64,
}

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
    /// Sent to the phone for the scene `register`; where registrations need one.
    #[schema(value_type = Option<String>, example = "123456")]
    code: Option<SecretString>,
    /// The id of the user who brought them.
    #[serde(alias = "referrer_id")]
    referrer_id: Option<String>,
    /// The invite code of the user who brought them.
    #[serde(alias = "invite_code")]
    invite_code: Option<String>,
}

/// A sign-in, by password or by a code.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Login {
    /// As at registration.
    #[schema(example = "13800138000")]
    phone: String,
    /// As at registration.
    #[schema(value_type = Option<String>, format = Password)]
    password: Option<SecretString>,
    /// Sent to the phone for the scene `login`.
    #[schema(value_type = Option<String>, example = "123456")]
    code: Option<SecretString>,
}

/// A sign-in by the mini-program.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WechatLogin {
    /// From `wx.login`; works once.
    #[schema(value_type = String)]
    code: SecretString,
    /// The id of the user who brought them, if they are new.
    #[serde(alias = "referrer_id")]
    referrer_id: Option<String>,
    /// The invite code of the user who brought them, if they are new.
    #[serde(alias = "invite_code")]
    invite_code: Option<String>,
}

/// A refresh token to be taken for the next.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Refreshing {
    #[serde(alias = "refresh_token")]
    #[schema(value_type = String)]
    refresh_token: SecretString,
}

/// Which session to close.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Logout {
    /// One of it; without one it is the session of the bearer.
    #[serde(alias = "refresh_token")]
    #[schema(value_type = Option<String>)]
    refresh_token: Option<SecretString>,
    /// Close all sessions of the user.
    #[serde(default)]
    everywhere: bool,
}

/// A password in place of a forgotten one.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PasswordReset {
    #[schema(example = "13800138000")]
    phone: String,
    /// Sent to the phone for the scene `reset_password`.
    #[schema(value_type = String, example = "123456")]
    code: SecretString,
    /// 8 to 64 characters, at most 71 bytes.
    #[serde(alias = "new_password")]
    #[schema(value_type = String, format = Password)]
    new_password: SecretString,
}

/// What a sign-in gives.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Tokens {
    /// To be sent as `Authorization: Bearer <accessToken>`.
    access_token: String,
    /// To be taken for the next pair, once.
    refresh_token: String,
    #[schema(example = "Bearer")]
    token_type: &'static str,
    /// Seconds until the access token ends.
    #[schema(example = 900)]
    expires_in: u32,
    /// Seconds until the refresh token ends.
    #[schema(example = 604_800)]
    refresh_expires_in: u32,
    /// Whether this sign-in made the account.
    is_new_user: bool,
    user: UserView,
}

/// Sends a code to a phone. The answer is the same whether or not the phone has an account.
#[utoipa::path(
    tag = "auth",
    request_body = WantedCode,
    responses(
        (status = 202, description = "On its way.", body = SentCode),
        (status = 422, description = "`VALIDATION_FAILED`: not a phone"),
        (status = 429, description = "`RATE_LIMITED`: one in 60 s and ten a day for a phone"),
        (status = 502, description = "`SMS_UNAVAILABLE`"),
    )
)]
#[post("/auth/send-code")]
pub(super) async fn send_code(
    state: web::Data<State>,
    request: ValidJson<WantedCode>,
) -> Result<HttpResponse, ApiError> {
    let WantedCode { phone, scene } = request.body;
    state.session.send_code(SendCode { phone, scene }).await?;
    let sent = SentCode { expires_in: CODE_LIFETIME.as_secs(), retry_after: CODE_GAP.as_secs() };
    Ok(HttpResponse::Accepted().json(sent))
}

/// Makes an account and signs in.
#[utoipa::path(
    tag = "auth",
    request_body = Registration,
    responses(
        (status = 201, description = "Signed in.", body = Tokens),
        (status = 409, description = "`PHONE_TAKEN`"),
        (status = 422, description = "`PASSWORD_WEAK`, `CODE_INVALID`, `REFERRER_INVALID`, `INVITE_CODE_INVALID`, `VALIDATION_FAILED`"),
    )
)]
#[post("/auth/register")]
pub(super) async fn register(
    state: web::Data<State>,
    origin: ClientOrigin,
    request: ValidJson<Registration>,
) -> Result<HttpResponse, ApiError> {
    let body = request.body;
    let command = Register {
        ids: NewIds::new(),
        phone: body.phone,
        password: body.password,
        code: body.code,
        referral: referral(body.referrer_id, body.invite_code)?,
        origin: origin.0,
    };
    // its ids tell the second asking from somebody else's registration
    let opened = asked_twice(|| state.session.register(command.clone())).await?;
    tokens(&state, &opened, StatusCode::CREATED)
}

/// Signs in by phone, with a password or a code. A code signs up a phone that has no account.
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
    origin: ClientOrigin,
    request: ValidJson<Login>,
) -> Result<HttpResponse, ApiError> {
    let Login { phone, password, code } = request.body;
    let proof = proof(password, code)?;
    let command = SignIn { ids: NewIds::new(), phone, proof, origin: origin.0 };
    let opened = asked_twice(|| state.session.sign_in(command.clone())).await?;
    tokens(&state, &opened, StatusCode::OK)
}

/// Signs in by the mini-program. Its first sign-in makes the account.
#[utoipa::path(
    tag = "auth",
    request_body = WechatLogin,
    responses(
        (status = 200, description = "Signed in.", body = Tokens),
        (status = 401, description = "`WECHAT_CODE_INVALID`: ask `wx.login` for a new one"),
        (status = 403, description = "`USER_BANNED`, `WECHAT_BLOCKED`"),
        (status = 422, description = "`REFERRER_INVALID`, `INVITE_CODE_INVALID`"),
        (status = 429, description = "`RATE_LIMITED`"),
        (status = 502, description = "`WECHAT_UNAVAILABLE`"),
    )
)]
#[post("/auth/wechat-login")]
pub(super) async fn wechat_login(
    state: web::Data<State>,
    origin: ClientOrigin,
    request: ValidJson<WechatLogin>,
) -> Result<HttpResponse, ApiError> {
    let WechatLogin { code, referrer_id, invite_code } = request.body;
    let referral = referral(referrer_id, invite_code)?;
    let command = SignInByWechat { ids: NewIds::new(), code, referral, origin: origin.0 };
    // not asked twice: the platform takes a code once
    let opened = state.session.sign_in_by_wechat(command).await?;
    tokens(&state, &opened, StatusCode::OK)
}

/// Takes a refresh token for the next pair of tokens.
///
/// A refresh token works once. The same one again within ten seconds gives the same refresh token, should an answer have
/// been lost; later it closes the session, for somebody has a copy.
#[utoipa::path(
    tag = "auth",
    request_body = Refreshing,
    responses(
        (status = 200, description = "The next pair.", body = Tokens),
        (status = 401, description = "`REFRESH_TOKEN_INVALID`, `REFRESH_TOKEN_REUSED`"),
        (status = 403, description = "`USER_BANNED`"),
    )
)]
#[post("/auth/refresh")]
pub(super) async fn refresh(
    state: web::Data<State>,
    origin: ClientOrigin,
    request: ValidJson<Refreshing>,
) -> Result<HttpResponse, ApiError> {
    let command = Refresh { token: request.body.refresh_token, origin: origin.0 };
    // the second asking is an exact replay
    let opened = asked_twice(|| state.session.refresh(command.clone())).await?;
    tokens(&state, &opened, StatusCode::OK)
}

/// Signs out: closes the session of the refresh token, else of the bearer. Nothing to close is no fault.
#[utoipa::path(
    tag = "auth",
    request_body = Option<Logout>,
    responses(
        (status = 204, description = "Signed out."),
        (status = 401, description = "`UNAUTHENTICATED`: neither a refresh token nor a bearer"),
    )
)]
#[post("/auth/logout")]
pub(super) async fn logout(
    user: Option<User>,
    state: web::Data<State>,
    origin: ClientOrigin,
    request: OptionalJson<Logout>,
) -> Result<HttpResponse, ApiError> {
    let Logout { refresh_token, everywhere } = request.0;
    let bearer = user.map(|user| (user.id, user.session));
    let command = SignOut { token: refresh_token, bearer, everywhere, origin: origin.0 };
    asked_twice(|| state.session.sign_out(command.clone())).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Sets a password in place of a forgotten one and closes all sessions.
#[utoipa::path(
    tag = "auth",
    request_body = PasswordReset,
    responses(
        (status = 204, description = "Set."),
        (status = 422, description = "`PASSWORD_WEAK`, `CODE_INVALID`, `VALIDATION_FAILED`"),
    )
)]
#[post("/auth/reset-password")]
pub(super) async fn reset_password(
    state: web::Data<State>,
    origin: ClientOrigin,
    request: ValidJson<PasswordReset>,
) -> Result<HttpResponse, ApiError> {
    let PasswordReset { phone, code, new_password } = request.body;
    let command = ResetPassword { id: SessionId::new(), phone, code, new: new_password, origin: origin.0 };
    let reset = asked_twice(|| state.session.reset_password(command.clone())).await;
    reset.map_err(|error| error.with_password_at("/newPassword"))?;
    Ok(HttpResponse::NoContent().finish())
}

/// The one of both that is there.
pub(super) fn proof(password: Option<SecretString>, code: Option<SecretString>) -> Result<Proof, ApiError> {
    match (password, code) {
        (Some(password), None) => Ok(Proof::Password(password)),
        (None, Some(code)) => Ok(Proof::Code(code)),
        (password, _) => {
            let path = if password.is_some() { "/code" } else { "/password" };
            let message =
                Text::new("password 和 code 须二选一。", "Either a password or a code is expected.");
            Err(ApiError::at(ErrorCode::BadRequest, path, message))
        }
    }
}

fn referral(referrer: Option<String>, invite_code: Option<String>) -> Result<Referral, ApiError> {
    let referrer = referrer.map(|id| id.parse().map_err(|_| SessionError::ReferrerInvalid)).transpose()?;
    Ok(Referral { referrer, invite_code })
}

/// What a sign-in gives. Nothing here waits for anything: it is done.
fn tokens(state: &State, opened: &SessionOpened, status: StatusCode) -> Result<HttpResponse, ApiError> {
    let SessionOpened { user, session, refresh_token, is_new_user } = opened;
    let now = SystemClock.now();
    let access = state.tokens.issue(user.id, user.role, *session, now).map_err(|error| {
        tracing::error!(%error, "an access token could not be signed");
        ApiError::new(ErrorCode::Internal)
    })?;
    Ok(HttpResponse::build(status).json(Tokens {
        access_token: access.token.expose_secret().to_owned(),
        refresh_token: refresh_token.expose_secret().to_owned(),
        token_type: "Bearer",
        expires_in: access.lifetime_s,
        refresh_expires_in: state.settings.refresh_ttl_s,
        is_new_user: *is_new_user,
        user: UserView::from(user),
    }))
}
