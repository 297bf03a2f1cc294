//! The statements of one flush of step writes, all of them over sets. They are prepared before the first is sent, so
//! that several that are awaited together reach PostgreSQL in the order they are polled.
//!
//! Order within the transaction: [`fence`] (locks the tasks), pauses and rates of providers, ends of attempts with the
//! slots that become free, the slots that are taken, new attempts, steps, what the tasks' rows say. Whatever is written
//! for a task whose fence did not hold is filtered out by the caller; only ends of attempts are written regardless,
//! because the call was made and its slot is free whoever has the task now.
//!
//! Every statement may be run again after a commit whose answer was lost.

use crate::{
    database::DatabaseError,
    ids::{AttemptId, FileId, OwnerId, TaskId, UserId},
    pipeline::{AttemptCause, AttemptStatus, Failure, Step, TaskStatus},
};
use chrono::{DateTime, Utc};
use deadpool_postgres::{Client, Transaction};
use futures_util::future::try_join_all;
use std::{collections::HashMap, time::Duration};
use tokio_postgres::types::Json;

use super::{
    claim::from_milliseconds,
    columns::Named,
    rates::LOCK_RATES,
    replicas::CLOCK,
    waits::{WAITS_ELSEWHERE, WRITE_WAITS},
};

/// A time span as a bigint of milliseconds.
pub(crate) fn milliseconds(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

const ALL: [&str; 12] = [
    FENCE,
    CLOCK,
    LOCK_RATES,
    WAITS_ELSEWHERE,
    END_ATTEMPTS,
    TAKE_SLOTS,
    INSERT_ATTEMPTS,
    WRITE_WAITS,
    UPSERT_STEPS,
    TOUCH_TASKS,
    INSERT_FILES,
    MARK_OUTPUTS,
];

/// Prepares what is not prepared yet on this connection, in one round trip.
pub(crate) async fn prepare_flush(client: &Client) -> Result<(), DatabaseError> {
    try_join_all(ALL.map(|sql| client.prepare_cached(sql))).await?;
    Ok(())
}

const FENCE: &str = "select t.id, t.status from unnest($2::uuid[], $3::bigint[]) as w(id, lease_no)
     join tasks t on t.id = w.id
     where t.owner = $1 and t.lease_no = w.lease_no and t.status in ('queued', 'running')
     order by t.id for no key update of t";

/// Locks those of `leases` that `owner` still has, and says how their tasks stand.
pub(crate) async fn fence(
    transaction: &Transaction<'_>,
    owner: OwnerId,
    leases: &[(TaskId, i64)],
) -> Result<HashMap<TaskId, TaskStatus>, DatabaseError> {
    let statement = transaction.prepare_cached(FENCE).await?;
    let (tasks, numbers): (Vec<_>, Vec<_>) = leases.iter().copied().unzip();
    let rows = transaction.query(&statement, &[&owner, &tasks, &numbers]).await?;
    rows.iter()
        .map(|row| Ok((row.try_get("id")?, row.try_get::<_, Named<TaskStatus>>("status")?.0)))
        .collect()
}

const UPSERT_STEPS: &str = "insert into task_steps
         (task_id, node_id, type, status, provider_id, output, error, started_at, finished_at)
     select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[],
                          $7::jsonb[], $8::timestamptz[], $9::timestamptz[])
     on conflict (task_id, node_id) do update set
         status = excluded.status,
         provider_id = coalesce(excluded.provider_id, task_steps.provider_id),
         output = excluded.output,
         error = excluded.error,
         started_at = coalesce(task_steps.started_at, excluded.started_at),
         finished_at = coalesce(task_steps.finished_at, excluded.finished_at)";

