//! How many calls a replica repeats of one provider. Pure: time is an argument.
//!
//! A provider that is down must not be called several times as often as one that is well. A repeat takes a token;
//! each first call brings a fifth of one, each call that is answered one, each second one, and a bucket holds
//! [`MOST`]. So a dead provider sees, besides the first calls, at most [`MOST`] repeats, a fifth of the first calls
//! and one a second; one that answers every other call is repeated as often as its steps like.

use std::time::Instant;

/// Tokens in a full bucket, which is how it begins.
const MOST: f64 = 100.0;
const OF_A_FIRST_CALL: f64 = 0.2;
const OF_AN_ANSWER: f64 = 1.0;
const OF_A_SECOND: f64 = 1.0;

/// The bucket.
#[derive(Clone, Debug)]
pub(super) struct RetryBudget {
    tokens: f64,
    at: Instant,
}

impl RetryBudget {
    pub(super) fn new(now: Instant) -> Self {
        Self { tokens: MOST, at: now }
    }

    /// A step's first call of the provider has left.
    pub(super) fn first_call(&mut self) {
        self.put(OF_A_FIRST_CALL);
    }

    /// A call was answered as it should be.
    pub(super) fn answered(&mut self) {
        self.put(OF_AN_ANSWER);
    }

    /// Takes what a repeat costs, if it is there.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        self.put(now.saturating_duration_since(self.at).as_secs_f64() * OF_A_SECOND);
        self.at = self.at.max(now);
        let is_there = self.tokens >= 1.0;
        if is_there {
            self.tokens -= 1.0;
        }
        is_there
    }

    fn put(&mut self, tokens: f64) {
        self.tokens = (self.tokens + tokens).min(MOST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    proptest! {
        #[test]
        fn a_dead_provider_sees_no_more_repeats_than_the_budget(
            calls in prop::collection::vec((0_u64..2_000, 0_usize..4), 1..600),
        ) {
            let start = Instant::now();
            let mut budget = RetryBudget::new(start);
            let (mut now, mut first, mut repeats) = (start, 0_u32, 0_u32);
            for (pause, wanted) in calls {
                now += Duration::from_millis(pause);
                budget.first_call();
                first += 1;
                for _ in 0..wanted {
                    repeats += u32::from(budget.take(now));
                }
            }
            let most = MOST + f64::from(first) / 5.0 + (now - start).as_secs_f64();
            prop_assert!(f64::from(repeats) <= most + 1e-6, "{repeats} repeats of {first} calls");
        }
    }

    #[test]
    fn a_provider_that_answers_every_other_call_is_repeated_as_often_as_is_wished() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(now);
        for _ in 0..10_000 {
            // fails once, then answers
            budget.first_call();
            assert!(budget.take(now));
            budget.answered();
        }
    }

    #[test]
    fn a_spent_budget_fills_with_time() {
        let now = Instant::now();
        let mut budget = RetryBudget::new(now);
        let spent = (0..1_000).filter(|_| budget.take(now)).count();
        assert_eq!(spent, 100);
        assert!(!budget.take(now + Duration::from_millis(900)));
        assert!(budget.take(now + Duration::from_secs(1)));
        assert!(!budget.take(now + Duration::from_secs(1)));
    }
}
