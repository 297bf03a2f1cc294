//! The calls of provider nodes: when one is made, what its answer means, when it is repeated and by whom.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value as Json;

use super::{
    Effect, Flight, OUTCOME_UNKNOWN, OUTPUT_INVALID, ProviderCall, Run, StepStatus, Surroundings,
    TEMPLATE_FAILED,
};
use crate::pipeline::{
    AttemptCause, AttemptStatus, Failure, Fault,
    definition::{NodeKind, ProviderNode, RetryPolicy},
    provider::{CallError, CallFault, CallPolicy},
    schema::refuse_nul,
};

/// Longest backoff between two calls of one provider.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// How far a provider node's calls have come.
#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    /// The number of the last attempt, 0 before the first.
    pub(super) attempts: i32,
    /// Which of the node's providers is asked next.
    pub(super) provider: usize,
    /// Failed attempts with this provider.
    pub(super) failures: u32,
    /// Why the next call is made; none for the first.
    pub(super) cause: Option<AttemptCause>,
    /// When the next call may be made.
    pub(super) not_before: Option<DateTime<Utc>>,
    /// What the last failed or refused call said: code and message.
    pub(super) error: Option<(String, String)>,
}

impl Calls {
    /// Whether no provider is left to ask.
    pub(super) fn used_up(&self, node: &ProviderNode) -> bool {
        self.provider > node.fallback.len()
    }

    /// The provider asked next.
    fn asked<'a>(&self, node: &'a ProviderNode) -> Option<&'a str> {
        node.providers().nth(self.provider)
    }

    /// What a step says that has no provider left to ask.
    pub(super) fn last_error(&self) -> (String, String) {
        self.error.clone().unwrap_or_else(|| {
            ("PROVIDER_UNAVAILABLE".to_owned(), "The provider could not be called.".to_owned())
        })
    }

    /// Counts a failed call: the same provider again after its backoff, or the next one.
    pub(super) fn count_failure(
        &mut self,
        node: &ProviderNode,
        at: DateTime<Utc>,
        retry_after: Option<Duration>,
        surroundings: Surroundings<'_>,
    ) {
        let policy = self.asked(node).and_then(surroundings.policy);
        let of_provider = policy.as_ref().map(retry_policy);
        let retry = node.retry.or(of_provider).unwrap_or_default();
        self.failures += 1;
        if self.failures < retry.max_attempts {
            let wait =
                retry_after.unwrap_or_default().max(backoff(retry, self.failures, surroundings.random));
            self.cause = Some(AttemptCause::Retry);
            self.not_before = TimeDelta::from_std(wait).ok().and_then(|wait| at.checked_add_signed(wait));
        } else {
            self.ask_next();
        }
    }

    fn ask_next(&mut self) {
        self.provider += 1;
        self.failures = 0;
        self.cause = Some(AttemptCause::Fallback);
        self.not_before = None;
    }
}

fn retry_policy(policy: &CallPolicy) -> RetryPolicy {
    let backoff_ms = u64::try_from(policy.backoff.as_millis()).unwrap_or(u64::MAX);
    RetryPolicy { max_attempts: policy.max_attempts, backoff_ms }
}

/// The wait after so many failures: doubled each time, spread over its upper half so that tasks which failed
/// together do not come back together.
fn backoff(retry: RetryPolicy, failures: u32, random: f64) -> Duration {
    let factor = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
    let doubled = Duration::from_millis(retry.backoff_ms.saturating_mul(factor));
    doubled.min(MAX_BACKOFF).mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
}

/// Whether a step's output can be kept.
pub(super) fn storable(output: &Json) -> Result<(), String> {
    let mut faults = Vec::new();
    refuse_nul(output, "", &mut faults);
    first_fault(&faults)
}

fn first_fault(faults: &[Fault]) -> Result<(), String> {
    match faults.first() {
        None => Ok(()),
        Some(fault) => {
            Err(format!("The output is not as it should be at `{}`: {}.", fault.path, fault.message))
        }
    }
}

fn failure(id: &str, code: &str, message: &str) -> Failure {
    Failure { code: code.to_owned(), message: message.to_owned(), node_id: Some(id.to_owned()) }
}

fn provider_node(kind: &NodeKind) -> Option<&ProviderNode> {
    match kind {
        NodeKind::Provider(provider) => Some(provider),
        _ => None,
    }
}