/// Writes steps; no two may be of the same node. A date that is written stays.
pub(crate) async fn upsert_steps(
    transaction: &Transaction<'_>,
    steps: &[(TaskId, &Step)],
) -> Result<(), DatabaseError> {
    if steps.is_empty() {
        return Ok(());
    }
    let statement = transaction.prepare_cached(UPSERT_STEPS).await?;
    let tasks: Vec<_> = steps.iter().map(|(task, _)| task).collect();
    let nodes: Vec<_> = steps.iter().map(|(_, step)| step.node.as_str()).collect();
    let kinds: Vec<_> = steps.iter().map(|(_, step)| step.kind.as_str()).collect();
    let statuses: Vec<_> = steps.iter().map(|(_, step)| step.status.name()).collect();
    let providers: Vec<_> = steps.iter().map(|(_, step)| step.provider.as_deref()).collect();
    let outputs: Vec<_> = steps.iter().map(|(_, step)| step.output.as_ref()).collect();
    let errors: Vec<_> = steps.iter().map(|(_, step)| step.error.as_ref().map(Json)).collect();
    let started: Vec<_> = steps.iter().map(|(_, step)| step.started_at).collect();
    let finished: Vec<_> = steps.iter().map(|(_, step)| step.finished_at).collect();
    transaction
        .execute(
            &statement,
            &[&tasks, &nodes, &kinds, &statuses, &providers, &outputs, &errors, &started, &finished],
        )
        .await?;
    Ok(())
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AttemptEnd {
    pub(crate) task: TaskId,
    pub(crate) node: String,
    pub(crate) attempt: i32,
    pub(crate) status: AttemptStatus,
    pub(crate) error: Option<Failure>,
    pub(crate) at: DateTime<Utc>,
}

const END_ATTEMPTS: &str = "with ended as (
         update step_attempts a set status = w.status, error = w.error, finished_at = w.at
         from unnest($1::uuid[], $2::text[], $3::integer[], $4::text[], $5::jsonb[], $6::timestamptz[])
              as w(task_id, node_id, attempt, status, error, at)
         where a.task_id = w.task_id and a.node_id = w.node_id and a.attempt = w.attempt
         and a.status = 'running' returning a.id
     ), held as (
         select s.provider, s.slot from ended join provider_slots s on s.attempt = ended.id
         order by s.provider, s.slot for no key update of s
     )
     update provider_slots s set attempt = null, held_until = null
     from held where s.provider = held.provider and s.slot = held.slot returning s.provider";

