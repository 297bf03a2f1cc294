//! Tasks, steps and attempts as they stand, for whoever asks.

use crate::{
    database::DatabaseError,
    ids::{PipelineId, TaskId, UserId},
    pipeline::{Attempt, AttemptCause, AttemptStatus, Failure, Step, StepStatus, Task, TaskStatus},
};
use deadpool_postgres::Client;
use tokio_postgres::{
    Row,
    types::{Json, ToSql},
};

use super::columns::Named;

/// The columns [`task_from_row`] reads, of a table or alias `t`.
pub(crate) const TASK_COLUMNS: &str = "t.id, t.user_id, t.pipeline_id, t.pipeline_version, t.status, \
     t.progress, t.quota_cost, t.input, t.output, t.error, t.created_at, t.started_at, t.finished_at";

/// Which tasks to list, newest first.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskFilter {
    /// Only this user's.
    pub user: Option<UserId>,
    /// Only those that stand so.
    pub status: Option<TaskStatus>,
    /// Only those of this pipeline.
    pub pipeline: Option<PipelineId>,
    /// Only those made before this one.
    pub before: Option<TaskId>,
}

/// Why a task does not go on at the moment, as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// What it waits for.
    pub reason: WaitingReason,
    /// How many stand before it, 0 for the next one, where that can be told.
    pub position: Option<i64>,
    /// A guess of the time left, milliseconds, where one can be made.
    pub eta_ms: Option<i64>,
}

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingReason {
    /// The user has as many tasks running as may be.
    UserCeiling,
    /// The provider has as many calls as it takes, at once or in a span of time, or takes none for now.
    ProviderCeiling,
    /// The provider has failed too often, and is left alone for a while.
    BreakerOpen,
    /// The pause before another try, or one that the provider asked for.
    Backoff,
}

impl WaitingReason {
    /// The reason of that name.
    fn named(name: &str) -> Option<Self> {
        [Self::UserCeiling, Self::ProviderCeiling, Self::BreakerOpen, Self::Backoff]
            .into_iter()
            .find(|reason| reason.name() == name)
    }

    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UserCeiling => "user_ceiling",
            Self::ProviderCeiling => "provider_ceiling",
            Self::BreakerOpen => "breaker_open",
            Self::Backoff => "backoff",
        }
    }
}

/// Reads a row made of [`TASK_COLUMNS`].
///
/// # Errors
/// When a column is not what this code wrote.
pub(crate) fn task_from_row(row: &Row) -> Result<Task, DatabaseError> {
    Ok(Task {
        id: row.try_get("id")?,
        user: row.try_get("user_id")?,
        pipeline: row.try_get("pipeline_id")?,
        pipeline_version: row.try_get("pipeline_version")?,
        status: row.try_get::<_, Named<TaskStatus>>("status")?.0,
        progress: row.try_get("progress")?,
        quota_cost: row.try_get("quota_cost")?,
        input: row.try_get("input")?,
        output: row.try_get("output")?,
        error: failure(row)?,
        created_at: row.try_get("created_at")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
    })
}

fn failure(row: &Row) -> Result<Option<Failure>, DatabaseError> {
    Ok(row.try_get::<_, Option<Json<Failure>>>("error")?.map(|Json(failure)| failure))
}

/// One task.
pub(crate) async fn task(client: &Client, id: TaskId) -> Result<Option<Task>, DatabaseError> {
    let statement =
        client.prepare_cached(&format!("select {TASK_COLUMNS} from tasks t where t.id = $1")).await?;
    client.query_opt(&statement, &[&id]).await?.as_ref().map(task_from_row).transpose()
}

/// A page of tasks, newest first. Its text depends on which filters are set, so that each combination gets the
/// plan that fits it.
pub(crate) async fn tasks(
    client: &Client,
    filter: TaskFilter,
    limit: i64,
) -> Result<Vec<Task>, DatabaseError> {
    let status = filter.status.map(TaskStatus::name);
    let mut text = format!("select {TASK_COLUMNS} from tasks t where true");
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&limit];
    let mut narrow = |condition: &str, value| {
        parameters.push(value);
        text.push_str(&format!(" and t.{condition} ${}", parameters.len()));
    };
    if let Some(user) = &filter.user {
        narrow("user_id =", user);
    }
    if let Some(status) = &status {
        narrow("status =", status);
    }
    if let Some(pipeline) = &filter.pipeline {
        narrow("pipeline_id =", pipeline);
    }
    if let Some(before) = &filter.before {
        narrow("id <", before);
    }
    text.push_str(" order by t.id desc limit $1");
    let statement = client.prepare_cached(&text).await?;
    client.query(&statement, &parameters).await?.iter().map(task_from_row).collect()
}

/// What a user's client shows at first, newest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Overview {
    /// All tasks that wait or run and the newest that ended, as far as there is room.
    pub tasks: Vec<Task>,
    /// Whether there was room for fewer than should be shown; those that ended are left out first.
    pub more: bool,
}

