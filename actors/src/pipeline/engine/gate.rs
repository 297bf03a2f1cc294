//! What stands between a waiting call and its provider, besides slots: whether the provider exists and is enabled,
//! its breaker, and what the last try of a call has found.

use super::{actor::Engine, admission::Place, breaker::Room, tools::Tools};
use crate::pipeline::{Waiting, WaitingReason};
use actix::{AsyncContext, Context};
use std::time::{Duration, Instant};

/// How a provider takes calls now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    /// So many calls may be tried.
    Open { room: usize },
    /// None is tried for now.
    Closed {
        reason: WaitingReason,
        /// When it is looked at again, where that is known.
        until: Option<Instant>,
        /// Whether calls with a fallback go there instead of waiting.
        turns_away: bool,
    },
    /// None will ever be: all calls are turned away.
    Gone,
}

impl Gate {
    pub(super) fn room(self) -> usize {
        match self {
            Self::Open { room } => room,
            Self::Closed { .. } | Self::Gone => 0,
        }
    }
}

impl Tools {
    /// How `provider` takes calls at `now`, as far as can be told without a try.
    pub(super) fn gate(&self, provider: &str, now: Instant) -> Gate {
        let Some(known) = self.providers.find(provider) else { return Gate::Gone };
        if !known.record.enabled {
            return if known.policy.hold_when_disabled {
                Gate::Closed { reason: WaitingReason::ProviderCeiling, until: None, turns_away: true }
            } else {
                Gate::Gone
            };
        }
        match self.health.room(&known, now) {
            Room::None { until } => {
                Gate::Closed { reason: WaitingReason::BreakerOpen, until, turns_away: true }
            }
            Room::Probe => Gate::Open { room: 1 },
            Room::All => Gate::Open { room: usize::MAX },
        }
    }
}

impl Engine {
    /// How `provider` takes calls at `now`, after what the last try found.
    pub(super) fn gate(&self, provider: &str, now: Instant) -> Gate {
        match (self.tools.gate(provider, now), self.admission.held(provider)) {
            (Gate::Open { .. }, Some(hold)) if hold.until > now => {
                Gate::Closed { reason: hold.reason, until: Some(hold.until), turns_away: false }
            }
            (gate, _) => gate,
        }
    }

    /// Turns away the waiting calls that are to ask another provider.
    pub(super) fn turn_away(&mut self, now: Instant) {
        let mut closed = Vec::new();
        for provider in self.admission.providers() {
            match self.gate(provider, now) {
                Gate::Gone => closed.push((provider.to_owned(), false)),
                Gate::Closed { turns_away: true, .. } => closed.push((provider.to_owned(), true)),
                Gate::Open { .. } | Gate::Closed { .. } => {}
            }
        }
        for (provider, only_with_fallback) in closed {
            for call in self.admission.turn_away(&provider, only_with_fallback) {
                self.refuse(call);
            }
        }
    }

    /// Looks again as soon as a gate opens by itself that calls wait before.
    pub(super) fn set_alarm(&mut self, now: Instant, context: &mut Context<Self>) {
        let opens = self.admission.providers().into_iter().filter_map(|provider| {
            match self.tools.gate(provider, now) {
                Gate::Closed { until, .. } => until,
                Gate::Open { .. } => self.admission.held(provider).map(|hold| hold.again),
                Gate::Gone => None,
            }
        });
        let Some(next) = opens.min() else { return };
        if self.alarm.is_some_and(|alarm| alarm <= next) {
            return;
        }
        self.alarm = Some(next);
        context.run_later(next.saturating_duration_since(now), |actor, context| {
            actor.alarm = None;
            actor.flush(context);
        });
    }

    /// How many calls leave before the one at this place, one of `here` calls that wait for the same provider: those of
    /// other replicas are taken to leave in turn with ours.
    pub(super) fn position(&self, place: Place<'_>, here: usize) -> i64 {
        let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let (before, here) = (number(place.position), number(here.max(1)));
        before + self.figures.waiting_elsewhere(place.provider).saturating_mul(before) / here
    }

    /// What a call waits for that has `position` others before it. The guess takes calls to last as they did lately.
    pub(super) fn waits_for(&self, provider: &str, position: i64, now: Instant) -> Waiting {
        let gate = self.gate(provider, now);
        let (reason, left) = match gate {
            Gate::Closed { reason, until, .. } => {
                (reason, until.map(|until| until.saturating_duration_since(now)))
            }
            Gate::Open { .. } | Gate::Gone => (WaitingReason::ProviderCeiling, None),
        };
        let takes_calls = reason == WaitingReason::ProviderCeiling && (left.is_some() || gate.room() > 0);
        let turn = if takes_calls { self.turn_comes_in(provider, position) } else { None };
        let eta_ms = left.max(turn).map(|eta| i64::try_from(eta.as_millis()).unwrap_or(i64::MAX));
        Waiting { reason, position: Some(position), eta_ms }
    }

    /// A guess of when a call leaves that has `position` others before it, where calls of the provider have ended lately.
    fn turn_comes_in(&self, provider: &str, position: i64) -> Option<Duration> {
        let policy = self.tools.providers.policy(provider)?;
        let lasting =
            self.tools.health.lasting(provider).or_else(|| self.figures.lasting_elsewhere(provider))?;
        #[expect(clippy::cast_precision_loss, reason = "a guess")]
        let calls = position.saturating_add(1) as f64;
        let at_once = policy
            .max_concurrency
            .map_or(self.tools.settings.local_calls, |calls| usize::try_from(calls).unwrap_or(usize::MAX));
        #[expect(clippy::cast_precision_loss, reason = "a guess")]
        let rounds = (calls / at_once.max(1) as f64).ceil();
        let rate = policy.rate_limit.unwrap_or_default();
        let by_second = rate.per_second.map(|most| calls / f64::from(most.max(1)));
        let by_minute = rate.per_minute.map(|most| calls / f64::from(most.max(1)) * 60.0);
        let seconds = (rounds * lasting.as_secs_f64())
            .max(by_second.unwrap_or_default())
            .max(by_minute.unwrap_or_default());
        Duration::try_from_secs_f64(seconds).ok()
    }
}
