//! How many tasks of all users are queued, as this replica knows it: counted in PostgreSQL from time to time, and in
//! between by what was accepted and claimed here. Pure.
//!
//! What is accepted while a count is under way may be in it or not, and is taken to be beyond it: so this replica by
//! itself never accepts too many, and for one count may refuse a few too early.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The count.
#[derive(Debug, Default)]
pub(super) struct QueuedCount {
    parts: Mutex<Parts>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Parts {
    /// As last counted, less what was claimed here since; so it may be below zero.
    counted: i64,
    /// Accepted here, and perhaps not in the last count.
    accepted: i64,
    /// Asked for here and not answered yet.
    coming: i64,
}

/// A task that is counted while it is not decided whether it is accepted.
#[derive(Debug)]
pub(super) struct ComingTask {
    count: Arc<QueuedCount>,
}

/// A count that is under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct CountBegun {
    /// Accepted before it, so it will find them.
    accepted: i64,
}

impl QueuedCount {
    /// The count now.
    pub(super) fn total(&self) -> i64 {
        let Parts { counted, accepted, coming } = *self.parts();
        counted + accepted + coming
    }

    /// Counts one more, unless that were more than `most`; 0 is no bound.
    pub(super) fn one_more(self: &Arc<Self>, most: u32) -> Option<ComingTask> {
        let mut parts = self.parts();
        let Parts { counted, accepted, coming } = *parts;
        if most > 0 && counted + accepted + coming >= i64::from(most) {
            return None;
        }
        parts.coming += 1;
        Some(ComingTask { count: Arc::clone(self) })
    }

    /// To be called before PostgreSQL is asked.
    pub(super) fn begin(&self) -> CountBegun {
        CountBegun { accepted: self.parts().accepted }
    }

    /// PostgreSQL has found so many.
    pub(super) fn end(&self, begun: CountBegun, found: i64) {
        let mut parts = self.parts();
        parts.counted = found;
        parts.accepted -= begun.accepted;
    }

    /// So many were claimed here.
    pub(super) fn claimed(&self, tasks: i64) {
        self.parts().counted -= tasks;
    }

    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ComingTask {
    /// It is queued.
    pub(super) fn accepted(self) {
        self.count.parts().accepted += 1;
    }
}

impl Drop for ComingTask {
    fn drop(&mut self) {
        self.count.parts().coming -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_or_never_answered_counts_no_more() {
        let count = Arc::new(QueuedCount::default());
        let (one, two) = (count.one_more(2).unwrap(), count.one_more(2).unwrap());
        assert!(count.one_more(2).is_none());
        drop(one);
        two.accepted();
        assert_eq!(count.total(), 1);
        assert!(count.one_more(0).is_some(), "0 is no bound");
    }

    #[test]
    fn a_count_forgets_nothing_that_was_accepted_while_it_was_made() {
        let count = Arc::new(QueuedCount::default());
        count.one_more(4).unwrap().accepted();
        let coming = count.one_more(4).unwrap();
        let begun = count.begin();
        coming.accepted();
        count.end(begun, 1);
        assert_eq!(count.total(), 2);
        // the next one finds both
        let begun = count.begin();
        count.end(begun, 2);
        assert_eq!(count.total(), 2);
    }

    #[test]
    fn what_is_claimed_makes_room_before_the_next_count() {
        let count = Arc::new(QueuedCount::default());
        count.one_more(1).unwrap().accepted();
        assert!(count.one_more(1).is_none());
        count.claimed(1);
        assert!(count.one_more(1).is_some());
        let begun = count.begin();
        count.end(begun, 0);
        assert_eq!(count.total(), 0);
    }
}