/// The live tasks of `user` and the `ended` newest of the others: at most `limit`, and of no more than `bytes` of
/// input and output (one is always given).
pub(crate) async fn overview(
    client: &Client,
    user: UserId,
    ended: i64,
    limit: i64,
    bytes: i64,
) -> Result<Overview, DatabaseError> {
    // each part is an index of its own, so that what ended long ago costs nothing
    let statement = client
        .prepare_cached(&format!(
            "select {TASK_COLUMNS}, t.total from (
                 select t.*, count(*) over () as total,
                     (sum(t.bytes) over (order by t.is_live desc, t.id desc) - t.bytes)::bigint as bytes_before
                 from (
                     select t.*, octet_length(t.input::text) + coalesce(octet_length(t.output::text), 0) as bytes
                     from (
                         (select *, true as is_live from tasks
                          where user_id = $1 and status = 'queued' and owner is null
                          order by id desc limit $3)
                         union all
                         (select *, true from tasks
                          where user_id = $1 and status in ('queued', 'running') and owner is not null
                          order by id desc limit $3)
                         union all
                         (select *, true from tasks
                          where user_id = $1 and status = 'running' and owner is null
                          order by id desc limit $3)
                         union all
                         (select *, false from tasks
                          where user_id = $1 and status in ('succeeded', 'failed', 'cancelled')
                          order by id desc limit $2)
                     ) t order by t.is_live desc, t.id desc limit $3
                 ) t
             ) t where t.bytes_before < $4 order by t.is_live desc, t.id desc"
        ))
        .await?;
    // one more than fits shows whether that is all
    let rows = client.query(&statement, &[&user, &ended, &(limit + 1), &bytes]).await?;
    let wanted: i64 = rows.first().map_or(Ok(0), |row| row.try_get("total"))?;
    let shown = rows.iter().take(usize::try_from(limit).unwrap_or(usize::MAX));
    let mut tasks = shown.map(task_from_row).collect::<Result<Vec<_>, _>>()?;
    let more = i64::try_from(tasks.len()).is_ok_and(|shown| shown < wanted);
    tasks.sort_by_key(|task| std::cmp::Reverse(task.id));
    Ok(Overview { tasks, more })
}

/// The steps of a task that have begun or ended, in no order.
pub(crate) async fn steps(client: &Client, task: TaskId) -> Result<Vec<Step>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select node_id, type, status, provider_id, output, error, started_at, finished_at
             from task_steps where task_id = $1",
        )
        .await?;
    let rows = client.query(&statement, &[&task]).await?;
    rows.iter()
        .map(|row| {
            Ok(Step {
                node: row.try_get("node_id")?,
                kind: row.try_get("type")?,
                status: row.try_get::<_, Named<StepStatus>>("status")?.0,
                provider: row.try_get("provider_id")?,
                output: row.try_get("output")?,
                error: failure(row)?,
                started_at: row.try_get("started_at")?,
                finished_at: row.try_get("finished_at")?,
            })
        })
        .collect()
}

/// The calls made for a task, by node and number.
pub(crate) async fn attempts(client: &Client, task: TaskId) -> Result<Vec<Attempt>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select id, node_id, attempt, provider_id, cause, status, error, started_at, deadline_at, finished_at
             from step_attempts where task_id = $1 order by node_id, attempt",
        )
        .await?;
    let rows = client.query(&statement, &[&task]).await?;
    rows.iter()
        .map(|row| {
            Ok(Attempt {
                id: row.try_get("id")?,
                node: row.try_get("node_id")?,
                attempt: row.try_get("attempt")?,
                provider: row.try_get("provider_id")?,
                cause: row.try_get::<_, Named<AttemptCause>>("cause")?.0,
                status: row.try_get::<_, Named<AttemptStatus>>("status")?.0,
                error: failure(row)?,
                started_at: row.try_get("started_at")?,
                deadline_at: row.try_get("deadline_at")?,
                finished_at: row.try_get("finished_at")?,
            })
        })
        .collect()
}

/// What those of `tasks` wait for whose replica, another one, has said so and that have no call under way.
pub(crate) async fn waiting_elsewhere(
    client: &Client,
    tasks: &[TaskId],
) -> Result<Vec<(TaskId, Waiting)>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select w.task, w.reason, w.position,
                    (extract(epoch from w.until - clock_timestamp()) * 1000)::bigint as eta_ms
             from task_waits w join tasks t on t.id = w.task and t.owner = w.owner
             where w.task = any($1) and t.status in ('queued', 'running')
             and not exists (select from step_attempts a where a.task_id = w.task and a.status = 'running')",
        )
        .await?;
    let mut waiting = Vec::new();
    for row in client.query(&statement, &[&tasks]).await? {
        // another release may know more reasons
        let Some(reason) = WaitingReason::named(row.try_get("reason")?) else { continue };
        let eta_ms: Option<i64> = row.try_get("eta_ms")?;
        let position = row.try_get("position")?;
        waiting
            .push((row.try_get("task")?, Waiting { reason, position, eta_ms: eta_ms.map(|eta| eta.max(0)) }));
    }
    Ok(waiting)
}
