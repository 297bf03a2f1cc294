//! What is said to and by upkeep.

use crate::{ask::AskError, database::DatabaseError, quota::AuditEntry};
use chrono::{DateTime, Utc};

/// Run a job now, whenever it is due. Answered when it has ended.
#[derive(Clone, Debug)]
pub struct RunNow {
    /// Its name.
    pub job: String,
    /// For the audit log.
    pub audit: AuditEntry,
}

/// A job as it stands in its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRecord {
    /// Its name.
    pub name: String,
    /// When it is next due.
    pub next_run_at: DateTime<Utc>,
    /// Whether some replica runs it.
    pub is_running: bool,
    /// When it was last begun.
    pub last_started_at: Option<DateTime<Utc>>,
    /// When it last ended.
    pub last_finished_at: Option<DateTime<Utc>>,
    /// How it last ended, in a few words.
    pub last_outcome: Option<String>,
}

/// Why upkeep did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum UpkeepError {
    /// There is no such job.
    #[error("there is no such job")]
    JobNotFound,
    /// Some replica runs it already.
    #[error("the job runs already")]
    JobRunning,
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// No answer of the actor.
    #[error(transparent)]
    Ask(#[from] AskError),
}
