//! The actor of one run: it holds the pure [`Run`], tells it what happened, and hands
//! what it wants to the engine.
//!
//! It owns no rows. When it panics the engine counts a stall and starts a fresh one, rebuilt from its rows; calls
//! that are on their way go on and are heard by the new one.

use super::{
    admission::CallRequest,
    calls::{Answer, CallId, Calls},
    clock::ServerClock,
    files,
    flush::{Granted, Write},
    health::ProviderHealth,
    providers::{ProviderBoard, ceiling},
    settle::{self, Settled},
};
use crate::{
    database::Database,
    faults,
    ids::{AttemptId, TaskId},
    pipeline::{
        Attempt, AttemptCause, AttemptStatus, Failure, Step, StepStatus,
        definition::{Definition, NodeKind},
        provider::{CallError, CallPolicy, Submission},
        state::{Effect, Ending, Event, ProviderCall, Run, Surroundings, TaskFacts},
        store::{self, AttemptEnd, Claimed, Resumable},
    },
    records::{
        callbacks::CallbackToken,
        pipelines::{PipelineRecordError, Pipelines},
        providers::{ProviderError, ReadyProvider},
    },
};
use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture,
};
use chrono::{DateTime, Utc};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc::UnboundedSender;

/// Messages that may wait for a run: answers and admissions of its few calls, and its end.
pub(super) const RUN_MAILBOX: usize = 256;
/// How long a run that cannot read its rows waits before it tries again.
const LOAD_PAUSE: Duration = Duration::from_millis(500);

/// What all runs of a replica share.
pub(super) struct RunTools {
    pub(super) database: Database,
    pub(super) pipelines: Pipelines,
    pub(super) providers: Arc<ProviderBoard>,
    pub(super) health: Arc<ProviderHealth>,
    pub(super) calls: Arc<Calls>,
    pub(super) clock: Arc<ServerClock>,
    /// Calls of one task at once.
    pub(super) max_concurrency: usize,
    /// How long a task may be queued.
    pub(super) queue_ttl: Duration,
}

/// What a run hands to the engine.
pub(super) enum Note {
    /// What came of one event.
    Effects(Box<Effects>),
    /// Calls that a process which is gone has made, and that are asked about.
    Resumed { task: TaskId, lease_no: i64, calls: Vec<Granted> },
    /// The quota actor has answered.
    Settled { task: TaskId, lease_no: i64, settled: Settled },
    /// The run's actor is no more.
    Ended {
        task: TaskId,
        lease_no: i64,
        /// The panic it ended by, if it did.
        panic: Option<String>,
    },
}

/// What a run wants done, of one event: rows first, then the rest.
pub(super) struct Effects {
    pub(super) write: Write,
    pub(super) lease_no: i64,
    pub(super) calls: Vec<CallRequest>,
    /// Calls that are not wanted any more: node and number.
    pub(super) withdrawn: Vec<(String, i32)>,
    /// How the task ends, once all is written.
    pub(super) ending: Option<Ending>,
    /// Until when a pause is all that keeps the run from going on.
    pub(super) backing_off_until: Option<DateTime<Utc>>,
}

/// What a run is told.
pub(super) enum Told {
    /// The call is written and has left, at this time.
    Left { node: String, number: i32, at: DateTime<Utc> },
    /// The call had not left and will not.
    Dropped { node: String, number: i32 },
    /// The call had not left and will not: another provider is to be asked.
    Refused { node: String, number: i32 },
    /// The call was answered.
    Answered(Arc<Answer>),
    /// The task is not ours any more, or is settled.
    Quit,
}

impl Message for Told {
    type Result = ();
}

/// One run.
pub(super) struct RunActor {
    tools: Arc<RunTools>,
    claimed: Claimed,
    notes: UnboundedSender<Note>,
    run: Option<Run>,
    /// What was told before the rows were read.
    early: Vec<Told>,
    wake: Option<SpawnHandle>,
    ids: HashMap<(String, i32), AttemptId>,
}

/// What a run is made of.
struct Loaded {
    definition: Arc<Definition>,
    steps: Vec<Step>,
    attempts: Vec<Attempt>,
    resumable: Vec<Resumable>,
    /// Before what is resumable was read.
    read_at: Instant,
}

impl RunActor {
    pub(super) fn new(tools: Arc<RunTools>, claimed: Claimed, notes: UnboundedSender<Note>) -> Self {
        Self { tools, claimed, notes, run: None, early: Vec::new(), wake: None, ids: HashMap::new() }
    }

