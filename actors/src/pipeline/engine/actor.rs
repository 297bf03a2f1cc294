//! The glue to actix: what comes in, what is going on, and when what is next.

use super::{
    admission::Admission,
    calls::Answer,
    claims::{self, Found, Visit},
    figures::SharedFigures,
    flush::Write,
    gate::Gate,
    providers::ceiling,
    run::Note,
    runs::{Entry, Runs, Stage},
    tools::Tools,
    waiting::{LastTold, Shared, TELL},
};
use crate::{
    ask::Ask,
    database::DatabaseError,
    faults,
    ids::{AttemptId, TaskId},
    pipeline::{Waiting, places, store, turns::Bound},
    signals::{Heard, Signal},
    supervisor::Drain,
};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, StreamHandler, WrapFuture};
use futures_util::stream;
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// Tasks that a replica has at once. A run is some tens of kilobytes.
const RUNS: usize = 2_000;
/// How often the queue is looked at when nobody says that there is something in it.
const POLL: Duration = Duration::from_secs(1);
/// How often it is looked at whether a replica may be given up whose lease is over.
const EXPIRED: Duration = Duration::from_millis(250);
/// Claims that bring nothing before the next poll is waited for.
const FRUITLESS: usize = 50;
/// When a queue is tried again that another replica was just taking tasks from.
const BUSY: Duration = Duration::from_millis(20);
/// How often slots are asked for that other replicas may have freed.
const SLOT_POLL: Duration = Duration::from_millis(250);
/// How often an engine that cannot register itself tries again, and how often a draining one looks whether it
/// is done.
pub(super) const RETRY: Duration = Duration::from_millis(200);

/// What these tasks wait for: those that are here, and those in the queues.
pub(in crate::pipeline) struct GetWaiting {
    pub(in crate::pipeline) tasks: Vec<TaskId>,
    /// Where those stand that nobody has claimed.
    pub(in crate::pipeline) places: Vec<places::Place>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The replica's row is not written yet.
    Starting,
    Working,
    /// Nothing new is begun; what is under way is written.
    Draining,
    /// All is let go.
    Releasing,
}

/// The engine. Everything durable is in PostgreSQL, everything that outlives a panic is in [`Tools`].
pub(in crate::pipeline) struct Engine {
    pub(super) tools: Arc<Tools>,
    pub(super) phase: Phase,
    pub(super) runs: Runs,
    pub(super) admission: Admission,
    pub(super) gathered: Vec<Write>,
    /// Pauses that providers asked for and that are not written yet.
    pub(super) pauses: HashMap<String, Duration>,
    /// When a gate is looked at again that calls wait before.
    pub(super) alarm: Option<Instant>,
    /// When providers are asked for a slot again whose call may have died with its replica.
    pub(super) slot_alarms: HashMap<String, Instant>,
    /// What the other replicas know of the providers, and what they know of us.
    pub(super) figures: SharedFigures,
    /// Providers for which it is written that calls wait here.
    pub(super) told_waits: HashSet<String>,
    /// Candidates of the flush that is out: node and number by attempt.
    pub(super) out: HashMap<AttemptId, (TaskId, String, i32)>,
    /// Those of them that are not wanted any more.
    pub(super) withdrawn: HashSet<AttemptId>,
    pub(super) is_flushing: bool,
    pub(super) is_claiming: bool,
    pub(super) is_beating: bool,
    pub(super) claim_again: bool,
    /// Whether a look is due when the lease of another replica is over.
    pub(super) is_awaiting_expiry: bool,
    /// Whether the next claim is to be a thorough one.
    pub(super) look_again: bool,
    /// Whether tasks may be queued, as far as is known here.
    pub(super) queued: bool,
    /// What it is written that tasks here wait for.
    pub(super) shared_waits: HashMap<TaskId, Shared>,
    pub(super) is_sharing_waits: bool,
    /// What users with sockets here were last told of tasks that nobody has claimed.
    pub(super) told_in_queue: HashMap<TaskId, LastTold>,
    /// Claims since one of them brought anything.
    pub(super) fruitless: usize,
    pub(super) notes: UnboundedSender<Note>,
    pub(super) inbox: Option<UnboundedReceiver<Note>>,
    pub(super) drain_until: Option<Instant>,
}

