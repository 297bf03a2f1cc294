//! What may enter one socket's queue.

use super::{
    queue::{Full, Queue, QueueLimits},
    replay::{Cursor, FinalRange, HistoryRead, Plan},
};
use crate::{
    ids::TaskId,
    stream::messages::{
        CloseCause, Epoch, EventClass, Outgoing, Position, ResumeFrom, ResyncReason, StreamEvent,
    },
};
use std::{collections::HashSet, sync::Arc};

/// How a socket gets its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// As they are published.
    Live,
    /// In pages from the history; what is published meanwhile waits there.
    Replaying,
    /// The finals from PostgreSQL first, then a new position.
    Resyncing(ResyncReason),
}

/// What became of a live event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It waits to be sent.
    Queued,
    /// It is not for this socket, or was sent already, or a replay will bring it.
    Skipped,
    /// Something before it is missing: the socket replays from now on.
    Gap,
    /// There was no room: the socket replays from now on, and must prove that it reads.
    Overflow,
}

/// What to read for a socket that catches up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Want {
    /// Goes back with the page; a page of an earlier generation is dropped.
    pub(crate) generation: u64,
    /// Read what comes after this.
    pub(crate) cursor: Cursor,
    /// Events at most.
    pub(crate) room: usize,
    /// The resync that an earlier page began.
    pub(crate) pending: Option<ResyncReason>,
}

/// Final events from PostgreSQL, ascending.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(crate) struct Finals {
    /// As many as there was room for.
    pub(crate) events: Vec<Arc<StreamEvent>>,
    /// Whether these are all that are left of the range.
    pub(crate) complete: bool,
}

/// One page for a socket that catches up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    /// The [`Want::generation`] it was read for.
    pub(crate) generation: u64,
    /// What the history said.
    pub(crate) read: HistoryRead,
    /// What [`plan`](super::replay::plan) made of it.
    pub(crate) plan: Plan,
    /// The finals that the plan asked for.
    pub(crate) finals: Finals,
    /// Whether no event after the head was published while the page was read.
    pub(crate) quiet: bool,
}

/// What a page led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    /// The socket has everything; live events go to it from now on.
    Live,
    /// Another page is needed.
    More,
    /// The page was for an earlier position, or the socket is closing.
    Stale,
}

/// One socket's position and queue.
///
/// Invariants: positions enter the queue ascending within an epoch, each once; final events enter ascending,
/// each once; while not live, nothing enters but pages.
#[derive(Debug)]
pub(crate) struct SocketState {
    cursor: Cursor,
    mode: Mode,
    queue: Queue,
    tasks: Option<HashSet<TaskId>>,
    closing: Option<CloseCause>,
    closed: bool,
    generation: u64,
    reading: bool,
    // the last page did not fit: wait until the client has taken everything
    full: bool,
    // a live event did not fit, and no page has reached the end since
    overflowed: bool,
}

impl SocketState {
    /// A socket that has been told `position`.
    #[must_use]
    pub(crate) fn live(limits: QueueLimits, position: Position) -> Self {
        let Position { epoch, seq, final_no } = position;
        Self::at(limits, Cursor { epoch, seq, final_no: Some(final_no) }, Mode::Live)
    }

    /// A socket whose client has everything up to `from`.
    #[must_use]
    pub(crate) fn resuming(limits: QueueLimits, from: ResumeFrom) -> Self {
        let ResumeFrom { epoch, seq, final_no } = from;
        Self::at(limits, Cursor { epoch, seq, final_no }, Mode::Replaying)
    }

    fn at(limits: QueueLimits, cursor: Cursor, mode: Mode) -> Self {
        Self {
            cursor,
            mode,
            queue: Queue::new(limits),
            tasks: None,
            closing: None,
            closed: false,
            generation: 0,
            reading: false,
            full: false,
            overflowed: false,
        }
    }

    /// A live event of the socket's user.
    pub(crate) fn offer(&mut self, event: &Arc<StreamEvent>) -> Offer {
        let Some((epoch, seq)) = event.position.as_ref() else { return Offer::Skipped };
        if self.closing.is_some() || self.mode != Mode::Live {
            return Offer::Skipped;
        }
        if *epoch == self.cursor.epoch && *seq <= self.cursor.seq {
            return Offer::Skipped;
        }
        match self.accept(event, epoch, *seq) {
            Ok(true) => Offer::Queued,
            Ok(false) => Offer::Skipped,
            Err(Refused::Gap) => {
                self.catch_up();
                Offer::Gap
            }
            Err(Refused::Full) => {
                self.catch_up();
                self.overflowed = true;
                Offer::Overflow
            }
        }
    }

