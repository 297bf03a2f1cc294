//! The devices somebody is signed in on, and what they sign in with.

use super::{
    error::{ApiError, asked_twice},
    extract::{ClientOrigin, Id, User},
    json::ValidJson,
    paging::{List, Page, PageQuery, ValidQuery},
    state::State,
    users::UserView,
};
use actix_web::{HttpResponse, delete, get, post, web};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    causes,
    ids::SessionId,
    session::{BindWechat, ChangePhone, CloseSession, OpenedSession, SetPassword},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A device that is signed in.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Session)]
struct SessionView {
    /// `sid` in its tokens.
    id: String,
    /// Whether it is the one that asks.
    current: bool,
    created_at: DateTime<Utc>,
    /// When it was last refreshed.
    last_used_at: DateTime<Utc>,
    /// When it ends, unless it is refreshed before.
    expires_at: DateTime<Utc>,
    /// What the client called itself.
    user_agent: Option<String>,
    /// Where it was last refreshed from.
    address: Option<String>,
}

/// Lists the devices that are signed in, newest first: at most ten.
#[utoipa::path(
    tag = "auth",
    security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, description = "A page.", body = List<SessionView>))
)]
#[get("/auth/sessions")]
pub(super) async fn list_sessions(
    user: User,
    query: ValidQuery<PageQuery>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let PageQuery { limit, cursor } = query.0;
    let page = Page::<SessionId>::new("sessions", limit, cursor.as_ref())?;
    let given = |text: String| Some(text).filter(|text| !text.is_empty());
    let view = |session: OpenedSession| SessionView {
        id: session.id.to_string(),
        current: session.id == user.session,
        created_at: session.created_at,
        last_used_at: session.used_at,
        expires_at: session.expires_at,
        user_agent: given(session.user_agent),
        address: given(session.address),
    };
    let mut sessions = state.session.list(user.id).await?;
    sessions.retain(|session| page.after.is_none_or(|after| session.id < after));
    Ok(HttpResponse::Ok().json(page.answer(sessions, |session| session.id, view)))
}

/// Signs a device out.
#[utoipa::path(
    tag = "auth",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "Signed out, now or before."),
        (status = 404, description = "`NOT_FOUND`"),
    )
)]
#[delete("/auth/sessions/{id}")]
pub(super) async fn close_session(
    user: User,
    id: Id<SessionId>,
    origin: ClientOrigin,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let command = CloseSession { user: user.id, session: id.0, origin: origin.0 };
    asked_twice(|| state.session.close(command.clone())).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// A new password.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewPassword {
    /// The one before, where there is one.
    #[serde(alias = "old_password")]
    #[schema(value_type = Option<String>, format = Password)]
    old_password: Option<SecretString>,
    /// 8 to 64 characters, at most 71 bytes.
    #[serde(alias = "new_password")]
    #[schema(value_type = String, format = Password)]
    new_password: SecretString,
}

/// Sets the password and signs all other devices out.
#[utoipa::path(
    tag = "auth",
    security(("bearer" = [])),
    request_body = NewPassword,
    responses(
        (status = 204, description = "Set."),
        (status = 422, description = "`PASSWORD_WRONG` at `/oldPassword`, `PASSWORD_WEAK` at `/newPassword`"),
        (status = 429, description = "`LOGIN_LOCKED` after five wrong ones"),
    )
)]
#[post("/auth/set-password")]
pub(super) async fn set_password(
    user: User,
    origin: ClientOrigin,
    state: web::Data<State>,
    request: ValidJson<NewPassword>,
) -> Result<HttpResponse, ApiError> {
    let NewPassword { old_password, new_password } = request.body;
    let command = SetPassword {
        user: user.id,
        session: user.session,
        old: old_password,
        new: new_password,
        origin: origin.0,
    };
    // not asked twice: the old password would be another one the second time
    let set = state.session.set_password(command).await;
    set.map_err(|error| ApiError::from(error).with_password_at("/newPassword"))?;
    Ok(HttpResponse::NoContent().finish())
}

/// Another phone.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewPhone {
    /// A mainland number of 11 digits; `+86` may stand before it.
    #[schema(example = "13800138000")]
    phone: String,
    /// Sent to the new phone for the scene `register` or `login`.
    #[schema(value_type = String, example = "123456")]
    code: SecretString,
}

/// Changes the phone, to one that a code was sent to.
#[utoipa::path(
    tag = "users",
    security(("bearer" = [])),
    request_body = NewPhone,
    responses(
        (status = 200, description = "As they are now.", body = UserView),
        (status = 409, description = "`PHONE_TAKEN`"),
        (status = 422, description = "`CODE_INVALID`, `VALIDATION_FAILED`"),
    )
)]
#[post("/users/me/phone")]
pub(super) async fn change_phone(
    user: User,
    origin: ClientOrigin,
    state: web::Data<State>,
    request: ValidJson<NewPhone>,
) -> Result<HttpResponse, ApiError> {
    let NewPhone { phone, code } = request.body;
    let (id, session) = (SessionId::new(), user.session);
    let command = ChangePhone { id, user: user.id, session, phone, code, origin: origin.0 };
    asked_twice(|| state.session.change_phone(command.clone())).await?;
    me(user, &state).await
}

/// A user of the mini-program.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WechatCode {
    /// From `wx.login`; works once.
    #[schema(value_type = String)]
    code: SecretString,
}

/// Binds the mini-program's user to the account, so that both sign in to it.
#[utoipa::path(
    tag = "users",
    security(("bearer" = [])),
    request_body = WechatCode,
    responses(
        (status = 200, description = "As they are now.", body = UserView),
        (status = 401, description = "`WECHAT_CODE_INVALID`"),
        (status = 409, description = "`WECHAT_TAKEN`"),
        (status = 502, description = "`WECHAT_UNAVAILABLE`"),
    )
)]
#[post("/users/me/wechat")]
pub(super) async fn bind_wechat(
    user: User,
    origin: ClientOrigin,
    state: web::Data<State>,
    request: ValidJson<WechatCode>,
) -> Result<HttpResponse, ApiError> {
    let (session, code) = (user.session, request.body.code);
    let command = BindWechat { user: user.id, session, code, origin: origin.0 };
    // not asked twice: the platform takes a code once
    state.session.bind_wechat(command).await?;
    me(user, &state).await
}

/// The account as it is after what was done.
async fn me(user: User, state: &State) -> Result<HttpResponse, ApiError> {
    let record = state.users.get(user.id).await.map_err(|error| {
        // "not done" would be wrong
        tracing::warn!(error = %causes(&error), "an account cannot be read after it was changed");
        ApiError::outcome_unknown()
    })?;
    let record = record.ok_or_else(super::users::gone)?;
    Ok(HttpResponse::Ok().json(UserView::from(&record)))
}
