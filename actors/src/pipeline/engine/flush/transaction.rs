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
    let Admitted { starts, encounters, holds, slot_deadlines } =
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
    Ok(Outcome { began, read_at, now, tasks, granted, holds, slot_deadlines, freed, encounters, told })
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