    fn begin(&mut self, loaded: Result<Loaded, Ending>, context: &mut Context<Self>) {
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(ending) => return self.send(Vec::new(), None, Some(ending), context),
        };
        let task = &self.claimed.task;
        let Some(now) = self.now() else { return context.stop() };
        let facts = TaskFacts {
            task: task.id,
            input: task.input.clone(),
            progress: task.progress,
            deadline_at: self.claimed.deadline_at,
        };
        let ours = self.tools.calls.of_task(task.id);
        let alive: BTreeSet<(String, i32)> =
            ours.iter().map(|call| (call.node.clone(), call.number)).collect();
        self.ids = ours.into_iter().map(|call| ((call.node, call.number), call.attempt)).collect();
        let tools = Arc::clone(&self.tools);
        let policy = |id: &str| tools.providers.policy(id);
        let surroundings = self.surroundings(now, &policy);
        let mut run =
            Run::rebuild(loaded.definition, facts, &loaded.steps, &loaded.attempts, &alive, surroundings);
        let resumable = loaded.resumable.into_iter();
        let calls: Vec<_> =
            resumable.filter_map(|found| self.resume(&mut run, found, loaded.read_at, now)).collect();
        self.run = Some(run);
        if !calls.is_empty() {
            let (task, lease_no) = (self.claimed.task.id, self.claimed.lease_no);
            drop(self.notes.send(Note::Resumed { task, lease_no, calls }));
        }
        self.apply(Event::Woken, None, now, context);
        for answer in self.tools.calls.answers_of(self.claimed.task.id) {
            self.told(Told::Answered(answer), context);
        }
        for told in std::mem::take(&mut self.early) {
            self.told(told, context);
        }
        if self.claimed.deadline_at.is_none() {
            let left = self.tools.queue_ttl.saturating_sub(self.claimed.age);
            context.run_later(left, Self::expire);
        }
    }

    /// Has a call taken up that a process which is gone has made, if its provider can say what became of it.
    fn resume(
        &mut self,
        run: &mut Run,
        found: Resumable,
        read_at: Instant,
        at: DateTime<Utc>,
    ) -> Option<Granted> {
        let provider = self.tools.providers.find(&found.provider)?;
        let submission = match found.job {
            Some(job) if provider.policy.polls || found.has_address => Submission::Done(job),
            None if found.has_address => Submission::Unknown,
            _ => return None,
        };
        let input = run.resume(&found.node, found.number)?;
        self.ids.insert((found.node.clone(), found.number), found.attempt);
        let task = &self.claimed.task;
        let request = CallRequest {
            attempt: found.attempt,
            task: task.id,
            user: task.user,
            lease_no: self.claimed.lease_no,
            node: found.node,
            number: found.number,
            provider: provider.record,
            has_fallback: false,
            rate_limit: None,
            ceiling: ceiling(&provider.policy),
            cause: found.cause,
            idempotency_key: found.idempotency_key,
            callback: None,
            timeout: found.left,
            task_deadline: run.deadline(),
            input,
            since: at,
        };
        Some(Granted { request, deadline: read_at + found.left, at, submission })
    }

    /// Ends a task that has waited for its first call for too long.
    fn expire(&mut self, context: &mut Context<Self>) {
        let waits = |run: &Run| run.deadline_at().is_none() && !run.has_ended();
        if self.run.as_ref().is_some_and(waits) {
            self.run = None;
            self.send(Vec::new(), None, Some(expired()), context);
        }
    }

    fn now(&self) -> Option<DateTime<Utc>> {
        self.tools.clock.time(Instant::now())
    }

    fn surroundings<'a>(
        &self,
        now: DateTime<Utc>,
        policy: &'a dyn Fn(&str) -> Option<CallPolicy>,
    ) -> Surroundings<'a> {
        let max_concurrency = self.tools.max_concurrency;
        Surroundings { now, random: rand::random(), max_concurrency, policy }
    }

    fn told(&mut self, told: Told, context: &mut Context<Self>) {
        if self.run.is_none() && !matches!(told, Told::Quit) {
            return self.early.push(told);
        }
        let Some(now) = self.now() else { return };
        match told {
            Told::Left { node, number, at } => {
                self.apply(Event::CallStarted { node, attempt: number }, None, at, context);
            }
            Told::Dropped { node, number } => {
                self.apply(Event::CallDropped { node, attempt: number }, None, now, context);
            }
            Told::Refused { node, number } => {
                self.apply(
                    Event::CallRefused { node, attempt: number, error: refused() },
                    None,
                    now,
                    context,
                );
            }
            Told::Answered(answer) => {
                faults::point("pipeline.run.answer");
                let CallId { node, number, .. } = answer.call.clone();
                let event = Event::CallFinished { node, attempt: number, result: answer.result.clone() };
                self.apply(event, Some(&answer), now, context);
            }
            Told::Quit => context.stop(),
        }
    }

    /// Takes an event in, and whatever follows from it at once, and hands what comes of it to the engine.
    fn apply(
        &mut self,
        event: Event,
        answer: Option<&Answer>,
        now: DateTime<Utc>,
        context: &mut Context<Self>,
    ) {
        let tools = Arc::clone(&self.tools);
        let policy = |id: &str| tools.providers.policy(id);
        let mut events = VecDeque::from([event]);
        let mut effects = Vec::new();
        while let Some(event) = events.pop_front() {
            let written_with_the_call = matches!(event, Event::CallStarted { .. });
            let surroundings = self.surroundings(now, &policy);
            let Some(run) = &mut self.run else { return };
            for effect in run.apply(event, surroundings) {
                match effect {
                    // the flush that let the call go has written both
                    Effect::Started { .. } if written_with_the_call => {}
                    Effect::WriteStep(step)
                        if written_with_the_call && step.status == StepStatus::Running => {}
                    Effect::Call(call) => match self.request(*call) {
                        Ok(request) => effects.push(Wanted::Call(Box::new(request))),
                        Err(refusal) => events.push_back(refusal),
                    },
                    other => effects.push(Wanted::Effect(other)),
                }
            }
        }
        self.send(effects, answer, None, context);
        self.set_wake(now, context);
    }

    /// Makes a call's request, or says that its provider cannot be called, or not once more.
    fn request(&mut self, call: ProviderCall) -> Result<CallRequest, Event> {
        let is_first = call.cause != AttemptCause::Retry;
        let may_call =
            |provider: &ReadyProvider| is_first || self.tools.health.may_repeat(provider, Instant::now());
        let Some(provider) = self.tools.providers.find(&call.provider).filter(may_call) else {
            return Err(Event::CallRefused { node: call.node, attempt: call.attempt, error: refused() });
        };
        let task = &self.claimed.task;
        let attempt = AttemptId::new();
        self.ids.insert((call.node.clone(), call.attempt), attempt);
        let mut idempotency_key = format!("{}:{}", task.id, call.node);
        if provider.policy.new_key_per_attempt {
            idempotency_key = format!("{idempotency_key}:{}", call.attempt);
        }
        Ok(CallRequest {
            attempt,
            task: task.id,
            user: task.user,
            lease_no: self.claimed.lease_no,
            node: call.node,
            number: call.attempt,
            has_fallback: call.has_fallback,
            ceiling: ceiling(&provider.policy),
            rate_limit: provider.policy.rate_limit,
            cause: call.cause,
            idempotency_key,
            callback: provider.policy.callback.then(CallbackToken::new),
            timeout: call.timeout.unwrap_or(provider.policy.timeout),
            task_deadline: self.run.as_ref().map(Run::deadline).unwrap_or_default(),
            input: call.input,
            since: self.tools.clock.time(Instant::now()).unwrap_or_default(),
            provider: provider.record,
        })
    }

    /// Hands effects to the engine, if there are any.
    fn send(
        &self,
        wanted: Vec<Wanted>,
        answer: Option<&Answer>,
        ending: Option<Ending>,
        context: &mut Context<Self>,
    ) {
        let task = &self.claimed.task;
        let mut write = Write::of(task.id, task.user);
        write.lease_no = Some(self.claimed.lease_no);
        write.answered.extend(answer.map(|answer| answer.call.attempt));
        let (mut calls, mut withdrawn, mut ending) = (Vec::new(), Vec::new(), ending);
        for wanted in wanted {
            let effect = match wanted {
                Wanted::Call(call) => {
                    calls.push(*call);
                    continue;
                }
                Wanted::Effect(effect) => effect,
            };
            match effect {
                Effect::WriteStep(step) => write.steps.push(step),
                Effect::FinishAttempt { node, attempt, status, error, at } => {
                    write.ends.push(AttemptEnd { task: task.id, node, attempt, status, error, at });
                }
                Effect::Withdraw { node, attempt } => withdrawn.push((node, attempt)),
                Effect::Progress(progress) => write.progress = Some(progress),
                Effect::Finish(end) => ending = Some(end),
                // written with the call; calls are requests by now
                Effect::Started { .. } | Effect::Call(_) => {}
            }
        }
        if let Some(answer) = answer.filter(|answer| is_wanted(answer, &write)) {
            write.files.clone_from(&answer.files);
        }
        if let Some(Ending::Succeeded { output, .. }) = &ending {
            write.outputs = files::named_in(output);
        }
        let backing_off_until = self.run.as_ref().and_then(Run::backing_off_until);
        let lease_no = self.claimed.lease_no;
        let effects = Effects { write, lease_no, calls, withdrawn, ending, backing_off_until };
        if self.notes.send(Note::Effects(Box::new(effects))).is_err() {
            // the engine of this run is dead: the next one has made it anew
            context.stop();
        }
    }

    fn set_wake(&mut self, now: DateTime<Utc>, context: &mut Context<Self>) {
        if let Some(handle) = self.wake.take() {
            context.cancel_future(handle);
        }
        let Some(at) = self.run.as_ref().and_then(Run::wake_at) else { return };
        // a millisecond late rather than early
        let wait = (at - now).to_std().unwrap_or(Duration::ZERO) + Duration::from_millis(1);
        self.wake = Some(context.run_later(wait, |actor, context| {
            actor.wake = None;
            if let Some(now) = actor.now() {
                actor.apply(Event::Woken, None, now, context);
            }
        }));
    }
}

