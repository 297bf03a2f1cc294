//! Everybody's tasks.

use super::audit;
use crate::http::{
    error::{ApiError, asked_twice},
    extract::{Admin, Id, RequestId, Support},
    paging::{Cursor, Limit, List, Page, ValidQuery},
    state::State,
    tasks::{TaskStatusView, TaskView},
};
use actix_web::{HttpResponse, get, post, web};
use greenroom_actors::{
    ids::{PipelineId, TaskId, UserId},
    pipeline::{CancelTask, Task, TaskFilter, TaskStatus},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

/// A task and whose it is.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AdminTask)]
struct AdminTaskView {
    user_id: String,
    #[serde(flatten)]
    task: TaskView,
}

impl AdminTaskView {
    async fn of_tasks(tasks: Vec<Task>, state: &State) -> Result<Vec<Self>, ApiError> {
        let users: Vec<UserId> = tasks.iter().map(|task| task.user).collect();
        let views = TaskView::of_tasks(tasks, state).await?;
        let with_user = |(user, task): (UserId, TaskView)| Self { user_id: user.to_string(), task };
        Ok(users.into_iter().zip(views).map(with_user).collect())
    }
}

/// Which tasks to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AdminTasksQuery {
    /// Only this user's.
    #[param(value_type = Option<String>)]
    user_id: Option<UserId>,
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

/// Lists tasks of all users, newest first.
#[utoipa::path(
    operation_id = "admin_list_tasks",
    tag = "admin",
    security(("bearer" = [])),
    params(AdminTasksQuery),
    responses((status = 200, description = "A page of them.", body = List<AdminTaskView>))
)]
#[get("/tasks")]
pub(in crate::http) async fn list_tasks(
    _: Support,
    state: web::Data<State>,
    query: ValidQuery<AdminTasksQuery>,
) -> Result<HttpResponse, ApiError> {
    let query = query.0;
    let page = Page::<TaskId>::new("admin-tasks", query.limit, query.cursor.as_ref())?;
    let filter = TaskFilter {
        user: query.user_id,
        status: query.status,
        pipeline: query.pipeline_id,
        before: page.after,
    };
    let tasks = state.pipeline.tasks(filter, page.rows()).await?;
    let list = page.answer(tasks, |task| task.id, |task| task);
    let items = AdminTaskView::of_tasks(list.items, &state).await?;
    Ok(HttpResponse::Ok().json(List { items, next_cursor: list.next_cursor }))
}

/// Ends anybody's task and returns its quota.
#[utoipa::path(
    operation_id = "admin_cancel_task",
    tag = "admin",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 202, description = "Cancelled.", body = AdminTaskView),
        (status = 404, description = "`NOT_FOUND`"),
        (status = 409, description = "`TASK_FINAL`: it has succeeded or failed"),
        (status = 504, description = "`OUTCOME_UNKNOWN`: repeat it"),
    )
)]
#[post("/tasks/{id}/cancel")]
pub(in crate::http) async fn cancel_task(
    admin: Admin,
    id: Id<TaskId>,
    request_id: RequestId,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let detail = json!({ "userId": state.pipeline.task(None, id.0).await?.user });
    let entry = audit(admin, "task.cancel", format!("task:{}", id.0), detail, request_id);
    let command = CancelTask { task: id.0, user: None, audit: Some(entry) };
    let task = asked_twice(|| state.pipeline.cancel_task(command.clone())).await?;
    let view = AdminTaskView::of_tasks(vec![task], &state).await?.pop();
    Ok(HttpResponse::Accepted().json(view.ok_or_else(ApiError::not_found)?))
}
