//! How the providers fare, as this replica sees it: their breakers, what may be repeated of them, and figures for
//! people. Shared by the engine's lives, its runs and the calls they let go; kept in memory alone.

use super::{
    breaker::{Breaker, Room, Sign},
    clock::ServerClock,
    retry_budget::RetryBudget,
};
use crate::{
    ids::AttemptId,
    pipeline::{
        AttemptCause,
        provider::{BreakerPolicy, CallError, CallFault},
        state::CONTENT_REJECTED,
        store::LastError,
    },
    records::providers::ReadyProvider,
};
use chrono::{DateTime, SubsecRound, Utc};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Calls are counted in parts of this length, and that many parts count: five minutes.
const PART: Duration = Duration::from_secs(10);
const PARTS: usize = 30;
/// How much a call's time moves the average.
const OF_A_CALL: f64 = 0.2;

/// The providers' health. Entries are of providers that were asked for since the process started.
pub(super) struct ProviderHealth {
    clock: Arc<ServerClock>,
    providers: Mutex<HashMap<String, Health>>,
}

struct Health {
    /// The save of the provider that all this is about: another one may lead elsewhere.
    saved_at: DateTime<Utc>,
    breaker: Option<Breaker>,
    retries: RetryBudget,
    /// The parts of the last five minutes in which calls ended, oldest first.
    parts: VecDeque<Part>,
    /// Seconds that a call takes, the latest ones counting most.
    seconds: Option<f64>,
    last_error: Option<LastError>,
}

#[derive(Clone, Copy, Debug)]
struct Part {
    began: Instant,
    calls: i64,
    failures: i64,
}

/// One provider's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    /// Calls that ended in the last five minutes.
    pub(super) calls: i64,
    /// Those of them that failed; a refusal of the content is none of the provider's failures.
    pub(super) failures: i64,
    /// How long a call takes, where some have ended.
    pub(super) lasting: Option<Duration>,
    pub(super) room: Room,
    pub(super) last_error: Option<LastError>,
}

impl ProviderHealth {
    pub(super) fn new(clock: Arc<ServerClock>) -> Self {
        Self { clock, providers: Mutex::default() }
    }

    /// How many calls of `provider` its breaker lets leave.
    pub(super) fn room(&self, provider: &ReadyProvider, now: Instant) -> Room {
        self.with(provider, now, |health| health.room(now))
    }

    /// Whether a call of `provider` may be repeated; takes it from what may be.
    pub(super) fn may_repeat(&self, provider: &ReadyProvider, now: Instant) -> bool {
        self.with(provider, now, |health| health.retries.take(now))
    }

    /// A call has left.
    pub(super) fn left(&self, provider: &str, call: AttemptId, cause: AttemptCause, now: Instant) {
        if let Some(health) = self.providers().get_mut(provider) {
            if matches!(cause, AttemptCause::First | AttemptCause::Fallback) {
                health.retries.first_call();
            }
            if let Some(breaker) = &mut health.breaker {
                breaker.left(call, now);
            }
        }
    }

    /// A call that had left has ended. `asked` is when its provider was asked, if it came to that.
    pub(super) fn ended<T>(
        &self,
        provider: &str,
        call: AttemptId,
        asked: Option<Instant>,
        result: &Result<T, CallError>,
        now: Instant,
    ) {
        if let Some(health) = self.providers().get_mut(provider) {
            if let Some(breaker) = &mut health.breaker {
                breaker.ended(call, sign(asked, result), now);
            }
            if let Some(asked) = asked {
                health.count(asked, result.as_ref().err(), now, self.clock.time(now));
            }
        }
    }

    /// How long a call of a provider takes, where some have ended.
    pub(super) fn lasting(&self, provider: &str) -> Option<Duration> {
        self.providers().get(provider)?.lasting()
    }

    /// All figures, of those providers that `exists` knows; the others are forgotten.
    pub(super) fn figures(&self, now: Instant, exists: impl Fn(&str) -> bool) -> HashMap<String, Figures> {
        let mut providers = self.providers();
        providers.retain(|provider, _| exists(provider));
        providers.iter_mut().map(|(provider, health)| (provider.clone(), health.figures(now))).collect()
    }

    fn with<T>(&self, provider: &ReadyProvider, now: Instant, look: impl FnOnce(&mut Health) -> T) -> T {
        let mut providers = self.providers();
        let (saved_at, policy) = (provider.saved_at, provider.policy.breaker);
        let health =
            providers.entry(provider.record.id.clone()).or_insert_with(|| Health::new(saved_at, policy, now));
        if health.saved_at != saved_at {
            health.saved_at = saved_at;
            health.breaker = policy.map(Breaker::new);
        }
        look(health)
    }

    fn providers(&self) -> MutexGuard<'_, HashMap<String, Health>> {
        self.providers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call's end says about its provider. A call that was answered with a refusal was answered.
fn sign<T>(asked: Option<Instant>, result: &Result<T, CallError>) -> Sign {
    match result.as_ref().map_err(|error| error.fault) {
        _ if asked.is_none() => Sign::None,
        Ok(_) | Err(CallFault::Permanent) => Sign::Alive,
        // it was perhaps never asked
        Err(CallFault::Unheard) => Sign::None,
        // it says itself when it wants to be called again, and its pause sees to that
        Err(CallFault::Retryable { retry_after: Some(_) }) => Sign::None,
        Err(CallFault::Retryable { retry_after: None } | CallFault::Unanswered) => Sign::Failed,
    }
}

impl Health {
    fn new(saved_at: DateTime<Utc>, policy: Option<BreakerPolicy>, now: Instant) -> Self {
        Self {
            saved_at,
            breaker: policy.map(Breaker::new),
            retries: RetryBudget::new(now),
            parts: VecDeque::new(),
            seconds: None,
            last_error: None,
        }
    }

