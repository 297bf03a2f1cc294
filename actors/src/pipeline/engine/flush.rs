//! One flush of the engine: what its runs gathered, written by one transaction, and the calls that may leave.
//!
//! What is written of a run is fenced by its lease; ends of calls are not, because a call was made and its slot
//! is free whoever has the task now. A flush may be run again whole: after a COMMIT without an answer, the
//! attempts it wrote are found by their ids.

mod outcome;
mod slots;
mod transaction;

use super::admission::{CallRequest, Encounter, Hold};
use crate::{
    database::Database,
    events::Event,
    ids::{AttemptId, FileId, OwnerId, TaskId, UserId},
    pipeline::{
        Step,
        provider::Submission,
        store::{AttemptEnd, FileRow},
    },
};
use chrono::{DateTime, Utc};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};
use transaction::write;

/// What a run, or a call without one, wants written.
#[derive(Clone, Debug)]
pub(super) struct Write {
    pub(super) task: TaskId,
    pub(super) user: UserId,
    /// The run's lease; `None` for the late answer of a call whose run is gone.
    pub(super) lease_no: Option<i64>,
    pub(super) steps: Vec<Step>,
    pub(super) ends: Vec<AttemptEnd>,
    /// The attempts in `ends` that this process made, so that their answers may be forgotten once written.
    pub(super) answered: Vec<AttemptId>,
    pub(super) files: Vec<FileRow>,
    /// Files that the task's output names.
    pub(super) outputs: Vec<FileId>,
    pub(super) progress: Option<i16>,
}

impl Write {
    /// Nothing yet.
    pub(super) fn of(task: TaskId, user: UserId) -> Self {
        Self {
            task,
            user,
            lease_no: None,
            steps: Vec::new(),
            ends: Vec::new(),
            answered: Vec::new(),
            files: Vec::new(),
            outputs: Vec::new(),
            progress: None,
        }
    }

    /// Whether there is nothing to write or to forget.
    pub(super) fn is_empty(&self) -> bool {
        self.steps.is_empty()
            && self.ends.is_empty()
            && self.answered.is_empty()
            && self.files.is_empty()
            && self.outputs.is_empty()
            && self.progress.is_none()
    }
}

/// What one flush is to write, and the calls to let go if there is room for them.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) writes: Vec<Write>,
    pub(super) candidates: Vec<CallRequest>,
    /// Pauses that providers asked for.
    pub(super) pauses: HashMap<String, Duration>,
    pub(super) queues: Box<Queues>,
    /// An earlier try may have been committed.
    pub(super) retried: bool,
}

/// How the queues of calls stand beside those of other replicas.
#[derive(Clone, Debug, Default)]
pub(super) struct Queues {
    /// Providers for which it is written that calls wait here.
    pub(super) told: HashSet<String>,
    /// Those of them for which none do any more.
    pub(super) done_waiting: Vec<String>,
    /// Providers whose slots are not left to calls that wait for longer elsewhere.
    pub(super) impatient: HashSet<String>,
}

/// A call that is written `running` and may leave.
#[derive(Debug)]
pub(super) struct Granted {
    pub(super) request: CallRequest,
    /// The attempt's deadline on the monotonic clock, never later than the one in its row.
    pub(super) deadline: Instant,
    /// The time in its row.
    pub(super) at: DateTime<Utc>,
    pub(super) submission: Submission,
}

/// What came of a flush.
#[derive(Debug, Default)]
pub(super) struct Flushed {
    pub(super) granted: Vec<Granted>,
    /// Calls that could not leave, in their order.
    pub(super) refused: Vec<CallRequest>,
    /// Providers of which no call may leave for a while.
    pub(super) holds: HashMap<String, Hold>,
    /// When the first slot becomes free by itself, of providers that had none.
    pub(super) slot_deadlines: HashMap<String, Instant>,
    /// Leases that do not hold any more.
    pub(super) lost: HashSet<(TaskId, i64)>,
    /// Tasks whose own writes PostgreSQL refuses: a defect, or data it cannot hold.
    pub(super) broken: Vec<TaskId>,
    /// Attempts whose answers are written.
    pub(super) answered: Vec<AttemptId>,
    /// For how many writes of each task this answers.
    pub(super) written: HashMap<TaskId, usize>,
    /// What happened, now that it is committed.
    pub(super) events: Vec<Event>,
    /// Providers with slots that became free and were not taken again.
    pub(super) freed: BTreeSet<String>,
    /// The providers whose calls met others that wait for longer at other replicas.
    pub(super) encounters: HashMap<String, Encounter>,
    /// For which providers it is written now that calls wait here, or that none do.
    pub(super) told: HashMap<String, bool>,
    /// A reading of PostgreSQL's clock.
    pub(super) clock: Option<(Instant, DateTime<Utc>)>,
}

