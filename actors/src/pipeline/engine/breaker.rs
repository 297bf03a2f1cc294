//! The circuit breaker of one provider in one replica. Pure: time is an argument.
//!
//! *Closed*: calls leave, and failures in a row are counted. At the policy's number it *opens*: nothing leaves for
//! a while. Then it is *half open*: one call leaves, the probe. If the provider answers it, the breaker closes; if it
//! fails, the breaker opens again; if it never reached the provider, the next call is the probe.
//!
//! What calls say that left before it opened changes nothing: the probe decides.

use crate::{ids::AttemptId, pipeline::provider::BreakerPolicy};
use std::time::Instant;

/// What a call's end says about its provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// It answered, were it to say no.
    Alive,
    /// It did not do its work.
    Failed,
    /// Nothing: it was not reached, for no fault of its own.
    None,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    HalfOpen { probe: Option<AttemptId> },
}

/// How many calls may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// All.
    All,
    /// One, to see whether the provider is back.
    Probe,
    /// None, until then where that is known.
    None { until: Option<Instant> },
}

/// The breaker.
#[derive(Clone, Debug)]
pub(super) struct Breaker {
    policy: BreakerPolicy,
    state: State,
}

impl Breaker {
    pub(super) fn new(policy: BreakerPolicy) -> Self {
        Self { policy, state: State::Closed { failures: 0 } }
    }

    /// How many calls may leave at `now`.
    pub(super) fn room(&self, now: Instant) -> Room {
        match self.state {
            State::Closed { .. } => Room::All,
            State::Open { until } if until > now => Room::None { until: Some(until) },
            State::Open { .. } | State::HalfOpen { probe: None } => Room::Probe,
            State::HalfOpen { probe: Some(_) } => Room::None { until: None },
        }
    }

    /// A call has left.
    pub(super) fn left(&mut self, call: AttemptId, now: Instant) {
        if self.room(now) == Room::Probe {
            self.state = State::HalfOpen { probe: Some(call) };
        }
    }