impl Engine {
    pub(in crate::pipeline) fn new(tools: Arc<Tools>) -> Self {
        // unbounded, yet bounded: each of at most RUNS runs has a few calls, and each note answers for one
        let (notes, inbox) = mpsc::unbounded_channel();
        let admission = Admission::new(tools.settings.local_calls.max(1));
        Self {
            tools,
            phase: Phase::Starting,
            runs: Runs::new(),
            admission,
            gathered: Vec::new(),
            pauses: HashMap::new(),
            alarm: None,
            slot_alarms: HashMap::new(),
            figures: SharedFigures::default(),
            told_waits: HashSet::new(),
            out: HashMap::new(),
            withdrawn: HashSet::new(),
            is_flushing: false,
            is_claiming: false,
            is_beating: false,
            claim_again: false,
            is_awaiting_expiry: false,
            look_again: false,
            queued: true,
            shared_waits: HashMap::new(),
            is_sharing_waits: false,
            told_in_queue: HashMap::new(),
            fruitless: 0,
            notes,
            inbox: Some(inbox),
            drain_until: None,
        }
    }

    // ---- the replica's row

    fn beat(&mut self, context: &mut Context<Self>) {
        if self.is_beating || self.phase == Phase::Releasing {
            return;
        }
        self.is_beating = true;
        let tools = Arc::clone(&self.tools);
        let beat = async move { heartbeat(&tools).await };
        context.spawn(beat.into_actor(self).map(|beaten, actor, context| {
            actor.is_beating = false;
            match beaten {
                Ok(()) if actor.phase == Phase::Starting => actor.take_own(context),
                Ok(()) => {}
                Err(error) => {
                    tracing::warn!(
                        error = %crate::causes(&error),
                        "the replica's lease could not be renewed"
                    );
                    if actor.phase == Phase::Starting {
                        context.run_later(RETRY, Self::beat);
                    }
                }
            }
        }));
    }

    /// Begins to work with what an earlier life of this engine had.
    fn take_own(&mut self, context: &mut Context<Self>) {
        let tools = Arc::clone(&self.tools);
        let take = async move {
            tools.providers.refresh().await.map_err(|error| crate::causes(&error))?;
            let client = tools.database.client().await.map_err(|error| crate::causes(&error))?;
            store::claim_own(&client, tools.owner).await.map_err(|error| crate::causes(&error))
        };
        context.spawn(take.into_actor(self).map(|taken, actor, context| match taken {
            Ok(claimed) => {
                if actor.phase == Phase::Starting {
                    actor.phase = Phase::Working;
                }
                claimed.into_iter().for_each(|claimed| actor.start_run(claimed));
                actor.take_unclaimed_answers();
                actor.flush(context);
                actor.claim(true, context);
            }
            Err(error) => {
                tracing::warn!(error, "the engine cannot begin yet");
                context.run_later(RETRY, Self::beat);
            }
        }));
    }

    // ---- claims

    pub(super) fn claim(&mut self, thorough: bool, context: &mut Context<Self>) {
        let room = i64::try_from(RUNS.saturating_sub(self.runs.len())).unwrap_or(0);
        let now = Instant::now();
        if self.phase != Phase::Working || room == 0 || !self.tools.lease.holds(now) {
            return;
        }
        if self.is_claiming {
            self.claim_again = true;
            self.look_again |= thorough;
            return;
        }
        self.is_claiming = true;
        let visit = Visit { bounds: self.bounds(now), room, thorough };
        let tools = Arc::clone(&self.tools);
        let visit = async move {
            faults::point("pipeline.engine.claim");
            claims::visit(&tools, visit).await
        };
        context.spawn(visit.into_actor(self).map(|(found, failed), actor, context| {
            actor.is_claiming = false;
            actor.found(found, context);
            let (again, thorough) =
                (std::mem::take(&mut actor.claim_again), std::mem::take(&mut actor.look_again));
            if let Some(error) = failed {
                tracing::warn!(error = %crate::causes(&error), "tasks could not be claimed");
            } else if again {
                actor.claim(thorough, context);
            }
        }));
    }

    /// What bounds the tasks that are taken for each provider.
    fn bounds(&self, now: Instant) -> HashMap<String, Bound> {
        let known = self.tools.providers.all();
        let bounds = known.iter().filter_map(|(id, provider)| {
            let ceiling = ceiling(&provider.policy)?;
            match self.gate(id, now) {
                Gate::Open { .. } => Some((id.clone(), Bound::Slots { ceiling, is_open: true })),
                Gate::Closed { turns_away: true, .. } => Some((id.clone(), Bound::Fallbacks { ceiling })),
                Gate::Closed { .. } => Some((id.clone(), Bound::Slots { ceiling, is_open: false })),
                Gate::Gone => None,
            }
        });
        bounds.collect()
    }