impl Flushed {
    fn absorb(&mut self, other: Self) {
        self.granted.extend(other.granted);
        self.refused.extend(other.refused);
        self.holds.extend(other.holds);
        self.slot_deadlines.extend(other.slot_deadlines);
        self.lost.extend(other.lost);
        self.broken.extend(other.broken);
        self.answered.extend(other.answered);
        for (task, count) in other.written {
            *self.written.entry(task).or_default() += count;
        }
        self.events.extend(other.events);
        self.freed.extend(other.freed);
        self.encounters.extend(other.encounters);
        self.told.extend(other.told);
        self.clock = other.clock.or(self.clock);
    }
}

/// How long a flush that PostgreSQL cannot take pauses before it is tried again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// Writes `batch` until it is written. Only what PostgreSQL refuses for its content is given up, and that is
/// found by halving, so that it fails no neighbour.
pub(super) async fn flush(database: &Database, owner: OwnerId, batch: Batch) -> Flushed {
    let mut flushed = Flushed::default();
    let mut batches = vec![batch];
    let mut pause = PAUSES.0;
    while let Some(mut batch) = batches.pop() {
        match write(database, owner, &batch).await {
            Ok(outcome) => {
                pause = PAUSES.0;
                flushed.absorb(outcome.finish(batch));
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(error = %crate::causes(&error), "steps are not written yet");
                batch.retried = true;
                batches.push(batch);
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSES.1);
            }
            Err(error) => match batch.halve() {
                Ok((first, second)) => batches.extend([second, first]),
                Err(batch) => {
                    tracing::error!(
                        error = %crate::causes(&error),
                        task = %batch.task().map(|task| task.to_string()).unwrap_or_default(),
                        "the steps of a task cannot be written"
                    );
                    flushed.absorb(batch.give_up());
                }
            },
        }
    }
    flushed
}

impl Batch {
    /// Whether there is nothing to do.
    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
            && self.candidates.is_empty()
            && self.pauses.is_empty()
            && self.queues.done_waiting.is_empty()
    }

    /// Writes and calls together.
    pub(super) fn len(&self) -> usize {
        self.writes.len() + self.candidates.len()
    }

    fn task(&self) -> Option<TaskId> {
        self.writes.first().map(|write| write.task).or_else(|| self.candidates.first().map(|call| call.task))
    }

    /// Two halves by task, or the batch again when it is about one task only.
    fn halve(self) -> Result<(Self, Self), Self> {
        let mut tasks: Vec<TaskId> = self
            .writes
            .iter()
            .map(|write| write.task)
            .chain(self.candidates.iter().map(|call| call.task))
            .collect();
        tasks.sort_unstable();
        tasks.dedup();
        if tasks.len() < 2 {
            return Err(self);
        }
        let middle = tasks[tasks.len() / 2];
        let retried = self.retried;
        let (low_writes, high_writes) = self.writes.into_iter().partition(|write| write.task < middle);
        let (low_calls, high_calls) = self.candidates.into_iter().partition(|call| call.task < middle);
        let queues = Box::new(Queues { done_waiting: Vec::new(), ..(*self.queues).clone() });
        let pauses = HashMap::new();
        Ok((
            Self { writes: low_writes, candidates: low_calls, retried, ..self },
            Self { writes: high_writes, candidates: high_calls, pauses, queues, retried },
        ))
    }

    fn give_up(self) -> Flushed {
        Flushed {
            broken: self.task().into_iter().collect(),
            answered: self.writes.iter().flat_map(|write| write.answered.iter().copied()).collect(),
            written: count(&self.writes),
            ..Flushed::default()
        }
    }
}

fn count(writes: &[Write]) -> HashMap<TaskId, usize> {
    let mut written = HashMap::new();
    for write in writes {
        *written.entry(write.task).or_default() += 1;
    }
    written
}
