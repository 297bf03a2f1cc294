//! The writes to `tasks` that travel with the ledger: a task is inserted by the transaction that holds its
//! quota and becomes final in the one that settles it. The quota actor's flush calls these, and nobody else.

use super::{Failure, Lease, NewTask, Task, TaskEnding, TaskStatus};
use crate::{
    database::DatabaseError,
    ids::{OwnerId, TaskId, UserId},
};
use chrono::{DateTime, Utc};
use serde_json::Value;
use tokio_postgres::{
    Row,
    types::{Json, ToSql},
};

/// What a flush knows of a task.
#[derive(Debug)]
pub(crate) struct TaskRow {
    pub(crate) user: UserId,
    pub(crate) status: TaskStatus,
    pub(crate) owner: Option<OwnerId>,
    pub(crate) lease_no: i64,
    /// The whole of it, where it is an answer.
    pub(crate) task: Option<Task>,
}

impl TaskRow {
    /// The row that `task` will have, inserted by this flush.
    pub(crate) fn inserted(task: &Task) -> Self {
        Self { user: task.user, status: task.status, owner: None, lease_no: 0, task: None }
    }

    /// Whether `lease` is the one that may write.
    pub(crate) fn is_leased_to(&self, lease: Option<Lease>) -> bool {
        lease.is_some_and(|lease| self.owner == Some(lease.owner) && self.lease_no == lease.lease_no)
    }

    /// Takes on the ending that this flush writes at `now`.
    pub(crate) fn finish(&mut self, ending: &TaskEnding, now: DateTime<Utc>) {
        self.status = ending.status;
        self.lease_no += i64::from(ending.lease.is_none());
        if let Some(task) = &mut self.task {
            task.status = ending.status;
            task.output.clone_from(&ending.output);
            task.error.clone_from(&ending.error);
            task.finished_at = Some(now);
        }
    }
}

/// An ending that was decided on and is to be written.
#[derive(Debug)]
pub(crate) struct WrittenEnding {
    pub(crate) task: TaskId,
    pub(crate) ending: TaskEnding,
}

/// Who may end the tasks `$1`. They are not locked: [`FINISH`] looks again, and a flush that it fails reads anew.
pub(crate) const READ: &str = "select id, user_id, status, owner, lease_no from tasks where id = any($1)";

/// The tasks `$1`, whole.
pub(crate) const READ_WHOLE: &str = "
    select id, user_id, status, owner, lease_no, pipeline_id, pipeline_version, progress, quota_cost,
        created_at, started_at, finished_at, input, output, error
    from tasks where id = any($1)";

/// Inserts tasks at the time `$1`: ids, users, pipelines, versions, priorities, queues, whether they
/// have a fallback, costs, inputs.
pub(crate) const INSERT: &str = "
    insert into tasks (id, user_id, pipeline_id, pipeline_version, status, priority, queue, has_fallback,
                       quota_cost, input, created_at)
    select id, user_id, pipeline_id, pipeline_version, 'queued', priority, queue, has_fallback,
        quota_cost, input, $1
    from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::integer[], $6::smallint[], $7::text[],
                $8::boolean[], $9::bigint[], $10::jsonb[])
        as new (id, user_id, pipeline_id, pipeline_version, priority, queue, has_fallback, quota_cost, input)";

/// Ends tasks at the time `$1`: ids, statuses, outputs, errors, owners and lease numbers. Where there is no
/// lease the number is raised, so that whoever runs the task loses it.
pub(crate) const FINISH: &str = "
    update tasks t
    set status = ending.status, output = ending.output, error = ending.error, finished_at = $1,
        progress = case when ending.status = 'succeeded' then 100 else t.progress end,
        lease_no = t.lease_no + case when ending.owner is null then 1 else 0 end
    from unnest($2::uuid[], $3::text[], $4::jsonb[], $5::jsonb[], $6::uuid[], $7::bigint[])
        as ending (id, status, output, error, owner, lease_no)
    where t.id = ending.id and t.status in ('queued', 'running')
    and (ending.owner is null or (t.owner = ending.owner and t.lease_no = ending.lease_no))";

