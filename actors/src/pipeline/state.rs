//! One run of a pipeline, as a pure state machine: events in, effects out. It reads no clock, draws no random
//! number and does nothing itself; whoever drives it writes the effects of one [`Run::apply`] in one transaction.
//!
//! **What a run is.** The status of each node, and for provider nodes how far their calls have come. Everything
//! else follows from these by walking the definition's tree ([`flow`]): start, fork, join and end complete by
//! themselves as soon as the walk reaches them, in the same effects as what led there. Because the walk looks only
//! at what is also in rows, a run rebuilt from its rows ([`rebuild`]) stands where the live run stood.
//!
//! **A provider node** is *ready* once the walk reaches it. A ready node waits until one of the task's places is
//! free ([`Surroundings::max_concurrency`]; definition order, calls cut by a crash first), then [`Effect::Call`] asks
//! the driver for a call. The driver answers with exactly one of [`Event::CallFinished`], [`Event::CallRefused`] and
//! [`Event::CallDropped`]; when it has written the attempt and let the call go, it says [`Event::CallStarted`]
//! before. A failed call that may be repeated waits out its backoff; then its provider is asked again, or the next
//! fallback ([`calls`]).
//!
//! **A place** is held from [`Effect::Call`] to the answer, also when the step was cancelled meanwhile, and for a
//! call whose replica died until the call's deadline.
//!
//! **Time.** [`Run::wake_at`] says when something will be due without an event from outside: a backoff, the deadline
//! of a lost call, the task's own deadline. The driver sends [`Event::Woken`] then; too early or too often is
//! harmless, and it is also what begins a run that is new or rebuilt.
//!
//! **The end.** [`Effect::Finish`] comes once from one life of a run. Afterwards late answers change only their
//! attempts. A run rebuilt after its last steps were written and before its task was settled finishes again, the
//! same way.

mod calls;
mod events;
mod flow;
mod rebuild;
#[cfg(test)]
mod tests;

pub use events::*;
pub use rebuild::TaskFacts;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, SubsecRound, Utc};
use serde_json::Value as Json;

use self::calls::Calls;
use super::{
    Failure, Step, StepStatus,
    definition::{Definition, Node, NodeKind, QuotaCost},
    template::{Context, Rendered, Template, TemplateError},
};
use crate::ids::TaskId;

/// A run of a pipeline.
#[derive(Debug)]
pub struct Run {
    definition: Arc<Definition>,
    task: TaskId,
    input: Json,
    /// From the first admitted call.
    deadline_at: Option<DateTime<Utc>>,
    /// One for each node, in the definition's order.
    steps: Vec<StepState>,
    in_flight: BTreeMap<(usize, i32), Flight>,
    /// Provider nodes the last walk reached, in the tree's order.
    ready: Vec<usize>,
    progress: i16,
    ended: bool,
    now: DateTime<Utc>,
}

#[derive(Debug, Clone, Default)]
struct StepState {
    status: Option<StepStatus>,
    provider: Option<String>,
    /// Only where it has succeeded.
    output: Option<Json>,
    error: Option<Failure>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    calls: Calls,
}

impl StepState {
    fn status(&self) -> StepStatus {
        self.status.unwrap_or(StepStatus::Pending)
    }

    fn is_final(&self) -> bool {
        !matches!(self.status(), StepStatus::Pending | StepStatus::Running)
    }
}

/// A call that holds a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flight {
    /// Its answer will come.
    Live,
    /// Its replica died: nobody will hear the answer, but the call may still run until then.
    Lost { until: DateTime<Utc>, settled: bool },
}

impl Run {
    /// A run that has not begun.
    pub fn new(definition: Arc<Definition>, task: TaskId, input: Json, now: DateTime<Utc>) -> Self {
        let steps = vec![StepState::default(); definition.nodes().len()];
        Self {
            definition,
            task,
            input,
            deadline_at: None,
            steps,
            in_flight: BTreeMap::new(),
            ready: Vec::new(),
            progress: 0,
            ended: false,
            now: now.trunc_subsecs(6),
        }
    }