/// Writes how calls ended, of those that were still running, and gives back the slots they held: says of which
/// providers these are, one name a slot.
pub(crate) async fn end_attempts(
    transaction: &Transaction<'_>,
    ends: &[AttemptEnd],
) -> Result<Vec<String>, DatabaseError> {
    if ends.is_empty() {
        return Ok(Vec::new());
    }
    let statement = transaction.prepare_cached(END_ATTEMPTS).await?;
    let tasks: Vec<_> = ends.iter().map(|end| end.task).collect();
    let nodes: Vec<_> = ends.iter().map(|end| end.node.as_str()).collect();
    let attempts: Vec<_> = ends.iter().map(|end| end.attempt).collect();
    let statuses: Vec<_> = ends.iter().map(|end| end.status.name()).collect();
    let errors: Vec<_> = ends.iter().map(|end| end.error.as_ref().map(Json)).collect();
    let times: Vec<_> = ends.iter().map(|end| end.at).collect();
    let rows =
        transaction.query(&statement, &[&tasks, &nodes, &attempts, &statuses, &errors, &times]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Slots that are wanted of one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlotWish {
    pub(crate) provider: String,
    /// The provider's ceiling; slots from it on are not used any more.
    pub(crate) ceiling: i32,
    pub(crate) wanted: i64,
}

const TAKE_SLOTS: &str = "select w.provider, s.slot
     from unnest($1::text[], $2::integer[], $3::bigint[]) as w(provider, ceiling, wanted)
     cross join lateral (
         select slot from provider_slots
         where provider = w.provider and slot < w.ceiling
         and (attempt is null or held_until < clock_timestamp())
         and not exists (select from providers where id = w.provider and paused_until > clock_timestamp())
         order by slot limit w.wanted for no key update skip locked
     ) s";

/// Finds free slots, at most as many as wanted, and locks them: `(provider, slot)`. A provider that is paused has
/// none.
pub(crate) async fn take_slots(
    transaction: &Transaction<'_>,
    wishes: &[SlotWish],
) -> Result<Vec<(String, i32)>, DatabaseError> {
    if wishes.is_empty() {
        return Ok(Vec::new());
    }
    let statement = transaction.prepare_cached(TAKE_SLOTS).await?;
    let providers: Vec<_> = wishes.iter().map(|wish| wish.provider.as_str()).collect();
    let ceilings: Vec<_> = wishes.iter().map(|wish| wish.ceiling).collect();
    let wanted: Vec<_> = wishes.iter().map(|wish| wish.wanted).collect();
    let rows = transaction.query(&statement, &[&providers, &ceilings, &wanted]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// In what time the first slot of each of `providers` becomes free by itself: its call may have died with its replica.
pub(crate) async fn slot_deadlines(
    transaction: &Transaction<'_>,
    providers: &[&str],
) -> Result<Vec<(String, Duration)>, DatabaseError> {
    let statement = transaction
        .prepare_cached(
            "select provider, ceil(extract(epoch from min(held_until) - clock_timestamp()) * 1000)::bigint as left_ms
             from provider_slots where provider = any($1) and attempt is not null group by provider",
        )
        .await?;
    let rows = transaction.query(&statement, &[&providers]).await?;
    rows.iter()
        .map(|row| Ok((row.try_get("provider")?, from_milliseconds(row.try_get("left_ms")?))))
        .collect()
}

/// A call that is let go.
#[derive(Clone, Debug)]
pub(crate) struct AttemptStart {
    pub(crate) attempt: AttemptId,
    pub(crate) task: TaskId,
    pub(crate) lease_no: i64,
    pub(crate) node: String,
    pub(crate) number: i32,
    pub(crate) provider: String,
    pub(crate) idempotency_key: String,
    pub(crate) slot: Option<i32>,
    pub(crate) cause: AttemptCause,
    pub(crate) timeout: Duration,
}

const INSERT_ATTEMPTS: &str = "with started as (
         insert into step_attempts (id, task_id, node_id, attempt, provider_id, idempotency_key, slot, cause,
                                    status, owner, lease_no, started_at, deadline_at)
         select w.id, w.task_id, w.node_id, w.attempt, w.provider_id, w.key, w.slot, w.cause, 'running', $1,
                w.lease_no, $12::timestamptz, $12::timestamptz + w.timeout_ms * interval '1 millisecond'
         from unnest($2::uuid[], $3::uuid[], $4::text[], $5::integer[], $6::text[], $7::text[], $8::integer[],
                     $9::text[], $10::bigint[], $11::bigint[])
              as w(id, task_id, node_id, attempt, provider_id, key, slot, cause, lease_no, timeout_ms)
         returning id, provider_id, slot, deadline_at
     )
     update provider_slots s set attempt = started.id, held_until = started.deadline_at
     from started where s.provider = started.provider_id and s.slot = started.slot";

/// Writes calls as running, from `now` to their timeout, and lets them hold the slots that were found for them.
pub(crate) async fn insert_attempts(
    transaction: &Transaction<'_>,
    owner: OwnerId,
    now: DateTime<Utc>,
    starts: &[AttemptStart],
) -> Result<(), DatabaseError> {
    if starts.is_empty() {
        return Ok(());
    }
    let statement = transaction.prepare_cached(INSERT_ATTEMPTS).await?;
    let attempts: Vec<_> = starts.iter().map(|start| start.attempt).collect();
    let tasks: Vec<_> = starts.iter().map(|start| start.task).collect();
    let nodes: Vec<_> = starts.iter().map(|start| start.node.as_str()).collect();
    let numbers: Vec<_> = starts.iter().map(|start| start.number).collect();
    let providers: Vec<_> = starts.iter().map(|start| start.provider.as_str()).collect();
    let keys: Vec<_> = starts.iter().map(|start| start.idempotency_key.as_str()).collect();
    let slots: Vec<_> = starts.iter().map(|start| start.slot).collect();
    let causes: Vec<_> = starts.iter().map(|start| start.cause.name()).collect();
    let lease_nos: Vec<_> = starts.iter().map(|start| start.lease_no).collect();
    let timeouts: Vec<_> = starts.iter().map(|start| milliseconds(start.timeout)).collect();
    transaction
        .execute(
            &statement,
            &[
                &owner, &attempts, &tasks, &nodes, &numbers, &providers, &keys, &slots, &causes, &lease_nos,
                &timeouts, &now,
            ],
        )
        .await?;
    Ok(())
}

/// An attempt that an earlier try of this flush has written after all.
pub(crate) struct Held {
    pub(crate) attempt: AttemptId,
    /// Time left until its deadline.
    pub(crate) left: Duration,
}

/// Which of `attempts` are written already: asked when the answer to a flush's commit was lost.
pub(crate) async fn known_attempts(
    transaction: &Transaction<'_>,
    attempts: &[AttemptId],
) -> Result<Vec<Held>, DatabaseError> {
    if attempts.is_empty() {
        return Ok(Vec::new());
    }
    let statement = transaction
        .prepare_cached(
            "select id, (extract(epoch from deadline_at - clock_timestamp()) * 1000)::bigint as left_ms
             from step_attempts where id = any($1)",
        )
        .await?;
    let rows = transaction.query(&statement, &[&attempts]).await?;
    rows.iter()
        .map(|row| Ok(Held { attempt: row.try_get(0)?, left: from_milliseconds(row.try_get(1)?) }))
        .collect()
}

/// What a flush changes of a task's own row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskTouch {
    pub(crate) task: TaskId,
    /// Its first call was let go then, and its deadline.
    pub(crate) started: Option<(DateTime<Utc>, DateTime<Utc>)>,
    /// Percent; never goes back.
    pub(crate) progress: i16,
    /// Whether a step finished, which forgives the stalls before.
    pub(crate) step_finished: bool,
}

const TOUCH_TASKS: &str = "update tasks t set
         status = case when w.started_at is null then t.status else 'running' end,
         started_at = coalesce(t.started_at, w.started_at),
         deadline_at = coalesce(t.deadline_at, w.deadline_at),
         progress = greatest(t.progress, w.progress),
         stalls = case when w.step_finished then 0 else t.stalls end
     from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::smallint[], $5::bool[])
          as w(id, started_at, deadline_at, progress, step_finished)
     where t.id = w.id";

/// Writes what changed of tasks' rows.
pub(crate) async fn touch_tasks(
    transaction: &Transaction<'_>,
    touches: &[TaskTouch],
) -> Result<(), DatabaseError> {
    if touches.is_empty() {
        return Ok(());
    }
    let statement = transaction.prepare_cached(TOUCH_TASKS).await?;
    let tasks: Vec<_> = touches.iter().map(|touch| touch.task).collect();
    let started: Vec<_> = touches.iter().map(|touch| touch.started.map(|(at, _)| at)).collect();
    let deadlines: Vec<_> = touches.iter().map(|touch| touch.started.map(|(_, deadline)| deadline)).collect();
    let progress: Vec<_> = touches.iter().map(|touch| touch.progress).collect();
    let finished: Vec<_> = touches.iter().map(|touch| touch.step_finished).collect();
    transaction.execute(&statement, &[&tasks, &started, &deadlines, &progress, &finished]).await?;
    Ok(())
}

/// A file that a call produced and that lies in the object store already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileRow {
    pub(crate) id: FileId,
    pub(crate) user: UserId,
    pub(crate) task: TaskId,
    pub(crate) name: String,
    pub(crate) content_type: String,
    pub(crate) size: i64,
    pub(crate) object_key: String,
}

