//! What goes into a run and what comes out of it: events, effects, codes of failures.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value as Json;

use crate::pipeline::{
    AttemptCause, AttemptStatus, Failure, Step,
    provider::{CallError, CallPolicy},
    template::Rendered,
};

/// The task ran past its deadline.
pub const TASK_DEADLINE_EXCEEDED: &str = "TASK_DEADLINE_EXCEEDED";
/// A call may have taken effect, and its provider must not be called twice.
pub const OUTCOME_UNKNOWN: &str = "OUTCOME_UNKNOWN";
/// A template could not be rendered with what the steps before it gave.
pub const TEMPLATE_FAILED: &str = "TEMPLATE_FAILED";
/// A step's output does not fit its schema, or cannot be stored.
pub const OUTPUT_INVALID: &str = "OUTPUT_INVALID";
/// What providers say when they refuse the content; some pipelines charge for it.
pub const CONTENT_REJECTED: &str = "CONTENT_REJECTED";

/// What a transition may look at besides the run.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Now, by the clock that also writes the rows.
    pub now: DateTime<Utc>,
    /// From 0 to below 1, drawn anew each time; spreads the backoffs.
    pub random: f64,
    /// Calls of this task at once, at least 1.
    pub max_concurrency: usize,
    /// What holds for calls of a provider; none when it does not exist any more.
    pub policy: &'a dyn Fn(&str) -> Option<CallPolicy>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// The run begins, goes on after a crash, or something is due.
    Woken,
    /// The attempt's row is written `running` and the call has left.
    CallStarted {
        /// The step.
        node: String,
        /// The attempt.
        attempt: i32,
    },
    /// The call has ended, one way or the other.
    CallFinished {
        /// The step.
        node: String,
        /// The attempt.
        attempt: i32,
        /// The step's output (with its files' ids in it), or why there is none.
        result: Result<Json, CallError>,
    },
    /// The call was never sent, because its provider does not take any: it is disabled, gone, its breaker is open, or
    /// as much is repeated of it as may be.
    CallRefused {
        /// The step.
        node: String,
        /// The attempt; its number is free again.
        attempt: i32,
        /// What the step says when no fallback is left and no call has failed.
        error: CallError,
    },
    /// The call was never sent and will not be, for no fault of its provider: it was withdrawn, or its file could
    /// not be read for now. A step that is still wanted asks for it again.
    CallDropped {
        /// The step.
        node: String,
        /// The attempt; its number is free again.
        attempt: i32,
    },
}

/// What the driver is to do, in order. Rows of one `apply` belong into one transaction; no step has two.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// The first call was admitted: the task is `running`, its deadline counts.
    Started {
        /// When.
        at: DateTime<Utc>,
        /// The task's deadline.
        deadline_at: DateTime<Utc>,
    },
    /// Write the step's row.
    WriteStep(Step),
    /// Write how an attempt ended.
    FinishAttempt {
        /// The step.
        node: String,
        /// The attempt.
        attempt: i32,
        /// Never `running`.
        status: AttemptStatus,
        /// What went wrong.
        error: Option<Failure>,
        /// When.
        at: DateTime<Utc>,
    },
    /// Call a provider.
    Call(Box<ProviderCall>),
    /// The call's result is not wanted any more. If it has not left, drop it and say [`Event::CallDropped`]; else
    /// let it run to its end.
    Withdraw {
        /// The step.
        node: String,
        /// The attempt.
        attempt: i32,
    },
    /// Finished provider steps, percent; only ever grows.
    Progress(i16),
    /// Settle the task.
    Finish(Ending),
}

/// A call to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderCall {
    /// The step.
    pub node: String,
    /// 1 for the step's first call.
    pub attempt: i32,
    /// Whom to call.
    pub provider: String,
    /// Why.
    pub cause: AttemptCause,
    /// The step's input; its files are still to be put in.
    pub input: Rendered,
    /// The node's own timeout, before the provider's.
    pub timeout: Option<Duration>,
    /// Whether another provider would be asked if this one refused. When not, waiting for it may be better.
    pub has_fallback: bool,
}

/// How a task ends.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    /// The end was reached.
    Succeeded {
        /// The task's output.
        output: Json,
        /// Units to charge, 0 to what is reserved.
        charge: i64,
        /// Why the pipeline's expression said nothing about the charge, so that it is all that is reserved.
        charge_fault: Option<String>,
    },
    /// It cannot be reached any more.
    Failed {
        /// Why, with the node where it began.
        error: Failure,
        /// Units to charge all the same; mostly 0.
        charge: i64,
    },
}
