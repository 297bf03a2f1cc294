//! How many calls of a provider may leave now, so that no span of time sees more than its limit. Pure.
//!
//! Calls are counted in buckets, newest first, by PostgreSQL's clock; a call may leave while the buckets of the
//! whole span hold fewer than the limit. The buckets reach a little further back than the span, so that any second
//! and any minute keeps to its limit at the provider too, where calls that left one after the other may come in
//! closer together: a second is counted as 1.1 to 1.15 s, a minute as 61 to 62 s.

use super::provider::RateLimit;
use std::time::Duration;

/// A span of time and how it is counted.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// The length of a bucket, milliseconds.
    bucket: i64,
    /// The buckets that count, the one of now among them.
    buckets: usize,
}

const SECOND: Span = Span { bucket: 50, buckets: 23 };
const MINUTE: Span = Span { bucket: 1_000, buckets: 62 };

impl Span {
    fn length(self) -> i64 {
        i64::try_from(self.buckets).unwrap_or(0)
    }
}

/// The calls of one span.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Window {
    /// The number of the newest bucket, counted from the epoch.
    pub(crate) newest: i64,
    /// Calls in the newest bucket, in the one before, and so on.
    pub(crate) calls: Vec<i32>,
}

impl Window {
    /// Moves on to `now`, milliseconds since the epoch.
    fn advance(&mut self, span: Span, now: i64) {
        let bucket = now.div_euclid(span.bucket);
        let ahead = bucket.saturating_sub(self.newest);
        // a clock that went back by more than the span is another clock: what it counted says nothing
        if ahead.abs() >= span.length() {
            self.calls.clear();
        } else if let Ok(ahead) = usize::try_from(ahead) {
            self.calls.splice(0..0, std::iter::repeat_n(0, ahead));
        } else {
            return;
        }
        self.newest = bucket;
        self.calls.resize(span.buckets, 0);
    }

    fn counted(&self) -> u64 {
        self.calls.iter().map(|&calls| u64::try_from(calls).unwrap_or(0)).sum()
    }

    fn room(&self, limit: u32) -> u32 {
        u32::try_from(u64::from(limit).saturating_sub(self.counted())).unwrap_or(u32::MAX)
    }

    fn take(&mut self, calls: u32) {
        if let Some(newest) = self.calls.first_mut() {
            *newest = newest.saturating_add(i32::try_from(calls).unwrap_or(i32::MAX));
        }
    }

    /// How long after `now` there is room again.
    fn opens_in(&self, span: Span, limit: u32, now: i64) -> Duration {
        let mut counted = self.counted();
        let mut bucket = self.newest.saturating_sub(span.length());
        for &calls in self.calls.iter().rev() {
            bucket = bucket.saturating_add(1);
            if counted < u64::from(limit) {
                break;
            }
            counted -= u64::try_from(calls).unwrap_or(0).min(counted);
            if counted < u64::from(limit) {
                let leaves_at = bucket.saturating_add(span.length()).saturating_mul(span.bucket);
                return Duration::from_millis(u64::try_from(leaves_at.saturating_sub(now)).unwrap_or(0));
            }
        }
        Duration::ZERO
    }
}

/// What has been counted of one provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) second: Window,
    pub(crate) minute: Window,
}

impl Rates {
    /// How many calls may leave at `now`, milliseconds since the epoch.
    pub(crate) fn room(&mut self, limit: RateLimit, now: i64) -> u32 {
        self.second.advance(SECOND, now);
        self.minute.advance(MINUTE, now);
        let second = limit.per_second.map_or(u32::MAX, |limit| self.second.room(limit));
        let minute = limit.per_minute.map_or(u32::MAX, |limit| self.minute.room(limit));
        second.min(minute)
    }

    /// Counts calls that leave at the time [`Self::room`] was asked for.
    pub(crate) fn take(&mut self, calls: u32) {
        self.second.take(calls);
        self.minute.take(calls);
    }

