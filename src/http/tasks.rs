//! Runs of pipelines.

use super::{
    bearer::{Read, Scoped, Tasks},
    error::{ApiError, ErrorCode, asked_twice},
    extract::Id,
    files::FileView,
    idempotency::IdempotencyKey,
    json::ValidJson,
    paging::{Cursor, Limit, List, Page, ValidQuery},
    state::State,
};
use actix_web::{
    HttpRequest, HttpResponse, get,
    http::{
        StatusCode,
        header::{HeaderValue, LOCATION},
    },
    post, web,
};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    ids::{PipelineId, TaskId},
    pipeline::{Attempt, CancelTask, Failure, StartTask, Step, Task, TaskFilter, TaskStatus, Waiting},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::HashMap;
use utoipa::{IntoParams, ToSchema};

/// A run of a pipeline.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Task)]
pub(crate) struct TaskView {
    id: String,
    pipeline_id: String,
    pipeline_version: i32,
    /// What it waits for; null while it goes on, and once it is final.
    waiting: Option<WaitingView>,
    #[schema(value_type = TaskStatusView)]
    status: &'static str,
    #[schema(minimum = 0, maximum = 100)]
    progress: i16,
    /// Units held for it, of which some or all are charged when it succeeds.
    quota_cost: i64,
    #[schema(value_type = Object)]
    input: Value,
    #[schema(value_type = Option<Object>)]
    output: Option<Value>,
    error: Option<FailureView>,
    /// What its steps made.
    files: Vec<FileView>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
}

/// What a task waits for.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Waiting)]
struct WaitingView {
    /// `user_ceiling`, `provider_ceiling`, `breaker_open` or `backoff`.
    #[schema(example = "provider_ceiling")]
    reason: &'static str,
    /// How many stand before it, where that can be told.
    position: Option<i64>,
    /// A guess of the time left, where one can be made.
    eta_ms: Option<i64>,
}

/// Why a task or a step failed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Failure)]
struct FailureView {
    #[schema(example = "PROVIDER_REJECTED")]
    code: String,
    message: String,
    node_id: Option<String>,
}

/// Where a task stands; the last three are final.
#[derive(ToSchema)]
#[schema(as = TaskStatus, rename_all = "lowercase")]
#[expect(dead_code, reason = "it only describes the status in the contract")]
pub(super) enum TaskStatusView {
    Queued,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

/// A task with its steps, in the order of the definition.
#[derive(Serialize, ToSchema)]
struct TaskDetail {
    #[serde(flatten)]
    task: TaskView,
    steps: Vec<StepView>,
}

/// One node of the pipeline, as far as it has come.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Step)]
struct StepView {
    node_id: String,
    /// `start`, `provider`, `fork`, `join` or `end`.
    #[schema(example = "provider")]
    r#type: String,
    provider_id: Option<String>,
    /// `pending`, `running`, `succeeded`, `failed`, `skipped` or `cancelled`.
    #[schema(example = "succeeded")]
    status: &'static str,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    #[schema(value_type = Option<Object>)]
    output: Option<Value>,
    error: Option<FailureView>,
    attempts: Vec<AttemptView>,
}

/// One call of a provider.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Attempt)]
struct AttemptView {
    /// Counts on over retries, fallbacks and crashes.
    attempt: i32,
    provider_id: String,
    /// Why the call was made: `first`, `retry`, `fallback` or `crash`.
    #[schema(example = "first")]
    cause: &'static str,
    /// `running`, `succeeded`, `failed`, `cancelled` or `unknown`.
    #[schema(example = "succeeded")]
    status: &'static str,
    started_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    error: Option<FailureView>,
}

impl From<Failure> for FailureView {
    fn from(failure: Failure) -> Self {
        Self { code: failure.code, message: failure.message, node_id: failure.node_id }
    }
}

impl From<Waiting> for WaitingView {
    fn from(waiting: Waiting) -> Self {
        Self { reason: waiting.reason.name(), position: waiting.position, eta_ms: waiting.eta_ms }
    }
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        Self {
            attempt: attempt.attempt,
            provider_id: attempt.provider,
            cause: attempt.cause.name(),
            status: attempt.status.name(),
            started_at: attempt.started_at,
            finished_at: attempt.finished_at,
            error: attempt.error.map(FailureView::from),
        }
    }
}