impl Run {
    /// Makes calls for ready nodes while there are places. Says whether a node failed on the way.
    pub(super) fn call_ready(&mut self, surroundings: Surroundings<'_>, effects: &mut Vec<Effect>) -> bool {
        let definition = self.definition.clone();
        let mut waiting: Vec<usize> = self.ready.iter().copied().filter(|&node| self.is_due(node)).collect();
        // What a crash has cut had a place before; the rest in the order in which it was written.
        waiting.sort_by_key(|&node| (self.steps[node].calls.cause != Some(AttemptCause::Crash), node));
        for node in waiting {
            if self.in_flight.len() >= surroundings.max_concurrency.max(1) {
                break;
            }
            let Some(provider) = provider_node(&definition.nodes()[node].kind) else { continue };
            let input = match self.render(&provider.input) {
                Ok(input) => input,
                Err(error) => {
                    self.fail(node, TEMPLATE_FAILED, error.to_string(), effects);
                    return true;
                }
            };
            let calls = &mut self.steps[node].calls;
            calls.attempts += 1;
            let call = ProviderCall {
                node: definition.nodes()[node].id.clone(),
                attempt: calls.attempts,
                provider: calls.asked(provider).unwrap_or_default().to_owned(),
                cause: calls.cause.unwrap_or(AttemptCause::First),
                input,
                timeout: provider.timeout,
                has_fallback: calls.provider < provider.fallback.len(),
            };
            self.in_flight.insert((node, call.attempt), Flight::Live);
            effects.push(Effect::Call(Box::new(call)));
        }
        false
    }

    fn is_due(&self, node: usize) -> bool {
        let calling = self.in_flight.range((node, i32::MIN)..=(node, i32::MAX)).next().is_some();
        !calling && self.steps[node].calls.not_before.is_none_or(|not_before| not_before <= self.now)
    }

    /// The node of a call whose answer is awaited.
    fn awaited(&self, id: &str, attempt: i32) -> Option<usize> {
        let node = self.definition.position(id)?;
        (self.in_flight.get(&(node, attempt)) == Some(&Flight::Live)).then_some(node)
    }

    pub(super) fn call_started(&mut self, id: &str, attempt: i32, effects: &mut Vec<Effect>) {
        let Some(node) = self.awaited(id, attempt) else { return };
        let now = self.now;
        if self.deadline_at.is_none() && !self.ended {
            let lasting = TimeDelta::from_std(self.definition.deadline).unwrap_or_default();
            let deadline_at = now + lasting;
            self.deadline_at = Some(deadline_at);
            effects.push(Effect::Started { at: now, deadline_at });
        }
        let definition = self.definition.clone();
        let Some(provider) = provider_node(&definition.nodes()[node].kind) else { return };
        let step = &mut self.steps[node];
        let asked = step.calls.asked(provider);
        if !step.is_final() && (step.status() == StepStatus::Pending || step.provider.as_deref() != asked) {
            step.status = Some(StepStatus::Running);
            step.started_at.get_or_insert(now);
            step.provider = asked.map(str::to_owned);
            effects.push(Effect::WriteStep(self.row(node)));
        }
    }

    pub(super) fn call_finished(
        &mut self,
        id: &str,
        attempt: i32,
        result: Result<Json, CallError>,
        surroundings: Surroundings<'_>,
        effects: &mut Vec<Effect>,
    ) {
        // An answer tells that the call had started, if nobody has said so yet.
        self.call_started(id, attempt, effects);
        let Some(node) = self.awaited(id, attempt) else { return };
        self.in_flight.remove(&(node, attempt));
        let definition = self.definition.clone();
        let Some(provider) = provider_node(&definition.nodes()[node].kind) else { return };
        if self.steps[node].is_final() {
            let error = result.err().map(|error| failure(id, error.code, &error.message));
            self.finish_attempt(id, attempt, AttemptStatus::Cancelled, error, effects);
            return;
        }
        let fitting = result.and_then(|output| {
            let fits = storable(&output).and_then(|()| match &provider.output_schema {
                Some(schema) => schema.validate(&output, "").or_else(|faults| first_fault(&faults)),
                None => Ok(()),
            });
            fits.map(|()| output).map_err(|message| CallError::permanent(OUTPUT_INVALID, message))
        });
        match fitting {
            Ok(output) => {
                self.finish_attempt(id, attempt, AttemptStatus::Succeeded, None, effects);
                self.succeed(node, Some(output), effects);
            }
            Err(error) => self.call_failed(node, provider, attempt, error, surroundings, effects),
        }
    }

