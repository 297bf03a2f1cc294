//! What the engine does with the tasks it has: runs, their writes, their calls, their ends.

use super::{
    actor::{Engine, Phase, RETRY},
    admission::{COURTESY, CallRequest, Encounter, Hold},
    calls::{self, Answer},
    flush::{self, Batch, Flushed, Granted, Queues, Write},
    providers::ceiling,
    run::{Effects, Note, RUN_MAILBOX, RunActor, Told},
    runs::{Entry, Stage},
    settle::{self, Settled},
};
use crate::{
    events::EventKind,
    faults,
    ids::TaskId,
    pipeline::{
        AttemptStatus, Failure, Lease, WaitingReason,
        provider::CallError,
        store::{self, AttemptEnd, Claimed},
    },
    signals::Signal,
    supervisor::run_isolated,
};
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

/// Writes in one transaction at most.
const BATCH: usize = 512;
/// Claims after a death or a panic with no step finished since that end a task.
const STALLS: i16 = 3;

impl Engine {
    // ---- runs

    pub(super) fn start_run(&mut self, claimed: Claimed) {
        let (task, user, lease_no) = (claimed.task.id, claimed.task.user, claimed.lease_no);
        if let Some(mut before) = self.runs.remove(&task) {
            before.quit();
            self.admission.remove_task(task);
        }
        if claimed.stalls >= STALLS {
            tracing::error!(%task, stalls = claimed.stalls, "a task that fails whoever runs it is ended");
            metrics::counter!("greenroom_tasks_poisoned_total").increment(1);
            let message = "The task could not be run.";
            self.runs.insert(task, Entry::over(user, lease_no, settle::failed("TASK_POISONED", message)));
            return self.take_late_answers(task);
        }
        let run = RunActor::new(Arc::clone(&self.tools.run_tools), claimed, self.notes.clone());
        let mut life = Context::new();
        life.set_mailbox_capacity(RUN_MAILBOX);
        self.runs.insert(task, Entry::running(user, lease_no, life.address()));
        let notes = self.notes.clone();
        actix::spawn(async move {
            let panic = run_isolated(life, run).await.err().map(|panic| panic.0);
            drop(notes.send(Note::Ended { task, lease_no, panic }));
        });
    }

    pub(super) fn take_effects(&mut self, effects: Effects, context: &mut Context<Self>) {
        let task = effects.write.task;
        let Some(entry) = self.runs.get_mut(&task).filter(|entry| entry.lease_no == effects.lease_no) else {
            // a run that was told to quit: only what calls did still counts
            return self.gather_late(effects.write, context);
        };
        entry.backing_off_until = effects.backing_off_until;
        if let Some(ending) = effects.ending {
            entry.ending = Some(ending);
        }
        if !effects.write.is_empty() {
            entry.unwritten += 1;
            self.gathered.push(effects.write);
        }
        for (node, number) in effects.withdrawn {
            self.withdraw(task, node, number);
        }
        if self.runs.get(&task).is_some_and(|entry| entry.ending.is_some()) {
            self.admission.remove_task(task);
        } else {
            effects.calls.into_iter().for_each(|call| self.admission.push(call));
        }
        self.settle(task);
        self.flush(context);
    }

    /// Takes up calls that a process which is gone has made.
    pub(super) fn resume(&mut self, task: TaskId, lease_no: i64, calls: Vec<Granted>) {
        if self.runs.get(&task).is_some_and(|entry| entry.lease_no == lease_no) {
            tracing::info!(%task, calls = calls.len(), "calls cut by the end of their replica are asked about");
            calls.into_iter().for_each(|granted| calls::let_go(&self.tools.call_tools, granted));
        }
    }

    fn withdraw(&mut self, task: TaskId, node: String, number: i32) {
        if self.admission.withdraw(task, &node, number) {
            if let Some(entry) = self.runs.get(&task) {
                entry.tell(Told::Dropped { node, number });
            }
            return;
        }
        let out = self.out.iter().find(|(_, out)| **out == (task, node.clone(), number));
        if let Some((attempt, _)) = out {
            self.withdrawn.insert(*attempt);
        }
    }