    /// A call has ended.
    pub(super) fn ended(&mut self, call: AttemptId, sign: Sign, now: Instant) {
        let open = State::Open { until: now + self.policy.open };
        self.state = match (self.state, sign) {
            (State::Closed { .. }, Sign::Alive) => State::Closed { failures: 0 },
            (State::Closed { failures }, Sign::Failed) if failures + 1 >= self.policy.failures => open,
            (State::Closed { failures }, Sign::Failed) => State::Closed { failures: failures + 1 },
            (State::HalfOpen { probe }, _) if probe == Some(call) => match sign {
                Sign::Alive => State::Closed { failures: 0 },
                Sign::Failed => open,
                Sign::None => State::HalfOpen { probe: None },
            },
            (state, _) => state,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    const OPEN: Duration = Duration::from_secs(30);

    fn breaker(failures: u32) -> Breaker {
        Breaker::new(BreakerPolicy { failures, open: OPEN })
    }

    fn call(breaker: &mut Breaker, sign: Sign, now: Instant) {
        let call = AttemptId::new();
        breaker.left(call, now);
        breaker.ended(call, sign, now);
    }

    #[test]
    fn it_opens_after_failures_in_a_row_only() {
        let now = Instant::now();
        let mut breaker = breaker(3);
        for sign in [Sign::Failed, Sign::Failed, Sign::Alive, Sign::Failed, Sign::None, Sign::Failed] {
            call(&mut breaker, sign, now);
            assert_eq!(breaker.room(now), Room::All);
        }
        call(&mut breaker, Sign::Failed, now);
        assert_eq!(breaker.room(now), Room::None { until: Some(now + OPEN) });
    }

    #[test]
    fn one_probe_leaves_and_its_answer_closes() {
        let now = Instant::now();
        let mut breaker = breaker(1);
        call(&mut breaker, Sign::Failed, now);
        let later = now + OPEN;
        assert_eq!(breaker.room(later), Room::Probe);
        let probe = AttemptId::new();
        breaker.left(probe, later);
        assert_eq!(breaker.room(later), Room::None { until: None });
        breaker.ended(AttemptId::new(), Sign::Alive, later);
        assert_eq!(breaker.room(later), Room::None { until: None }, "a late answer is not the probe's");
        breaker.ended(probe, Sign::Alive, later);
        assert_eq!(breaker.room(later), Room::All);
    }

    #[test]
    fn a_probe_that_fails_opens_again_and_one_that_never_arrived_is_made_anew() {
        let now = Instant::now();
        let mut breaker = breaker(1);
        call(&mut breaker, Sign::Failed, now);
        call(&mut breaker, Sign::None, now + OPEN);
        assert_eq!(breaker.room(now + OPEN), Room::Probe);
        call(&mut breaker, Sign::Failed, now + OPEN);
        assert_eq!(breaker.room(now + OPEN), Room::None { until: Some(now + OPEN + OPEN) });
    }

    #[derive(Debug, Clone)]
    enum Move {
        Leave,
        End(usize, Sign),
        Pass(u64),
    }

    fn moves() -> impl Strategy<Value = Vec<Move>> {
        let sign = prop::sample::select(vec![Sign::Alive, Sign::Failed, Sign::Failed, Sign::None]);
        let one = prop_oneof![
            3 => Just(Move::Leave),
            3 => (any::<usize>(), sign).prop_map(|(call, sign)| Move::End(call, sign)),
            1 => (0_u64..40_000).prop_map(Move::Pass),
        ];
        prop::collection::vec(one, 0..200)
    }

    proptest! {
        /// Whatever happens: as many failures in a row as the policy says open it; while it is open nothing leaves;
        /// after that exactly one call is away that left since, until it ends; and it never stays shut for good.
        #[test]
        fn it_keeps_its_promises(failures in 1_u32..6, moves in moves()) {
            let mut breaker = breaker(failures);
            let mut now = Instant::now();
            let mut away: Vec<AttemptId> = Vec::new();
            let mut probe: Option<AttemptId> = None;
            let mut in_a_row = 0;
            for step in moves {
                match step {
                    Move::Pass(ms) => now += Duration::from_millis(ms),
                    Move::Leave => {
                        let room = breaker.room(now);
                        if let Room::None { until } = room {
                            prop_assert!(until.is_none_or(|until| until > now && until <= now + OPEN));
                            prop_assert!(until.is_some() || probe.is_some(), "shut for good");
                            continue;
                        }
                        let call = AttemptId::new();
                        breaker.left(call, now);
                        away.push(call);
                        if room == Room::Probe {
                            prop_assert_eq!(probe, None, "one probe at a time");
                            probe = Some(call);
                        }
                    }
                    Move::End(which, sign) => {
                        if away.is_empty() {
                            continue;
                        }
                        let call = away.swap_remove(which % away.len());
                        let before = breaker.room(now);
                        breaker.ended(call, sign, now);
                        let after = breaker.room(now);
                        if before == Room::All {
                            in_a_row = match sign {
                                Sign::Alive => 0,
                                Sign::Failed => in_a_row + 1,
                                Sign::None => in_a_row,
                            };
                            let expected = if in_a_row == failures { Room::None { until: Some(now + OPEN) } } else { Room::All };
                            prop_assert_eq!(after, expected);
                        } else if probe == Some(call) {
                            probe = None;
                            let expected = match sign {
                                Sign::Alive => Room::All,
                                Sign::Failed => Room::None { until: Some(now + OPEN) },
                                Sign::None => Room::Probe,
                            };
                            prop_assert_eq!(after, expected);
                        } else {
                            prop_assert_eq!(after, before, "only the probe decides");
                        }
                        if after != Room::All || before != Room::All {
                            in_a_row = 0;
                        }
                    }
                }
            }
        }
    }
}
