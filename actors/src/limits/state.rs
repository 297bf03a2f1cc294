//! The rule of limits. Pure: time is an argument, in microseconds of whatever clock.
//!
//! A subject has a bucket that holds a minute's requests and fills evenly (the generic cell rate algorithm). All
//! that is kept of it is when it will be full again: what it owes is the time until then, a request adds its share
//! of a minute, and one that would make it owe more than a minute is refused. So as many as the limit pass at
//! once, and after that one whenever its share of a minute has passed.
//!
//! `charge.lua` is the same rule in Redis; `tests/it/limits.rs` holds the two against each other.

use std::collections::HashMap;

const MINUTE_US: u64 = 60_000_000;
const SECOND_US: u64 = 1_000_000;

/// A request that counts for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    /// The limit's name, in keys and figures.
    pub limit: &'static str,
    /// For whom it counts.
    pub subject: String,
    /// Requests a minute; 0 is off.
    pub per_minute: u32,
    /// What holds while Redis is away.
    pub without_redis: WithoutRedis,
}

/// What holds while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutRedis {
    /// The process counts by itself, so a subject has the limit once with each replica.
    CountHere,
    /// Nothing passes: this limit is there against guessing, and must not open because something fails.
    Refuse,
}

/// Where a subject stands with a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The limit's name.
    pub limit: &'static str,
    /// Requests a minute.
    pub per_minute: u32,
    owed_us: u64,
}

/// Whether a request passes, and the standing that says most of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was charged to all. Of several standings, the one with the fewest requests left.
    Granted(Standing),
    /// It was charged to none. Of several that have no room, the one that takes longest to have some.
    Refused(Standing),
}

impl Charge {
    pub(super) fn key(&self) -> String {
        format!("limit:{}:{}", self.limit, self.subject)
    }

    pub(super) fn standing(&self, owed_us: u64) -> Standing {
        Standing { limit: self.limit, per_minute: self.per_minute, owed_us }
    }
}

impl Standing {
    /// How many more would pass now.
    #[must_use]
    pub fn remaining(&self) -> u32 {
        let left = self.room_us().saturating_sub(self.owed_us) / self.cost_us();
        u32::try_from(left).unwrap_or(u32::MAX)
    }

    /// Seconds until as many as the limit would pass.
    #[must_use]
    pub fn reset_s(&self) -> u64 {
        self.owed_us.div_ceil(SECOND_US)
    }

    /// Seconds until one more passes.
    #[must_use]
    pub fn retry_after_s(&self) -> u64 {
        self.wait_us().div_ceil(SECOND_US)
    }

    fn wait_us(&self) -> u64 {
        (self.owed_us + self.cost_us()).saturating_sub(self.room_us())
    }

    /// A request's share of a minute.
    pub(super) fn cost_us(&self) -> u64 {
        (MINUTE_US / u64::from(self.per_minute.max(1))).max(1)
    }

    /// What a bucket may owe: a minute, or where the share is no whole number a hair less, so that exactly the limit
    /// passes at once.
    pub(super) fn room_us(&self) -> u64 {
        self.cost_us() * u64::from(self.per_minute)
    }
}

impl Verdict {
    /// The verdict over standings as they are after the request. There must be one at least.
    pub(super) fn of(granted: bool, standings: Vec<Standing>) -> Option<Self> {
        if granted {
            standings.into_iter().min_by_key(Standing::remaining).map(Self::Granted)
        } else {
            standings.into_iter().max_by_key(Standing::wait_us).map(Self::Refused)
        }
    }
}

/// The buckets of one process, so many at most: when there are more, those asked about longest ago are forgotten.
#[derive(Debug)]
pub struct Buckets {
    /// When each will be full. What is asked about moves to `recent`; when that holds half of what may be kept,
    /// it becomes `older` and what was older is dropped.
    recent: HashMap<String, u64>,
    older: HashMap<String, u64>,
    half: usize,
}

