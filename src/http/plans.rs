//! What can be bought.

use super::{
    error::ApiError,
    paging::{List, Page, PageQuery, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, get, web};
use greenroom_actors::records::plans::Plan;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

/// A plan that can be bought.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Plan)]
struct PlanView {
    id: String,
    name: String,
    /// Price in fen.
    price_fen: i64,
    /// Units it grants.
    quota: i64,
    /// Days of membership it gives.
    duration_days: i32,
}

impl From<Plan> for PlanView {
    fn from(plan: Plan) -> Self {
        Self {
            id: plan.id.to_string(),
            name: plan.name,
            price_fen: plan.price_fen,
            quota: plan.quota,
            duration_days: plan.duration_days,
        }
    }
}

/// Lists the plans that can be bought, oldest first.
#[utoipa::path(
    tag = "plans",
    params(PageQuery),
    responses((status = 200, description = "A page of them.", body = List<PlanView>))
)]
#[get("/plans")]
pub(super) async fn list_plans(
    state: web::Data<State>,
    query: ValidQuery<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::<Uuid>::new("plans", query.0.limit, query.0.cursor.as_ref())?;
    let plans = state.plans.list(false, page.after, page.rows()).await?;
    Ok(HttpResponse::Ok().json(page.answer(plans, |plan| plan.id, PlanView::from)))
}