    fn room(&self, now: Instant) -> Room {
        self.breaker.as_ref().map_or(Room::All, |breaker| breaker.room(now))
    }

    fn count(&mut self, asked: Instant, error: Option<&CallError>, now: Instant, at: Option<DateTime<Utc>>) {
        let took = now.saturating_duration_since(asked).as_secs_f64();
        self.seconds = Some(self.seconds.map_or(took, |before| before + OF_A_CALL * (took - before)));
        if error.is_none() {
            self.retries.answered();
        }
        let error = error.filter(|error| error.code != CONTENT_REJECTED);
        self.forget(now);
        if self.parts.back().is_none_or(|part| now.saturating_duration_since(part.began) >= PART) {
            self.parts.push_back(Part { began: now, calls: 0, failures: 0 });
        }
        if let Some(part) = self.parts.back_mut() {
            part.calls += 1;
            part.failures += i64::from(error.is_some());
        }
        if let Some((error, at)) = error.zip(at) {
            // a row keeps microseconds
            let (code, message, at) = (error.code.to_owned(), error.message.clone(), at.trunc_subsecs(6));
            self.last_error = Some(LastError { code, message, at });
        }
    }

    fn lasting(&self) -> Option<Duration> {
        Duration::try_from_secs_f64(self.seconds?).ok()
    }

    fn forget(&mut self, now: Instant) {
        let counts = PART * u32::try_from(PARTS).unwrap_or(u32::MAX);
        while self.parts.front().is_some_and(|part| now.saturating_duration_since(part.began) >= counts) {
            self.parts.pop_front();
        }
    }

    fn figures(&mut self, now: Instant) -> Figures {
        self.forget(now);
        Figures {
            calls: self.parts.iter().map(|part| part.calls).sum(),
            failures: self.parts.iter().map(|part| part.failures).sum(),
            lasting: self.lasting(),
            room: self.room(now),
            last_error: self.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health(now: Instant) -> Health {
        Health::new(DateTime::UNIX_EPOCH, None, now)
    }

    fn call(health: &mut Health, error: Option<&CallError>, took: Duration, now: Instant) {
        health.count(now, error, now + took, Some(DateTime::UNIX_EPOCH));
    }

    #[test]
    fn figures_are_of_five_minutes_and_the_last_error_stays() {
        let start = Instant::now();
        let mut health = health(start);
        let busy = CallError::retryable("PROVIDER_UNAVAILABLE", "Busy.");
        let unsafe_content = CallError::permanent(CONTENT_REJECTED, "No.");
        for error in [None, Some(&busy), Some(&unsafe_content), None] {
            call(&mut health, error, Duration::ZERO, start);
        }
        let figures = health.figures(start + Duration::from_secs(299));
        assert_eq!((figures.calls, figures.failures, figures.room), (4, 1, Room::All));
        call(&mut health, Some(&busy), Duration::ZERO, start + Duration::from_secs(100));
        let figures = health.figures(start + Duration::from_secs(300));
        assert_eq!((figures.calls, figures.failures), (1, 1));
        let figures = health.figures(start + Duration::from_secs(3_600));
        assert_eq!((figures.calls, figures.failures), (0, 0));
        assert_eq!(figures.last_error.unwrap().code, "PROVIDER_UNAVAILABLE");
    }

    #[test]
    fn a_call_is_taken_to_last_as_calls_did_lately() {
        let now = Instant::now();
        let mut health = health(now);
        call(&mut health, None, Duration::from_secs(10), now);
        assert_eq!(health.seconds, Some(10.0));
        for _ in 0..20 {
            call(&mut health, None, Duration::from_secs(1), now);
        }
        assert!(health.seconds.unwrap() < 1.2, "{:?}", health.seconds);
    }

    #[test]
    fn a_breaker_hears_only_of_what_its_provider_did() {
        let asked = Some(Instant::now());
        let unanswered =
            CallError { fault: CallFault::Unanswered, code: "PROVIDER_TIMEOUT", message: String::new() };
        let fault = CallFault::Retryable { retry_after: Some(Duration::from_secs(1)) };
        let later = CallError { fault, code: "PROVIDER_UNAVAILABLE", message: String::new() };
        let busy = CallError::retryable("PROVIDER_UNAVAILABLE", "");
        let no = CallError::permanent("PROVIDER_REJECTED", "");
        for (asked, result, expected) in [
            (asked, Ok(()), Sign::Alive),
            (asked, Err(no.clone()), Sign::Alive),
            (asked, Err(busy.clone()), Sign::Failed),
            (asked, Err(unanswered), Sign::Failed),
            (asked, Err(later), Sign::None),
            (None, Err(busy), Sign::None),
            (None, Err(no), Sign::None),
        ] {
            assert_eq!(sign(asked, &result), expected, "{result:?}");
        }
    }
}
