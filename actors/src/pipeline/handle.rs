//! What others hold of the pipeline: tasks are started and cancelled here, and read.
//!
//! Starting and cancelling are decided by the transaction of the quota actor's flush; the engines of all replicas
//! are signalled afterwards, and would find them by themselves.

use super::{
    Attempt, CancelTask, Fault, NewTask, Overview, PipelineError, ProviderFigures, ReplicaReport, StartTask,
    Step, StepStatus, TakeCallback, Task, TaskEnding, TaskFilter, TaskStatus, Waiting,
    engine::{Engine, EngineSettings, GetWaiting, Parts, Tools},
    queued_count::ComingTask,
    store,
    turns::Ring,
};
use crate::{
    ask::Mailbox,
    database::Database,
    events::{Event, EventKind},
    idempotency::{self, Answer},
    ids::{TaskId, UserId},
    object_store::ObjectStore,
    pipeline::provider::ProviderKinds,
    quota::{Cancel, QuotaError, QuotaHandle, Reserve},
    records::{
        callbacks::{self, CallbackToken},
        files::Files,
        pipelines::{PipelineRecordError, Pipelines},
        providers::Providers,
    },
    signals::{Signal, Signals},
    stream::StreamHandle,
    supervisor::{ChildSpec, Supervisor},
};
use actix::ArbiterHandle;
use serde_json::json;
use std::{collections::HashMap, sync::Arc, time::Duration};

/// Questions that may wait for the engine.
const CAPACITY: usize = 1_024;
/// How long a reader waits for the engine to say what a task waits for.
const WAITING_DEADLINE: Duration = Duration::from_millis(500);

/// How the pipeline behaves.
#[derive(Clone, Debug)]
pub struct PipelineSettings {
    /// How the engine behaves.
    pub engine: EngineSettings,
    /// Queued tasks of all users; 0 is off.
    pub queued_total: u32,
}

/// What the pipeline works with.
pub struct PipelineParts {
    /// The pool.
    pub database: Database,
    /// The ledger.
    pub quota: QuotaHandle,
    /// Where events go.
    pub stream: StreamHandle,
    /// How replicas wake each other.
    pub signals: Signals,
    /// The definitions.
    pub pipelines: Pipelines,
    /// Whom steps call.
    pub providers: Providers,
    /// Who does the calls.
    pub kinds: ProviderKinds,
    /// The users' files.
    pub files: Files,
    /// Where their bytes lie.
    pub store: Arc<dyn ObjectStore>,
}

/// The way to the pipeline. Clones lead to the same engine.
#[derive(Clone)]
pub struct PipelineHandle {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    quota: QuotaHandle,
    stream: StreamHandle,
    signals: Signals,
    pipelines: Pipelines,
    engine: Mailbox<Engine>,
    tools: Arc<Tools>,
    queued_total: u32,
}

impl PipelineHandle {
    /// Starts the engine under `supervisor`.
    #[must_use]
    pub fn start(
        supervisor: &Supervisor,
        arbiter: &ArbiterHandle,
        parts: PipelineParts,
        settings: PipelineSettings,
    ) -> Self {
        let (database, quota, stream) = (parts.database.clone(), parts.quota.clone(), parts.stream.clone());
        let (signals, pipelines) = (parts.signals.clone(), parts.pipelines.clone());
        let tools = Arc::new(Tools::new(
            Parts {
                database: parts.database,
                quota: parts.quota,
                stream: parts.stream,
                signals: parts.signals,
                supervisor: supervisor.clone(),
                pipelines: parts.pipelines,
                providers: parts.providers,
                kinds: parts.kinds,
                files: parts.files,
                store: parts.store,
            },
            settings.engine,
        ));
        arbiter.spawn(Arc::clone(&tools.inbox).watch(tools.database().clone()));
        let spec = ChildSpec { name: "pipeline", shard: None, capacity: CAPACITY };
        let for_engine = Arc::clone(&tools);
        let engine = supervisor.start(arbiter, spec, move |_| Engine::new(Arc::clone(&for_engine)));
        let queued_total = settings.queued_total;
        Self {
            inner: Arc::new(Inner {
                database,
                quota,
                stream,
                signals,
                pipelines,
                engine,
                tools,
                queued_total,
            }),
        }
    }

