//! Users, as those see them who look after them.

use super::audit;
use crate::http::{
    error::{ApiError, ErrorCode},
    extract::{Admin, Id, RequestId, Support},
    json::ValidJson,
    language::Text,
    paging::{Cursor, Limit, List, Page, ValidQuery},
    state::State,
    users::{RoleView, UserView},
};
use actix_web::{HttpResponse, get, patch, web};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    ids::UserId,
    records::users::{AccessChange, UserFilter, UserRecord},
    session::Role,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

/// A user with the phone in full.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminUser)]
struct AdminUserView {
    #[serde(flatten)]
    user: UserView,
    banned: bool,
    banned_at: Option<DateTime<Utc>>,
}

impl From<UserRecord> for AdminUserView {
    fn from(record: UserRecord) -> Self {
        let mut user = UserView::from(&record);
        user.phone = record.phone;
        Self { user, banned: record.banned_at.is_some(), banned_at: record.banned_at }
    }
}

/// Whether somebody may sign in.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum UserStatus {
    Active,
    Banned,
}

/// Which users to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct UsersQuery {
    /// Part of a phone or nickname, or a whole id or invite code.
    query: Option<String>,
    /// Only those of this role.
    #[param(inline, value_type = Option<RoleView>)]
    role: Option<Role>,
    /// Only those who may sign in, or may not.
    #[param(inline)]
    status: Option<UserStatus>,
    /// Items on a page.
    #[serde(default)]
    #[param(value_type = Option<u8>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// Lists users, newest first.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(UsersQuery),
    responses((status = 200, description = "A page of them.", body = List<AdminUserView>))
)]
#[get("/users")]
pub(in crate::http) async fn list_users(
    _: Support,
    state: web::Data<State>,
    query: ValidQuery<UsersQuery>,
) -> Result<HttpResponse, ApiError> {
    let query = query.0;
    let page = Page::<UserId>::new("admin-users", query.limit, query.cursor.as_ref())?;
    let filter = UserFilter {
        query: query.query.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty()),
        role: query.role,
        banned: query.status.map(|status| matches!(status, UserStatus::Banned)),
    };
    let users = state.users.list(&filter, page.after, page.rows()).await?;
    Ok(HttpResponse::Ok().json(page.answer(users, |user| user.id, AdminUserView::from)))
}

/// One user.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The user.", body = AdminUserView),
        (status = 404, description = "`NOT_FOUND`"),
    )
)]
#[get("/users/{id}")]
pub(in crate::http) async fn get_user(
    _: Support,
    id: Id<UserId>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let user = state.users.get(id.0).await?.ok_or_else(ApiError::not_found)?;
    Ok(HttpResponse::Ok().json(AdminUserView::from(user)))
}

/// What to change; fields left out stay as they are.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UserPatch {
    #[schema(value_type = Option<RoleView>)]
    role: Option<Role>,
    banned: Option<bool>,
}

/// Changes a role, bans or unbans. Access tokens that were given before keep their role for at most 15 minutes.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    request_body = UserPatch,
    responses(
        (status = 200, description = "As they are now.", body = AdminUserView),
        (status = 404, description = "`NOT_FOUND`"),
        (status = 409, description = "`CONFLICT`: nobody can change their own role or ban themselves"),
    )
)]
#[patch("/users/{id}")]
pub(in crate::http) async fn patch_user(
    admin: Admin,
    id: Id<UserId>,
    request_id: RequestId,
    state: web::Data<State>,
    request: ValidJson<UserPatch>,
) -> Result<HttpResponse, ApiError> {
    if id.0 == admin.0.id {
        // nobody loses by mistake what only another admin could give back
        let detail =
            Text::new("不能修改自己的角色或封禁自己。", "You cannot change your own role or ban yourself.");
        return Err(ApiError::new(ErrorCode::Conflict).with_detail(detail));
    }
    let change = AccessChange { role: request.body.role, banned: request.body.banned };
    let detail = json!({ "role": change.role, "banned": change.banned });
    let entry = audit(admin, "user.access", format!("user:{}", id.0), detail, request_id);
    let user = state.users.change_access(id.0, change, &entry).await?.ok_or_else(ApiError::not_found)?;
    Ok(HttpResponse::Ok().json(AdminUserView::from(user)))
}
