//! Whether this replica may act as the owner of its tasks. Pure but for the channel that tells waiting calls.
//!
//! The heartbeat renews the replica's row. What the row's expiry is to others, the monotonic clock is to us: the
//! lease counts from just before a renewal was sent, so we always stop before anybody else may begin.

use std::time::{Duration, Instant};
use tokio::sync::watch;

/// The replica's own view of its lease. Shared by the engine's lives and the calls they let go.
#[derive(Debug)]
pub(super) struct LeaseClock {
    lease: Duration,
    /// Just before the last renewal that succeeded was sent.
    renewed_at: watch::Sender<Option<Instant>>,
}

impl LeaseClock {
    pub(super) fn new(lease: Duration) -> Self {
        Self { lease, renewed_at: watch::channel(None).0 }
    }

    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    /// A renewal that was sent at `sent_at` has succeeded.
    pub(super) fn renewed(&self, sent_at: Instant) {
        self.renewed_at.send_replace(Some(sent_at));
    }

    /// The row is gone: somebody may have our tasks.
    pub(super) fn lost(&self) {
        self.renewed_at.send_replace(None);
    }

    /// Whether the lease is sure to hold at `now`.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.renewed_at.borrow().is_some_and(|at| now.duration_since(at) < self.lease)
    }

    /// Waits until the lease holds.
    pub(super) async fn until_it_holds(&self) {
        let mut changes = self.renewed_at.subscribe();
        while !self.holds(Instant::now()) {
            if changes.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(15);

    #[test]
    fn a_lease_holds_from_the_sending_of_its_renewal() {
        let clock = LeaseClock::new(LEASE);
        let sent = Instant::now();
        assert!(!clock.holds(sent), "nothing was renewed yet");
        clock.renewed(sent);
        assert!(clock.holds(sent + LEASE - Duration::from_millis(1)));
        assert!(!clock.holds(sent + LEASE));
    }

    #[test]
    fn a_buried_owner_holds_nothing() {
        let clock = LeaseClock::new(LEASE);
        let now = Instant::now();
        clock.renewed(now);
        clock.lost();
        assert!(!clock.holds(now));
    }
}
