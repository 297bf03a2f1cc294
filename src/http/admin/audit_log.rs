//! Who changed what.

use crate::http::{
    error::ApiError,
    extract::Support,
    paging::{List, Page, PageQuery, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, get, web};
use chrono::{DateTime, Utc};
use greenroom_actors::records::audit_log::LoggedEntry;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

/// One write of an admin.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AuditEntry)]
struct AuditEntryView {
    id: String,
    /// Who did it.
    actor_id: String,
    #[schema(example = "quota.grant")]
    action: String,
    /// What it was done to.
    target: String,
    #[schema(value_type = Object)]
    detail: Value,
    request_id: Option<String>,
    at: DateTime<Utc>,
}

impl From<LoggedEntry> for AuditEntryView {
    fn from(entry: LoggedEntry) -> Self {
        Self {
            id: entry.id.to_string(),
            actor_id: entry.actor.to_string(),
            action: entry.action,
            target: entry.target,
            detail: entry.detail,
            request_id: entry.request_id,
            at: entry.at,
        }
    }
}

/// Lists what admins have changed, newest first.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, description = "A page of it.", body = List<AuditEntryView>))
)]
#[get("/audit-log")]
pub(in crate::http) async fn list_audit_log(
    _: Support,
    state: web::Data<State>,
    query: ValidQuery<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::<Uuid>::new("audit-log", query.0.limit, query.0.cursor.as_ref())?;
    let entries = state.audit_log.page(page.after, page.rows()).await?;
    Ok(HttpResponse::Ok().json(page.answer(entries, |entry| entry.id, AuditEntryView::from)))
}