    /// Takes the event that directly follows the cursor; `Ok(false)` if the client is not to see it.
    fn accept(&mut self, event: &Arc<StreamEvent>, epoch: &Epoch, seq: u64) -> Result<bool, Refused> {
        if *epoch != self.cursor.epoch || seq != self.cursor.seq.saturating_add(1) {
            return Err(Refused::Gap);
        }
        let mut wanted = self.wants(event);
        if let Some(final_no) = event.final_no {
            let last = self.cursor.final_no.unwrap_or(final_no - 1);
            if final_no > last + 1 {
                return Err(Refused::Gap);
            }
            wanted &= final_no > last;
            if wanted {
                self.queue.push_event(Arc::clone(event))?;
            }
            self.cursor.final_no = Some(last.max(final_no));
        } else if wanted {
            self.queue.push_event(Arc::clone(event))?;
        }
        self.cursor.seq = seq;
        Ok(wanted)
    }

    fn wants(&self, event: &StreamEvent) -> bool {
        match (&self.tasks, event.class) {
            (None, _) | (_, EventClass::User) => true,
            (Some(tasks), _) => event.task.is_some_and(|task| tasks.contains(&task)),
        }
    }

    /// From now on the socket gets its events from the history, until it has all of them.
    pub(crate) fn catch_up(&mut self) {
        if self.mode == Mode::Live {
            self.mode = Mode::Replaying;
        }
    }

    /// Starts over from what the client says it has. What waits to be sent is dropped: the replay brings it.
    pub(crate) fn resume(&mut self, from: ResumeFrom) {
        let ResumeFrom { epoch, seq, final_no } = from;
        self.cursor = Cursor { epoch, seq, final_no };
        self.mode = Mode::Replaying;
        self.queue.clear();
        self.forget_reading();
    }

    /// A page that was being read will not come, or is not to count.
    pub(crate) fn forget_reading(&mut self) {
        self.generation += 1;
        self.reading = false;
        self.full = false;
    }

    /// What to read next, if a page is needed, none is being read, and there is room for one.
    pub(crate) fn want(&mut self) -> Option<Want> {
        if !self.needs_page() {
            return None;
        }
        self.reading = true;
        let pending = match self.mode {
            Mode::Resyncing(reason) => Some(reason),
            _ => None,
        };
        let room = self.queue.room_for_replay();
        Some(Want { generation: self.generation, cursor: self.cursor.clone(), room, pending })
    }

    /// Whether [`Self::want`] would say something.
    #[must_use]
    pub(crate) fn needs_page(&self) -> bool {
        self.mode != Mode::Live
            && !self.reading
            && self.closing.is_none()
            && self.queue.room_for_replay() > 0
            && (!self.full || self.queue.is_empty())
    }

    /// Takes in a page that was wanted.
    pub(crate) fn apply(&mut self, page: Page) -> Applied {
        if page.generation != self.generation || self.closing.is_some() {
            return Applied::Stale;
        }
        self.reading = false;
        let end = page.read.head.seq;
        self.full = self.apply_page(page).is_err();
        if self.cursor.seq >= end {
            self.overflowed = false;
        }
        if self.mode == Mode::Live { Applied::Live } else { Applied::More }
    }

    fn apply_page(&mut self, page: Page) -> Result<(), Full> {
        let Page { read, plan, finals, quiet, .. } = page;
        if let Plan::Resync { reason, .. } = plan {
            self.mode = Mode::Resyncing(reason);
        }
        if let Some(range) = plan.finals() {
            self.push_finals(&finals, range)?;
            if !finals.complete {
                return Ok(());
            }
        }
        match self.mode {
            Mode::Resyncing(reason) if matches!(plan, Plan::Resync { .. }) => {
                self.finish_resync(reason, read, quiet);
                Ok(())
            }
            // the finals of a replay turned out to be older than kept: the next page resyncs
            Mode::Resyncing(_) => Ok(()),
            Mode::Live | Mode::Replaying => self.replay(&read, quiet),
        }
    }

