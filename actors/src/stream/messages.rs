//! What is said between the hub and the sockets: positions, events on their way, and why a socket ends.

use crate::{
    database::DatabaseError,
    events::{Event, EventKind},
    ids::{SessionId, TaskId, UserId},
};
use std::{fmt, sync::Arc};

/// One unbroken life of a user's numbering in Redis; positions of different epochs cannot be compared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Epoch(Arc<str>);

impl Epoch {
    /// The epoch of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }

    /// Its name in frames.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a user's events stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The life of the numbering.
    pub epoch: Epoch,
    /// The newest event's number in it; 0 before the first.
    pub seq: u64,
    /// The newest final event at or before it; 0 before the first.
    pub final_no: i64,
}

/// What a client says it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResumeFrom {
    /// The epoch of its last position.
    pub epoch: Epoch,
    /// The last `seq` it saw.
    pub seq: u64,
    /// The last `final` it saw; without it, events are replayed by `seq` alone.
    pub final_no: Option<i64>,
}

/// One event as it travels to sockets: numbers, what a filter or a merge looks at, and the rest as JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamEvent {
    /// Its position; a final event read from PostgreSQL has none.
    pub position: Option<(Epoch, u64)>,
    /// Its durable number, if it is final.
    pub final_no: Option<i64>,
    /// The task it is about.
    pub task: Option<TaskId>,
    /// What of it matters on the way.
    pub class: EventClass,
    /// A JSON object with all but `type`, `epoch` and `seq`.
    pub body: Box<str>,
}

impl StreamEvent {
    /// A final event as PostgreSQL has it: without a position.
    #[must_use]
    pub fn from_row(event: &Event) -> Self {
        Self {
            position: None,
            final_no: event.final_no,
            task: event.task,
            class: EventClass::of(event.kind),
            body: event.body().into(),
        }
    }
}

/// What filters and merges look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventClass {
    /// About a task.
    Task,
    /// About a task, and worthless once a newer one of that task is there.
    Progress,
    /// About the user; every socket of the user gets it.
    User,
}

impl EventClass {
    /// The class of a kind of events.
    #[must_use]
    pub const fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::TaskProgress => Self::Progress,
            EventKind::QuotaChanged | EventKind::QuotaLow | EventKind::OrderUpdated => Self::User,
            _ => Self::Task,
        }
    }
}

/// What a socket is to send next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outgoing {
    /// An event.
    Event {
        /// Which.
        event: Arc<StreamEvent>,
        /// The first position it stands for, if earlier progress was merged into it.
        from_seq: Option<u64>,
    },
    /// A new position from which events go on; what lay between cannot be replayed.
    Resync {
        /// Why.
        reason: ResyncReason,
        /// The position that now holds.
        position: Position,
    },
    /// The end.
    Close(CloseCause),
}

/// Why a replay was not possible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResyncReason {
    /// The history no longer reaches back, or never reached that far.
    HistoryLost,
    /// The numbering began anew.
    EpochChanged,
}

/// Why the hub ends a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// It reads too slowly; it should come again and resume.
    TooSlow,
    /// A newer socket of its user took its place.
    Replaced,
    /// The replica is going down; it should come again and resume.
    Restarting,
    /// Its session was closed.
    SessionClosed,
}

/// Why the stream did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// Redis, PostgreSQL or the hub does not answer; the same may work later.
    #[error("live updates are not available")]
    Unavailable,
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// Some of the tasks are not the user's.
    #[error("not all of the tasks are the user's own")]
    ForeignTask(TaskId),
}

/// Connect a socket of `user`.
pub struct OpenSocket {
    /// Whose it is.
    pub user: UserId,
    /// The session it was opened in.
    pub session: SessionId,
    /// What it has already, if it said so in its URL.
    pub resume: Option<ResumeFrom>,
    /// Whether events wait until [`release`](super::OpenedSocket::release) is called.
    pub held: bool,
    /// Cuts the connection under the socket, whatever waits to be written on it.
    pub cut: Option<Cut>,
}

/// Cuts a connection; called once at most.
pub type Cut = Box<dyn FnOnce() + Send>;
