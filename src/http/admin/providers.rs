//! Providers, for admins: whom pipelines may call, and one real call to see whether it works.

use super::super::{
    error::{ApiError, ErrorCode},
    extract::{Admin, RequestId, Support},
    json::{ValidJson, from_value},
    language::Text,
    paging::{List, NoQuery, Page, PageQuery, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, delete, get, post, put, web};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    pipeline::{
        LastError, ProviderFigures, ReplicaFigures,
        provider::{CallError, CallFault},
    },
    quota::AuditEntry,
    records::providers::{AUTH_MASK, AuthChange, SaveProvider, StoredProvider, Tried, audit_detail},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// Fields of a provider that are shown and cannot be written; sent back as they were read, they are ignored, as is
/// [`BREAKER_STATE`] of `breaker`.
const READ_ONLY: [&str; 8] =
    ["pausedUntil", "createdAt", "updatedAt", "inFlight", "waiting", "errorRate", "lastError", "replicas"];

/// How a breaker stands, beside what an administrator wrote about it.
const BREAKER_STATE: &str = "state";

/// Longest id of a provider, characters.
const ID_MAX: usize = 64;

/// A provider. What is not named here belongs to its kind; see the reference of kinds.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Provider)]
pub(in super::super) struct ProviderView {
    #[schema(example = "draw")]
    id: String,
    #[schema(example = "http")]
    kind: String,
    #[serde(flatten)]
    #[schema(value_type = Object)]
    config: Value,
    /// `***` where credentials are kept; they are never shown.
    #[schema(example = "***")]
    auth: Option<&'static str>,
    enabled: bool,
    /// The provider asked for a pause until then.
    paused_until: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<StoredProvider> for ProviderView {
    fn from(provider: StoredProvider) -> Self {
        Self {
            id: provider.id,
            kind: provider.kind,
            config: provider.config,
            auth: provider.has_auth.then_some(AUTH_MASK),
            enabled: provider.enabled,
            paused_until: provider.paused_until,
            created_at: provider.created_at,
            updated_at: provider.updated_at,
        }
    }
}

/// A provider and how it fares, over all replicas.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WatchedProvider)]
struct WatchedView {
    /// With `breaker.state` in it: `closed`, `half_open` or `open`, where one replica's is.
    #[serde(flatten)]
    provider: ProviderView,
    /// Calls that are under way.
    in_flight: i64,
    /// Calls that wait.
    waiting: i64,
    /// The share of failures in the calls of the last five minutes, 0 to 1; null where there were none. A refusal
    /// of the content is no failure.
    error_rate: Option<f64>,
    /// The failure that came last.
    last_error: Option<LastErrorView>,
    /// Each replica that runs and has called it.
    replicas: Vec<ReplicaView>,
}

/// How a call failed.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LastError)]
struct LastErrorView {
    #[schema(example = "PROVIDER_TIMEOUT")]
    code: String,
    message: String,
    at: DateTime<Utc>,
}

/// How a provider fares at one replica.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ProviderAtReplica)]
struct ReplicaView {
    /// The replica's label.
    replica: String,
    waiting: i64,
    /// `closed`, `half_open` or `open`.
    #[schema(example = "closed")]
    breaker: &'static str,
    /// When an open breaker lets a call try.
    open_until: Option<DateTime<Utc>>,
}

impl WatchedView {
    fn new(provider: StoredProvider, figures: ProviderFigures) -> Self {
        let (waiting, error_rate) = (figures.waiting(), figures.error_rate());
        let mut provider = ProviderView::from(provider);
        if let Value::Object(config) = &mut provider.config {
            let breaker = config.entry("breaker").or_insert(Value::Null);
            if breaker.is_null() {
                *breaker = json!({});
            }
            breaker[BREAKER_STATE] = figures.breaker().name().into();
        }
        let last_error =
            |error: LastError| LastErrorView { code: error.code, message: error.message, at: error.at };
        let at_replica = |at: ReplicaFigures| ReplicaView {
            replica: at.replica,
            waiting: at.waiting,
            breaker: at.breaker.name(),
            open_until: at.open_until,
        };
        Self {
            provider,
            in_flight: figures.in_flight,
            waiting,
            error_rate,
            last_error: figures.last_error.map(last_error),
            replicas: figures.replicas.into_iter().map(at_replica).collect(),
        }
    }
}

/// A provider to be saved. What is not named here belongs to its kind; see the reference of kinds.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SaveProvider)]
struct ProviderDocument {
    /// The id in the path, if it is said at all.
    #[schema(example = "draw")]
    id: Option<String>,
    /// `image`, `http` or `http_async`.
    #[schema(example = "http")]
    kind: String,
    /// `{"type":"bearer","token"}`, `{"type":"header","name","value"}` or null; `"***"` keeps what is there.
    #[schema(value_type = Option<Object>)]
    auth: Option<Value>,
    /// True unless it is said.
    enabled: Option<bool>,
}

impl ProviderDocument {
    /// The fields that every kind has; all others are its kind's.
    const FIELDS: [&str; 4] = ["id", "kind", "auth", "enabled"];

    fn read(id: &str, document: &Value) -> Result<SaveProvider, ApiError> {
        let Value::Object(fields) = document else {
            let message = Text::new("须为对象。", "An object is expected.");
            return Err(ApiError::at(ErrorCode::BadRequest, "/", message));
        };
        let (own, mut config): (Map<_, _>, Map<_, _>) = fields
            .clone()
            .into_iter()
            .filter(|(name, _)| !READ_ONLY.contains(&name.as_str()))
            .partition(|(name, _)| Self::FIELDS.contains(&name.as_str()));
        let own: Self = from_value(&Value::Object(own))?;
        if let Some(Value::Object(breaker)) = config.get_mut("breaker") {
            breaker.remove(BREAKER_STATE);
            // a breaker that nothing was said about is none
            if breaker.is_empty() {
                config.remove("breaker");
            }
        }
        if own.id.is_some_and(|said| said != id) {
            let message = Text::new("须与路径中的 id 相同。", "It must be the id in the path.");
            return Err(ApiError::at(ErrorCode::ValidationFailed, "/id", message));
        }
        let auth = match own.auth {
            None | Some(Value::Null) => AuthChange::Remove,
            Some(Value::String(mask)) if mask == AUTH_MASK => AuthChange::Keep,
            Some(auth) => AuthChange::Set(SecretString::from(auth.to_string())),
        };
        Ok(SaveProvider {
            id: id.to_owned(),
            kind: own.kind,
            config: Value::Object(config),
            auth,
            enabled: own.enabled.unwrap_or(true),
        })
    }
}

/// The id of a provider in a path; anything that cannot be one names nothing.
fn provider_id(path: web::Path<String>) -> Result<String, ApiError> {
    let id = path.into_inner();
    let is_id = (1..=ID_MAX).contains(&id.len())
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        && id.starts_with(|c: char| c.is_ascii_alphanumeric());
    is_id.then_some(id).ok_or_else(ApiError::not_found)
}

fn audit(admin: Admin, request: RequestId, action: &'static str, id: &str, detail: Value) -> AuditEntry {
    AuditEntry {
        actor: admin.0.id,
        action,
        target: format!("provider:{id}"),
        detail,
        request_id: Some(request.0),
    }
}

/// Lists the providers and how they fare over all replicas. Figures are a second or two old; `inFlight` is of now.
#[utoipa::path(
    tag = "admin",
    params(PageQuery),
    responses((status = 200, description = "A page, by id.", body = List<WatchedView>)),
    security(("bearer" = [])),
)]
#[get("/providers")]
pub(in super::super) async fn list_providers(
    _: Support,
    query: ValidQuery<PageQuery>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::<String>::new("providers", query.0.limit, query.0.cursor.as_ref())?;
    let rows = state.providers.list(page.after.as_deref(), page.rows()).await?;
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let mut figures = state.pipeline.provider_figures(&ids).await?;
    let view = |row: StoredProvider| {
        let figures = figures.remove(&row.id).unwrap_or_default();
        WatchedView::new(row, figures)
    };
    Ok(HttpResponse::Ok().json(page.answer(rows, |row| row.id.clone(), view)))
}