    fn push_finals(&mut self, finals: &Finals, range: FinalRange) -> Result<(), Full> {
        for event in &finals.events {
            let (Some(final_no), Some(last)) = (event.final_no, self.cursor.final_no) else { continue };
            if final_no > last + 1 && self.mode == Mode::Replaying {
                self.mode = Mode::Resyncing(ResyncReason::HistoryLost);
            }
            if final_no > last {
                if self.wants(event) {
                    self.queue.push_event(Arc::clone(event))?;
                }
                self.cursor.final_no = Some(final_no);
            }
        }
        if finals.complete && self.cursor.final_no.is_some_and(|last| last < range.upto) {
            // older than PostgreSQL keeps them
            if self.mode == Mode::Replaying {
                self.mode = Mode::Resyncing(ResyncReason::HistoryLost);
            }
            self.cursor.final_no = Some(range.upto);
        }
        Ok(())
    }

    fn finish_resync(&mut self, reason: ResyncReason, read: HistoryRead, quiet: bool) {
        // a final that PostgreSQL does not know of was never sent by us
        let told = self.cursor.final_no.filter(|&last| last <= read.newest_final);
        let final_no = told.map_or(read.head.final_no, |last| last.max(read.head.final_no));
        let position = Position { final_no, ..read.head };
        self.cursor = Cursor { epoch: position.epoch.clone(), seq: position.seq, final_no: Some(final_no) };
        self.queue.push_resync(reason, position);
        self.mode = if quiet { Mode::Live } else { Mode::Replaying };
    }

    fn replay(&mut self, read: &HistoryRead, quiet: bool) -> Result<(), Full> {
        for entry in &read.entries {
            let Some((epoch, seq)) = entry.position.as_ref() else { continue };
            if *seq <= self.cursor.seq {
                continue;
            }
            match self.accept(entry, epoch, *seq) {
                Ok(_) => {}
                // the next page begins here and will say why
                Err(Refused::Gap) => return Ok(()),
                Err(Refused::Full) => return Err(Full),
            }
        }
        if self.cursor.seq == read.head.seq {
            self.cursor.final_no.get_or_insert(read.head.final_no);
            if quiet && self.cursor.final_no.is_some_and(|last| last >= read.head.final_no) {
                self.mode = Mode::Live;
            }
        }
        Ok(())
    }

    /// Limits what the socket gets to these tasks and what concerns the user; `None` is everything.
    pub(crate) fn set_tasks(&mut self, tasks: Option<HashSet<TaskId>>) {
        self.tasks = tasks;
    }

    /// The socket ends. What waits is dropped, but for a restart, which can wait for it.
    pub(crate) fn close(&mut self, cause: CloseCause) {
        if self.closing.is_none() {
            self.closing = Some(cause);
            if cause != CloseCause::Restarting {
                self.queue.clear();
            }
        }
    }

    /// What to send next.
    pub(crate) fn pop(&mut self) -> Option<Outgoing> {
        let next = self.queue.pop();
        if next.is_some() || self.closed {
            return next;
        }
        let cause = self.closing?;
        self.closed = true;
        Some(Outgoing::Close(cause))
    }

    /// Whether something waits to be sent.
    #[must_use]
    pub(crate) fn has_waiting(&self) -> bool {
        !self.queue.is_empty() || (self.closing.is_some() && !self.closed)
    }

    /// Why the socket is ending, if it is.
    #[must_use]
    pub(crate) fn closing(&self) -> Option<CloseCause> {
        self.closing
    }

    /// Whether its client has not caught up since more came than its queue holds.
    pub(crate) fn overflowed(&self) -> bool {
        self.overflowed && self.closing.is_none()
    }

    /// Events that wait.
    #[must_use]
    pub(crate) fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// The position the client has once its queue is drained.
    #[must_use]
    pub(crate) fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The last final event, if the socket gets live events.
    #[must_use]
    pub(crate) fn live_final(&self) -> Option<i64> {
        self.cursor.final_no.filter(|_| self.mode == Mode::Live && self.closing.is_none())
    }
}

enum Refused {
    Gap,
    Full,
}

impl From<Full> for Refused {
    fn from(_: Full) -> Self {
        Self::Full
    }
}
