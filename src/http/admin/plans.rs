//! Plans, as they are written and retired.

use super::audit;
use crate::http::{
    error::{ApiError, ErrorCode, FieldError},
    extract::{Admin, Id, RequestId, Support},
    json::ValidJson,
    language::Text,
    paging::{List, Page, PageQuery, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, get, patch, post, web};
use chrono::{DateTime, Utc};
use greenroom_actors::records::plans::{self, Plan};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

/// Characters of a plan's name at most.
const NAME_MAX: usize = 64;
/// Fen and units at most.
const NUMBER_MAX: i64 = 1_000_000_000_000;
/// Days at most: a hundred years.
const DAYS_MAX: i32 = 36_500;

/// A plan, also a retired one.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminPlan)]
struct AdminPlanView {
    id: String,
    name: String,
    /// Price in fen.
    price_fen: i64,
    /// Units it grants.
    quota: i64,
    /// Days of membership it gives.
    duration_days: i32,
    /// Tasks its members may have running at once; null for the usual ceiling.
    running_per_user: Option<i32>,
    /// Tasks of a member that may wait; null for the usual bound.
    queued_per_user: Option<i32>,
    /// Since when it cannot be bought.
    retired_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl From<Plan> for AdminPlanView {
    fn from(plan: Plan) -> Self {
        Self {
            id: plan.id.to_string(),
            name: plan.name,
            price_fen: plan.price_fen,
            quota: plan.quota,
            duration_days: plan.duration_days,
            running_per_user: plan.running_per_user,
            queued_per_user: plan.queued_per_user,
            retired_at: plan.retired_at,
            created_at: plan.created_at,
        }
    }
}

/// A plan to be written.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewPlan {
    /// 1 to 64 characters.
    name: String,
    /// Price in fen.
    price_fen: i64,
    /// Units it grants.
    quota: i64,
    /// Days of membership, 1 or more.
    duration_days: i32,
    /// Tasks its members may have running at once; 0 for no ceiling.
    running_per_user: Option<i32>,
    /// Tasks of a member that may wait; 0 for no bound.
    queued_per_user: Option<i32>,
}

/// What can change of a plan: orders refer to the rest.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PlanPatch {
    /// 1 to 64 characters.
    name: Option<String>,
    /// Whether it can no longer be bought.
    retired: Option<bool>,
}

/// Lists plans, oldest first, retired ones too.
#[utoipa::path(
    operation_id = "admin_list_plans",
    tag = "admin",
    security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, description = "A page of them.", body = List<AdminPlanView>))
)]
#[get("/plans")]
pub(in crate::http) async fn list_plans(
    _: Support,
    state: web::Data<State>,
    query: ValidQuery<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::<Uuid>::new("admin-plans", query.0.limit, query.0.cursor.as_ref())?;
    let plans = state.plans.list(true, page.after, page.rows()).await?;
    Ok(HttpResponse::Ok().json(page.answer(plans, |plan| plan.id, AdminPlanView::from)))
}

/// Writes a plan.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    request_body = NewPlan,
    responses(
        (status = 201, description = "Written.", body = AdminPlanView),
        (status = 422, description = "`VALIDATION_FAILED` with the path"),
    )
)]
#[post("/plans")]
pub(in crate::http) async fn create_plan(
    admin: Admin,
    request_id: RequestId,
    state: web::Data<State>,
    request: ValidJson<NewPlan>,
) -> Result<HttpResponse, ApiError> {
    let new = request.body.checked()?;
    let entry = audit(admin, "plan.create", format!("plan:{}", new.id), request.document, request_id);
    let plan = state.plans.create(&new, Some(&entry)).await?;
    Ok(HttpResponse::Created().json(AdminPlanView::from(plan)))
}

/// Renames a plan, retires it or offers it again.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    request_body = PlanPatch,
    responses(
        (status = 200, description = "As it is now.", body = AdminPlanView),
        (status = 404, description = "`NOT_FOUND`"),
        (status = 422, description = "`VALIDATION_FAILED` with the path"),
    )
)]
#[patch("/plans/{id}")]
pub(in crate::http) async fn patch_plan(
    admin: Admin,
    id: Id<Uuid>,
    request_id: RequestId,
    state: web::Data<State>,
    request: ValidJson<PlanPatch>,
) -> Result<HttpResponse, ApiError> {
    let PlanPatch { name, retired } = request.body;
    let name = name.map(|name| name.trim().to_owned());
    if name.as_deref().is_some_and(|name| !is_name(name)) {
        return Err(ApiError::at(ErrorCode::ValidationFailed, "/name", name_expected()));
    }
    let detail = json!({ "name": name, "retired": retired });
    let entry = audit(admin, "plan.change", format!("plan:{}", id.0), detail, request_id);
    let plan = state.plans.change(id.0, name.as_deref(), retired, &entry).await?;
    Ok(HttpResponse::Ok().json(AdminPlanView::from(plan.ok_or_else(ApiError::not_found)?)))
}

impl NewPlan {
    fn checked(self) -> Result<plans::NewPlan, ApiError> {
        let mut errors = Vec::new();
        let mut refuse = |fits: bool, path: &str, message: Text| {
            if !fits {
                errors.push(FieldError { path: path.to_owned(), message });
            }
        };
        let name = self.name.trim().to_owned();
        let range = |low: i64, high: i64| {
            Text::new(format!("须在 {low} 到 {high} 之间。"), format!("From {low} to {high} is expected."))
        };
        refuse(is_name(&name), "/name", name_expected());
        let numbers = 0..=NUMBER_MAX;
        refuse(numbers.contains(&self.price_fen), "/priceFen", range(0, NUMBER_MAX));
        refuse(numbers.contains(&self.quota), "/quota", range(0, NUMBER_MAX));
        let days = (1..=DAYS_MAX).contains(&self.duration_days);
        refuse(days, "/durationDays", range(1, DAYS_MAX.into()));
        for (path, most) in
            [("/runningPerUser", self.running_per_user), ("/queuedPerUser", self.queued_per_user)]
        {
            refuse(most.is_none_or(|most| most >= 0), path, range(0, i32::MAX.into()));
        }
        if !errors.is_empty() {
            return Err(ApiError::new(ErrorCode::ValidationFailed).with_errors(errors));
        }
        Ok(plans::NewPlan {
            id: Uuid::now_v7(),
            name,
            price_fen: self.price_fen,
            quota: self.quota,
            duration_days: self.duration_days,
            running_per_user: self.running_per_user,
            queued_per_user: self.queued_per_user,
        })
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.chars().count()) && !name.chars().any(char::is_control)
}

fn name_expected() -> Text {
    Text::new(
        "须为 1 到 64 个字符，不含控制字符。",
        "1 to 64 characters without control characters are expected.",
    )
}
