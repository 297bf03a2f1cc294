//! One flush of the engine: what its runs gathered, written by one transaction, and the calls that may leave.
//!
//! What is written of a run is fenced by its lease; ends of calls are not, because a call was made and its slot
//! is free whoever has the task now. A flush may be run again whole: after a COMMIT without an answer, the
//! attempts it wrote are found by their ids.

use super::admission::{CallRequest, Encounter, Hold};
use crate::{
    database::{Database, DatabaseError, plan_by_index},
    events::{Event, EventKind},
    ids::{AttemptId, FileId, OwnerId, TaskId, UserId},
    pipeline::{
        Step, StepStatus, TaskStatus, WaitingReason,
        provider::Submission,
        store::{self, AttemptEnd, AttemptStart, FileRow, LockedRates, SlotWish, TaskTouch, Waits},
    },
    records::callbacks::{self, NewCallback},
};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

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

/// What the transaction found out, before the batch is taken apart.
struct Outcome {
    began: Instant,
    /// When `now` had been read: our clock is rather behind PostgreSQL's than ahead of it.
    read_at: Instant,
    now: DateTime<Utc>,
    tasks: HashMap<TaskId, TaskStatus>,
    /// The deadlines of the calls that may leave.
    granted: HashMap<AttemptId, Duration>,
    freed: BTreeSet<String>,
    holds: HashMap<String, Hold>,
    encounters: HashMap<String, Encounter>,
    told: HashMap<String, bool>,
}