    /// Starts a task: checks it against its published pipeline, holds its quota and queues it, all at once.
    ///
    /// # Errors
    /// [`PipelineError::PipelineNotFound`], [`PipelineError::MembershipRequired`],
    /// [`PipelineError::InputInvalid`], [`PipelineError::QueueFull`]; those of
    /// [`QuotaHandle::reserve`] as [`PipelineError::Quota`]; PostgreSQL. A repeat of a command that was done
    /// is answered as the first, also when it would be refused now.
    pub async fn start_task(&self, command: StartTask) -> Result<Answer<Task>, PipelineError> {
        let idempotency = command.idempotency.clone();
        let (id, user) = (command.task, command.user);
        let (task, coming) = match self.check(command).await {
            Ok(checked) => checked,
            Err(refusal) => {
                let Some(key) = idempotency else {
                    return self.task(Some(user), id).await.map(Answer::First).map_err(|_| refusal);
                };
                let Some(row) = idempotency::find(&self.inner.database, key.user, &key.key).await? else {
                    return Err(refusal);
                };
                return if row.request_hash == key.request_hash {
                    Ok(Answer::Replayed(row.answer))
                } else {
                    Err(QuotaError::KeyReused.into())
                };
            }
        };
        let user = task.user;
        let reserved = self.inner.quota.reserve(Reserve { task, idempotency }).await;
        let task = match reserved? {
            Answer::Replayed(answer) => return Ok(Answer::Replayed(answer)),
            Answer::First(reserved) => {
                coming.accepted();
                reserved.task
            }
        };
        self.inner.stream.publish(vec![Event {
            user,
            kind: EventKind::TaskCreated,
            task: Some(task.id),
            data: json!({"status": task.status.name()}),
            at: task.created_at,
            final_no: None,
        }]);
        self.inner.signals.send(Signal::TasksQueued);
        Ok(Answer::First(task))
    }

    /// Checks all that needs no lock, and counts the task as queued.
    async fn check(&self, command: StartTask) -> Result<(NewTask, ComingTask), PipelineError> {
        let StartTask { task: id, user, pipeline, input, api_key, .. } = command;
        let inner = &self.inner;
        let client = inner.database.client().await?;
        let facts =
            store::start_facts(&client, pipeline, user).await?.ok_or(PipelineError::PipelineNotFound)?;
        drop(client);
        let definition = inner.pipelines.definition(pipeline, facts.version).await.map_err(unusable)?;
        if definition.requires_membership && !facts.is_member {
            return Err(PipelineError::MembershipRequired);
        }
        definition.input_schema.validate(&input, "/input").map_err(PipelineError::InputInvalid)?;
        let files = definition.input_schema.files(&input, "/input");
        if !files.is_empty() {
            let ids: Vec<_> = files.iter().map(|file| file.id).collect();
            let client = inner.database.client().await?;
            let foreign = store::foreign_files(&client, user, &ids).await?;
            let foreign = files.iter().filter(|file| foreign.contains(&file.id));
            let faults: Vec<Fault> =
                foreign.map(|file| Fault::new(file.path.clone(), "is not one of your files")).collect();
            if !faults.is_empty() {
                return Err(PipelineError::InputInvalid(faults));
            }
        }
        let coming = inner.tools.queued.one_more(inner.queued_total).ok_or(PipelineError::QueueFull)?;
        let (queue, has_fallback) = inner.tools.queue_of(&definition);
        let task = NewTask {
            id,
            user,
            pipeline,
            pipeline_version: facts.version,
            priority: Ring::of(facts.is_member).priority(),
            queue,
            has_fallback,
            quota_cost: definition.quota_cost.max(),
            input,
            api_key,
        };
        Ok((task, coming))
    }

    /// Ends a task and returns its quota, whoever runs it. A task that is cancelled already is answered again.
    ///
    /// # Errors
    /// [`PipelineError::TaskNotFound`], [`PipelineError::TaskFinal`]; those of [`QuotaHandle::cancel`];
    /// PostgreSQL.
    pub async fn cancel_task(&self, command: CancelTask) -> Result<Task, PipelineError> {
        let task = self.task(command.user, command.task).await?;
        match task.status {
            TaskStatus::Cancelled => return Ok(task),
            status if status.is_final() => return Err(PipelineError::TaskFinal(status)),
            _ => {}
        }
        let ending = TaskEnding { status: TaskStatus::Cancelled, output: None, error: None, lease: None };
        let cancel = Cancel { user: task.user, task: task.id, ending, audit: command.audit };
        let cancelled = self.inner.quota.cancel(cancel).await;
        match cancelled {
            Ok(_) => self.inner.signals.send(Signal::TaskCancelled { task: task.id }),
            // it ended between our look and the lock: what it is now decides
            Err(
                QuotaError::TaskFinal(_)
                | QuotaError::AlreadyConfirmed
                | QuotaError::AlreadyCancelled
                | QuotaError::LeaseLost,
            ) => {}
            Err(error) => return Err(error.into()),
        }
        let task = self.task(command.user, command.task).await?;
        match task.status {
            TaskStatus::Cancelled => Ok(task),
            status => Err(PipelineError::TaskFinal(status)),
        }
    }

    /// Takes what a provider brings to the address that a call has named. A repeat, and what comes when nobody waits
    /// for it any more, changes nothing.
    ///
    /// # Errors
    /// [`PipelineError::CallbackUnknown`]; PostgreSQL.
    pub async fn take_callback(&self, command: TakeCallback) -> Result<(), PipelineError> {
        let token = CallbackToken::shown(&command.token).ok_or(PipelineError::CallbackUnknown)?;
        let client = self.inner.database.client().await?;
        let taken = callbacks::take(&client, &token, &command.body).await?;
        let taken = taken.ok_or(PipelineError::CallbackUnknown)?;
        if taken.is_first {
            self.inner.signals.send(Signal::CallbackArrived { attempt: taken.attempt });
        }
        Ok(())
    }