    /// Takes more tasks, where some may be queued: calls have left or ended.
    pub(super) fn claim_next(&mut self, context: &mut Context<Self>) {
        if self.queued {
            self.claim(false, context);
        }
    }

    fn found(&mut self, found: Found, context: &mut Context<Self>) {
        self.queued = found.queued;
        if found.busy {
            context.run_later(BUSY, |actor, context| actor.claim_next(context));
        }
        // whoever lives renews its row long before: this one is dead, and its tasks wait for nothing but its lease
        let expires = found.next_expiry.filter(|left| *left < POLL && !self.is_awaiting_expiry);
        if let Some(left) = expires {
            self.is_awaiting_expiry = true;
            let wait = if left.is_zero() { EXPIRED } else { left };
            context.run_later(wait, |actor, context| {
                actor.is_awaiting_expiry = false;
                actor.claim(true, context);
            });
        }
        // users at their ceiling stay in the queue: a ring that brings nothing is not walked for ever
        self.fruitless = if found.claimed.is_empty() { self.fruitless + 1 } else { 0 };
        self.claim_again |= found.more && self.fruitless < FRUITLESS;
        let strays: Vec<_> = found.own.into_iter().filter(|task| !self.runs.contains_key(task)).collect();
        if !strays.is_empty() {
            self.take_strays(strays, context);
        }
        found.claimed.into_iter().for_each(|claimed| self.start_run(claimed));
        for expired in found.expired {
            let entry = Entry::over(expired.task.user, expired.lease_no, super::run::expired());
            self.runs.insert(expired.task.id, entry);
            self.settle(expired.task.id);
        }
        self.settle_ready();
        self.show();
    }

    /// Takes up tasks that are ours without our knowing: the answer to their claim was lost.
    fn take_strays(&mut self, strays: Vec<TaskId>, context: &mut Context<Self>) {
        let tools = Arc::clone(&self.tools);
        let take = async move {
            let client = tools.database.client().await?;
            store::claim_strays(&client, tools.owner, &strays).await
        };
        context.spawn(take.into_actor(self).map(|taken, actor, _| match taken {
            Ok(claimed) => {
                claimed.into_iter().for_each(|claimed| actor.start_run(claimed));
                actor.settle_ready();
            }
            Err(error) => {
                tracing::warn!(error = %crate::causes(&error), "strays could not be taken up");
            }
        }));
    }

    /// Reads the providers again, and tries those calls that wait.
    fn refresh_providers(&mut self, context: &mut Context<Self>) {
        let tools = Arc::clone(&self.tools);
        let refresh = async move { tools.providers.refresh().await };
        context.spawn(refresh.into_actor(self).map(|refreshed, actor, context| match refreshed {
            Ok(()) => actor.flush(context),
            Err(error) => {
                tracing::warn!(error = %crate::causes(&error), "providers could not be read");
            }
        }));
    }

    // ---- the end

    fn drain_on(&mut self, context: &mut Context<Self>) {
        if self.phase != Phase::Draining {
            return;
        }
        let settling = self.runs.values().any(|entry| entry.stage == Stage::Settling);
        // a call whose job is written goes on elsewhere
        let answers = self.tools.calls.is_needed() || !self.tools.calls.answers().is_empty();
        let busy = self.is_flushing || !self.gathered.is_empty() || settling || answers;
        let waits = self.drain_until.is_some_and(|until| Instant::now() < until);
        if busy && waits {
            return;
        }
        self.phase = Phase::Releasing;
        self.runs.values_mut().for_each(Entry::quit);
        let tools = Arc::clone(&self.tools);
        let release = async move {
            let mut client = tools.database.client().await?;
            store::release(&mut client, tools.owner).await
        };
        context.spawn(release.into_actor(self).map(|released, actor, context| {
            match released {
                Ok(tasks) => {
                    tracing::info!(tasks, "let go of the tasks that run");
                    actor.tools.signals.send(Signal::TasksReleased);
                }
                Err(error) => tracing::warn!(
                    error = %crate::causes(&error),
                    "the tasks that run are free when the replica's lease ends"
                ),
            }
            context.stop();
        }));
    }
}

