//! What is said to and by the pipeline: tasks, steps, attempts, commands and refusals.

use crate::{
    ask::AskError,
    database::DatabaseError,
    idempotency::Idempotent,
    ids::{ApiKeyId, AttemptId, OwnerId, PipelineId, TaskId, UserId},
    quota::AuditEntry,
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where a task stands. The last three are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStatus {
    /// Accepted and paid for by a reservation; its first step is not admitted yet.
    Queued,
    /// At least one step was admitted.
    Running,
    /// The end was reached; the reservation is confirmed.
    Succeeded,
    /// It cannot reach its end; the reservation is cancelled (or charged where the pipeline says so).
    Failed,
    /// Its user or an admin ended it; the reservation is cancelled.
    Cancelled,
}

impl TaskStatus {
    /// Every status, in the order of a task's life.
    pub const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }

    /// Whether nothing can change any more.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// Why a task or a step failed, as its user sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// A stable code, such as `PROVIDER_REJECTED`.
    pub code: String,
    /// One sentence for people; never a secret, an address or a source text.
    pub message: String,
    /// The node that failed, where one did.
    #[serde(default)]
    pub node_id: Option<String>,
}

/// A task as it stands in its row.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Whose it is.
    pub user: UserId,
    /// What it runs.
    pub pipeline: PipelineId,
    /// The version it started with and keeps.
    pub pipeline_version: i32,
    /// Where it stands.
    pub status: TaskStatus,
    /// Finished provider steps, percent.
    pub progress: i16,
    /// Units reserved for it.
    pub quota_cost: i64,
    /// What it was given.
    pub input: Value,
    /// What came out, once it succeeded.
    pub output: Option<Value>,
    /// Why it failed, once it did.
    pub error: Option<Failure>,
    /// When it was accepted.
    pub created_at: DateTime<Utc>,
    /// When its first step was admitted.
    pub started_at: Option<DateTime<Utc>>,
    /// When it became final.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A task to be inserted by the transaction that reserves its quota.
#[derive(Clone, Debug, PartialEq)]
pub struct NewTask {
    /// Its id, made by whoever creates it.
    pub id: TaskId,
    /// Whose it is.
    pub user: UserId,
    /// What it runs.
    pub pipeline: PipelineId,
    /// The version it will keep.
    pub pipeline_version: i32,
    /// 1 for a member's, 0 for a guest's.
    pub priority: i16,
    /// The provider that bounds its first calls, empty where the replica's cores do: it waits with those of the same.
    pub queue: String,
    /// Whether those calls would ask another provider if that one took none.
    pub has_fallback: bool,
    /// Units to reserve, 0 or more.
    pub quota_cost: i64,
    /// What it is given; validated.
    pub input: Value,
    /// The API key it was asked for by, whose spending it counts to.
    pub api_key: Option<ApiKeyId>,
}

impl NewTask {
    /// The task's row right after its insertion at `created_at`.
    #[must_use]
    pub fn into_task(self, created_at: DateTime<Utc>) -> Task {
        Task {
            id: self.id,
            user: self.user,
            pipeline: self.pipeline,
            pipeline_version: self.pipeline_version,
            status: TaskStatus::Queued,
            progress: 0,
            quota_cost: self.quota_cost,
            input: self.input,
            output: None,
            error: None,
            created_at,
            started_at: None,
            finished_at: None,
        }
    }
}

/// The right to write for a task: who runs it, and the number its claim raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The replica's process.
    pub owner: OwnerId,
    /// Raised by each claim; a write under an older number is refused.
    pub lease_no: i64,
}

/// How a task becomes final, written by the transaction that settles its quota.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskEnding {
    /// [`TaskStatus::Succeeded`], [`TaskStatus::Failed`] or [`TaskStatus::Cancelled`].
    pub status: TaskStatus,
    /// The output of a success.
    pub output: Option<Value>,
    /// The reason of a failure.
    pub error: Option<Failure>,
    /// The run's lease; `None` for a cancel from outside, which ends whatever run there is by raising the
    /// lease number.
    pub lease: Option<Lease>,
}

/// Where a step stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepStatus {
    /// Its predecessors are not done.
    Pending,
    /// Its node is being worked on (also between two attempts).
    Running,
    /// Done.
    Succeeded,
    /// Given up.
    Failed,
    /// Never reached, and never will be.
    Skipped,
    /// Ended because its result is no longer wanted.
    Cancelled,
}