    /// One task, of `user` if one is named.
    ///
    /// # Errors
    /// [`PipelineError::TaskNotFound`]; PostgreSQL.
    pub async fn task(&self, user: Option<UserId>, task: TaskId) -> Result<Task, PipelineError> {
        let client = self.inner.database.client().await?;
        let found = store::task(&client, task).await?;
        found.filter(|found| user.is_none_or(|user| found.user == user)).ok_or(PipelineError::TaskNotFound)
    }

    /// At most `limit` tasks, newest first.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn tasks(&self, filter: TaskFilter, limit: i64) -> Result<Vec<Task>, PipelineError> {
        let client = self.inner.database.client().await?;
        Ok(store::tasks(&client, filter, limit).await?)
    }

    /// What a user's client shows at first: everything that waits or runs and the `ended` newest of the others, at
    /// most `limit` tasks and about `bytes` of input and output.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn overview(
        &self,
        user: UserId,
        ended: i64,
        limit: i64,
        bytes: i64,
    ) -> Result<Overview, PipelineError> {
        let client = self.inner.database.client().await?;
        Ok(store::overview(&client, user, ended, limit, bytes).await?)
    }

    /// All steps of a task in the order of its definition, also those that were not or will not be reached.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn steps(&self, task: &Task) -> Result<Vec<Step>, PipelineError> {
        let client = self.inner.database.client().await?;
        let mut rows: HashMap<String, Step> =
            store::steps(&client, task.id).await?.into_iter().map(|step| (step.node.clone(), step)).collect();
        drop(client);
        let definition =
            self.inner.pipelines.definition(task.pipeline, task.pipeline_version).await.map_err(unusable)?;
        let steps = definition.nodes().iter().map(|node| {
            let step = rows.remove(&node.id).unwrap_or_else(|| Step {
                node: node.id.clone(),
                kind: node.kind.name().to_owned(),
                status: StepStatus::Pending,
                provider: None,
                output: None,
                error: None,
                started_at: None,
                finished_at: None,
            });
            as_of(task, step)
        });
        Ok(steps.collect())
    }

    /// The calls made for a task, by step and number.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn attempts(&self, task: TaskId) -> Result<Vec<Attempt>, PipelineError> {
        let client = self.inner.database.client().await?;
        Ok(store::attempts(&client, task).await?)
    }

    /// The replicas and how their actors fare: this one now, the others as they said when they last renewed their
    /// leases.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn replicas(&self) -> Result<Vec<ReplicaReport>, PipelineError> {
        let tools = &self.inner.tools;
        let client = self.inner.database.client().await?;
        let others = store::reports(&client, tools.owner).await?;
        Ok(std::iter::once(tools.report()).chain(others).collect())
    }

    /// How these providers fare over all replicas; of one that was never called nothing is said.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn provider_figures(
        &self,
        providers: &[&str],
    ) -> Result<HashMap<String, ProviderFigures>, PipelineError> {
        let client = self.inner.database.client().await?;
        Ok(store::provider_figures(&client, providers).await?)
    }

    /// What those of `tasks` wait for that do not go on at the moment.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn waiting(&self, tasks: &[Task]) -> Result<HashMap<TaskId, Waiting>, PipelineError> {
        let live: Vec<&Task> = tasks.iter().filter(|task| !task.status.is_final()).collect();
        if live.is_empty() {
            return Ok(HashMap::new());
        }
        let ids: Vec<TaskId> = live.iter().map(|task| task.id).collect();
        let queued: Vec<TaskId> =
            live.iter().filter(|task| task.status == TaskStatus::Queued).map(|task| task.id).collect();
        let places = self.inner.tools.places.of(&queued).await?;
        let ask = GetWaiting { tasks: ids, places: places.clone() };
        let mut waiting = match self.inner.engine.ask(ask, WAITING_DEADLINE).await {
            Ok(waiting) => waiting,
            // an engine that cannot say now leaves it to the rows
            Err(_) => places.into_iter().map(|place| (place.task, place.waiting())).collect(),
        };
        let elsewhere: Vec<TaskId> =
            live.iter().map(|task| task.id).filter(|task| !waiting.contains_key(task)).collect();
        if !elsewhere.is_empty() {
            let client = self.inner.database.client().await?;
            waiting.extend(store::waiting_elsewhere(&client, &elsewhere).await?);
        }
        Ok(waiting)
    }
}

/// A step of a task that ended while it was under way: nobody rewrites the rows of a cancelled task.
fn as_of(task: &Task, mut step: Step) -> Step {
    if task.status.is_final() {
        match step.status {
            StepStatus::Pending => step.status = StepStatus::Skipped,
            StepStatus::Running => {
                step.status = StepStatus::Cancelled;
                step.finished_at = task.finished_at;
            }
            _ => {}
        }
    }
    step
}

/// A stored definition that this release cannot use is as good as none.
fn unusable(error: PipelineRecordError) -> PipelineError {
    match error {
        PipelineRecordError::Database(error) => PipelineError::Database(error),
        error => {
            tracing::error!(error = %crate::causes(&error), "a stored pipeline cannot be used");
            PipelineError::PipelineNotFound
        }
    }
}