    /// How long after `now` another call may leave, as far as is known now.
    pub(crate) fn opens_in(&self, limit: RateLimit, now: i64) -> Duration {
        let second = limit.per_second.map(|limit| self.second.opens_in(SECOND, limit, now));
        let minute = limit.per_minute.map(|limit| self.minute.opens_in(MINUTE, limit, now));
        second.max(minute).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOON: i64 = 1_800_000_000_000;

    fn per_second(calls: u32) -> RateLimit {
        RateLimit { per_second: Some(calls), per_minute: None }
    }

    #[test]
    fn a_second_that_is_full_opens_when_its_calls_have_left_it() {
        let mut rates = Rates::default();
        assert_eq!(rates.room(per_second(3), NOON), 3);
        rates.take(2);
        assert_eq!(rates.opens_in(per_second(3), NOON), Duration::ZERO);
        assert_eq!(rates.room(per_second(3), NOON + 400), 1);
        rates.take(1);
        assert_eq!(rates.room(per_second(3), NOON + 410), 0);
        assert_eq!(rates.opens_in(per_second(3), NOON + 410), Duration::from_millis(740));
        assert_eq!(rates.room(per_second(3), NOON + 1_149), 0);
        assert_eq!(rates.room(per_second(3), NOON + 1_150), 2);
        assert_eq!(rates.room(per_second(3), NOON + 60_000), 3);
    }

    #[test]
    fn the_narrower_limit_holds() {
        let both = RateLimit { per_second: Some(10), per_minute: Some(12) };
        let mut rates = Rates::default();
        assert_eq!(rates.room(both, NOON), 10);
        rates.take(10);
        assert_eq!(rates.room(both, NOON + 2_000), 2);
        rates.take(2);
        assert_eq!(rates.room(both, NOON + 4_000), 0);
        assert_eq!(rates.opens_in(both, NOON + 4_000), Duration::from_secs(58));
        assert_eq!(rates.room(both, NOON + 62_000), 10);
    }

    #[test]
    fn a_limit_that_was_lowered_waits_until_enough_has_left() {
        let mut rates = Rates::default();
        rates.room(per_second(10), NOON);
        rates.take(6);
        rates.room(per_second(10), NOON + 500);
        rates.take(3);
        assert_eq!(rates.room(per_second(3), NOON + 600), 0);
        assert_eq!(rates.opens_in(per_second(3), NOON + 600), Duration::from_millis(1_050));
        assert_eq!(rates.room(per_second(3), NOON + 1_650), 3);
    }

    #[test]
    fn a_clock_that_goes_back_stops_nothing_for_long() {
        let mut rates = Rates::default();
        rates.room(per_second(1), NOON);
        rates.take(1);
        assert_eq!(rates.room(per_second(1), NOON - 200), 0, "a little: the newest bucket stays");
        assert_eq!(rates.room(per_second(1), NOON - 3_600_000), 1, "an hour: it is counted anew");
    }

    proptest! {
        #[test]
        fn no_span_sees_more_than_its_limit(
            per_second in 1_u32..8,
            per_minute in 1_u32..60,
            asks in prop::collection::vec((0_i64..400, 0_u32..6), 1..400),
        ) {
            let limit = RateLimit { per_second: Some(per_second), per_minute: Some(per_minute) };
            let mut rates = Rates::default();
            let (mut now, mut left) = (NOON, Vec::new());
            for (pause, wanted) in asks {
                now += pause;
                let calls = rates.room(limit, now).min(wanted);
                rates.take(calls);
                left.extend((0..calls).map(|_| now));
                // 100 ms and a second more, for the way
                for (span, most) in [(1_100, per_second), (61_000, per_minute)] {
                    let within = left.iter().filter(|&&at| now - at < span).count();
                    prop_assert!(within <= most as usize, "{within} in {span} ms");
                }
            }
        }

        #[test]
        fn there_is_room_when_it_was_promised_and_not_before(
            per_second in 1_u32..8,
            per_minute in 1_u32..60,
            asks in prop::collection::vec((0_i64..400, 0_u32..6), 1..200),
        ) {
            let limit = RateLimit { per_second: Some(per_second), per_minute: Some(per_minute) };
            let mut rates = Rates::default();
            let mut now = NOON;
            for (pause, wanted) in asks {
                now += pause;
                let calls = rates.room(limit, now).min(wanted);
                rates.take(calls);
                let opens_in = i64::try_from(rates.opens_in(limit, now).as_millis()).unwrap();
                prop_assert_eq!(rates.clone().room(limit, now) > 0, opens_in == 0);
                prop_assert!(rates.clone().room(limit, now + opens_in) > 0);
                if opens_in > 0 {
                    prop_assert_eq!(rates.clone().room(limit, now + opens_in - 1), 0);
                }
            }
        }
    }
}