    fn call_failed(
        &mut self,
        node: usize,
        provider: &ProviderNode,
        attempt: i32,
        error: CallError,
        surroundings: Surroundings<'_>,
        effects: &mut Vec<Effect>,
    ) {
        let id = self.node(node).id.clone();
        let failed = failure(&id, error.code, &error.message);
        let asked = self.steps[node].provider.as_deref().and_then(surroundings.policy);
        let retry_after = match error.fault {
            CallFault::Permanent => {
                self.finish_attempt(&id, attempt, AttemptStatus::Failed, Some(failed.clone()), effects);
                self.fail_with(node, failed, effects);
                return;
            }
            CallFault::Unanswered if asked.as_ref().is_some_and(|policy| policy.at_most_once) => {
                self.finish_attempt(&id, attempt, AttemptStatus::Unknown, Some(failed), effects);
                self.fail_unknown(node, effects);
                return;
            }
            CallFault::Unheard => {
                self.finish_attempt(&id, attempt, AttemptStatus::Unknown, Some(failed), effects);
                if asked.is_some_and(|policy| policy.at_most_once) {
                    self.fail_unknown(node, effects);
                } else {
                    self.steps[node].calls.cause = Some(AttemptCause::Crash);
                }
                return;
            }
            CallFault::Unanswered => None,
            CallFault::Retryable { retry_after } => retry_after,
        };
        self.finish_attempt(&id, attempt, AttemptStatus::Failed, Some(failed), effects);
        let now = self.now;
        let calls = &mut self.steps[node].calls;
        calls.error = Some((error.code.to_owned(), error.message));
        calls.count_failure(provider, now, retry_after, surroundings);
    }

    fn fail_unknown(&mut self, node: usize, effects: &mut Vec<Effect>) {
        let message = "The provider may have done its work, and must not be asked twice.";
        self.fail(node, OUTCOME_UNKNOWN, message, effects);
    }

    fn finish_attempt(
        &self,
        id: &str,
        attempt: i32,
        status: AttemptStatus,
        error: Option<Failure>,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::FinishAttempt { node: id.to_owned(), attempt, status, error, at: self.now });
    }

    /// Takes back a call that never left; gives its node where the step still wants one.
    fn take_back(&mut self, id: &str, attempt: i32) -> Option<usize> {
        let node = self.awaited(id, attempt)?;
        self.in_flight.remove(&(node, attempt));
        let step = &mut self.steps[node];
        if step.calls.attempts == attempt {
            step.calls.attempts -= 1;
        }
        (!step.is_final()).then_some(node)
    }

    pub(super) fn call_refused(&mut self, id: &str, attempt: i32, error: CallError) {
        if let Some(node) = self.take_back(id, attempt) {
            let calls = &mut self.steps[node].calls;
            // what a call was answered says more
            calls.error.get_or_insert((error.code.to_owned(), error.message));
            calls.ask_next();
        }
    }

    pub(super) fn call_dropped(&mut self, id: &str, attempt: i32) {
        self.take_back(id, attempt);
    }

    /// Decides about calls whose replica died: what may be repeated, and when their places are free.
    pub(super) fn settle_lost(&mut self, surroundings: Surroundings<'_>, effects: &mut Vec<Effect>) {
        let lost: Vec<_> = self
            .in_flight
            .iter()
            .filter_map(|(&(node, attempt), flight)| match flight {
                Flight::Lost { until, settled } => Some((node, attempt, *until, *settled)),
                Flight::Live => None,
            })
            .collect();
        for (node, attempt, until, settled) in lost {
            let policy = self.steps[node].provider.as_deref().and_then(surroundings.policy);
            let pure = policy.as_ref().is_some_and(|policy| policy.pure_call);
            let at_most_once = policy.is_some_and(|policy| policy.at_most_once);
            let over = pure || until <= self.now;
            let id = self.node(node).id.clone();
            if !settled && (over || at_most_once) {
                self.finish_attempt(&id, attempt, AttemptStatus::Unknown, None, effects);
                self.in_flight.insert((node, attempt), Flight::Lost { until, settled: true });
            }
            if at_most_once && !pure && !self.ended && !self.steps[node].is_final() {
                self.fail_unknown(node, effects);
            }
            if over {
                self.in_flight.remove(&(node, attempt));
            }
        }
    }
}
