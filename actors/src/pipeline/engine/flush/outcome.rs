//! What a flush has found out, and what follows from it for those who wait: once its transaction is committed.

use super::{Batch, Flushed, Granted, Write, count};
use crate::{
    events::{Event, EventKind},
    ids::{AttemptId, TaskId},
    pipeline::{
        StepStatus, TaskStatus,
        engine::admission::{CallRequest, Encounter, Hold},
        provider::Submission,
    },
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

/// What the transaction found out, before the batch is taken apart.
pub(super) struct Outcome {
    pub(super) began: Instant,
    /// When `now` had been read: our clock is rather behind PostgreSQL's than ahead of it.
    pub(super) read_at: Instant,
    pub(super) now: DateTime<Utc>,
    pub(super) tasks: HashMap<TaskId, TaskStatus>,
    /// The deadlines of the calls that may leave.
    pub(super) granted: HashMap<AttemptId, Duration>,
    pub(super) freed: BTreeSet<String>,
    pub(super) holds: HashMap<String, Hold>,
    pub(super) slot_deadlines: HashMap<String, Instant>,
    pub(super) encounters: HashMap<String, Encounter>,
    pub(super) told: HashMap<String, bool>,
}

impl Outcome {
    /// Takes the batch apart, now that its transaction is committed.
    pub(super) fn finish(self, batch: Batch) -> Flushed {
        let mut events = Vec::new();
        let mut started: HashSet<TaskId> = HashSet::new();
        for write in batch.writes.iter().filter(|write| self.is_ours(write)) {
            step_events(write, self.now, &mut events);
        }
        let written = count(&batch.writes);
        let answered = batch.writes.iter().flat_map(|write| write.answered.iter().copied()).collect();
        let mut lost: HashSet<(TaskId, i64)> = batch
            .writes
            .iter()
            .filter(|write| !self.tasks.contains_key(&write.task))
            .filter_map(|write| Some((write.task, write.lease_no?)))
            .collect();
        let mut granted = Vec::new();
        let mut refused = Vec::new();
        for request in batch.candidates {
            let Some(status) = self.tasks.get(&request.task) else {
                lost.insert((request.task, request.lease_no));
                continue;
            };
            let Some(timeout) = self.granted.get(&request.attempt) else {
                refused.push(request);
                continue;
            };
            if *status == TaskStatus::Queued && started.insert(request.task) {
                let data = json!({"status": TaskStatus::Running.name()});
                events.push(event(&request, EventKind::TaskStarted, self.now, data));
            }
            let data = json!({"nodeId": request.node, "status": "running", "attempt": request.number});
            events.push(event(&request, EventKind::StepStarted, self.now, data));
            let (deadline, at) = (self.began + *timeout, self.now);
            granted.push(Granted { request, deadline, at, submission: Submission::Due });
        }
        let clock = Some((self.read_at, self.now));
        Flushed {
            granted,
            refused,
            holds: self.holds,
            slot_deadlines: self.slot_deadlines,
            lost,
            broken: Vec::new(),
            answered,
            written,
            events,
            freed: self.freed,
            encounters: self.encounters,
            told: self.told,
            clock,
        }
    }

    fn is_ours(&self, write: &Write) -> bool {
        write.lease_no.is_some() && self.tasks.contains_key(&write.task)
    }
}

fn event(request: &CallRequest, kind: EventKind, at: DateTime<Utc>, data: Value) -> Event {
    Event { user: request.user, kind, task: Some(request.task), data, at, final_no: None }
}

/// What a client hears of a write: steps that are over (what only leads to the first call is no news), and how
/// far the task is.
fn step_events(write: &Write, at: DateTime<Utc>, events: &mut Vec<Event>) {
    let mut push = |kind, data| {
        events.push(Event { user: write.user, kind, task: Some(write.task), data, at, final_no: None });
    };
    for step in &write.steps {
        let is_over = !matches!(step.status, StepStatus::Pending | StepStatus::Running);
        if !is_over || matches!(step.kind.as_str(), "start" | "fork") {
            continue;
        }
        let attempt = write.ends.iter().filter(|end| end.node == step.node).map(|end| end.attempt).max();
        let mut data = json!({"nodeId": step.node, "status": step.status.name(), "attempt": attempt});
        if let (Some(error), Value::Object(fields)) = (&step.error, &mut data) {
            fields.insert("error".to_owned(), json!(error));
        }
        push(EventKind::StepFinished, data);
    }
    if let Some(progress) = write.progress {
        push(EventKind::TaskProgress, json!({"progress": progress}));
    }
}