/// Renews the replica's row, or makes it where there is none (yet, or any more).
async fn heartbeat(tools: &Tools) -> Result<(), DatabaseError> {
    let client = tools.database.client().await?;
    let sent_at = Instant::now();
    let (lease, report) = (tools.lease.lease(), tools.report());
    if !store::renew(&client, tools.owner, &report, lease).await? {
        tools.lease.lost();
        store::register(&client, tools.owner, &report, lease).await?;
        store::forget_figures(&client).await?;
    }
    let now = store::clock(&client).await?;
    tools.clock.read(Instant::now(), now);
    tools.lease.renewed(sent_at);
    Ok(())
}

fn stream_of<T: 'static>(mut receiver: UnboundedReceiver<T>) -> impl futures_util::Stream<Item = T> {
    stream::poll_fn(move |context| receiver.poll_recv(context))
}

impl Actor for Engine {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        if let Some(inbox) = self.inbox.take() {
            context.add_stream(stream_of(inbox));
        }
        let (listener, answers) = mpsc::unbounded_channel();
        self.tools.calls.listen(listener);
        context.add_stream(stream_of(answers));
        context.add_stream(self.tools.signals.listen());
        context.run_interval(self.tools.lease.lease() / 4, |actor, context| {
            if actor.phase != Phase::Starting {
                actor.beat(context);
            }
        });
        context.run_interval(POLL, |actor, context| {
            actor.fruitless = 0;
            actor.claim(true, context);
            actor.refresh_providers(context);
            actor.share_figures(context);
            actor.share_waits(context);
        });
        context.run_interval(SLOT_POLL, |actor, context| {
            actor.admission.retry_all();
            actor.flush(context);
        });
        context.run_interval(RETRY, Self::drain_on);
        context.run_interval(TELL, |actor, context| {
            actor.tell_waiting();
            actor.tell_queued(context);
        });
        self.beat(context);
    }
}

impl StreamHandler<Note> for Engine {
    fn handle(&mut self, note: Note, context: &mut Context<Self>) {
        match note {
            Note::Effects(effects) => self.take_effects(*effects, context),
            Note::Resumed { task, lease_no, calls } => self.resume(task, lease_no, calls),
            Note::Settled { task, lease_no, settled } => self.settled(task, lease_no, settled, context),
            Note::Ended { task, lease_no, panic } => self.run_ended(task, lease_no, panic, context),
        }
    }
}

impl StreamHandler<Arc<Answer>> for Engine {
    fn handle(&mut self, answer: Arc<Answer>, context: &mut Context<Self>) {
        self.take_answer(answer, context);
    }
}

impl StreamHandler<Heard> for Engine {
    fn handle(&mut self, heard: Heard, context: &mut Context<Self>) {
        match heard {
            Heard::Signal(Signal::TasksQueued) => {
                self.queued = true;
                self.claim(false, context);
            }
            Heard::Signal(Signal::TasksReleased) => self.claim(true, context),
            Heard::Signal(Signal::TaskCancelled { task }) => {
                self.drop_run(task);
                self.flush(context);
                self.claim(false, context);
            }
            Heard::Signal(Signal::SlotsFreed { provider }) => {
                self.admission.retry(&provider);
                self.flush(context);
                self.claim_next(context);
            }
            Heard::Signal(Signal::ProvidersChanged) => self.refresh_providers(context),
            Heard::Signal(Signal::CallbackArrived { attempt }) => self.tools.inbox.arrived(attempt),
            Heard::Signal(Signal::SessionClosed { .. } | Signal::SessionsClosed { .. }) => {}
            Heard::Gap => {
                self.tools.inbox.look();
                self.admission.retry_all();
                self.refresh_providers(context);
                self.claim(true, context);
            }
        }
    }
}

impl Handler<Ask<GetWaiting, HashMap<TaskId, Waiting>>> for Engine {
    type Result = ();

    fn handle(&mut self, ask: Ask<GetWaiting, HashMap<TaskId, Waiting>>, _: &mut Context<Self>) {
        let (GetWaiting { tasks, places }, reply) = ask.into_parts();
        let mut waiting = self.waiting_in_queue(&places);
        waiting.extend(self.waiting(&tasks));
        reply.send(waiting);
    }
}

impl Handler<Drain> for Engine {
    type Result = ();

    fn handle(&mut self, _: Drain, context: &mut Context<Self>) {
        self.phase = Phase::Draining;
        self.drain_until = Some(Instant::now() + self.tools.settings.drain);
        self.drain_on(context);
    }
}
