//! What others hold of the ledger: commands go to the shard of their user, reads straight to PostgreSQL.

use super::{
    Cancel, Cancelled, Confirm, Confirmed, Correct, Corrected, ExpireDue, Grant, GrantRecord, Granted, Quota,
    QuotaError, Reserve, Reserved, Statement, TransactionRecord, actor::QuotaActor, commands::Command,
    flush::Tools, reads,
};
use crate::{
    ask::{Ask, Mailbox},
    database::{Database, DatabaseError},
    idempotency::Answer,
    ids::UserId,
    stream::StreamHandle,
    supervisor::{ChildSpec, Supervisor},
};
use actix::{ArbiterHandle, Handler};
use chrono::{DateTime, Utc};
use std::{collections::HashMap, sync::Arc, time::Duration};
use uuid::Uuid;

/// Shards of a replica; each has one flush out at a time, so this is also the number of connections it uses.
const SHARDS: [&str; 2] = ["0", "1"];
/// Unanswered commands of one shard at most: eight full batches.
const CAPACITY: usize = 4096;
/// Users whose due grants are written off by one command at most.
const EXPIRE_USERS: usize = 128;

/// How the ledger behaves.
#[derive(Clone, Copy, Debug)]
pub struct QuotaSettings {
    /// `quota.low` is told when what is left falls below it, in units; 0 for never.
    pub low: i64,
    /// Tasks of a user that may wait for a replica, where the plan does not say; 0 is off.
    pub queued_per_user: u32,
    /// How long a command may take until its caller hears that its outcome is unknown.
    pub deadline: Duration,
}

impl Default for QuotaSettings {
    fn default() -> Self {
        Self { low: 0, queued_per_user: 0, deadline: Duration::from_secs(10) }
    }
}

/// The way to the ledger. Clones lead to the same actors.
#[derive(Clone)]
pub struct QuotaHandle {
    shards: Arc<[Mailbox<QuotaActor>]>,
    database: Database,
    deadline: Duration,
}