    /// Takes an event in. An event that has been taken in before, or that fits nothing, changes nothing.
    pub fn apply(&mut self, event: Event, surroundings: Surroundings<'_>) -> Vec<Effect> {
        // Rows keep microseconds; a rebuilt run must not order things otherwise than the live one.
        let surroundings = Surroundings { now: surroundings.now.trunc_subsecs(6), ..surroundings };
        self.now = surroundings.now;
        let mut effects = Vec::new();
        match event {
            Event::Woken => {}
            Event::CallStarted { node, attempt } => self.call_started(&node, attempt, &mut effects),
            Event::CallFinished { node, attempt, result } => {
                self.call_finished(&node, attempt, result, surroundings, &mut effects);
            }
            Event::CallRefused { node, attempt, error } => self.call_refused(&node, attempt, error),
            Event::CallDropped { node, attempt } => self.call_dropped(&node, attempt),
        }
        self.settle_lost(surroundings, &mut effects);
        if !self.ended {
            self.advance(surroundings, &mut effects);
        }
        last_rows(effects)
    }

    /// When [`Event::Woken`] is due if nothing else happens before.
    pub fn wake_at(&self) -> Option<DateTime<Utc>> {
        let lost = self.in_flight.values().filter_map(|flight| match flight {
            Flight::Lost { until, .. } => Some(*until),
            Flight::Live => None,
        });
        if self.ended {
            return lost.min();
        }
        // What is due already waits for a place, not for a time.
        let backoffs = self
            .ready
            .iter()
            .filter_map(|&node| self.steps[node].calls.not_before)
            .filter(|&not_before| not_before > self.now);
        lost.chain(backoffs).chain(self.deadline_at).min()
    }

    /// Whether [`Effect::Finish`] has come.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether a live call's answer is still to come. An ended run is kept until then.
    pub fn awaits_answers(&self) -> bool {
        self.in_flight.values().any(|flight| *flight == Flight::Live)
    }

    /// Whether all that keeps the run from going on is a backoff, and until when.
    pub fn backing_off_until(&self) -> Option<DateTime<Utc>> {
        if self.ended || !self.in_flight.is_empty() {
            return None;
        }
        self.ready
            .iter()
            .map(|&node| self.steps[node].calls.not_before)
            .collect::<Option<Vec<_>>>()?
            .into_iter()
            .min()
    }

    /// How long the task may run from its first admitted call on.
    pub fn deadline(&self) -> Duration {
        self.definition.deadline
    }

    /// The task's deadline, once its first call was admitted.
    pub fn deadline_at(&self) -> Option<DateTime<Utc>> {
        self.deadline_at
    }

    /// The steps as their rows stand once all effects so far are written, in the definition's order.
    pub fn steps(&self) -> Vec<Step> {
        (0..self.steps.len()).map(|node| self.row(node)).collect()
    }

    fn node(&self, node: usize) -> &Node {
        &self.definition.nodes()[node]
    }

    fn row(&self, node: usize) -> Step {
        let step = &self.steps[node];
        Step {
            node: self.node(node).id.clone(),
            kind: self.node(node).kind.name().to_owned(),
            status: step.status(),
            provider: step.provider.clone(),
            output: step.output.clone(),
            error: step.error.clone(),
            started_at: step.started_at,
            finished_at: step.finished_at,
        }
    }

    /// Ends a step, and with it its claim on calls that have not been answered.
    fn end_step(&mut self, node: usize, status: StepStatus, effects: &mut Vec<Effect>) {
        let now = self.now;
        let step = &mut self.steps[node];
        step.status = Some(status);
        step.finished_at = Some(now);
        if !matches!(status, StepStatus::Skipped | StepStatus::Cancelled) {
            step.started_at.get_or_insert(now);
        }
        effects.push(Effect::WriteStep(self.row(node)));
        let id = &self.node(node).id;
        let live = self.in_flight.range((node, i32::MIN)..=(node, i32::MAX));
        for ((_, attempt), _) in live.filter(|(_, flight)| **flight == Flight::Live) {
            effects.push(Effect::Withdraw { node: id.clone(), attempt: *attempt });
        }
    }

