//! The timetable of upkeep.

use super::{Nothing, audit};
use crate::http::{
    error::ApiError,
    extract::{Admin, RequestId, Support},
    json::OptionalJson,
    paging::{List, NoQuery, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, get, post, web};
use chrono::{DateTime, Utc};
use greenroom_actors::upkeep::{JobRecord, RunNow};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

/// A job that is done from time to time by one of the replicas.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Job)]
struct JobView {
    #[schema(example = "expire-grants")]
    name: String,
    next_run_at: DateTime<Utc>,
    /// Whether some replica is at it.
    running: bool,
    last_started_at: Option<DateTime<Utc>>,
    last_finished_at: Option<DateTime<Utc>>,
    /// How it last ended.
    #[schema(example = "3 users' grants written off")]
    last_outcome: Option<String>,
}

impl From<JobRecord> for JobView {
    fn from(job: JobRecord) -> Self {
        Self {
            name: job.name,
            next_run_at: job.next_run_at,
            running: job.is_running,
            last_started_at: job.last_started_at,
            last_finished_at: job.last_finished_at,
            last_outcome: job.last_outcome,
        }
    }
}

/// Lists the jobs with their last runs.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    responses((status = 200, description = "All of them.", body = List<JobView>))
)]
#[get("/jobs")]
pub(in crate::http) async fn list_jobs(
    _: Support,
    state: web::Data<State>,
    _: ValidQuery<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let items = state.upkeep.jobs().await?.into_iter().map(JobView::from).collect();
    Ok(HttpResponse::Ok().json(List::whole(items)))
}

/// Runs a job now. Answers when it has ended, or after ten seconds while it still runs.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(("name" = String, Path, example = "expire-grants")),
    responses(
        (status = 200, description = "As it is now.", body = JobView),
        (status = 404, description = "`NOT_FOUND`"),
        (status = 409, description = "`CONFLICT`: it runs already."),
    )
)]
#[post("/jobs/{name}/run")]
pub(in crate::http) async fn run_job(
    admin: Admin,
    name: web::Path<String>,
    request_id: RequestId,
    state: web::Data<State>,
    _: OptionalJson<Nothing>,
) -> Result<HttpResponse, ApiError> {
    let job = name.into_inner();
    let audit = audit(admin, "job.run", format!("job:{job}"), json!({}), request_id);
    let record = state.upkeep.run_now(RunNow { job, audit }).await?;
    Ok(HttpResponse::Ok().json(JobView::from(record)))
}