impl QuotaHandle {
    /// Starts the shards under `supervisor`, spread over the arbiters.
    #[must_use]
    pub fn start(
        supervisor: &Supervisor,
        arbiters: &[ArbiterHandle],
        database: &Database,
        stream: &StreamHandle,
        settings: QuotaSettings,
    ) -> Self {
        let tools = Tools {
            database: database.clone(),
            stream: stream.clone(),
            low: settings.low,
            queued_per_user: i64::from(settings.queued_per_user),
        };
        let start = |((index, shard), arbiter): ((usize, &&'static str), &ArbiterHandle)| {
            let spec = ChildSpec { name: "quota", shard: Some(index), capacity: CAPACITY };
            let (tools, shard) = (tools.clone(), *shard);
            supervisor.start(arbiter, spec, move |_| QuotaActor::new(tools.clone(), shard))
        };
        let shards = SHARDS.iter().enumerate().zip(arbiters.iter().cycle()).map(start).collect();
        Self { shards, database: database.clone(), deadline: settings.deadline }
    }

    /// Inserts a task and holds its cost.
    ///
    /// # Errors
    /// [`QuotaError::Insufficient`], [`QuotaError::TooManyQueued`], [`QuotaError::UserNotFound`],
    /// [`QuotaError::KeyReused`], and those of any command: [`QuotaError::Database`] (not done) and [`QuotaError::Ask`].
    pub async fn reserve(&self, command: Reserve) -> Result<Answer<Reserved>, QuotaError> {
        self.ask(command.task.user, command).await
    }

    /// Ends a task and charges for it.
    ///
    /// # Errors
    /// [`QuotaError::NoHold`], [`QuotaError::ChargeExceedsHold`], [`QuotaError::LeaseLost`] when another run
    /// has the task, and where it was ended otherwise before, [`QuotaError::AlreadyConfirmed`],
    /// [`QuotaError::AlreadyCancelled`] or [`QuotaError::TaskFinal`].
    pub async fn confirm(&self, command: Confirm) -> Result<Confirmed, QuotaError> {
        self.ask(command.user, command).await
    }

    /// Ends a task and returns all it held.
    ///
    /// # Errors
    /// Those of [`Self::confirm`].
    pub async fn cancel(&self, command: Cancel) -> Result<Cancelled, QuotaError> {
        self.ask(command.user, command).await
    }

    /// Gives quota.
    ///
    /// # Errors
    /// [`QuotaError::UserNotFound`], [`QuotaError::ReferenceReused`], [`QuotaError::KeyReused`].
    pub async fn grant(&self, command: Grant) -> Result<Answer<Granted>, QuotaError> {
        self.ask(command.user, command).await
    }

    /// Takes quota away.
    ///
    /// # Errors
    /// [`QuotaError::Insufficient`], [`QuotaError::UserNotFound`], [`QuotaError::ReferenceReused`],
    /// [`QuotaError::KeyReused`].
    pub async fn correct(&self, command: Correct) -> Result<Answer<Corrected>, QuotaError> {
        self.ask(command.user, command).await
    }

    /// Writes off what has expired, of at most `limit` users. Answers of how many; fewer than `limit` means
    /// that nothing is due any more.
    ///
    /// # Errors
    /// Those of any command; what was written off before stays so.
    pub async fn expire_due(&self, limit: u16) -> Result<usize, QuotaError> {
        let users = self.read(reads::users_with_due_grants(&self.database, i64::from(limit))).await?;
        let mut by_shard: HashMap<usize, Vec<UserId>> = HashMap::new();
        for user in &users {
            by_shard.entry(self.shard(*user)).or_default().push(*user);
        }
        for of_shard in by_shard.into_values() {
            for users in of_shard.chunks(EXPIRE_USERS) {
                if let Some(first) = users.first() {
                    self.ask(*first, ExpireDue { users: users.to_vec() }).await?;
                }
            }
        }
        Ok(users.len())
    }

    /// What a user has, without what has expired.
    ///
    /// # Errors
    /// [`QuotaError::UserNotFound`], [`QuotaError::Database`].
    pub async fn quota(&self, user: UserId) -> Result<Quota, QuotaError> {
        self.read(reads::quota(&self.database, user)).await?.ok_or(QuotaError::UserNotFound)
    }

    /// At most `limit` holds and charges, newest first, from those older than `before`.
    ///
    /// # Errors
    /// [`QuotaError::Database`].
    pub async fn transactions(
        &self,
        user: UserId,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<TransactionRecord>, QuotaError> {
        self.read(reads::transactions(&self.database, user, before, limit)).await
    }

    /// At most `limit` grants, newest first, from those older than `before`.
    ///
    /// # Errors
    /// [`QuotaError::Database`].
    pub async fn grants(
        &self,
        user: UserId,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<GrantRecord>, QuotaError> {
        self.read(reads::grants(&self.database, user, before, limit)).await
    }

    /// What happened to a user's balance from `from` (inclusive; `None` for the beginning) to `to` (exclusive;
    /// `None` for now).
    ///
    /// # Errors
    /// [`QuotaError::PeriodTooLong`], [`QuotaError::Database`].
    pub async fn statement(
        &self,
        user: UserId,
        from: Option<DateTime<Utc>>,
        to: Option<DateTime<Utc>>,
    ) -> Result<Statement, QuotaError> {
        reads::statement(&self.database, user, from, to).await
    }

    async fn read<T>(&self, read: impl Future<Output = Result<T, DatabaseError>>) -> Result<T, QuotaError> {
        read.await.map_err(|error| QuotaError::Database(Arc::new(error)))
    }

    async fn ask<C>(&self, user: UserId, command: C) -> Result<C::Done, QuotaError>
    where
        C: Command + Send,
        C::Done: Send,
        QuotaActor: Handler<Ask<C, Result<C::Done, QuotaError>>>,
    {
        match self.shards.get(self.shard(user)) {
            Some(shard) => shard.ask(command, self.deadline).await?,
            None => Err(QuotaError::UserNotFound),
        }
    }

    fn shard(&self, user: UserId) -> usize {
        // the last bytes of an id are random
        usize::from(user.0.as_bytes()[15]) % self.shards.len()
    }
}
