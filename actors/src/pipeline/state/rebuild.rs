//! A run from its rows alone, after the replica that ran it has died or let it go.

use std::{collections::BTreeSet, sync::Arc};

use chrono::{DateTime, SubsecRound, Utc};
use serde_json::Value as Json;

use super::{Calls, Flight, Run, StepStatus, Surroundings};
use crate::{
    ids::TaskId,
    pipeline::{
        Attempt, AttemptCause, AttemptStatus, Step,
        definition::{Definition, NodeKind, ProviderNode},
        template::Rendered,
    },
};

/// What the task's own row says.
#[derive(Debug, Clone)]
pub struct TaskFacts {
    /// The task.
    pub task: TaskId,
    /// Its input.
    pub input: Json,
    /// Percent reported so far.
    pub progress: i16,
    /// Its deadline, once its first call was admitted.
    pub deadline_at: Option<DateTime<Utc>>,
}

impl Run {
    /// Rebuilds a run. [`super::Event::Woken`] sets it going.
    ///
    /// An attempt found `running` that is among `alive` (step and attempt) was made by this very process, and its
    /// answer is still to come. Any other has an unknown outcome: it keeps its place until its deadline and is repeated
    /// then; at once when its provider's calls have no effect outside, never when the provider is called at most
    /// once.
    pub fn rebuild(
        definition: Arc<Definition>,
        facts: TaskFacts,
        steps: &[Step],
        attempts: &[Attempt],
        alive: &BTreeSet<(String, i32)>,
        surroundings: Surroundings<'_>,
    ) -> Self {
        let mut run = Self::new(definition.clone(), facts.task, facts.input, surroundings.now);
        run.deadline_at = facts.deadline_at;
        run.progress = facts.progress;
        for row in steps {
            let Some(node) = definition.position(&row.node) else { continue };
            let step = &mut run.steps[node];
            step.status = Some(row.status);
            step.provider = row.provider.clone();
            step.output = row.output.clone();
            step.error = row.error.clone();
            step.started_at = row.started_at;
            step.finished_at = row.finished_at;
        }
        for (place, node) in definition.nodes().iter().enumerate() {
            if let NodeKind::Provider(provider) = &node.kind {
                let mut made: Vec<&Attempt> =
                    attempts.iter().filter(|attempt| attempt.node == node.id).collect();
                made.sort_by_key(|attempt| attempt.attempt);
                run.rebuild_calls(place, provider, &made, alive, surroundings);
            }
        }
        run
    }

    /// Takes a call up again that was found lost: its answer is to come after all. Gives its step's input; `None`
    /// where nobody waits for the call any more. To be said before the run is set going.
    pub fn resume(&mut self, id: &str, attempt: i32) -> Option<Rendered> {
        let node = self.definition.position(id)?;
        let is_open = match self.in_flight.get(&(node, attempt))? {
            Flight::Lost { until, settled } => !settled && *until > self.now,
            Flight::Live => false,
        };
        let NodeKind::Provider(provider) = &self.node(node).kind else { return None };
        if !is_open || self.steps[node].is_final() {
            return None;
        }
        let input = self.render(&provider.input).ok()?;
        self.in_flight.insert((node, attempt), Flight::Live);
        Some(input)
    }

    fn rebuild_calls(
        &mut self,
        node: usize,
        provider: &ProviderNode,
        attempts: &[&Attempt],
        alive: &BTreeSet<(String, i32)>,
        surroundings: Surroundings<'_>,
    ) {
        let (Some(first), Some(last)) = (attempts.first(), attempts.last()) else { return };
        for attempt in attempts {
            let is_alive = || alive.contains(&(attempt.node.clone(), attempt.attempt));
            let flight = match attempt.status {
                AttemptStatus::Running if is_alive() => Flight::Live,
                AttemptStatus::Running => Flight::Lost { until: attempt.deadline_at, settled: false },
                AttemptStatus::Unknown if attempt.deadline_at > self.now => {
                    Flight::Lost { until: attempt.deadline_at, settled: true }
                }
                _ => continue,
            };
            self.in_flight.insert((node, attempt.attempt), flight);
        }
        let failures = attempts
            .iter()
            .filter(|attempt| attempt.status == AttemptStatus::Failed && attempt.provider == last.provider)
            .count();
        let mut calls = Calls {
            attempts: last.attempt,
            provider: provider.providers().position(|id| id == last.provider).unwrap_or_default(),
            failures: u32::try_from(failures).unwrap_or(u32::MAX),
            error: last.error.as_ref().map(|error| (error.code.clone(), error.message.clone())),
            ..Calls::default()
        };
        if last.status == AttemptStatus::Failed {
            // The step went on although the call had failed, so another was to follow. A `Retry-After` stands in
            // the provider's row, where the driver honours it.
            calls.failures = calls.failures.saturating_sub(1);
            let at = last.finished_at.unwrap_or(self.now).trunc_subsecs(6);
            calls.count_failure(provider, at, None, surroundings);
        } else {
            calls.cause = Some(AttemptCause::Crash);
        }
        let step = &mut self.steps[node];
        if !step.is_final() {
            // The attempt proves that the step began, should its own row not have been written.
            step.status = Some(StepStatus::Running);
            step.started_at = step.started_at.or(Some(first.started_at));
            step.provider = Some(last.provider.clone());
        }
        step.calls = calls;
    }
}
