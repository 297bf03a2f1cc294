//! Pipelines, as they are written, versioned and published.

use super::Nothing;
use crate::http::{
    error::ApiError,
    extract::{Admin, Id, RequestId, Support},
    json::{OptionalJson, ValidJson},
    paging::{List, Page, PageQuery, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, get, post, web};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    ids::PipelineId,
    records::pipelines::{AuditBy, Pipeline, PipelineVersion},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A definition's document; what is wrong with it is for the pipeline's rules to say.
type Definition = Map<String, Value>;

/// A pipeline over all its versions.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminPipeline)]
struct AdminPipelineView {
    id: String,
    name: String,
    description: String,
    /// The newest version.
    version: i32,
    /// The version new tasks run; null where none can be started.
    published_version: Option<i32>,
    /// `published` where tasks can be started, else `draft`.
    #[schema(example = "published")]
    status: &'static str,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<Pipeline> for AdminPipelineView {
    fn from(pipeline: Pipeline) -> Self {
        Self {
            id: pipeline.id.to_string(),
            name: pipeline.name,
            description: pipeline.description,
            version: pipeline.latest_version,
            published_version: pipeline.published_version,
            status: if pipeline.published_version.is_some() { "published" } else { "draft" },
            created_at: pipeline.created_at,
            updated_at: pipeline.updated_at,
        }
    }
}

/// A pipeline with the definition of its newest version.
#[derive(Serialize, ToSchema)]
struct PipelineDetail {
    #[serde(flatten)]
    pipeline: AdminPipelineView,
    #[schema(value_type = Object)]
    definition: Value,
}

/// A version that was written.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WrittenVersion {
    id: String,
    version: i32,
    /// A new version is a `draft` until it is published.
    #[schema(example = "draft")]
    status: &'static str,
    created_at: DateTime<Utc>,
}

impl From<PipelineVersion> for WrittenVersion {
    fn from(version: PipelineVersion) -> Self {
        Self {
            id: version.pipeline.to_string(),
            version: version.version,
            status: "draft",
            created_at: version.created_at,
        }
    }
}

/// Lists all pipelines, newest first.
#[utoipa::path(
    operation_id = "admin_list_pipelines",
    tag = "admin",
    security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, description = "A page of them.", body = List<AdminPipelineView>))
)]
#[get("/pipelines")]
pub(in crate::http) async fn list_pipelines(
    _: Support,
    state: web::Data<State>,
    query: ValidQuery<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::<PipelineId>::new("admin-pipelines", query.0.limit, query.0.cursor.as_ref())?;
    let pipelines = state.pipelines.list(page.after, page.rows()).await?;
    Ok(HttpResponse::Ok().json(page.answer(pipelines, |pipeline| pipeline.id, AdminPipelineView::from)))
}

/// Writes a pipeline, as a draft in version 1.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    request_body = Object,
    responses(
        (status = 201, description = "Written.", body = WrittenVersion),
        (status = 422, description = "`DEFINITION_INVALID` with a path for each fault"),
    )
)]
#[post("/pipelines")]
pub(in crate::http) async fn create_pipeline(
    admin: Admin,
    request_id: RequestId,
    state: web::Data<State>,
    definition: ValidJson<Definition>,
) -> Result<HttpResponse, ApiError> {
    let written = state.pipelines.create(&definition.document, by(admin, request_id)).await?;
    Ok(HttpResponse::Created().json(WrittenVersion::from(written)))
}

/// Whether a definition can be saved.
#[derive(Serialize, ToSchema)]
struct Valid {
    valid: bool,
}

/// Checks a definition and saves nothing.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    request_body = Object,
    responses(
        (status = 200, description = "It can be saved.", body = Valid),
        (status = 422, description = "`DEFINITION_INVALID` with a path for each fault"),
    )
)]
#[post("/pipelines/validate")]
pub(in crate::http) async fn validate_pipeline(
    _: Admin,
    state: web::Data<State>,
    definition: ValidJson<Definition>,
) -> Result<HttpResponse, ApiError> {
    state.pipelines.validate(&definition.document).await?;
    Ok(HttpResponse::Ok().json(Valid { valid: true }))
}

/// One pipeline with its newest definition.
#[utoipa::path(
    operation_id = "admin_get_pipeline",
    tag = "admin",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The pipeline.", body = PipelineDetail),
        (status = 404, description = "`NOT_FOUND`"),
    )
)]
#[get("/pipelines/{id}")]
pub(in crate::http) async fn get_pipeline(
    _: Support,
    id: Id<PipelineId>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let (pipeline, newest) = state.pipelines.get(id.0).await?;
    let definition = newest.definition;
    Ok(HttpResponse::Ok().json(PipelineDetail { pipeline: pipeline.into(), definition }))
}

/// Writes the next version. What is published stays published, and tasks keep the version they started with.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    request_body = Object,
    responses(
        (status = 201, description = "Written.", body = WrittenVersion),
        (status = 404, description = "`NOT_FOUND`"),
        (status = 422, description = "`DEFINITION_INVALID` with a path for each fault"),
    )
)]
#[post("/pipelines/{id}/versions")]
pub(in crate::http) async fn create_pipeline_version(
    admin: Admin,
    id: Id<PipelineId>,
    request_id: RequestId,
    state: web::Data<State>,
    definition: ValidJson<Definition>,
) -> Result<HttpResponse, ApiError> {
    let written = state.pipelines.add_version(id.0, &definition.document, by(admin, request_id)).await?;
    Ok(HttpResponse::Created().json(WrittenVersion::from(written)))
}

/// Which version to publish.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Publication {
    /// The newest where left out.
    version: Option<i32>,
}

/// Lets tasks start, in this version.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    request_body = Option<Publication>,
    responses(
        (status = 200, description = "As it is now.", body = AdminPipelineView),
        (status = 404, description = "`NOT_FOUND`"),
        (status = 422, description = "`VALIDATION_FAILED`: there is no such version"),
    )
)]
#[post("/pipelines/{id}/publish")]
pub(in crate::http) async fn publish_pipeline(
    admin: Admin,
    id: Id<PipelineId>,
    request_id: RequestId,
    state: web::Data<State>,
    body: OptionalJson<Publication>,
) -> Result<HttpResponse, ApiError> {
    let pipeline = state.pipelines.publish(id.0, body.0.version, by(admin, request_id)).await?;
    Ok(HttpResponse::Ok().json(AdminPipelineView::from(pipeline)))
}

/// Lets no new task start. Tasks that run go on.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "As it is now.", body = AdminPipelineView),
        (status = 404, description = "`NOT_FOUND`"),
    )
)]
#[post("/pipelines/{id}/unpublish")]
pub(in crate::http) async fn unpublish_pipeline(
    admin: Admin,
    id: Id<PipelineId>,
    request_id: RequestId,
    state: web::Data<State>,
    _: OptionalJson<Nothing>,
) -> Result<HttpResponse, ApiError> {
    let pipeline = state.pipelines.unpublish(id.0, by(admin, request_id)).await?;
    Ok(HttpResponse::Ok().json(AdminPipelineView::from(pipeline)))
}

fn by(admin: Admin, request: RequestId) -> AuditBy {
    AuditBy { actor: admin.0.id, request_id: Some(request.0) }
}
