//! The transaction of a flush.

use super::{
    Batch, Write,
    outcome::Outcome,
    slots::{Admitted, Elsewhere, admit, lock_rates, not_taken_again, waits_elsewhere},
};
use crate::{
    database::{Database, DatabaseError, plan_by_index},
    ids::{AttemptId, FileId, OwnerId, TaskId},
    pipeline::{
        Step, StepStatus,
        engine::admission::CallRequest,
        store::{self, AttemptEnd, AttemptStart, FileRow, TaskTouch, Waits},
    },
    records::callbacks::{self, NewCallback},
};
use chrono::{DateTime, TimeDelta, Utc};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

/// Writes `batch` in one transaction, in the order that `store::flush` gives its reasons for.
pub(super) async fn write(
    database: &Database,
    owner: OwnerId,
    batch: &Batch,
) -> Result<Outcome, DatabaseError> {
    let mut client = database.client().await?;
    store::prepare_flush(&client).await?;
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
    let retried: Vec<AttemptId> =
        batch.candidates.iter().filter(|_| batch.retried).map(|call| call.attempt).collect();
    let pauses: Vec<_> = batch.pauses.iter().map(|(provider, pause)| (provider.as_str(), *pause)).collect();
    let ends = ends(batch);
    // these travel together, and so do those below; PostgreSQL runs them in order
    let ((), tasks, now, known, (), mut rates, waits, freed) = futures_util::try_join!(
        plan_by_index(&transaction),
        store::fence(&transaction, owner, &leases),
        store::clock(&transaction),
        store::known_attempts(&transaction, &retried),
        store::pause_providers(&transaction, &pauses),
        lock_rates(&transaction, &batch.candidates),
        waits_elsewhere(&transaction, owner, &batch.candidates),
        store::end_attempts(&transaction, &ends),
    )?;
    let read_at = Instant::now();

    let mut granted: HashMap<AttemptId, Duration> =
        known.into_iter().map(|held| (held.attempt, held.left)).collect();
    let candidates: Vec<&CallRequest> = batch
        .candidates
        .iter()
        .filter(|call| tasks.contains_key(&call.task) && !granted.contains_key(&call.attempt))
        .collect();
    let elsewhere = Elsewhere { waits, impatient: &batch.queues.impatient };
    let Admitted { starts, encounters, holds, slot_deadlines } =
        admit(&transaction, &candidates, &mut rates, &elsewhere).await?;
    granted.extend(starts.iter().map(|start| (start.attempt, start.timeout)));
    let addresses: Vec<NewCallback> = candidates.iter().filter_map(|call| address(call, &starts)).collect();
    let waits = waits_here(batch, &candidates, &granted);

    let ours: Vec<&Write> = batch
        .writes
        .iter()
        .filter(|write| write.lease_no.is_some() && tasks.contains_key(&write.task))
        .collect();
    let leaving: Vec<&CallRequest> =
        batch.candidates.iter().filter(|call| granted.contains_key(&call.attempt)).collect();
    let steps = steps(&ours, &leaving, now);
    let steps: Vec<_> = steps.iter().map(|((task, _), step)| (*task, step)).collect();
    let touches = touches(&ours, &leaving, now);
    let files: Vec<&FileRow> = ours.iter().flat_map(|write| &write.files).collect();
    let outputs: Vec<(TaskId, FileId)> =
        ours.iter().flat_map(|write| write.outputs.iter().map(|file| (write.task, *file))).collect();
    futures_util::try_join!(
        store::insert_attempts(&transaction, owner, now, &starts),
        callbacks::insert(&transaction, &addresses),
        store::write_waits(&transaction, owner, &waits),
        store::upsert_steps(&transaction, &steps),
        store::touch_tasks(&transaction, &touches),
        store::insert_files(&transaction, &files),
        store::mark_outputs(&transaction, &outputs),
    )?;
    transaction.commit().await?;
    let freed = not_taken_again(freed, &starts);
    let told = waits.into_iter().map(|(provider, since)| (provider, !since.is_empty())).collect();
    Ok(Outcome { began, read_at, now, tasks, granted, holds, slot_deadlines, freed, encounters, told })
}

/// How calls ended: an answer that a run took in and that was then also taken for a late one counts as the run had it.
fn ends(batch: &Batch) -> Vec<AttemptEnd> {
    let mut seen = HashSet::new();
    let ends = batch.writes.iter().flat_map(|write| &write.ends);
    ends.filter(|end| seen.insert((end.task, &end.node, end.attempt))).cloned().collect()
}

/// The rows of steps: of those whose calls leave, and of those that runs want written.
fn steps(ours: &[&Write], leaving: &[&CallRequest], now: DateTime<Utc>) -> BTreeMap<(TaskId, String), Step> {
    let mut steps: BTreeMap<(TaskId, String), Step> = BTreeMap::new();
    for call in leaving {
        steps.insert((call.task, call.node.clone()), running_step(call, now));
    }
    for write in ours {
        for step in &write.steps {
            let key = (write.task, step.node.clone());
            let is_over = !matches!(step.status, StepStatus::Pending | StepStatus::Running);
            if is_over || !steps.contains_key(&key) {
                steps.insert(key, step.clone());
            }
        }
    }
    steps
}

/// What changes of the tasks' own rows.
fn touches(ours: &[&Write], leaving: &[&CallRequest], now: DateTime<Utc>) -> Vec<TaskTouch> {
    let mut touches: BTreeMap<TaskId, TaskTouch> = BTreeMap::new();
    for call in leaving {
        let deadline = TimeDelta::from_std(call.task_deadline).unwrap_or(TimeDelta::zero());
        touch(&mut touches, call.task).started = Some((now, now + deadline));
    }
    for write in ours {
        let finished = write.steps.iter().any(|step| {
            step.kind == "provider" && matches!(step.status, StepStatus::Succeeded | StepStatus::Failed)
        });
        if finished || write.progress.is_some() {
            let touch = touch(&mut touches, write.task);
            touch.step_finished |= finished;
            touch.progress = touch.progress.max(write.progress.unwrap_or(0));
        }
    }
    touches.into_values().collect()
}

fn touch(touches: &mut BTreeMap<TaskId, TaskTouch>, task: TaskId) -> &mut TaskTouch {
    let untouched = TaskTouch { task, started: None, progress: 0, step_finished: false };
    touches.entry(task).or_insert(untouched)
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