    pub(super) fn run_ended(
        &mut self,
        task: TaskId,
        lease_no: i64,
        panic: Option<String>,
        context: &mut Context<Self>,
    ) {
        let entry = self.runs.get_mut(&task).filter(|entry| entry.lease_no == lease_no);
        if let Some(entry) = entry.filter(|entry| entry.ending.is_none() && entry.stage == Stage::Running) {
            let panic = panic.as_deref().unwrap_or("it stopped by itself");
            tracing::error!(%task, panic, "a run failed and is made anew");
            metrics::counter!("greenroom_run_panics_total").increment(1);
            entry.stage = Stage::Panicked;
            self.admission.remove_task(task);
            self.restart(task, context);
        }
    }

    /// Makes a fresh run of a task whose run failed, once what the failed one handed over is written.
    fn restart(&mut self, task: TaskId, context: &mut Context<Self>) {
        let Some(entry) = self.runs.get_mut(&task).filter(|entry| entry.is_ready_to_restart()) else {
            return;
        };
        entry.stage = Stage::Restarting;
        let lease_no = entry.lease_no;
        let tools = Arc::clone(&self.tools);
        let stall = async move {
            loop {
                let stalled = async {
                    let client = tools.database.client().await?;
                    store::stall(&client, tools.owner, task, lease_no).await
                };
                match stalled.await {
                    Ok(claimed) => return claimed,
                    Err(error) => {
                        tracing::warn!(error = %crate::causes(&error), %task, "a run is not made anew yet");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        };
        context.spawn(stall.into_actor(self).map(move |claimed: Option<Claimed>, actor, _| {
            if let Some(claimed) = claimed {
                actor.start_run(claimed);
                actor.settle(task);
            } else if actor.runs.get(&task).is_some_and(|entry| entry.lease_no == lease_no) {
                actor.drop_run(task);
            }
        }));
    }

    pub(super) fn drop_run(&mut self, task: TaskId) {
        if let Some(mut entry) = self.runs.remove(&task) {
            entry.quit();
        }
        self.admission.remove_task(task);
        self.take_late_answers(task);
    }

    // ---- endings

    pub(super) fn settle_ready(&mut self) {
        let ready = self.runs.iter().filter(|(_, entry)| entry.is_ready_to_settle()).map(|(task, _)| *task);
        for task in ready.collect::<Vec<_>>() {
            self.settle(task);
        }
    }

    /// Has a task settled whose rows are all written.
    pub(super) fn settle(&mut self, task: TaskId) {
        let Some(entry) = self.runs.get_mut(&task).filter(|entry| entry.is_ready_to_settle()) else { return };
        let Some(ending) = entry.ending.clone() else { return };
        entry.stage = Stage::Settling;
        entry.quit();
        let (user, lease_no) = (entry.user, entry.lease_no);
        let tools = Arc::clone(&self.tools);
        let notes = self.notes.clone();
        // not on the actor's own context, which looks at all of its futures whenever one of them moves
        actix::spawn(async move {
            let lease = Lease { owner: tools.owner, lease_no };
            let settled = settle::settle(&tools.quota, user, task, lease, ending).await;
            drop(notes.send(Note::Settled { task, lease_no, settled }));
        });
    }

    pub(super) fn settled(
        &mut self,
        task: TaskId,
        lease_no: i64,
        settled: Settled,
        context: &mut Context<Self>,
    ) {
        if self.runs.get(&task).is_some_and(|entry| entry.lease_no == lease_no) {
            self.drop_run(task);
        }
        if let Settled::As(status) = settled {
            metrics::counter!("greenroom_tasks_finished_total", "status" => status.name()).increment(1);
        }
        self.flush(context);
        // the user may have more than could run at once
        self.claim_next(context);
    }

    // ---- answers

    pub(super) fn take_answer(&mut self, answer: Arc<Answer>, context: &mut Context<Self>) {
        self.admission.ended(answer.call.attempt);
        if let Some(pause) = answer.result.as_ref().err().and_then(CallError::retry_after) {
            self.pause(&answer.call.provider, pause);
        }
        if self.phase == Phase::Starting {
            // whose it is is not known yet; it is kept, and looked for once our tasks are
            return;
        }
        let entry = self.runs.get(&answer.call.task);
        if let Some(entry) = entry.filter(|entry| entry.wants_answers()) {
            entry.tell(Told::Answered(answer));
            return;
        }
        self.gather_answer(&answer);
        self.flush(context);
    }

    /// Writes the ends of calls that were answered while there was no engine, for tasks that are not ours.
    pub(super) fn take_unclaimed_answers(&mut self) {
        for answer in self.tools.calls.answers() {
            if !self.runs.contains_key(&answer.call.task) {
                self.gather_answer(&answer);
            }
        }
    }

    /// Writes the ends of calls whose answers no run has taken in, or will.
    fn take_late_answers(&mut self, task: TaskId) {
        for answer in self.tools.calls.answers_of(task) {
            self.gather_answer(&answer);
        }
    }

    /// Lets no replica call a provider for so long, as it has asked.
    fn pause(&mut self, provider: &str, pause: Duration) {
        let hold = Hold::new(Instant::now(), pause, WaitingReason::Backoff);
        self.admission.hold(provider.to_owned(), hold);
        let longest = self.pauses.entry(provider.to_owned()).or_default();
        *longest = pause.max(*longest);
    }

    fn gather_answer(&mut self, answer: &Answer) {
        let Some(at) = self.tools.clock.time(Instant::now()) else { return };
        let call = answer.call.clone();
        let error = answer.result.as_ref().err().map(|error| Failure {
            code: error.code.to_owned(),
            message: error.message.clone(),
            node_id: Some(call.node.clone()),
        });
        let (status, attempt) = (AttemptStatus::Cancelled, call.number);
        let mut write = Write::of(call.task, call.user);
        write.ends.push(AttemptEnd { task: call.task, node: call.node, attempt, status, error, at });
        write.answered.push(call.attempt);
        self.gathered.push(write);
    }

    fn gather_late(&mut self, mut write: Write, context: &mut Context<Self>) {
        write.lease_no = None;
        if !write.ends.is_empty() || !write.answered.is_empty() {
            self.gathered.push(write);
            self.flush(context);
        }
    }

    // ---- flushes

    /// Writes what has gathered and lets go what may leave, unless a flush is out already.
    pub(super) fn flush(&mut self, context: &mut Context<Self>) {
        let now = Instant::now();
        if self.is_flushing || matches!(self.phase, Phase::Starting | Phase::Releasing) {
            return;
        }
        if self.may_send() {
            self.turn_away(now);
            self.set_alarm(now, context);
        }
        let is_promising =
            || self.may_send() && self.admission.is_promising(now, |id| self.tools.gate(id, now).room());
        let nothing = self.gathered.is_empty() && self.pauses.is_empty() && self.done_waiting().is_empty();
        if nothing && !is_promising() {
            return;
        }
        self.is_flushing = true;
        faults::point("pipeline.engine.flush");
        // what is in the mailbox now goes along
        let flushed = tokio::task::yield_now().into_actor(self).then(|(), actor, _| {
            let batch = actor.take_batch();
            let tools = Arc::clone(&actor.tools);
            let flushed = async move {
                let began = Instant::now();
                if batch.is_empty() {
                    return Flushed::default();
                }
                #[expect(clippy::cast_precision_loss, reason = "a batch has some hundreds")]
                metrics::histogram!("greenroom_pipeline_batch_writes").record(batch.len() as f64);
                let flushed = flush::flush(&tools.database, tools.owner, batch).await;
                metrics::histogram!("greenroom_pipeline_flush_seconds").record(began.elapsed().as_secs_f64());
                flushed
            };
            flushed.into_actor(actor)
        });
        context.spawn(flushed.map(|flushed, actor, context| {
            actor.is_flushing = false;
            actor.flushed(flushed, context);
            actor.flush(context);
        }));
    }

    fn may_send(&self) -> bool {
        self.phase == Phase::Working && self.tools.lease.holds(Instant::now())
    }

    fn take_batch(&mut self) -> Batch {
        let rest = self.gathered.split_off(self.gathered.len().min(BATCH));
        let writes = std::mem::replace(&mut self.gathered, rest);
        let mut candidates = Vec::new();
        if self.may_send() {
            let (tools, now) = (Arc::clone(&self.tools), Instant::now());
            for mut call in self.admission.candidates(now, |id| tools.gate(id, now).room()) {
                match tools.providers.find(&call.provider.id) {
                    Some(provider) => {
                        call.ceiling = ceiling(&provider.policy);
                        call.rate_limit = provider.policy.rate_limit;
                        call.provider = provider.record;
                        self.out.insert(call.attempt, (call.task, call.node.clone(), call.number));
                        candidates.push(call);
                    }
                    None => self.refuse(call),
                }
            }
        }
        let pauses = std::mem::take(&mut self.pauses);
        let now = Instant::now();
        let tried: HashSet<&str> = candidates.iter().map(|call| call.provider.id.as_str()).collect();
        let impatient = tried.iter().filter(|provider| self.admission.is_impatient(provider, now));
        let impatient = impatient.map(|provider| (*provider).to_owned()).collect();
        let done_waiting =
            self.done_waiting().into_iter().filter(|provider| !tried.contains(provider.as_str())).collect();
        let queues = Box::new(Queues { told: self.told_waits.clone(), done_waiting, impatient });
        Batch { writes, candidates, pauses, queues, retried: false }
    }

    /// Providers for which it is written that calls wait here, and none do any more.
    fn done_waiting(&self) -> Vec<String> {
        if self.told_waits.is_empty() {
            return Vec::new();
        }
        let waiting = self.admission.providers();
        self.told_waits.iter().filter(|provider| !waiting.contains(provider.as_str())).cloned().collect()
    }

    /// Has the run of a call that waited ask another provider, if there is one.
    pub(super) fn refuse(&mut self, call: CallRequest) {
        self.admission.ended(call.attempt);
        if let Some(entry) = self.runs.get(&call.task) {
            entry.tell(Told::Refused { node: call.node, number: call.number });
        }
    }

    fn flushed(&mut self, flushed: Flushed, context: &mut Context<Self>) {
        if let Some((at, time)) = flushed.clock {
            self.tools.clock.read(at, time);
        }
        let started = flushed.events.iter().filter(|event| event.kind == EventKind::TaskStarted).count();
        metrics::counter!("greenroom_tasks_started_total").increment(started as u64);
        self.tools.stream.publish(flushed.events);
        if started > 0 || !flushed.freed.is_empty() {
            self.claim_next(context);
        }
        for provider in flushed.freed {
            self.tools.signals.send(Signal::SlotsFreed { provider });
        }
        let tried = flushed.granted.iter().map(|granted| &granted.request).chain(&flushed.refused);
        let tried: HashSet<&str> = tried.map(|call| call.provider.id.as_str()).collect();
        for provider in tried {
            let encounter = flushed.encounters.get(provider).copied().unwrap_or(Encounter::None);
            self.admission.tried(provider, encounter, Instant::now());
        }
        let left = flushed.encounters.into_iter().filter(|(_, encounter)| *encounter == Encounter::Left);
        for (provider, _) in left {
            // who was left a slot is to take it at once
            self.tools.signals.send_elsewhere(Signal::SlotsFreed { provider: provider.clone() });
            context.run_later(COURTESY, move |actor, context| {
                actor.admission.retry(&provider);
                actor.flush(context);
            });
        }
        for (provider, waits) in flushed.told {
            if waits {
                self.told_waits.insert(provider);
            } else {
                self.told_waits.remove(&provider);
            }
        }
        self.tools.calls.forget(&flushed.answered);
        let left: HashSet<_> = flushed.granted.iter().map(|granted| granted.request.attempt).collect();
        for (attempt, _) in self.out.drain().filter(|(attempt, _)| !left.contains(attempt)) {
            self.admission.ended(attempt);
        }
        for (task, written) in flushed.written {
            if let Some(entry) = self.runs.get_mut(&task) {
                entry.unwritten = entry.unwritten.saturating_sub(written);
            }
        }
        for (task, lease_no) in flushed.lost {
            let is_current = |entry: &&Entry| entry.lease_no == lease_no && entry.stage != Stage::Restarting;
            if self.runs.get(&task).filter(is_current).is_some() {
                tracing::info!(%task, "a task was taken over or ended elsewhere");
                self.drop_run(task);
            }
        }
        flushed.granted.into_iter().for_each(|granted| self.let_go(granted));
        for (provider, hold) in flushed.holds {
            self.admission.hold(provider, hold);
        }
        for (provider, at) in flushed.slot_deadlines {
            self.ask_again_at(provider, at, context);
        }
        let refused = flushed.refused.into_iter().filter(|call| self.still_waits(call)).collect();
        self.admission.put_back(refused);
        self.withdrawn.clear();
        for task in flushed.broken {
            if let Some(entry) = self.runs.get_mut(&task).filter(|entry| entry.stage == Stage::Running) {
                entry.quit();
                entry.ending = None;
                entry.stage = Stage::Panicked;
                self.admission.remove_task(task);
            }
        }
        let panicked =
            self.runs.iter().filter(|(_, entry)| entry.is_ready_to_restart()).map(|(task, _)| *task);
        for task in panicked.collect::<Vec<_>>() {
            self.restart(task, context);
        }
        self.settle_ready();
    }

    /// Asks a provider for slots at that time: then one is free whose call died with its replica.
    fn ask_again_at(&mut self, provider: String, at: Instant, context: &mut Context<Self>) {
        let now = Instant::now();
        // what is overdue is being taken by another replica
        let at = at.max(now + COURTESY);
        if self.slot_alarms.get(&provider).is_some_and(|alarm| *alarm <= at) {
            return;
        }
        self.slot_alarms.insert(provider.clone(), at);
        context.run_later(at.saturating_duration_since(now), move |actor, context| {
            if actor.slot_alarms.get(&provider) == Some(&at) {
                actor.slot_alarms.remove(&provider);
            }
            actor.admission.retry(&provider);
            actor.flush(context);
        });
    }

    fn let_go(&mut self, granted: Granted) {
        let call = &granted.request;
        let entry = self.runs.get(&call.task).filter(|entry| entry.lease_no == call.lease_no);
        let wanted = entry.is_some_and(Entry::wants_answers) && !self.withdrawn.contains(&call.attempt);
        if let Some(entry) = entry {
            entry.tell(Told::Left { node: call.node.clone(), number: call.number, at: granted.at });
        }
        if wanted {
            calls::let_go(&self.tools.call_tools, granted);
        } else {
            calls::withhold(&self.tools.call_tools, &granted);
        }
    }

    /// Whether a call for which there was no slot is to wait on; tells its run when it is not.
    fn still_waits(&mut self, call: &CallRequest) -> bool {
        let entry = self.runs.get(&call.task).filter(|entry| {
            entry.lease_no == call.lease_no && entry.stage == Stage::Running && entry.ending.is_none()
        });
        if let Some(entry) = entry {
            if !self.withdrawn.contains(&call.attempt) {
                return true;
            }
            entry.tell(Told::Dropped { node: call.node.clone(), number: call.number });
        }
        self.admission.ended(call.attempt);
        false
    }

    pub(super) fn show(&self) {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let show = |name: &'static str, figure: usize| metrics::gauge!(name).set(figure as f64);
        show("greenroom_tasks_running", self.runs.len());
        show("greenroom_calls_waiting", self.admission.waiting().values().sum());
        show("greenroom_calls_away", self.tools.calls.away());
        show("greenroom_tasks_queued", usize::try_from(self.tools.queued.total()).unwrap_or(0));
    }
}