/// Saves a provider, in the place of the one with its id if there is one. It holds from the next call on.
#[utoipa::path(
    tag = "admin",
    params(("id" = String, Path, description = "The id pipelines name.")),
    request_body = ProviderDocument,
    responses(
        (status = 200, description = "Saved.", body = ProviderView),
        (status = 404, description = "The id cannot be one."),
        (status = 422, description = "A configuration that cannot be used; every fault with its path."),
    ),
    security(("bearer" = [])),
)]
#[put("/providers/{id}")]
pub(in super::super) async fn put_provider(
    admin: Admin,
    request: RequestId,
    path: web::Path<String>,
    state: web::Data<State>,
    body: ValidJson<Value>,
) -> Result<HttpResponse, ApiError> {
    let id = provider_id(path)?;
    let provider = ProviderDocument::read(&id, &body.body)?;
    let entry = audit(admin, request, "provider.save", &id, audit_detail(&provider));
    let saved = state.providers.save(&provider, entry).await?;
    Ok(HttpResponse::Ok().json(ProviderView::from(saved)))
}

/// Removes a provider that no published pipeline calls.
#[utoipa::path(
    tag = "admin",
    params(("id" = String, Path, description = "The provider.")),
    responses(
        (status = 200, description = "Removed; this is what it was.", body = ProviderView),
        (status = 404, description = "No such provider."),
        (status = 409, description = "A published pipeline calls it."),
    ),
    security(("bearer" = [])),
)]
#[delete("/providers/{id}")]
pub(in super::super) async fn delete_provider(
    admin: Admin,
    request: RequestId,
    path: web::Path<String>,
    _: ValidQuery<NoQuery>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let id = provider_id(path)?;
    let entry = audit(admin, request, "provider.delete", &id, json!({}));
    let removed = state.providers.delete(&id, entry).await?;
    Ok(HttpResponse::Ok().json(ProviderView::from(removed)))
}