impl StepView {
    fn new(step: Step, attempts: Vec<AttemptView>) -> Self {
        Self {
            node_id: step.node,
            r#type: step.kind,
            provider_id: step.provider,
            status: step.status.name(),
            started_at: step.started_at,
            finished_at: step.finished_at,
            output: step.output,
            error: step.error.map(FailureView::from),
            attempts,
        }
    }
}

impl TaskView {
    fn new(task: Task, waiting: Option<Waiting>, files: Vec<FileView>) -> Self {
        Self {
            id: task.id.to_string(),
            pipeline_id: task.pipeline.to_string(),
            pipeline_version: task.pipeline_version,
            waiting: waiting.map(WaitingView::from),
            status: task.status.name(),
            progress: task.progress,
            quota_cost: task.quota_cost,
            input: task.input,
            output: task.output,
            error: task.error.map(FailureView::from),
            files,
            created_at: task.created_at,
            started_at: task.started_at,
            finished_at: task.finished_at,
        }
    }

    /// These tasks with what they wait for and what they made.
    ///
    /// # Errors
    /// 503 where PostgreSQL is away.
    pub(crate) async fn of_tasks(tasks: Vec<Task>, state: &State) -> Result<Vec<Self>, ApiError> {
        let ids: Vec<TaskId> = tasks.iter().map(|task| task.id).collect();
        let mut waiting = state.pipeline.waiting(&tasks).await?;
        let mut files = FileView::of_tasks(&ids, state).await?;
        let view = |task: Task| {
            let id = task.id;
            Self::new(task, waiting.remove(&id), files.remove(&id).unwrap_or_default())
        };
        Ok(tasks.into_iter().map(view).collect())
    }

    async fn of(task: Task, state: &State) -> Result<Self, ApiError> {
        // one task makes one view
        Self::of_tasks(vec![task], state).await?.pop().ok_or_else(ApiError::not_found)
    }
}

/// A task to start.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewTask {
    #[serde(alias = "pipeline_id")]
    pipeline_id: String,
    /// What the pipeline's `inputSchema` asks for.
    #[schema(value_type = Value)]
    input: Value,
}