impl StepStatus {
    /// Every status.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Skipped, Self::Cancelled];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// Where a call of a provider stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptStatus {
    /// Written before the call leaves; after a crash its outcome is unknown.
    Running,
    /// Answered as wanted.
    Succeeded,
    /// Answered otherwise, or not in time.
    Failed,
    /// Its answer was no longer wanted when it came.
    Cancelled,
    /// Whether it took effect cannot be told.
    Unknown,
}

impl AttemptStatus {
    /// Every status.
    pub const ALL: [Self; 5] = [Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled, Self::Unknown];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
        }
    }

    /// The status of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

/// Why a call was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AttemptCause {
    /// The node became ready.
    First,
    /// The call before failed retryably.
    Retry,
    /// The provider before was given up.
    Fallback,
    /// The call before was cut by the death of its replica.
    Crash,
}

impl AttemptCause {
    /// Every cause.
    pub const ALL: [Self; 4] = [Self::First, Self::Retry, Self::Fallback, Self::Crash];

    /// The name in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Retry => "retry",
            Self::Fallback => "fallback",
            Self::Crash => "crash",
        }
    }

    /// The cause of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.name() == name)
    }
}

/// A step as it stands in its row.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The node it is the step of.
    pub node: String,
    /// The node's type: `start`, `provider`, `fork`, `join` or `end`.
    pub kind: String,
    /// Where it stands.
    pub status: StepStatus,
    /// The provider that did it, or was tried last.
    pub provider: Option<String>,
    /// What came out.
    pub output: Option<Value>,
    /// Why it failed.
    pub error: Option<Failure>,
    /// When it began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A call as it stands in its row.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Its id, also what a provider's slot is held by.
    pub id: AttemptId,
    /// The node it is for.
    pub node: String,
    /// 1 for the node's first call, counting on over retries, fallbacks and crashes.
    pub attempt: i32,
    /// Who was called.
    pub provider: String,
    /// Why.
    pub cause: AttemptCause,
    /// Where it stands.
    pub status: AttemptStatus,
    /// Why it failed.
    pub error: Option<Failure>,
    /// When the call was let go.
    pub started_at: DateTime<Utc>,
    /// When it will be given up, and its slot freed, at the latest.
    pub deadline_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// Start a task: validate it against its pipeline, reserve its quota, queue it.
#[derive(Clone, Debug)]
pub struct StartTask {
    /// The id it will have, made by the caller: the same command again is recognised by it.
    pub task: TaskId,
    /// Who asks.
    pub user: UserId,
    /// What to run, in its published version.
    pub pipeline: PipelineId,
    /// What to give it.
    pub input: Value,
    /// The API key it is asked for by, if it is.
    pub api_key: Option<ApiKeyId>,
    /// The caller's key, if it sent one.
    pub idempotency: Option<Idempotent<Task>>,
}

/// End a task and return its quota, whoever runs it.
#[derive(Clone, Debug)]
pub struct CancelTask {
    /// Which.
    pub task: TaskId,
    /// Whose it must be; `None` for an admin, who may end anybody's.
    pub user: Option<UserId>,
    /// For the audit log, where an admin does it.
    pub audit: Option<AuditEntry>,
}

/// Take what a provider brings to the address that a call named.
#[derive(Clone)]
pub struct TakeCallback {
    /// The last part of the address; a secret.
    pub token: String,
    /// What it brought.
    pub body: Bytes,
}

/// One thing wrong with an input or a definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// A JSON pointer to what is wrong.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// Why the pipeline did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// No published pipeline has this id.
    #[error("there is no such pipeline")]
    PipelineNotFound,
    /// The pipeline is for members.
    #[error("the pipeline asks for a membership")]
    MembershipRequired,
    /// The input does not fit the pipeline's schema, or names a file that is not the caller's.
    #[error("the input does not fit the pipeline")]
    InputInvalid(Vec<Fault>),
    /// As many tasks of all users wait as may.
    #[error("as many tasks of all users wait as may")]
    QueueFull,
    /// No task of this user has this id.
    #[error("there is no such task")]
    TaskNotFound,
    /// No call has named this address, or too long ago.
    #[error("there is no such callback")]
    CallbackUnknown,
    /// The task is final already and was not cancelled.
    #[error("the task is {} already", .0.name())]
    TaskFinal(TaskStatus),
    /// The quota refused.
    #[error(transparent)]
    Quota(#[from] crate::quota::QuotaError),
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// No answer of the actor.
    #[error(transparent)]
    Ask(#[from] AskError),
}
