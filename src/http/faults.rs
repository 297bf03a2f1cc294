//! Makes an actor panic on purpose. Only in builds with the `faults` feature, which releases never have.

use super::{error::ApiError, paging::ValidQuery};
use actix_web::{HttpResponse, post, web};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultQuery {
    times: Option<u32>,
}

#[post("/faults/{point}")]
pub(super) async fn arm(
    point: web::Path<String>,
    query: ValidQuery<FaultQuery>,
) -> Result<HttpResponse, ApiError> {
    greenroom_actors::faults::arm(&point, query.0.times.unwrap_or(1));
    Ok(HttpResponse::NoContent().finish())
}