async fn write(database: &Database, owner: OwnerId, batch: &Batch) -> Result<Outcome, DatabaseError> {
    let mut client = database.client().await?;
    // before anything is sent: the deadlines count from here, and so end before those in the rows
    let began = Instant::now();
    let transaction = client.transaction().await?;

    let leases: BTreeMap<TaskId, i64> = batch
        .writes
        .iter()
        .filter_map(|write| Some((write.task, write.lease_no?)))
        .chain(batch.candidates.iter().map(|call| (call.task, call.lease_no)))
        .collect();
    let leases: Vec<_> = leases.into_iter().collect();
    let ((), fenced) =
        futures_util::try_join!(plan_by_index(&transaction), store::fence(&transaction, owner, &leases))?;
    let read_at = Instant::now();
    let ours = |write: &&Write| write.lease_no.is_some() && fenced.tasks.contains_key(&write.task);

    let mut granted = HashMap::new();
    let mut candidates: Vec<&CallRequest> =
        batch.candidates.iter().filter(|call| fenced.tasks.contains_key(&call.task)).collect();
    if batch.retried && !candidates.is_empty() {
        let attempts: Vec<_> = candidates.iter().map(|call| call.attempt).collect();
        for held in store::known_attempts(&transaction, &attempts).await? {
            granted.insert(held.attempt, held.left);
        }
        candidates.retain(|call| !granted.contains_key(&call.attempt));
    }
    if !batch.pauses.is_empty() {
        let pauses: Vec<_> =
            batch.pauses.iter().map(|(provider, pause)| (provider.as_str(), *pause)).collect();
        store::pause_providers(&transaction, &pauses).await?;
    }
    let (mut rates, elsewhere) = futures_util::try_join!(
        lock_rates(&transaction, &candidates),
        waits_elsewhere(&transaction, owner, &candidates),
    )?;

    // an answer that a run took in and that was then also taken for a late one counts as the run had it
    let mut seen = HashSet::new();
    let ends: Vec<AttemptEnd> = batch
        .writes
        .iter()
        .flat_map(|write| &write.ends)
        .filter(|end| seen.insert((end.task, &end.node, end.attempt)))
        .cloned()
        .collect();
    let mut freed = Vec::new();
    if !ends.is_empty() {
        let ended = store::end_attempts(&transaction, &ends).await?;
        freed = store::free_slots(&transaction, &ended).await?;
    }

    let elsewhere = Elsewhere { waits: elsewhere, impatient: &batch.queues.impatient };
    let Admitted { starts, encounters, holds } =
        admit(&transaction, &candidates, &mut rates, &elsewhere).await?;
    if !starts.is_empty() {
        store::insert_attempts(&transaction, owner, fenced.now, &starts).await?;
        if starts.iter().any(|start| start.slot.is_some()) {
            store::hold_slots(&transaction, &starts).await?;
        }
        let addresses: Vec<NewCallback> =
            candidates.iter().filter_map(|call| address(call, &starts)).collect();
        if !addresses.is_empty() {
            callbacks::insert(&transaction, &addresses).await?;
        }
        granted.extend(starts.iter().map(|start| (start.attempt, start.timeout)));
    }
    let freed = not_taken_again(freed, &starts);
    let waits = waits_here(batch, &candidates, &granted);
    store::write_waits(&transaction, owner, &waits).await?;
    let told = waits.into_iter().map(|(provider, since)| (provider, !since.is_empty())).collect();

    let leaving = || batch.candidates.iter().filter(|call| granted.contains_key(&call.attempt));
    let mut steps: BTreeMap<(TaskId, String), Step> = BTreeMap::new();
    for call in leaving() {
        steps.insert((call.task, call.node.clone()), running_step(call, fenced.now));
    }
    for write in batch.writes.iter().filter(ours) {
        for step in &write.steps {
            let key = (write.task, step.node.clone());
            let is_over = !matches!(step.status, StepStatus::Pending | StepStatus::Running);
            if is_over || !steps.contains_key(&key) {
                steps.insert(key, step.clone());
            }
        }
    }
    if !steps.is_empty() {
        let rows: Vec<_> = steps.iter().map(|((task, _), step)| (*task, step)).collect();
        store::upsert_steps(&transaction, &rows).await?;
    }

    let mut touches: BTreeMap<TaskId, TaskTouch> = BTreeMap::new();
    for call in leaving() {
        let deadline = TimeDelta::from_std(call.task_deadline).unwrap_or(TimeDelta::zero());
        touch(&mut touches, call.task).started = Some((fenced.now, fenced.now + deadline));
    }
    for write in batch.writes.iter().filter(ours) {
        let finished = write.steps.iter().any(|step| {
            step.kind == "provider" && matches!(step.status, StepStatus::Succeeded | StepStatus::Failed)
        });
        if finished || write.progress.is_some() {
            let touch = touch(&mut touches, write.task);
            touch.step_finished |= finished;
            touch.progress = touch.progress.max(write.progress.unwrap_or(0));
        }
    }
    if !touches.is_empty() {
        let rows: Vec<_> = touches.into_values().collect();
        store::touch_tasks(&transaction, &rows).await?;
    }

    let files: Vec<&FileRow> = batch.writes.iter().filter(ours).flat_map(|write| &write.files).collect();
    if !files.is_empty() {
        store::insert_files(&transaction, &files).await?;
    }
    let outputs: Vec<(TaskId, FileId)> = batch
        .writes
        .iter()
        .filter(ours)
        .flat_map(|write| write.outputs.iter().map(|file| (write.task, *file)))
        .collect();
    if !outputs.is_empty() {
        store::mark_outputs(&transaction, &outputs).await?;
    }
    transaction.commit().await?;
    let (now, tasks) = (fenced.now, fenced.tasks);
    Ok(Outcome { began, read_at, now, tasks, granted, holds, freed, encounters, told })
}

fn touch(touches: &mut BTreeMap<TaskId, TaskTouch>, task: TaskId) -> &mut TaskTouch {
    let untouched = TaskTouch { task, started: None, progress: 0, step_finished: false };
    touches.entry(task).or_insert(untouched)
}

/// Locks what was counted of those candidates' providers that may only be called so often.
async fn lock_rates(
    transaction: &deadpool_postgres::Transaction<'_>,
    candidates: &[&CallRequest],
) -> Result<HashMap<String, LockedRates>, DatabaseError> {
    let limited = candidates.iter().filter(|call| call.rate_limit.is_some());
    let limited: BTreeSet<&str> = limited.map(|call| call.provider.id.as_str()).collect();
    if limited.is_empty() {
        return Ok(HashMap::new());
    }
    let limited: Vec<_> = limited.into_iter().collect();
    let locked = store::lock_rates(transaction, &limited).await?;
    Ok(locked.into_iter().map(|rates| (rates.provider.clone(), rates)).collect())
}