    fn succeed(&mut self, node: usize, output: Option<Json>, effects: &mut Vec<Effect>) {
        self.steps[node].output = output;
        self.end_step(node, StepStatus::Succeeded, effects);
    }

    fn fail(&mut self, node: usize, code: &str, message: impl Into<String>, effects: &mut Vec<Effect>) {
        let node_id = Some(self.node(node).id.clone());
        let failure = Failure { code: code.to_owned(), message: message.into(), node_id };
        self.fail_with(node, failure, effects);
    }

    fn fail_with(&mut self, node: usize, failure: Failure, effects: &mut Vec<Effect>) {
        self.steps[node].error = Some(failure);
        self.end_step(node, StepStatus::Failed, effects);
    }

    fn report_progress(&mut self, effects: &mut Vec<Effect>) {
        let providers = self.definition.nodes().iter().zip(&self.steps);
        let finished: Vec<bool> = providers
            .filter(|(node, _)| matches!(node.kind, NodeKind::Provider(_)))
            .map(|(_, step)| step.is_final())
            .collect();
        let done = finished.iter().filter(|done| **done).count();
        let percent =
            (done * 100).checked_div(finished.len()).and_then(|percent| i16::try_from(percent).ok());
        if let Some(percent) = percent.filter(|&percent| percent > self.progress) {
            self.progress = percent;
            effects.push(Effect::Progress(percent));
        }
    }

    fn render(&self, template: &Template) -> Result<Rendered, TemplateError> {
        let mut steps = serde_json::Map::new();
        let every = template.reads().iter().any(|read| read.step.is_none());
        for (node, step) in self.definition.nodes().iter().zip(&self.steps) {
            let read = every || template.reads().iter().any(|read| read.step.as_ref() == Some(&node.id));
            if let Some(output) = step.output.as_ref().filter(|_| read) {
                steps.insert(node.id.clone(), output.clone());
            }
        }
        let context = Context::new()
            .with("input", &self.input)
            .with("steps", &Json::Object(steps))
            .with("task", &serde_json::json!({"id": self.task.to_string()}));
        template.render(&context)
    }

    /// The units a success has used.
    fn usage(&self) -> Result<i64, String> {
        let template = match &self.definition.quota_cost {
            QuotaCost::Fixed(cost) => return Ok(*cost),
            QuotaCost::Usage { charge, .. } => charge,
        };
        let rendered = self.render(template).and_then(|rendered| rendered.resolve(&[]));
        let value = rendered.map_err(|error| format!("the charge cannot be computed: {}", error.message))?;
        units(&value).ok_or_else(|| "the charge is no number".to_owned())
    }

    /// What a failure costs.
    fn charge_of_failure(&self, failure: &Failure) -> i64 {
        if self.definition.charge_on_content_rejected && failure.code == CONTENT_REJECTED {
            self.definition.quota_cost.max()
        } else {
            0
        }
    }

    fn finish(&mut self, ending: Ending, effects: &mut Vec<Effect>) {
        self.ended = true;
        let all: BTreeSet<usize> = (0..self.steps.len()).collect();
        self.stop(&all, effects);
        if matches!(ending, Ending::Succeeded { .. }) && self.progress < 100 {
            self.progress = 100;
            effects.push(Effect::Progress(100));
        }
        effects.push(Effect::Finish(ending));
    }
}

/// Keeps one row for each step: what became of it in the end.
fn last_rows(mut effects: Vec<Effect>) -> Vec<Effect> {
    let mut written = BTreeSet::new();
    effects.reverse();
    effects.retain(|effect| match effect {
        Effect::WriteStep(row) => written.insert(row.node.clone()),
        _ => true,
    });
    effects.reverse();
    effects
}

/// A number of units; one that is begun counts whole. What is beyond an i64 is beyond any maximum as well.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast of a float saturates, which is what is asked for"
)]
fn units(value: &Json) -> Option<i64> {
    value.as_i64().or_else(|| value.as_f64().map(|units| units.ceil() as i64))
}
