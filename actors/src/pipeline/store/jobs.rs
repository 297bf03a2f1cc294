//! What attempts' rows say of the jobs that calls have submitted.

use crate::{
    database::DatabaseError,
    ids::{AttemptId, OwnerId, TaskId},
    pipeline::AttemptCause,
};
use deadpool_postgres::Client;
use std::time::Duration;

use super::{claim::from_milliseconds, columns::Named};

/// Writes the id of the job that a call has submitted, as long as its task is `owner`'s: whoever has the task now
/// has decided about the call without it.
pub(crate) async fn keep_job(
    client: &Client,
    owner: OwnerId,
    attempt: AttemptId,
    job: &str,
) -> Result<(), DatabaseError> {
    let statement = client
        .prepare_cached(
            "update step_attempts a set job_id = $3 from tasks t
             where a.id = $2 and a.status = 'running' and t.id = a.task_id and t.owner = $1",
        )
        .await?;
    client.execute(&statement, &[&owner, &attempt, &job]).await?;
    Ok(())
}

/// A call that is under way as far as its row knows, and about which something can be learned.
#[derive(Clone, Debug)]
pub(crate) struct Resumable {
    pub(crate) attempt: AttemptId,
    pub(crate) node: String,
    pub(crate) number: i32,
    pub(crate) provider: String,
    pub(crate) cause: AttemptCause,
    pub(crate) idempotency_key: String,
    /// The job it has submitted, if that is known.
    pub(crate) job: Option<String>,
    /// Whether its provider may call back.
    pub(crate) has_address: bool,
    /// Time left until its deadline.
    pub(crate) left: Duration,
}

/// The calls of a task whose job is known or whose provider may call back, and whose time is not up.
pub(crate) async fn resumable(client: &Client, task: TaskId) -> Result<Vec<Resumable>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select a.id, a.node_id, a.attempt, a.provider_id, a.cause, a.idempotency_key, a.job_id,
                    c.attempt is not null as has_address,
                    (extract(epoch from a.deadline_at - clock_timestamp()) * 1000)::bigint as left_ms
             from step_attempts a left join provider_callbacks c on c.attempt = a.id
             where a.task_id = $1 and a.status = 'running' and a.deadline_at > clock_timestamp()
             and (a.job_id is not null or c.attempt is not null)",
        )
        .await?;
    let rows = client.query(&statement, &[&task]).await?;
    rows.iter()
        .map(|row| {
            Ok(Resumable {
                attempt: row.try_get("id")?,
                node: row.try_get("node_id")?,
                number: row.try_get("attempt")?,
                provider: row.try_get("provider_id")?,
                cause: row.try_get::<_, Named<AttemptCause>>("cause")?.0,
                idempotency_key: row.try_get("idempotency_key")?,
                job: row.try_get("job_id")?,
                has_address: row.try_get("has_address")?,
                left: from_milliseconds(row.try_get("left_ms")?),
            })
        })
        .collect()
}
