//! When a failed actor is started again, and when to stop trying. Pure: time is an argument.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How often an actor may fail before its process is ended.
#[derive(Clone, Copy, Debug)]
pub struct RestartPolicy {
    /// Failures allowed within [`Self::window`]; one more escalates.
    pub limit: usize,
    /// The window that failures are counted in.
    pub window: Duration,
    /// The pause before the first restart; each further failure in the window doubles it.
    pub backoff: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            limit: 5,
            window: Duration::from_secs(10),
            backoff: Duration::from_millis(10),
            backoff_max: Duration::from_secs(1),
        }
    }
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start a fresh actor after this pause.
    Restart {
        /// How long to wait.
        after: Duration,
    },
    /// The budget is spent: end the process, the service manager starts a new one.
    Escalate,
}

/// The failures of one actor within the window.
#[derive(Debug)]
pub struct RestartBudget {
    policy: RestartPolicy,
    failures: VecDeque<Instant>,
}

impl RestartBudget {
    /// A budget with nothing spent.
    #[must_use]
    pub fn new(policy: RestartPolicy) -> Self {
        Self { policy, failures: VecDeque::new() }
    }

    /// Counts a failure at `now` and says what follows from it.
    pub fn failed(&mut self, now: Instant) -> Decision {
        while self.failures.front().is_some_and(|&at| now.duration_since(at) >= self.policy.window) {
            self.failures.pop_front();
        }
        self.failures.push_back(now);
        if self.failures.len() > self.policy.limit {
            return Decision::Escalate;
        }
        let doublings = u32::try_from(self.failures.len() - 1).unwrap_or(u32::MAX).min(16);
        let pause = self.policy.backoff.saturating_mul(1 << doublings);
        Decision::Restart { after: pause.min(self.policy.backoff_max) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy() -> RestartPolicy {
        RestartPolicy {
            limit: 3,
            window: Duration::from_secs(10),
            backoff: Duration::from_millis(10),
            backoff_max: Duration::from_millis(25),
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let mut budget = RestartBudget::new(policy());
        let now = Instant::now();
        let pauses: Vec<_> = (0..3).map(|_| budget.failed(now)).collect();
        let expected = [10, 20, 25].map(|ms| Decision::Restart { after: Duration::from_millis(ms) });
        assert_eq!(pauses, expected);
    }

    #[test]
    fn one_failure_over_the_limit_escalates() {
        let mut budget = RestartBudget::new(policy());
        let now = Instant::now();
        for _ in 0..3 {
            assert_ne!(budget.failed(now), Decision::Escalate);
        }
        assert_eq!(budget.failed(now), Decision::Escalate);
    }

    #[test]
    fn failures_that_left_the_window_are_forgiven() {
        let mut budget = RestartBudget::new(policy());
        let start = Instant::now();
        for _ in 0..3 {
            budget.failed(start);
        }
        let later = start + Duration::from_secs(10);
        assert_eq!(budget.failed(later), Decision::Restart { after: Duration::from_millis(10) });
    }

    proptest! {
        #[test]
        fn it_escalates_exactly_when_the_window_holds_more_than_the_limit(gaps in prop::collection::vec(0u64..6_000, 1..60)) {
            let mut budget = RestartBudget::new(policy());
            let start = Instant::now();
            let mut at = 0;
            let mut seen: Vec<u64> = Vec::new();
            for gap in gaps {
                at += gap;
                seen.push(at);
                let within = seen.iter().filter(|&&t| at - t < 10_000).count();
                let decision = budget.failed(start + Duration::from_millis(at));
                prop_assert_eq!(decision == Decision::Escalate, within > 3);
            }
        }
    }
}
