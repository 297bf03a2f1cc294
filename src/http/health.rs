//! Whether the process lives, and whether it can serve.

use super::state::State;
use actix_web::{HttpResponse, get, http::header::RETRY_AFTER, web};
use serde::Serialize;
use utoipa::ToSchema;

/// The process is up.
#[derive(Serialize, ToSchema)]
struct Alive {
    #[schema(example = "ok")]
    status: &'static str,
}

/// Whether requests may be sent here.
#[derive(Serialize, ToSchema)]
struct Readiness {
    /// `ready` or `unready`.
    #[schema(example = "ready")]
    status: &'static str,
    /// What is not there and can be done without.
    #[schema(example = json!(["redis"]))]
    degraded: Vec<&'static str>,
    /// What is not there and cannot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    missing: Vec<&'static str>,
}

/// Says that the process is up.
#[utoipa::path(tag = "system", responses((status = 200, description = "Up.", body = Alive)))]
#[get("/health/live")]
pub(super) async fn get_live() -> HttpResponse {
    HttpResponse::Ok().json(Alive { status: "ok" })
}

/// Says whether requests may be sent here: PostgreSQL, migrations and actors are needed, Redis is not.
#[utoipa::path(
    tag = "system",
    responses(
        (status = 200, description = "Ready, perhaps degraded.", body = Readiness),
        (status = 503, description = "Not ready; says what is missing.", body = Readiness),
    )
)]
#[get("/health/ready")]
pub(super) async fn get_ready(state: web::Data<State>) -> HttpResponse {
    let report = state.health.check().await;
    let ready = report.is_ready();
    let body = Readiness {
        status: if ready { "ready" } else { "unready" },
        degraded: report.degraded,
        missing: report.missing,
    };
    if ready {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().insert_header((RETRY_AFTER, "1")).json(body)
    }
}
