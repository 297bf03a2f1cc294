//! What others hold of upkeep.

use super::{
    actor::UpkeepActor,
    erasure,
    jobs::UpkeepParts,
    messages::{JobRecord, RunNow, UpkeepError},
    state::Job,
    store,
};
use crate::{
    ask::{AskError, Mailbox},
    ids::UserId,
    supervisor::{ChildSpec, Supervisor},
};
use actix::ArbiterHandle;
use std::time::Duration;

/// Commands that may wait: one job runs at a time.
const CAPACITY: usize = 16;
/// How long somebody waits for a job to end; longer ones are seen in the timetable.
const DEADLINE: Duration = Duration::from_secs(10);

/// The way to upkeep. Clones lead to the same actor.
#[derive(Clone)]
pub struct UpkeepHandle {
    mailbox: Mailbox<UpkeepActor>,
    parts: UpkeepParts,
}

impl UpkeepHandle {
    /// Starts the actor under `supervisor`.
    #[must_use]
    pub fn start(supervisor: &Supervisor, arbiter: &ArbiterHandle, parts: UpkeepParts) -> Self {
        let own = parts.clone();
        let spec = ChildSpec { name: "upkeep", shard: None, capacity: CAPACITY };
        let mailbox = supervisor.start(arbiter, spec, move |_| UpkeepActor::new(parts.clone()));
        Self { mailbox, parts: own }
    }

    /// Cancels the running tasks of a deleted account and removes its files. What fails is done within some minutes.
    pub async fn erase(&self, user: UserId) {
        if let Err(error) = erasure::erase(&self.parts, user).await {
            tracing::warn!(error = %crate::causes(&*error), "a deleted account is not erased yet");
        }
    }

    /// Runs a job now and answers its row: once it has ended, or after ten seconds while it still runs.
    ///
    /// # Errors
    /// [`UpkeepError::JobNotFound`], [`UpkeepError::JobRunning`]; PostgreSQL.
    pub async fn run_now(&self, command: RunNow) -> Result<JobRecord, UpkeepError> {
        let job = Job::named(&command.job).ok_or(UpkeepError::JobNotFound)?;
        match self.mailbox.ask(command, DEADLINE).await {
            Ok(done) => done?,
            // it runs, or waits for the one that does; the timetable shows it
            Err(AskError::OutcomeUnknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let jobs = self.jobs().await?;
        jobs.into_iter().find(|record| record.name == job.name()).ok_or(UpkeepError::JobNotFound)
    }

    /// The timetable, by name.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn jobs(&self) -> Result<Vec<JobRecord>, UpkeepError> {
        let client = self.parts.database.client().await?;
        Ok(store::jobs(&client).await?)
    }
}