enum Wanted {
    Call(Box<CallRequest>),
    Effect(Effect),
}

fn refused() -> CallError {
    CallError::permanent("PROVIDER_UNAVAILABLE", "The provider does not take calls at present.")
}

/// Whether an answer became its step's output, so that its files are somebody's.
fn is_wanted(answer: &Answer, write: &Write) -> bool {
    write.steps.iter().any(|step| step.node == answer.call.node && step.status == StepStatus::Succeeded)
}

/// How a task ends that was queued for too long.
pub(super) fn expired() -> Ending {
    settle::failed("TASK_QUEUE_TIMEOUT", "The task waited for too long before it could start.")
}

impl Actor for RunActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let load = load(Arc::clone(&self.tools), self.claimed.clone());
        context.spawn(load.into_actor(self).map(|loaded, actor, context| actor.begin(loaded, context)));
    }
}

impl Handler<Told> for RunActor {
    type Result = ();

    fn handle(&mut self, told: Told, context: &mut Context<Self>) {
        self.told(told, context);
    }
}

/// Reads what a run is made of, until it can be read. A pipeline that this release cannot run ends the task.
async fn load(tools: Arc<RunTools>, claimed: Claimed) -> Result<Loaded, Ending> {
    let task = &claimed.task;
    loop {
        let error = match try_load(&tools, &claimed).await {
            Ok(loaded) => return Ok(loaded),
            Err(PipelineRecordError::Database(error)) if error.is_transient() => error,
            Err(error) => {
                tracing::error!(error = %crate::causes(&error), task = %task.id, "a task cannot be run");
                return Err(Ending::Failed {
                    error: Failure {
                        code: "PIPELINE_INVALID".to_owned(),
                        message: "The pipeline of the task cannot be run any more.".to_owned(),
                        node_id: None,
                    },
                    charge: 0,
                });
            }
        };
        tracing::warn!(error = %crate::causes(&error), task = %task.id, "a run cannot be read yet");
        tokio::time::sleep(LOAD_PAUSE).await;
    }
}

async fn try_load(tools: &RunTools, claimed: &Claimed) -> Result<Loaded, PipelineRecordError> {
    let task = &claimed.task;
    let definition = tools.pipelines.definition(task.pipeline, task.pipeline_version).await?;
    let asked = definition.nodes().iter().flat_map(|node| match &node.kind {
        NodeKind::Provider(node) => node.providers().collect(),
        _ => Vec::new(),
    });
    if let Err(ProviderError::Database(error)) = tools.providers.learn(asked).await {
        return Err(error.into());
    }
    // the first claim of a task finds no rows
    let (steps, attempts) = if claimed.lease_no > 1 {
        let client = tools.database.client().await?;
        (store::steps(&client, task.id).await?, store::attempts(&client, task.id).await?)
    } else {
        (Vec::new(), Vec::new())
    };
    let read_at = Instant::now();
    let resumable = if attempts.iter().any(|attempt| attempt.status == AttemptStatus::Running) {
        store::resumable(&tools.database.client().await?, task.id).await?
    } else {
        Vec::new()
    };
    Ok(Loaded { definition, steps, attempts, resumable, read_at })
}
