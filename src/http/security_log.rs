//! What happened to accounts: for their owners, and for those who look after them.

use super::{
    error::ApiError,
    extract::{Support, User},
    paging::{Cursor, Limit, List, Page, PageQuery, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, get, web};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    ids::UserId,
    records::security_log::{SecurityEvent, SecurityFilter, SecurityRecord},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Something that happened to an account.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = SecurityEntry)]
struct SecurityEntryView {
    id: String,
    /// Whose account; null where nobody has the phone.
    user_id: Option<String>,
    #[schema(example = "signed_in")]
    event: String,
    session_id: Option<String>,
    /// Where it came from.
    address: Option<String>,
    /// What the client called itself.
    user_agent: Option<String>,
    #[schema(value_type = Object)]
    detail: Value,
    at: DateTime<Utc>,
}

impl From<SecurityRecord> for SecurityEntryView {
    fn from(record: SecurityRecord) -> Self {
        Self {
            id: record.id.to_string(),
            user_id: record.user.map(|id| id.to_string()),
            event: record.event,
            session_id: record.session.map(|id| id.to_string()),
            address: record.address.map(|address| address.to_string()),
            user_agent: record.user_agent,
            detail: record.detail,
            at: record.at,
        }
    }
}

/// Lists what happened to one's own account in the last 180 days, newest first.
#[utoipa::path(
    tag = "users",
    security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, description = "A page of it.", body = List<SecurityEntryView>))
)]
#[get("/users/me/security-log")]
pub(super) async fn list_own_security_log(
    user: User,
    state: web::Data<State>,
    query: ValidQuery<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::<Uuid>::new("own-security-log", query.0.limit, query.0.cursor.as_ref())?;
    let filter = SecurityFilter { user: Some(user.id), event: None };
    list(&state, &page, &filter).await
}

/// Which entries to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
struct SecurityLogQuery {
    /// Only those of this user.
    #[param(value_type = Option<String>)]
    user_id: Option<UserId>,
    /// Only those of this kind, such as `sign_in_failed`.
    #[param(value_type = Option<String>)]
    event: Option<SecurityEvent>,
    /// Items on a page.
    #[serde(default)]
    #[param(value_type = Option<u8>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// Lists what happened to all accounts in the last 180 days, newest first.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(SecurityLogQuery),
    responses((status = 200, description = "A page of it.", body = List<SecurityEntryView>))
)]
#[get("/security-log")]
pub(super) async fn list_security_log(
    _: Support,
    state: web::Data<State>,
    query: ValidQuery<SecurityLogQuery>,
) -> Result<HttpResponse, ApiError> {
    let query = query.0;
    let page = Page::<Uuid>::new("security-log", query.limit, query.cursor.as_ref())?;
    list(&state, &page, &SecurityFilter { user: query.user_id, event: query.event }).await
}

async fn list(state: &State, page: &Page<Uuid>, filter: &SecurityFilter) -> Result<HttpResponse, ApiError> {
    let entries = state.security_log.page(filter, page.after, page.rows()).await?;
    Ok(HttpResponse::Ok().json(page.answer(entries, |entry| entry.id, SecurityEntryView::from)))
}
