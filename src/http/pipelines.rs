//! What tasks can be started of.

use super::{
    bearer::{Read, Scoped},
    error::{ApiError, ErrorCode},
    extract::Id,
    paging::{List, Page, PageQuery, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, get, web};
use greenroom_actors::{
    ids::PipelineId,
    records::pipelines::{PipelineRecordError, Published},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// A published pipeline.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Pipeline)]
struct PipelineView {
    id: String,
    name: String,
    description: String,
    /// Units a task costs at most.
    quota_cost: i64,
    /// Whether only members may start it.
    requires_membership: bool,
    /// JSON Schema of a task's input; `format: file-id` is the id of an own file.
    #[schema(value_type = Object)]
    input_schema: Value,
    /// The version new tasks run.
    version: i32,
}

impl From<Published> for PipelineView {
    fn from(published: Published) -> Self {
        let definition = &published.definition;
        Self {
            id: published.id.to_string(),
            name: definition.name.clone(),
            description: definition.description.clone(),
            quota_cost: definition.quota_cost.max(),
            requires_membership: definition.requires_membership,
            input_schema: definition.input_schema.json().clone(),
            version: published.version,
        }
    }
}

/// Lists what tasks can be started of, newest first.
#[utoipa::path(
    tag = "pipelines",
    security(("bearer" = []), ("apiKey" = ["read"])),
    params(PageQuery),
    responses((status = 200, description = "A page of them.", body = List<PipelineView>))
)]
#[get("/pipelines")]
pub(super) async fn list_pipelines(
    _: Scoped<Read>,
    state: web::Data<State>,
    query: ValidQuery<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::<PipelineId>::new("pipelines", query.0.limit, query.0.cursor.as_ref())?;
    let published = state.pipelines.list_published(page.after, page.rows()).await?;
    Ok(HttpResponse::Ok().json(page.answer(published, |pipeline| pipeline.id, PipelineView::from)))
}

/// One published pipeline.
#[utoipa::path(
    tag = "pipelines",
    security(("bearer" = []), ("apiKey" = ["read"])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The pipeline.", body = PipelineView),
        (status = 404, description = "`PIPELINE_NOT_FOUND`"),
    )
)]
#[get("/pipelines/{id}")]
pub(super) async fn get_pipeline(
    _: Scoped<Read>,
    id: Id<PipelineId>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let published = state.pipelines.published(id.0).await.map_err(|error| match error {
        PipelineRecordError::NotFound => ApiError::new(ErrorCode::PipelineNotFound),
        error => error.into(),
    })?;
    Ok(HttpResponse::Ok().json(PipelineView::from(published)))
}
