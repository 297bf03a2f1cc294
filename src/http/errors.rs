//! The list of error codes.

use super::{
    error::{ApiError, ErrorCode},
    language::Language,
    paging::{List, NoQuery, ValidQuery},
};
use actix_web::{HttpRequest, HttpResponse, get};
use serde::Serialize;
use utoipa::ToSchema;

/// One error code.
#[derive(Serialize, ToSchema)]
struct ErrorEntry {
    #[schema(example = "QUOTA_INSUFFICIENT")]
    code: &'static str,
    #[schema(example = 402)]
    status: u16,
    title: &'static str,
    meaning: String,
}

/// Lists every code an error can carry, in the language of `Accept-Language`.
#[utoipa::path(tag = "system", responses((status = 200, description = "All of them.", body = List<ErrorEntry>)))]
#[get("/errors")]
pub(super) async fn list_errors(
    request: HttpRequest,
    _: ValidQuery<NoQuery>,
) -> Result<HttpResponse, ApiError> {
    let language = Language::of(request.headers());
    let items = ErrorCode::ALL
        .iter()
        .map(|code| ErrorEntry {
            code: code.name(),
            status: code.status().as_u16(),
            title: code.title(language),
            meaning: code.meaning().in_language(language).to_owned(),
        })
        .collect();
    Ok(HttpResponse::Ok().json(List::whole(items)))
}
