//! What a read of the history means for a socket that stands somewhere.

use crate::stream::messages::{Epoch, Position, ResyncReason, StreamEvent};
use std::sync::Arc;

/// How far a socket's client has been told, counting what waits in its queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The epoch of [`Self::seq`].
    pub(crate) epoch: Epoch,
    /// The last position.
    pub(crate) seq: u64,
    /// The last final event; `None` for a client that did not say, which takes whatever comes first.
    pub(crate) final_no: Option<i64>,
}

/// What one read of Redis and of `users.final_no` found for one socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct HistoryRead {
    /// Where the user's events stand in Redis.
    pub(crate) head: Position,
    /// The newest final event in PostgreSQL, read before Redis was.
    pub(crate) newest_final: i64,
    /// Events after the cursor in ascending order, as many as were asked for; none if the epoch is another.
    pub(crate) entries: Vec<Arc<StreamEvent>>,
}

/// Final events to read from PostgreSQL: those after `after`, up to `upto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FinalRange {
    /// The last one not wanted.
    pub(crate) after: i64,
    /// The last one wanted.
    pub(crate) upto: i64,
}

/// What to do for the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Send the entries; before them the finals of `finals`, which they do not hold.
    Replay {
        /// Finals from PostgreSQL.
        finals: Option<FinalRange>,
    },
    /// Send the finals, then the new position.
    Resync {
        /// Why.
        reason: ResyncReason,
        /// Finals from PostgreSQL.
        finals: Option<FinalRange>,
    },
}

impl Plan {
    /// The finals to read.
    #[must_use]
    pub(crate) const fn finals(&self) -> Option<FinalRange> {
        match self {
            Self::Replay { finals } | Self::Resync { finals, .. } => *finals,
        }
    }
}

/// Decides how a socket at `cursor` catches up; `pending` is the resync that an earlier page began.
#[must_use]
pub(crate) fn plan(cursor: &Cursor, pending: Option<ResyncReason>, read: &HistoryRead) -> Plan {
    let head = &read.head;
    if let Some(reason) = pending.or_else(|| broken(cursor, read)) {
        return Plan::Resync { reason, finals: range(cursor.final_no, head.final_no) };
    }
    let first_final = read.entries.iter().find_map(|entry| entry.final_no);
    let reaches_head = read.entries.last().is_none_or(|last| seq(last) == Some(head.seq));
    let upto = match first_final {
        Some(first) => first - 1,
        None if reaches_head => head.final_no,
        None => 0,
    };
    Plan::Replay { finals: range(cursor.final_no, upto) }
}

/// Why no replay leads from `cursor` to the head, if none does.
fn broken(cursor: &Cursor, read: &HistoryRead) -> Option<ResyncReason> {
    let head = &read.head;
    if cursor.epoch != head.epoch {
        return Some(ResyncReason::EpochChanged);
    }
    let is_ahead = cursor.seq > head.seq || cursor.final_no.is_some_and(|last| last > read.newest_final);
    let next_is_lost = cursor.seq < head.seq
        && read.entries.first().and_then(|first| seq(first)) != Some(cursor.seq.saturating_add(1));
    (is_ahead || next_is_lost).then_some(ResyncReason::HistoryLost)
}

fn range(after: Option<i64>, upto: i64) -> Option<FinalRange> {
    after.filter(|&after| after < upto).map(|after| FinalRange { after, upto })
}

fn seq(event: &StreamEvent) -> Option<u64> {
    event.position.as_ref().map(|&(_, seq)| seq)
}