/// What to try a provider with.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct TestInput {
    /// As a step's rendered `input`. Files are those of the admin who asks.
    #[schema(value_type = Object)]
    #[serde(default)]
    input: Map<String, Value>,
}

/// What came of a trial.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TestOutcome {
    /// What was sent, credentials masked; null where nothing was.
    #[schema(value_type = Object)]
    request: Value,
    /// What came back; null where nothing did.
    #[schema(value_type = Object)]
    answer: Value,
    /// What a step's output would be.
    #[schema(value_type = Option<Object>)]
    output: Option<Value>,
    /// Files the call made. They are not kept.
    files: Vec<TestFile>,
    error: Option<TestError>,
    /// Milliseconds from sending to the end.
    time_ms: u64,
}

/// A file that a trial made.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TestFile {
    field: String,
    name: String,
    content_type: String,
    size: usize,
}

/// How a trial failed.
#[derive(Debug, Serialize, ToSchema)]
struct TestError {
    #[schema(example = "PROVIDER_REJECTED")]
    code: &'static str,
    message: String,
    /// Whether a step would try again.
    retryable: bool,
}

impl From<CallError> for TestError {
    fn from(error: CallError) -> Self {
        Self { code: error.code, retryable: error.fault != CallFault::Permanent, message: error.message }
    }
}

impl From<Tried> for TestOutcome {
    fn from(tried: Tried) -> Self {
        let (output, files, error) = match tried.outcome {
            Ok(output) => (Some(output.output), output.files, None),
            Err(error) => (None, Vec::new(), Some(error.into())),
        };
        let files = files.into_iter().map(|file| TestFile {
            field: file.field,
            name: file.name,
            content_type: file.content_type,
            size: file.bytes.len(),
        });
        Self {
            request: tried.exchange.request,
            answer: tried.exchange.answer,
            output,
            files: files.collect(),
            error,
            time_ms: u64::try_from(tried.took.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Makes one real call of a provider, beside its ceilings, and shows what went out and came back.
#[utoipa::path(
    tag = "admin",
    params(("id" = String, Path, description = "The provider.")),
    request_body = TestInput,
    responses(
        (status = 200, description = "The call was made; it may have failed.", body = TestOutcome),
        (status = 404, description = "No such provider."),
    ),
    security(("bearer" = [])),
)]
#[post("/providers/{id}/test")]
pub(in super::super) async fn test_provider(
    admin: Admin,
    request: RequestId,
    path: web::Path<String>,
    state: web::Data<State>,
    body: ValidJson<TestInput>,
) -> Result<HttpResponse, ApiError> {
    let id = provider_id(path)?;
    let entry = audit(admin, request, "provider.test", &id, json!({}));
    let input = Value::Object(body.body.input);
    let tried = state.providers.try_out(&id, input, state.files.of_user(admin.0.id), entry).await?;
    Ok(HttpResponse::Ok().json(TestOutcome::from(tried)))
}
