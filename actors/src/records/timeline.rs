//! A task with its steps and attempts, read for people who ask what happened. Reads only, and from committed rows.

use crate::{database::DatabaseError, ids::TaskId};
use chrono::{DateTime, Utc};
use deadpool_postgres::Client;
use serde_json::Value;
use uuid::Uuid;

/// A task and everything that was recorded about its run.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// Whose it is.
    pub user: Uuid,
    /// What it runs, by name where the pipeline still exists.
    pub pipeline: String,
    /// The version it started with.
    pub pipeline_version: i32,
    /// Where it stands.
    pub status: String,
    /// Why it failed, once it did.
    pub error: Option<Value>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When its first step was admitted.
    pub started_at: Option<DateTime<Utc>>,
    /// When it must be done.
    pub deadline_at: Option<DateTime<Utc>>,
    /// When it became final.
    pub finished_at: Option<DateTime<Utc>>,
    /// Who runs it, by the label of the replica where its row is still there.
    pub owner: Option<String>,
    /// How often it was claimed.
    pub lease_no: i64,
    /// The hold: phase, units held, units charged.
    pub hold: Option<(String, i64, i64)>,
    /// Its steps in the order they began.
    pub steps: Vec<Step>,
    /// Its calls in the order they began.
    pub attempts: Vec<Attempt>,
}

/// A node's row.
#[derive(Clone, Debug)]
pub struct Step {
    /// The node.
    pub node: String,
    /// Its type.
    pub kind: String,
    /// Where it stands.
    pub status: String,
    /// Why it failed, once it did.
    pub error: Option<Value>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A call's row.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The node.
    pub node: String,
    /// Counts over retries and fallbacks, from 1.
    pub attempt: i32,
    /// Who was called.
    pub provider: String,
    /// Why this call was made.
    pub cause: String,
    /// How it went.
    pub status: String,
    /// Why it failed, once it did.
    pub error: Option<Value>,
    /// When it was sent.
    pub started_at: DateTime<Utc>,
    /// When it is given up at the latest.
    pub deadline_at: DateTime<Utc>,
    /// When its answer was recorded.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Reads the timeline of a task; `None` when there is no such task.
///
/// # Errors
/// When PostgreSQL cannot be reached.
pub async fn read(client: &Client, task: TaskId) -> Result<Option<Timeline>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select t.user_id, coalesce(p.name, t.pipeline_id::text), t.pipeline_version, t.status, t.error,
                    t.created_at, t.started_at, t.deadline_at, t.finished_at,
                    coalesce(r.label, t.owner::text), t.lease_no, q.phase, q.amount, q.charged
             from tasks t
             left join pipelines p on p.id = t.pipeline_id
             left join replicas r on r.owner = t.owner
             left join quota_transactions q on q.task_id = t.id
             where t.id = $1",
        )
        .await?;
    let Some(row) = client.query_opt(&statement, &[&task]).await? else { return Ok(None) };
    let phase: Option<String> = row.get(11);
    Ok(Some(Timeline {
        user: row.get(0),
        pipeline: row.get(1),
        pipeline_version: row.get(2),
        status: row.get(3),
        error: row.get(4),
        created_at: row.get(5),
        started_at: row.get(6),
        deadline_at: row.get(7),
        finished_at: row.get(8),
        owner: row.get(9),
        lease_no: row.get(10),
        hold: phase.map(|phase| (phase, row.get(12), row.get(13))),
        steps: read_steps(client, task).await?,
        attempts: read_attempts(client, task).await?,
    }))
}

async fn read_steps(client: &Client, task: TaskId) -> Result<Vec<Step>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select node_id, type, status, error, started_at, finished_at from task_steps
             where task_id = $1 order by started_at nulls last, finished_at nulls last, node_id",
        )
        .await?;
    let rows = client.query(&statement, &[&task]).await?;
    let step = |row: &tokio_postgres::Row| Step {
        node: row.get(0),
        kind: row.get(1),
        status: row.get(2),
        error: row.get(3),
        started_at: row.get(4),
        finished_at: row.get(5),
    };
    Ok(rows.iter().map(step).collect())
}

async fn read_attempts(client: &Client, task: TaskId) -> Result<Vec<Attempt>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select node_id, attempt, provider_id, cause, status, error, started_at, deadline_at, finished_at
             from step_attempts where task_id = $1 order by started_at, id",
        )
        .await?;
    let rows = client.query(&statement, &[&task]).await?;
    let attempt = |row: &tokio_postgres::Row| Attempt {
        node: row.get(0),
        attempt: row.get(1),
        provider: row.get(2),
        cause: row.get(3),
        status: row.get(4),
        error: row.get(5),
        started_at: row.get(6),
        deadline_at: row.get(7),
        finished_at: row.get(8),
    };
    Ok(rows.iter().map(attempt).collect())
}
