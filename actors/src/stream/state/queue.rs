//! The bounded queue of one socket.

use crate::{
    ids::TaskId,
    stream::messages::{Epoch, EventClass, Outgoing, Position, ResyncReason, StreamEvent},
};
use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

/// How much may wait for one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueLimits {
    /// Events, at least 1.
    pub(crate) events: usize,
    /// Bytes of their bodies; one event alone may be larger.
    pub(crate) bytes: usize,
}

/// The queue has no room, also after merging what can be merged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

/// What waits to be sent on one socket, in order.
///
/// Progress that directly follows progress of the same task replaces it at once, so the positions a merged
/// event stands for are its own. Only when the queue is full is all progress of a task merged into its newest,
/// over other events in between.
#[derive(Debug)]
pub(crate) struct Queue {
    limits: QueueLimits,
    items: VecDeque<Outgoing>,
    bytes: usize,
}

impl Queue {
    /// An empty queue.
    #[must_use]
    pub(crate) fn new(limits: QueueLimits) -> Self {
        Self { limits, items: VecDeque::new(), bytes: 0 }
    }

    /// Adds `event` at the end.
    ///
    /// # Errors
    /// [`Full`]; the queue is as before but for merges.
    pub(crate) fn push_event(&mut self, event: Arc<StreamEvent>) -> Result<(), Full> {
        if self.merge_into_last(&event) {
            return Ok(());
        }
        if !self.has_room_for(&event) {
            self.merge_all_progress();
            if !self.has_room_for(&event) {
                return Err(Full);
            }
        }
        self.bytes += event.body.len();
        self.items.push_back(Outgoing::Event { event, from_seq: None });
        Ok(())
    }

    /// Adds word of a new position. It counts as an event but is never refused: there is one a replay.
    pub(crate) fn push_resync(&mut self, reason: ResyncReason, position: Position) {
        self.items.push_back(Outgoing::Resync { reason, position });
    }

    /// Takes what is to be sent next.
    pub(crate) fn pop(&mut self) -> Option<Outgoing> {
        let next = self.items.pop_front()?;
        if let Outgoing::Event { event, .. } = &next {
            self.bytes -= event.body.len();
        }
        if self.items.is_empty() && self.items.capacity() > 64 {
            // thousands of idle sockets must not keep the room of their busiest moment
            self.items = VecDeque::new();
        }
        Some(next)
    }

    /// Drops everything.
    pub(crate) fn clear(&mut self) {
        self.items = VecDeque::new();
        self.bytes = 0;
    }

    /// Items that wait.
    #[must_use]
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// How many events a replay may add now: none until half of the queue is free.
    #[must_use]
    pub(crate) fn room_for_replay(&self) -> usize {
        let half_free = self.items.len() <= self.limits.events / 2 && self.bytes <= self.limits.bytes / 2;
        if half_free { self.limits.events - self.items.len() } else { 0 }
    }

    fn has_room_for(&self, event: &StreamEvent) -> bool {
        self.items.is_empty()
            || (self.items.len() < self.limits.events
                && self.bytes.saturating_add(event.body.len()) <= self.limits.bytes)
    }

    fn merge_into_last(&mut self, event: &Arc<StreamEvent>) -> bool {
        let Some(key) = MergeKey::of(event) else { return false };
        let Some(Outgoing::Event { event: last, from_seq }) = self.items.back_mut() else { return false };
        if MergeKey::of(last) != Some(key) {
            return false;
        }
        *from_seq = from_seq.or_else(|| seq_of(last));
        self.bytes = self.bytes - last.body.len() + event.body.len();
        *last = Arc::clone(event);
        true
    }

    fn merge_all_progress(&mut self) {
        // from the newest to the oldest: each task's newest stays and takes over where the others began
        let mut kept = VecDeque::with_capacity(self.items.len());
        let mut newest: HashMap<(Epoch, TaskId), usize> = HashMap::new();
        for item in std::mem::take(&mut self.items).into_iter().rev() {
            if let Outgoing::Event { event, from_seq } = &item
                && let Some(key) = MergeKey::of(event)
            {
                let owned = (key.epoch.clone(), key.task);
                let begin = from_seq.or_else(|| seq_of(event));
                let later = newest.get(&owned).and_then(|&index| kept.get_mut(index));
                if let Some(Outgoing::Event { from_seq: later_from, .. }) = later {
                    *later_from = begin;
                    self.bytes -= event.body.len();
                    continue;
                }
                newest.insert(owned, kept.len());
            }
            kept.push_back(item);
        }
        kept.make_contiguous().reverse();
        self.items = kept;
    }
}

#[derive(PartialEq, Eq)]
struct MergeKey<'a> {
    epoch: &'a Epoch,
    task: TaskId,
}

impl<'a> MergeKey<'a> {
    fn of(event: &'a StreamEvent) -> Option<Self> {
        let mergeable = event.class == EventClass::Progress && event.final_no.is_none();
        let (epoch, _) = event.position.as_ref().filter(|_| mergeable)?;
        Some(Self { epoch, task: event.task? })
    }
}

fn seq_of(event: &StreamEvent) -> Option<u64> {
    event.position.as_ref().map(|&(_, seq)| seq)
}