/// Since when calls wait elsewhere for the slots that `candidates` want.
async fn waits_elsewhere(
    transaction: &deadpool_postgres::Transaction<'_>,
    owner: OwnerId,
    candidates: &[&CallRequest],
) -> Result<Waits, DatabaseError> {
    let wanted = candidates.iter().filter(|call| call.ceiling.is_some());
    let wanted: BTreeSet<&str> = wanted.map(|call| call.provider.id.as_str()).collect();
    let wanted: Vec<_> = wanted.into_iter().collect();
    if wanted.is_empty() {
        return Ok(Waits::new());
    }
    store::waits_elsewhere(transaction, owner, &wanted).await
}

/// Since when calls go on waiting here, of those providers for which something is to be written.
fn waits_here(batch: &Batch, candidates: &[&CallRequest], granted: &HashMap<AttemptId, Duration>) -> Waits {
    let mut waits: Waits =
        batch.queues.done_waiting.iter().map(|provider| (provider.clone(), Vec::new())).collect();
    for call in candidates.iter().filter(|call| call.ceiling.is_some()) {
        let provider = &call.provider.id;
        if !granted.contains_key(&call.attempt) {
            waits.entry(provider.clone()).or_default().push(call.since);
        } else if batch.queues.told.contains(provider) {
            waits.entry(provider.clone()).or_default();
        }
    }
    waits
}

/// The calls that wait at other replicas.
struct Elsewhere<'a> {
    waits: Waits,
    /// Providers for which those that wait for longer are overtaken.
    impatient: &'a HashSet<String>,
}

/// What of the candidates may leave.
struct Admitted {
    starts: Vec<AttemptStart>,
    encounters: HashMap<String, Encounter>,
    /// Providers of which none will leave for a while.
    holds: HashMap<String, Hold>,
}

/// Lets as many of `candidates` leave, in their order, as their providers' rates and slots allow, and as do not
/// wait for less long than calls `elsewhere`.
async fn admit(
    transaction: &deadpool_postgres::Transaction<'_>,
    candidates: &[&CallRequest],
    rates: &mut HashMap<String, LockedRates>,
    elsewhere: &Elsewhere<'_>,
) -> Result<Admitted, DatabaseError> {
    let mut rooms: HashMap<&str, u32> = HashMap::new();
    let mut timely = Vec::with_capacity(candidates.len());
    for call in candidates {
        let provider = call.provider.id.as_str();
        if let Some(limit) = call.rate_limit {
            // a provider that was deleted just now has no rates
            let locked = rates.get_mut(provider);
            let room = rooms
                .entry(provider)
                .or_insert_with(|| locked.map_or(0, |locked| locked.rates.room(limit, locked.now)));
            if *room == 0 {
                continue;
            }
            *room -= 1;
        }
        timely.push(*call);
    }
    let (starts, encounters) = take_slots(transaction, &timely, elsewhere).await?;

    let mut holds = HashMap::new();
    for call in candidates {
        let provider = call.provider.id.as_str();
        // each provider once
        if let (Some(limit), Some(mut locked)) = (call.rate_limit, rates.remove(provider)) {
            let taken = starts.iter().filter(|start| start.provider == provider).count();
            locked.rates.take(u32::try_from(taken).unwrap_or(u32::MAX));
            if taken > 0 {
                store::save_rates(transaction, &locked).await?;
            }
            let opens_in = locked.rates.opens_in(limit, locked.now);
            if !opens_in.is_zero() {
                let hold = Hold::new(Instant::now(), opens_in, WaitingReason::ProviderCeiling);
                holds.insert(provider.to_owned(), hold);
            }
        }
    }
    // no slot at all: the provider may be paused
    let without: BTreeSet<&str> = timely
        .iter()
        .filter(|call| call.ceiling.is_some())
        .map(|call| call.provider.id.as_str())
        .filter(|provider| {
            starts.iter().all(|start| start.provider != *provider) && !encounters.contains_key(*provider)
        })
        .collect();
    if !without.is_empty() {
        let without: Vec<_> = without.into_iter().collect();
        for (provider, left) in store::pauses(transaction, &without).await? {
            holds.insert(provider, Hold::new(Instant::now(), left, WaitingReason::Backoff));
        }
    }
    Ok(Admitted { starts, encounters, holds })
}