const INSERT_FILES: &str =
    "insert into files (id, user_id, task_id, kind, name, content_type, size, object_key, completed_at)
     select w.id, w.user_id, w.task_id, 'intermediate', w.name, w.content_type, w.size, w.object_key,
            clock_timestamp()
     from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::text[])
          as w(id, user_id, task_id, name, content_type, size, object_key)
     on conflict (id) do nothing";

/// Writes the rows of produced files.
pub(crate) async fn insert_files(
    transaction: &Transaction<'_>,
    files: &[&FileRow],
) -> Result<(), DatabaseError> {
    if files.is_empty() {
        return Ok(());
    }
    let statement = transaction.prepare_cached(INSERT_FILES).await?;
    let ids: Vec<_> = files.iter().map(|file| file.id).collect();
    let users: Vec<_> = files.iter().map(|file| file.user).collect();
    let tasks: Vec<_> = files.iter().map(|file| file.task).collect();
    let names: Vec<_> = files.iter().map(|file| file.name.as_str()).collect();
    let types: Vec<_> = files.iter().map(|file| file.content_type.as_str()).collect();
    let sizes: Vec<_> = files.iter().map(|file| file.size).collect();
    let keys: Vec<_> = files.iter().map(|file| file.object_key.as_str()).collect();
    transaction.execute(&statement, &[&ids, &users, &tasks, &names, &types, &sizes, &keys]).await?;
    Ok(())
}

const MARK_OUTPUTS: &str =
    "update files f set kind = 'output' from unnest($1::uuid[], $2::uuid[]) as w(task_id, id)
     where f.id = w.id and f.task_id = w.task_id and f.kind = 'intermediate'";

/// Marks files as what their task is for; files of other tasks are left alone.
pub(crate) async fn mark_outputs(
    transaction: &Transaction<'_>,
    outputs: &[(TaskId, FileId)],
) -> Result<(), DatabaseError> {
    if outputs.is_empty() {
        return Ok(());
    }
    let statement = transaction.prepare_cached(MARK_OUTPUTS).await?;
    let (tasks, files): (Vec<_>, Vec<_>) = outputs.iter().copied().unzip();
    transaction.execute(&statement, &[&tasks, &files]).await?;
    Ok(())
}
