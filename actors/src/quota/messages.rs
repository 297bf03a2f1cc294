//! What is said to and by the quota actor.

use crate::{
    ask::AskError,
    database::DatabaseError,
    idempotency::Idempotent,
    ids::{GrantId, TaskId, UserId},
    pipeline::{NewTask, Task, TaskEnding, TaskStatus},
};
use chrono::{DateTime, Utc};
use serde_json::Value;

/// Insert a task and hold its cost.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// The task; its `quota_cost` is what is held.
    pub task: NewTask,
    /// The caller's key, if it sent one.
    pub idempotency: Option<Idempotent<Task>>,
}

/// End a task and charge for it. What was held beyond the charge returns.
#[derive(Clone, Debug)]
pub struct Confirm {
    /// Whose hold it is.
    pub user: UserId,
    /// The task that holds.
    pub task: TaskId,
    /// Units to charge, 0 to what is held.
    pub charge: i64,
    /// How the task ends.
    pub ending: TaskEnding,
}

/// End a task and return all it held.
#[derive(Clone, Debug)]
pub struct Cancel {
    /// Whose hold it is.
    pub user: UserId,
    /// The task that holds.
    pub task: TaskId,
    /// How the task ends.
    pub ending: TaskEnding,
    /// For the audit log, where an admin does it.
    pub audit: Option<AuditEntry>,
}

/// Where granted quota comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrantKind {
    /// A paid order.
    Purchase,
    /// A present, such as for an invitation.
    Gift,
    /// An admin.
    Manual,
    /// A mended mistake.
    Refund,
}

impl GrantKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Purchase, Self::Gift, Self::Manual, Self::Refund];

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The name in the API and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Purchase => "purchase",
            Self::Gift => "gift",
            Self::Manual => "manual",
            Self::Refund => "refund",
        }
    }
}

/// An admin write to remember in the audit log, in the transaction that does it.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// Who did it.
    pub actor: UserId,
    /// What was done, such as `quota.grant`.
    pub action: &'static str,
    /// What it was done to.
    pub target: String,
    /// The particulars.
    pub detail: Value,
    /// The request that asked for it.
    pub request_id: Option<String>,
}

/// Give quota. The same `(kind, reference)` again changes nothing and is answered as the first time.
#[derive(Clone, Debug)]
pub struct Grant {
    /// To whom.
    pub user: UserId,
    /// Units, 1 to 10^12.
    pub amount: i64,
    /// Where from.
    pub kind: GrantKind,
    /// What for: the order, the invitation, the admin's command.
    pub reference: String,
    /// Lower burns first.
    pub priority: i16,
    /// When it stops counting; `None` for never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Why, for the statement.
    pub reason: String,
    /// The caller's key, if it sent one.
    pub idempotency: Option<Idempotent<Granted>>,
    /// For the audit log, where an admin does it.
    pub audit: Option<AuditEntry>,
}

/// Take quota away, down to nothing left and never below. The same `reference` again changes nothing.
#[derive(Clone, Debug)]
pub struct Correct {
    /// From whom.
    pub user: UserId,
    /// Units to take, 1 to 10^12.
    pub amount: i64,
    /// The command this is, for recognising a repeat.
    pub reference: String,
    /// Why, for the statement.
    pub reason: String,
    /// The caller's key, if it sent one.
    pub idempotency: Option<Idempotent<Corrected>>,
    /// For the audit log.
    pub audit: Option<AuditEntry>,
}

/// Write off what has expired, of these users.
#[derive(Clone, Debug)]
pub struct ExpireDue {
    /// Users of one shard who have due grants, some hundreds at most.
    pub users: Vec<UserId>,
}

/// What had expired of these users is written off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expired;

/// A hold was made, or had been made by the same command.
#[derive(Clone, Debug, PartialEq)]
pub struct Reserved {
    /// The task's row.
    pub task: Task,
}

/// A hold was charged, or had been charged by the same command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirmed {
    /// Units charged.
    pub charged: i64,
    /// Units returned.
    pub released: i64,
}

/// A hold was returned, or had been returned by the same command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cancelled {
    /// Units returned.
    pub released: i64,
}

/// Quota was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The grant.
    pub grant: GrantId,
    /// Units given.
    pub amount: i64,
    /// Why.
    pub reason: String,
    /// What the user can spend now.
    pub remaining: i64,
}

/// Quota was taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corrected {
    /// The first of the adjustments that were written.
    pub adjustment: uuid::Uuid,
    /// Units taken.
    pub amount: i64,
    /// Why.
    pub reason: String,
    /// What the user can spend now.
    pub remaining: i64,
}

/// What a cap of an API key's spending is for, in Asia/Shanghai.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CapPeriod {
    /// A day.
    Day,
    /// A month of the calendar.
    Month,
}

impl CapPeriod {
    /// Its name, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

/// Why the quota actor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// The user has too little left. Nothing was held or taken.
    #[error("{needed} units are needed and {remaining} are left")]
    Insufficient {
        /// Units the command needs.
        needed: i64,
        /// Units that are left.
        remaining: i64,
    },
    /// The API key may not spend so much more. Nothing was held.
    #[error("{needed} units are needed and the API key may spend {left} more this {}", .period.name())]
    ApiKeyLimit {
        /// Whose cap it is.
        period: CapPeriod,
        /// Units the task needs.
        needed: i64,
        /// Units that are left of the cap.
        left: i64,
    },
    /// The API key was revoked since the request came in.
    #[error("the API key is revoked")]
    ApiKeyRevoked,
    /// As many tasks of the user wait as may.
    #[error("as many tasks wait as may")]
    TooManyQueued,
    /// No such user, or one who was deleted.
    #[error("there is no such user")]
    UserNotFound,
    /// No task of this user holds anything.
    #[error("the task holds no quota")]
    NoHold,
    /// The charge is more than was held.
    #[error("{charge} units cannot be charged where {held} are held")]
    ChargeExceedsHold {
        /// Units to charge.
        charge: i64,
        /// Units held.
        held: i64,
    },
    /// The hold was charged before, otherwise than asked now.
    #[error("the hold is confirmed already")]
    AlreadyConfirmed,
    /// The hold was returned before.
    #[error("the hold is cancelled already")]
    AlreadyCancelled,
    /// Another run has the task now, or it is final.
    #[error("the lease of the task is lost")]
    LeaseLost,
    /// The task is final.
    #[error("the task is {} already", .0.name())]
    TaskFinal(TaskStatus),
    /// The reference of a grant or correction was used for another one: to another user, or of another amount.
    #[error("the reference was used for another grant or correction")]
    ReferenceReused,
    /// The period of a statement has more rows than one answer may hold.
    #[error("the period has {rows} rows, a statement at most {limit}")]
    PeriodTooLong {
        /// Rows of the period.
        rows: i64,
        /// Rows of a statement at most.
        limit: i64,
    },
    /// The idempotency key was used for something else.
    #[error("the idempotency key was used for another request")]
    KeyReused,
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] std::sync::Arc<DatabaseError>),
    /// No answer of the actor.
    #[error(transparent)]
    Ask(#[from] AskError),
}
