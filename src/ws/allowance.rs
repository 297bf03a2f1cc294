//! How many frames a client may send. Pure: time is an argument.

use std::time::{Duration, Instant};

/// Frames at once.
const BURST: u32 = 60;

/// Time for one more.
const REFILL: Duration = Duration::from_millis(100);

/// A client's allowance: 60 frames at once and 10 a second.
#[derive(Debug)]
pub(super) struct Allowance {
    left: u32,
    refilled_at: Instant,
    refused: bool,
}

/// Whether a frame is heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hearing {
    /// It is.
    Heard,
    /// It is not, and the client should be told.
    Refused,
    /// It is not; the client was told with an earlier one.
    Ignored,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { left: BURST, refilled_at: now, refused: false }
    }

    /// Counts a frame that came at `now`.
    pub(super) fn take(&mut self, now: Instant) -> Hearing {
        let passed = now.saturating_duration_since(self.refilled_at);
        let earned = u32::try_from(passed.as_millis() / REFILL.as_millis()).unwrap_or(u32::MAX);
        if earned > 0 {
            self.left = self.left.saturating_add(earned).min(BURST);
            self.refilled_at += REFILL * earned.min(1 << 20);
        }
        if self.left == BURST {
            self.refilled_at = now;
        }
        if self.left > 0 {
            self.left -= 1;
            self.refused = false;
            return Hearing::Heard;
        }
        if std::mem::replace(&mut self.refused, true) { Hearing::Ignored } else { Hearing::Refused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_heard_and_the_next_is_refused_once() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        for _ in 0..BURST {
            assert_eq!(allowance.take(start), Hearing::Heard);
        }
        assert_eq!(allowance.take(start), Hearing::Refused);
        assert_eq!(allowance.take(start), Hearing::Ignored);
    }

    #[test]
    fn ten_a_second_are_heard_for_ever_and_a_pause_gives_the_burst_back() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        for frame in 0..10_000 {
            assert_eq!(allowance.take(start + REFILL * frame), Hearing::Heard);
        }
        let later = start + REFILL * 10_000 + Duration::from_secs(3600);
        let heard = (0..1_000).filter(|_| allowance.take(later) == Hearing::Heard).count();
        assert_eq!(heard, BURST as usize);
    }
}