/// A row of [`READ`].
pub(crate) fn task_row(row: &Row) -> Result<(TaskId, TaskRow), DatabaseError> {
    let status: &str = row.try_get(2)?;
    let read = TaskRow {
        user: row.try_get(1)?,
        // the column's check allows no other name
        status: TaskStatus::named(status).unwrap_or(TaskStatus::Queued),
        owner: row.try_get(3)?,
        lease_no: row.try_get(4)?,
        task: None,
    };
    Ok((row.try_get(0)?, read))
}

/// A row of [`READ_WHOLE`].
pub(crate) fn whole_task_row(row: &Row) -> Result<(TaskId, TaskRow), DatabaseError> {
    let (id, read) = task_row(row)?;
    let task = Task {
        id,
        user: read.user,
        pipeline: row.try_get(5)?,
        pipeline_version: row.try_get(6)?,
        status: read.status,
        progress: row.try_get(7)?,
        quota_cost: row.try_get(8)?,
        input: row.try_get(12)?,
        output: row.try_get(13)?,
        error: row.try_get::<_, Option<Json<Failure>>>(14)?.map(|Json(failure)| failure),
        created_at: row.try_get(9)?,
        started_at: row.try_get(10)?,
        finished_at: row.try_get(11)?,
    };
    Ok((id, TaskRow { task: Some(task), ..read }))
}

/// The parameters of [`INSERT`].
pub(crate) struct InsertColumns<'a> {
    at: DateTime<Utc>,
    ids: Vec<TaskId>,
    users: Vec<UserId>,
    pipelines: Vec<crate::ids::PipelineId>,
    versions: Vec<i32>,
    priorities: Vec<i16>,
    queues: Vec<&'a str>,
    have_fallback: Vec<bool>,
    costs: Vec<i64>,
    inputs: Vec<&'a Value>,
}

impl<'a> InsertColumns<'a> {
    pub(crate) fn new(tasks: &'a [NewTask], at: DateTime<Utc>) -> Self {
        Self {
            at,
            ids: tasks.iter().map(|task| task.id).collect(),
            users: tasks.iter().map(|task| task.user).collect(),
            pipelines: tasks.iter().map(|task| task.pipeline).collect(),
            versions: tasks.iter().map(|task| task.pipeline_version).collect(),
            priorities: tasks.iter().map(|task| task.priority).collect(),
            queues: tasks.iter().map(|task| task.queue.as_str()).collect(),
            have_fallback: tasks.iter().map(|task| task.has_fallback).collect(),
            costs: tasks.iter().map(|task| task.quota_cost).collect(),
            inputs: tasks.iter().map(|task| &task.input).collect(),
        }
    }

    pub(crate) fn params(&self) -> [&(dyn ToSql + Sync); 10] {
        [
            &self.at,
            &self.ids,
            &self.users,
            &self.pipelines,
            &self.versions,
            &self.priorities,
            &self.queues,
            &self.have_fallback,
            &self.costs,
            &self.inputs,
        ]
    }
}

/// The parameters of [`FINISH`].
pub(crate) struct FinishColumns<'a> {
    at: DateTime<Utc>,
    ids: Vec<TaskId>,
    statuses: Vec<&'static str>,
    outputs: Vec<Option<&'a Value>>,
    errors: Vec<Option<Json<&'a Failure>>>,
    owners: Vec<Option<OwnerId>>,
    lease_nos: Vec<Option<i64>>,
}

impl<'a> FinishColumns<'a> {
    pub(crate) fn new(endings: &'a [WrittenEnding], at: DateTime<Utc>) -> Self {
        let leases = || endings.iter().map(|written| written.ending.lease);
        Self {
            at,
            ids: endings.iter().map(|written| written.task).collect(),
            statuses: endings.iter().map(|written| written.ending.status.name()).collect(),
            outputs: endings.iter().map(|written| written.ending.output.as_ref()).collect(),
            errors: endings.iter().map(|written| written.ending.error.as_ref().map(Json)).collect(),
            owners: leases().map(|lease| lease.map(|lease| lease.owner)).collect(),
            lease_nos: leases().map(|lease| lease.map(|lease| lease.lease_no)).collect(),
        }
    }

    pub(crate) fn params(&self) -> [&(dyn ToSql + Sync); 7] {
        [&self.at, &self.ids, &self.statuses, &self.outputs, &self.errors, &self.owners, &self.lease_nos]
    }
}
