//! Who waits at which replica: calls for slots, and tasks for whatever it is.

use crate::{
    database::DatabaseError,
    ids::{OwnerId, TaskId},
    pipeline::WaitingReason,
};
use chrono::{DateTime, Utc};
use deadpool_postgres::{Client, Transaction};
use futures_util::future::try_join_all;
use std::collections::HashMap;

/// Since when calls wait, by provider.
pub(crate) type Waits = HashMap<String, Vec<DateTime<Utc>>>;

pub(super) const WAITS_ELSEWHERE: &str =
    "select w.provider, w.since from slot_waits w join replicas r on r.owner = w.owner
     where w.provider = any($2) and w.owner <> $1 and w.since <> '{}' and r.expires_at > clock_timestamp()";

/// Since when calls of `providers` wait at the replicas that run besides `owner`.
pub(crate) async fn waits_elsewhere(
    transaction: &Transaction<'_>,
    owner: OwnerId,
    providers: &[&str],
) -> Result<Waits, DatabaseError> {
    if providers.is_empty() {
        return Ok(Waits::new());
    }
    let statement = transaction.prepare_cached(WAITS_ELSEWHERE).await?;
    let mut waits = Waits::new();
    for row in transaction.query(&statement, &[&owner, &providers]).await? {
        let since: Vec<DateTime<Utc>> = row.try_get(1)?;
        waits.entry(row.try_get(0)?).or_default().extend(since);
    }
    Ok(waits)
}

pub(super) const WRITE_WAITS: &str =
    "insert into slot_waits as w (owner, provider, since) values ($1, $2, $3)
     on conflict (provider, owner) do update set since = excluded.since
     where w.since <> excluded.since";

/// Writes since when calls wait at `owner`, of these providers.
pub(crate) async fn write_waits(
    transaction: &Transaction<'_>,
    owner: OwnerId,
    waits: &Waits,
) -> Result<(), DatabaseError> {
    // one row a statement: an array of arrays would have to be as wide everywhere
    let statement = &transaction.prepare_cached(WRITE_WAITS).await?;
    let write = async |(provider, since): (&String, &Vec<_>)| {
        transaction.execute(statement, &[&owner, provider, since]).await
    };
    try_join_all(waits.iter().map(write)).await?;
    Ok(())
}

/// What a task waits for.
#[derive(Clone, Debug)]
pub(crate) struct TaskWait {
    pub(crate) task: TaskId,
    pub(crate) reason: WaitingReason,
    pub(crate) position: Option<i64>,
    /// When it is over, as far as can be guessed.
    pub(crate) until: Option<DateTime<Utc>>,
}

/// Writes what tasks of `owner` wait for: these, where something has changed, and none but `all`.
pub(crate) async fn write_task_waits(
    client: &Client,
    owner: OwnerId,
    changed: &[TaskWait],
    all: &[TaskId],
) -> Result<(), DatabaseError> {
    let statement = client
        .prepare_cached(
            "with gone as (delete from task_waits where owner = $1 and task <> all($2::uuid[]))
             insert into task_waits (task, owner, reason, position, until)
             select w.task, $1, w.reason, w.position, w.until
             from unnest($3::uuid[], $4::text[], $5::bigint[], $6::timestamptz[]) as w(task, reason, position, until)
             order by w.task
             on conflict (task) do update set owner = excluded.owner, reason = excluded.reason,
                 position = excluded.position, until = excluded.until",
        )
        .await?;
    let tasks: Vec<_> = changed.iter().map(|wait| wait.task).collect();
    let reasons: Vec<_> = changed.iter().map(|wait| wait.reason.name()).collect();
    let positions: Vec<_> = changed.iter().map(|wait| wait.position).collect();
    let untils: Vec<_> = changed.iter().map(|wait| wait.until).collect();
    client.execute(&statement, &[&owner, &all, &tasks, &reasons, &positions, &untils]).await?;
    Ok(())
}