/// Finds slots for as many of `candidates` as there are, in their order; those that are for calls which wait for
/// longer elsewhere are left to them.
async fn take_slots(
    transaction: &deadpool_postgres::Transaction<'_>,
    candidates: &[&CallRequest],
    elsewhere: &Elsewhere<'_>,
) -> Result<(Vec<AttemptStart>, HashMap<String, Encounter>), DatabaseError> {
    let others = |provider: &str| elsewhere.waits.get(provider).map_or(&[][..], Vec::as_slice);
    let mut wishes: BTreeMap<&str, SlotWish> = BTreeMap::new();
    for call in candidates {
        if let Some(ceiling) = call.ceiling {
            let provider = call.provider.id.as_str();
            // one more for each that waits elsewhere: only what is beyond theirs is taken
            let theirs = i64::try_from(others(provider).len()).unwrap_or(i64::MAX);
            let none = || SlotWish { provider: provider.to_owned(), ceiling, wanted: theirs };
            wishes.entry(provider).or_insert_with(none).wanted += 1;
        }
    }
    let mut free: HashMap<String, Vec<i32>> = HashMap::new();
    if !wishes.is_empty() {
        let wishes: Vec<_> = wishes.into_values().collect();
        for (provider, slot) in store::take_slots(transaction, &wishes).await? {
            free.entry(provider).or_default().push(slot);
        }
    }
    let mut encounters = HashMap::new();
    let mut starts = Vec::new();
    for call in candidates {
        let provider = call.provider.id.as_str();
        let slot = if call.ceiling.is_some() {
            let Some(free) = free.get_mut(provider).filter(|free| !free.is_empty()) else { continue };
            if others(provider).iter().filter(|since| **since < call.since).count() >= free.len() {
                if !elsewhere.impatient.contains(provider) {
                    encounters.insert(provider.to_owned(), Encounter::Left);
                    continue;
                }
                encounters.insert(provider.to_owned(), Encounter::Overtook);
            }
            free.pop()
        } else {
            None
        };
        starts.push(AttemptStart {
            attempt: call.attempt,
            task: call.task,
            lease_no: call.lease_no,
            node: call.node.clone(),
            number: call.number,
            provider: provider.to_owned(),
            idempotency_key: call.idempotency_key.clone(),
            slot,
            cause: call.cause,
            timeout: call.timeout,
        });
    }
    Ok((starts, encounters))
}

/// The providers with more slots in `freed`, one name a slot, than `starts` take of them.
fn not_taken_again(freed: Vec<String>, starts: &[AttemptStart]) -> BTreeSet<String> {
    let mut left: HashMap<String, i64> = HashMap::new();
    for provider in freed {
        *left.entry(provider).or_default() += 1;
    }
    for start in starts.iter().filter(|start| start.slot.is_some()) {
        if let Some(left) = left.get_mut(&start.provider) {
            *left -= 1;
        }
    }
    left.into_iter().filter(|(_, left)| *left > 0).map(|(provider, _)| provider).collect()
}

/// The address that a call names, if it is one of those that start and names any.
fn address(call: &CallRequest, starts: &[AttemptStart]) -> Option<NewCallback> {
    let token = call.callback.clone()?;
    let start = starts.iter().find(|start| start.attempt == call.attempt)?;
    Some(NewCallback { token, attempt: start.attempt, timeout: start.timeout })
}

/// The row of a step whose call leaves, as the run will see it when it hears of that.
fn running_step(call: &CallRequest, now: DateTime<Utc>) -> Step {
    Step {
        node: call.node.clone(),
        kind: "provider".to_owned(),
        status: StepStatus::Running,
        provider: Some(call.provider.id.clone()),
        output: None,
        error: None,
        started_at: Some(now),
        finished_at: None,
    }
}

impl Outcome {
    /// Takes the batch apart, now that its transaction is committed.
    fn finish(self, batch: Batch) -> Flushed {
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
        let (holds, freed, encounters, told) = (self.holds, self.freed, self.encounters, self.told);
        let broken = Vec::new();
        Flushed {
            granted,
            refused,
            holds,
            lost,
            broken,
            answered,
            written,
            events,
            freed,
            encounters,
            told,
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
