//! The glue to actix: timers, and one job at a time.

use super::{
    jobs::{self, UpkeepParts},
    messages::{RunNow, UpkeepError},
    state::{CLAIM, Job},
    store,
};
use crate::{
    ask::{Ask, Reply},
    database::{Database, DatabaseError, commit},
    ids::OwnerId,
    records::audit_log,
    supervisor::Drain,
};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use std::{collections::VecDeque, time::Duration};

/// How often the timetable is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How often the pool is shown.
const SHOW: Duration = Duration::from_secs(30);
/// A job is stopped so long before its claim ends.
const MARGIN: Duration = Duration::from_secs(60);

type Answer = Reply<Result<(), UpkeepError>>;

/// Runs jobs, one at a time: those that are due and those that somebody asks for.
pub(super) struct UpkeepActor {
    parts: UpkeepParts,
    owner: OwnerId,
    wanted: VecDeque<(Job, RunNow, Answer)>,
    is_busy: bool,
    is_provided: bool,
    is_draining: bool,
}

impl UpkeepActor {
    pub(super) fn new(parts: UpkeepParts) -> Self {
        Self {
            parts,
            owner: OwnerId::new(),
            wanted: VecDeque::new(),
            is_busy: false,
            is_provided: false,
            is_draining: false,
        }
    }

    /// Begins what is next, if nothing runs.
    fn go_on(&mut self, context: &mut Context<Self>) {
        if self.is_busy || self.is_draining {
            return;
        }
        self.is_busy = true;
        let (parts, owner) = (self.parts.clone(), self.owner);
        if let Some((job, command, reply)) = self.wanted.pop_front() {
            let asked = async move { reply.send(run_now(&parts, owner, job, command).await) };
            context.spawn(asked.into_actor(self).map(|(), actor, context| {
                actor.is_busy = false;
                actor.go_on(context);
            }));
            return;
        }
        let provide = !self.is_provided;
        let due = async move {
            crate::faults::point("upkeep.run");
            run_due(&parts, owner, provide).await
        };
        context.spawn(due.into_actor(self).map(|ran, actor, context| {
            actor.is_busy = false;
            match ran {
                Ok(()) => actor.is_provided = true,
                Err(error) => {
                    tracing::warn!(
                        error = %crate::causes(&error),
                        "the timetable could not be read"
                    );
                }
            }
            if !actor.wanted.is_empty() {
                actor.go_on(context);
            }
        }));
    }
}

/// Runs the first job that is due, if one is. The others follow at the next look.
async fn run_due(parts: &UpkeepParts, owner: OwnerId, provide: bool) -> Result<(), DatabaseError> {
    let client = parts.database.client().await?;
    if provide {
        store::provide(&client).await?;
    }
    for job in store::due(&client).await? {
        if store::claim(&client, job, owner, true).await? {
            drop(client);
            return run(parts, owner, job).await;
        }
    }
    Ok(())
}

async fn run_now(parts: &UpkeepParts, owner: OwnerId, job: Job, command: RunNow) -> Result<(), UpkeepError> {
    let mut client = parts.database.client().await?;
    store::provide(&client).await?;
    let transaction = client.transaction().await.map_err(DatabaseError::from)?;
    if !store::claim(&transaction, job, owner, false).await? {
        return Err(UpkeepError::JobRunning);
    }
    audit_log::insert(&transaction, &[command.audit]).await?;
    commit(transaction).await?;
    drop(client);
    Ok(run(parts, owner, job).await?)
}

/// Does a job that is claimed, and lets go of it.
async fn run(parts: &UpkeepParts, owner: OwnerId, job: Job) -> Result<(), DatabaseError> {
    let done = tokio::time::timeout(CLAIM - MARGIN, jobs::run(job, parts)).await;
    let (outcome, said) = match done {
        Ok(Ok(said)) => ("done", said),
        Ok(Err(error)) => {
            tracing::warn!(error = %crate::causes(&*error), job = job.name(), "a job failed");
            ("failed", "failed; see the log".to_owned())
        }
        Err(_) => ("stopped", "stopped at its time; the next run goes on".to_owned()),
    };
    tracing::debug!(job = job.name(), said, "a job has ended");
    metrics::counter!("greenroom_jobs_total", "job" => job.name(), "outcome" => outcome).increment(1);
    let client = parts.database.client().await?;
    store::release(&client, job, owner, &said).await
}

/// Shows how many connections there are and who waits for one.
fn show_pool(database: &Database) {
    let status = database.status();
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let show = |state: &'static str, connections: usize| {
        metrics::gauge!("greenroom_pool_connections", "state" => state).set(connections as f64);
    };
    show("used", status.used);
    show("free", status.free);
    show("pending", status.pending);
    tracing::info!(used = status.used, free = status.free, pending = status.pending, "database pool");
}

impl Actor for UpkeepActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        show_pool(&self.parts.database);
        context.run_interval(SHOW, |actor, _| show_pool(&actor.parts.database));
        context.run_interval(LOOK, Self::go_on);
        self.go_on(context);
    }
}

impl Handler<Ask<RunNow, Result<(), UpkeepError>>> for UpkeepActor {
    type Result = ();

    fn handle(&mut self, ask: Ask<RunNow, Result<(), UpkeepError>>, context: &mut Context<Self>) {
        let (command, reply) = ask.into_parts();
        match Job::named(&command.job) {
            Some(job) => self.wanted.push_back((job, command, reply)),
            None => return reply.send(Err(UpkeepError::JobNotFound)),
        }
        self.go_on(context);
    }
}

impl Handler<Drain> for UpkeepActor {
    type Result = ();

    fn handle(&mut self, _: Drain, context: &mut Context<Self>) {
        // a job that runs is cut: its claim ends by itself, and every job may be run again
        self.is_draining = true;
        context.stop();
    }
}