/// Starts a task: its cost is held and it is queued, all at once or not at all.
#[utoipa::path(
    tag = "tasks",
    security(("bearer" = []), ("apiKey" = ["tasks"])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 128 printable characters.")),
    request_body = NewTask,
    responses(
        (status = 202, description = "Queued.", body = TaskView, headers(("Location" = String, description = "The task."))),
        (status = 402, description = "`QUOTA_INSUFFICIENT`, `API_KEY_LIMIT`"),
        (status = 403, description = "`MEMBERSHIP_REQUIRED`, `SCOPE_MISSING`"),
        (status = 404, description = "`PIPELINE_NOT_FOUND`"),
        (status = 409, description = "`IDEMPOTENCY_IN_PROGRESS`"),
        (status = 422, description = "`INPUT_INVALID` with paths into the input, `IDEMPOTENCY_KEY_REUSED`"),
        (status = 429, description = "`QUEUE_FULL`: as many of the user's tasks wait as may"),
        (status = 503, description = "`OVERLOADED`: as many tasks of all users wait as may"),
        (status = 504, description = "`OUTCOME_UNKNOWN`: repeat with the same key"),
    )
)]
#[post("/tasks")]
pub(super) async fn create_task(
    user: Scoped<Tasks>,
    key: IdempotencyKey,
    state: web::Data<State>,
    request: HttpRequest,
    body: ValidJson<NewTask>,
) -> Result<HttpResponse, ApiError> {
    let ValidJson { body, document } = body;
    let pipeline = body.pipeline_id.parse().map_err(|_| ApiError::new(ErrorCode::PipelineNotFound))?;
    let claim = key.claim(&request, user.id, &document, StatusCode::ACCEPTED, render_task)?;
    let command = StartTask {
        task: TaskId::new(),
        user: user.id,
        pipeline,
        input: body.input,
        api_key: user.key,
        idempotency: claim.idempotent(),
    };
    let answer = asked_twice(|| state.pipeline.start_task(command.clone())).await?;
    let (mut response, task) = claim.respond(answer);
    let location = task["id"].as_str().map(|id| HeaderValue::from_str(&format!("/api/v1/tasks/{id}")));
    if let Some(Ok(location)) = location {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// A task that has just been queued waits for nothing and has made nothing.
fn render_task(task: &Task) -> Value {
    json!(TaskView::new(task.clone(), None, Vec::new()))
}

/// Which tasks to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TasksQuery {
    /// Only those that stand so.
    #[param(value_type = Option<TaskStatusView>)]
    status: Option<TaskStatus>,
    /// Only those of this pipeline.
    #[param(value_type = Option<String>)]
    pipeline_id: Option<PipelineId>,
    /// Items on a page.
    #[serde(default)]
    #[param(value_type = Option<u8>, minimum = 1, maximum = 100, default = 20)]
    limit: Limit,
    /// `nextCursor` of the page before.
    #[param(value_type = Option<String>)]
    cursor: Option<Cursor>,
}

/// Lists the user's tasks, newest first.
#[utoipa::path(
    tag = "tasks",
    security(("bearer" = []), ("apiKey" = ["read"])),
    params(TasksQuery),
    responses((status = 200, description = "A page of them.", body = List<TaskView>))
)]
#[get("/tasks")]
pub(super) async fn list_tasks(
    user: Scoped<Read>,
    state: web::Data<State>,
    query: ValidQuery<TasksQuery>,
) -> Result<HttpResponse, ApiError> {
    let query = query.0;
    let page = Page::<TaskId>::new("tasks", query.limit, query.cursor.as_ref())?;
    let filter = TaskFilter {
        user: Some(user.id),
        status: query.status,
        pipeline: query.pipeline_id,
        before: page.after,
    };
    let tasks = state.pipeline.tasks(filter, page.rows()).await?;
    let list = page.answer(tasks, |task| task.id, |task| task);
    let items = TaskView::of_tasks(list.items, &state).await?;
    Ok(HttpResponse::Ok().json(List { items, next_cursor: list.next_cursor }))
}

/// One task with its steps and the calls they made.
#[utoipa::path(
    tag = "tasks",
    security(("bearer" = []), ("apiKey" = ["read"])),
    params(("id" = String, Path)),
    responses(
        (status = 200, description = "The task.", body = TaskDetail),
        (status = 404, description = "`NOT_FOUND`, also for another user's"),
    )
)]
#[get("/tasks/{id}")]
pub(super) async fn get_task(
    user: Scoped<Read>,
    id: Id<TaskId>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let task = state.pipeline.task(Some(user.id), id.0).await?;
    let (steps, attempts) =
        futures_util::try_join!(state.pipeline.steps(&task), state.pipeline.attempts(task.id))?;
    let mut by_node: HashMap<String, Vec<AttemptView>> = HashMap::new();
    for attempt in attempts {
        by_node.entry(attempt.node.clone()).or_default().push(attempt.into());
    }
    let steps = steps
        .into_iter()
        .map(|step| {
            let attempts = by_node.remove(&step.node).unwrap_or_default();
            StepView::new(step, attempts)
        })
        .collect();
    let task = TaskView::of(task, &state).await?;
    Ok(HttpResponse::Ok().json(TaskDetail { task, steps }))
}

/// Ends a task and returns its quota. A cancelled one is answered again.
#[utoipa::path(
    tag = "tasks",
    security(("bearer" = []), ("apiKey" = ["tasks"])),
    params(("id" = String, Path)),
    responses(
        (status = 202, description = "Cancelled.", body = TaskView),
        (status = 404, description = "`NOT_FOUND`, also for another user's"),
        (status = 409, description = "`TASK_FINAL`: it has succeeded or failed"),
        (status = 504, description = "`OUTCOME_UNKNOWN`: repeat it"),
    )
)]
#[post("/tasks/{id}/cancel")]
pub(super) async fn cancel_task(
    user: Scoped<Tasks>,
    id: Id<TaskId>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let command = CancelTask { task: id.0, user: Some(user.id), audit: None };
    let task = asked_twice(|| state.pipeline.cancel_task(command.clone())).await?;
    Ok(HttpResponse::Accepted().json(TaskView::of(task, &state).await?))
}