impl Buckets {
    /// Full ones, of which at most `most` are remembered.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { recent: HashMap::new(), older: HashMap::new(), half: (most / 2).max(1) }
    }

    /// Charges one request to all of `charges`, or to none. `None` where there are none.
    pub fn charge(&mut self, charges: &[&Charge], now_us: u64) -> Option<Verdict> {
        let keys: Vec<String> = charges.iter().map(|charge| charge.key()).collect();
        let mut standings: Vec<Standing> = Vec::with_capacity(charges.len());
        for (charge, key) in charges.iter().zip(&keys) {
            let full_at = self.recent.get(key).or_else(|| self.older.get(key)).copied().unwrap_or(0);
            let mut standing = charge.standing(full_at.saturating_sub(now_us));
            standing.owed_us = standing.owed_us.min(standing.room_us());
            standings.push(standing);
        }
        let granted = standings.iter().all(|standing| standing.wait_us() == 0);
        for (standing, key) in standings.iter_mut().zip(keys) {
            if granted {
                standing.owed_us += standing.cost_us();
            }
            self.keep(key, now_us + standing.owed_us);
        }
        Verdict::of(granted, standings)
    }

    fn keep(&mut self, key: String, full_at: u64) {
        if self.recent.len() >= self.half && !self.recent.contains_key(&key) {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key, full_at);
    }

    /// How many are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.recent.len() + self.older.len()
    }

    /// Whether none is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn charge(subject: impl ToString, per_minute: u32) -> Charge {
        let subject = subject.to_string();
        Charge { limit: "tests", subject, per_minute, without_redis: WithoutRedis::CountHere }
    }

    fn passes(buckets: &mut Buckets, charge: &Charge, now_us: u64) -> bool {
        matches!(buckets.charge(&[charge], now_us), Some(Verdict::Granted(_)))
    }

    #[test]
    fn nothing_to_charge_is_no_verdict() {
        assert_eq!(Buckets::new(2).charge(&[], 0), None);
    }

    #[test]
    fn a_request_says_what_is_left() {
        let mut buckets = Buckets::new(2);
        let guest = charge("guest", 3);
        for (remaining, reset_s) in [(2, 20), (1, 40), (0, 60)] {
            let Some(Verdict::Granted(standing)) = buckets.charge(&[&guest], 7) else { panic!("refused") };
            assert_eq!((standing.remaining(), standing.reset_s()), (remaining, reset_s));
        }
        let Some(Verdict::Refused(standing)) = buckets.charge(&[&guest], 7 + 1_500_000) else {
            panic!("granted")
        };
        assert_eq!((standing.remaining(), standing.reset_s(), standing.retry_after_s()), (0, 59, 19));
    }

    #[test]
    fn of_several_limits_the_tightest_is_told_and_a_refusal_is_charged_to_none() {
        let mut buckets = Buckets::new(9);
        let (wide, narrow, other) = (charge("wide", 10), charge("narrow", 2), charge("other", 2));
        for remaining in [1, 0] {
            let Some(Verdict::Granted(standing)) = buckets.charge(&[&wide, &narrow], 0) else {
                panic!("refused")
            };
            assert_eq!((standing.per_minute, standing.remaining()), (2, remaining));
        }
        assert!(passes(&mut buckets, &other, 0));
        for _ in 0..9 {
            let refused = buckets.charge(&[&wide, &other, &narrow], 0);
            assert!(matches!(refused, Some(Verdict::Refused(standing)) if standing.retry_after_s() == 30));
        }
        assert_eq!((0..20).filter(|_| passes(&mut buckets, &wide, 0)).count(), 8);
        assert!(passes(&mut buckets, &other, 0));
    }

    #[test]
    fn whoever_keeps_asking_is_not_forgotten_for_others() {
        let mut buckets = Buckets::new(100);
        let greedy = charge("greedy", 1);
        assert!(passes(&mut buckets, &greedy, 0));
        for other in 0..10_000 {
            passes(&mut buckets, &charge(other, 1), 0);
            assert!(!passes(&mut buckets, &greedy, 0));
            assert!(buckets.len() <= 100);
        }
    }

    proptest! {
        #[test]
        fn in_any_time_pass_the_limit_and_what_that_time_fills(
            per_minute in 1_u32..=1_000_000,
            pauses in proptest::collection::vec(prop_oneof![Just(0), 0_u64..100, 0_u64..20_000_000], 1..400),
        ) {
            let (mut buckets, guest, mut now) = (Buckets::new(2), charge("guest", per_minute), 0);
            let mut granted_at = Vec::new();
            for pause in pauses {
                now += pause;
                if passes(&mut buckets, &guest, now) {
                    granted_at.push(now);
                }
            }
            let cost = guest.standing(0).cost_us();
            for (first, from) in granted_at.iter().enumerate() {
                for (last, to) in granted_at.iter().enumerate().skip(first) {
                    let passed = u64::try_from(last - first + 1).unwrap();
                    prop_assert!(passed <= u64::from(per_minute) + (to - from) / cost);
                }
            }
        }

        #[test]
        fn exactly_what_remains_passes_and_one_more_when_the_wait_is_over(
            per_minute in 1_u32..2_000,
            used in 0_u32..2_000,
            later in 0_u64..60_000_000,
        ) {
            let (mut buckets, guest) = (Buckets::new(2), charge("guest", per_minute));
            for _ in 0..used {
                passes(&mut buckets, &guest, 0);
            }
            let remaining = match buckets.charge(&[&guest], later) {
                Some(Verdict::Granted(standing)) => standing.remaining(),
                _ => 0,
            };
            for _ in 0..remaining {
                prop_assert!(passes(&mut buckets, &guest, later));
            }
            let Some(Verdict::Refused(standing)) = buckets.charge(&[&guest], later) else {
                return Err(TestCaseError::fail("more passed than remained"));
            };
            prop_assert_eq!(standing.remaining(), 0);
            prop_assert!((1..=60).contains(&standing.retry_after_s()));
            prop_assert!(standing.retry_after_s() <= standing.reset_s() && standing.reset_s() <= 60);
            prop_assert!(!passes(&mut buckets, &guest, later + standing.wait_us() - 1));
            prop_assert!(passes(&mut buckets, &guest, later + standing.wait_us()));
        }

        #[test]
        fn few_memories_serve_as_well_as_many_as_long_as_they_suffice(
            asked in proptest::collection::vec((0_u32..5, 0_u64..5_000_000), 1..200),
        ) {
            let (mut few, mut many, mut now) = (Buckets::new(10), Buckets::new(10_000), 0);
            for (subject, pause) in asked {
                now += pause;
                let guest = charge(subject, 1 + subject);
                prop_assert_eq!(few.charge(&[&guest], now), many.charge(&[&guest], now));
                prop_assert!(few.len() <= 10);
            }
        }
    }
}
