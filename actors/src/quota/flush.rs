//! One batch of commands in one database transaction: lock, read, decide in memory, write, COMMIT, answer.
//!
//! What can go wrong, and what follows:
//! - PostgreSQL cannot be had, or fails before COMMIT: nothing was done. What may pass by itself is tried
//!   again a few times; then every caller hears it.
//! - PostgreSQL refuses a statement: the batch is split in halves, and those again, until the command that it
//!   cannot take fails alone.
//! - COMMIT gets no answer: the batch is run again whole, before anyone is told. Each command finds out whether
//!   it was done. When that cannot be learned in time, the callers hear nothing, which means "ask again".

use super::{
    Grant,
    commands::{Command, Job, failure},
    ledger::{Holder, Ledger, Needs, Writes},
    state::{Account, Phase},
    store::{self, api_keys, read, write},
};
use crate::{
    database::{Database, DatabaseError, plan_by_index},
    events::Event,
    faults,
    ids::{GrantId, TaskId},
    stream::StreamHandle,
};
use deadpool_postgres::{Client, Object, Transaction};
use std::{
    cell::Cell,
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// Runs of a batch that PostgreSQL could not finish before COMMIT.
const TRIES: u32 = 3;
/// The pause before another run; doubled each time up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How long one run may take before its connection is given up as dead.
const RUN: Duration = Duration::from_secs(20);
/// How long it is asked what became of a COMMIT.
const PATIENCE: Duration = Duration::from_secs(8);

/// What a flush works with.
#[derive(Clone)]
pub(super) struct Tools {
    pub database: Database,
    pub stream: StreamHandle,
    /// See [`Ledger::low`].
    pub low: i64,
    /// See [`QuotaSettings::queued_per_user`](super::QuotaSettings::queued_per_user).
    pub queued_per_user: i64,
}

/// Why a batch was not committed.
enum Failure {
    /// Certainly not done.
    NotDone(DatabaseError),
    /// PostgreSQL cannot take some command of it; not done.
    Refused(DatabaseError),
    /// COMMIT got no answer.
    Unknown,
}

/// Runs the commands in their order and answers each.
pub(super) async fn flush(tools: &Tools, jobs: Vec<Box<dyn Job>>) {
    let mut parts = vec![jobs];
    while let Some(mut part) = parts.pop() {
        match commit(tools, &mut part).await {
            Ok(events) => {
                part.into_iter().for_each(Job::answer);
                tools.stream.publish(events);
            }
            Err(Failure::Refused(_)) if part.len() > 1 => {
                let rest = part.split_off(part.len() / 2);
                parts.push(rest);
                parts.push(part);
            }
            Err(Failure::Refused(error)) => {
                tracing::error!(error = %crate::causes(&error), "a command of the ledger was refused by the database");
                fail(part, error);
            }
            Err(Failure::NotDone(error)) => {
                tracing::warn!(error = %crate::causes(&error), commands = part.len(), "commands of the ledger were not done");
                fail(part, error);
            }
            Err(Failure::Unknown) => {
                tracing::error!(commands = part.len(), "the outcome of a commit could not be learned");
            }
        }
    }
}

fn fail(jobs: Vec<Box<dyn Job>>, error: DatabaseError) {
    let error = Arc::new(error);
    for job in jobs {
        job.fail(failure(&error));
    }
}

/// Commits a batch, trying again as long as that can help.
async fn commit(tools: &Tools, jobs: &mut [Box<dyn Job>]) -> Result<Vec<Event>, Failure> {
    let mut unanswered: Option<Instant> = None;
    let mut pause = PAUSE;
    let mut tries = 0;
    loop {
        tries += 1;
        let (error, committing) = match run(tools, jobs, unanswered.is_some()).await {
            Ok(events) => {
                if unanswered.is_some() {
                    // the run without an answer may have committed events that nobody has published
                    let mut needs = Needs::default();
                    jobs.iter().for_each(|job| job.needs(&mut needs));
                    tools.stream.mark_behind(needs.users);
                }
                return Ok(events);
            }
            Err(failed) => failed,
        };
        if committing {
            unanswered.get_or_insert_with(Instant::now);
        }
        match unanswered {
            Some(since) if since.elapsed() > PATIENCE || !error.is_transient() => {
                return Err(Failure::Unknown);
            }
            Some(_) => {}
            // rows of another replica's making can be seen by a second look; splitting looks again anyway
            None if !error.is_transient() && (jobs.len() > 1 || tries > 1) => {
                return Err(Failure::Refused(error));
            }
            None if matches!(error, DatabaseError::Exhausted) || tries >= TRIES => {
                return Err(Failure::NotDone(error));
            }
            None => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Runs a batch once. An error says whether COMMIT had been sent.
async fn run(
    tools: &Tools,
    jobs: &mut [Box<dyn Job>],
    again: bool,
) -> Result<Vec<Event>, (DatabaseError, bool)> {
    let mut client = tools.database.client().await.map_err(|error| (error, false))?;
    let committing = Cell::new(false);
    match tokio::time::timeout(RUN, transact(tools, &mut client, jobs, again, &committing)).await {
        Ok(Ok(events)) => Ok(events),
        Ok(Err(error)) => {
            if !error.is_transient() {
                // a plan that the schema has left behind is not used again
                client.statement_cache.clear();
            }
            Err((error, committing.get()))
        }
        Err(late) => {
            // nobody knows in what state this connection is
            drop(Object::take(client));
            Err((DatabaseError::Unavailable(Box::new(late)), committing.get()))
        }
    }
}

async fn transact(
    tools: &Tools,
    client: &mut Client,
    jobs: &mut [Box<dyn Job>],
    again: bool,
    committing: &Cell<bool>,
) -> Result<Vec<Event>, DatabaseError> {
    store::prepare(client).await?;
    let transaction = client.transaction().await?;
    let mut needs = Needs::default();
    jobs.iter().for_each(|job| job.needs(&mut needs));
    let mut ledger = load(&transaction, &needs, tools.low, tools.queued_per_user).await?;
    ledger.expire_due();
    for job in jobs {
        job.decide(&mut ledger, again);
    }
    write_decided(&transaction, &ledger).await?;
    faults::point("quota.flush.before_commit");
    committing.set(true);
    transaction.commit().await?;
    faults::point("quota.flush.after_commit");
    Ok(ledger.writes.events)
}

/// Gives quota within a transaction that is not a flush's, such as the one that makes the account it is for. A user who is
/// not there (any more) gets none. The connection must have been [prepared](store::prepare).
///
/// # Errors
/// See [`DatabaseError`]; then the transaction is lost.
pub(crate) async fn grant_within(
    transaction: &Transaction<'_>,
    grants: &[Grant],
) -> Result<(), DatabaseError> {
    let mut needs = Needs::default();
    grants.iter().for_each(|grant| grant.needs(&mut needs));
    let mut ledger = load(transaction, &needs, 0, 0).await?;
    ledger.expire_due();
    for grant in grants {
        if let Err(refused) = grant.decide(&mut ledger, false) {
            tracing::warn!(user = %grant.user, reference = grant.reference, %refused, "a gift was not given");
        }
    }
    write_decided(transaction, &ledger).await
}

/// Locks, and reads what the commands need. The statements travel together; PostgreSQL runs them in order.
async fn load(
    transaction: &Transaction<'_>,
    needs: &Needs,
    low: i64,
    queued_per_user: i64,
) -> Result<Ledger, DatabaseError> {
    let ((), users, now, live, due, holds, tasks, room, keys, allowances, referenced, corrections) = futures_util::try_join!(
        plan_by_index(transaction),
        read::lock_users(transaction, &needs.users),
        read::clock(transaction),
        read::live_grants(transaction, needs),
        read::due_grants(transaction, needs),
        read::holds(transaction, needs),
        read::tasks(transaction, needs),
        read::room_in_queue(transaction, &needs.starters, queued_per_user),
        read::keys(transaction, &needs.keys),
        api_keys::allowances(transaction, &needs.api_keys),
        read::grants_by_reference(transaction, &needs.references),
        read::corrections(transaction, needs),
    )?;
    let mut ledger = Ledger {
        now,
        low,
        holders: users.into_iter().collect(),
        room: room.into_iter().collect(),
        tasks: tasks.into_iter().collect(),
        keys: keys.into_iter().map(|row| ((row.user, row.key.clone()), row)).collect(),
        allowances: allowances.into_iter().collect(),
        foreign_references: HashSet::new(),
        writes: Writes::default(),
    };
    for (user, task, hold) in holds {
        if let Some(holder) = ledger.holders.get_mut(&user) {
            holder.account.add_hold(task, hold);
        }
    }
    for (user, grant) in live.into_iter().chain(due) {
        if let Some(holder) = ledger.holders.get_mut(&user) {
            holder.account.add_grant(grant);
        }
    }
    for (user, grant) in referenced {
        match ledger.holders.get_mut(&user) {
            Some(holder) => holder.account.add_grant(grant),
            None => drop(ledger.foreign_references.insert((grant.kind, grant.reference))),
        }
    }
    for (user, reference, made) in corrections {
        if let Some(holder) = ledger.holders.get_mut(&user) {
            holder.account.add_correction(reference, made);
        }
    }
    load_the_rare(transaction, needs, &mut ledger).await?;
    Ok(ledger)
}

/// Reads what only some batches need, now that the holds are known: tasks that were inserted before, and grants
/// that a part goes back to.
async fn load_the_rare(
    transaction: &Transaction<'_>,
    needs: &Needs,
    ledger: &mut Ledger,
) -> Result<(), DatabaseError> {
    let mut repeated: Vec<TaskId> = Vec::new();
    let mut missing: BTreeSet<GrantId> = BTreeSet::new();
    for account in ledger.holders.values().map(|holder| &holder.account) {
        for (task, hold) in account.holds() {
            if needs.inserts.contains(&task) {
                repeated.push(task);
            }
            let charge = needs.charges.get(&task).copied().unwrap_or(hold.amount);
            if hold.phase == Phase::Reserved && charge < hold.amount {
                missing.extend(account.missing_grants(task));
            }
        }
    }
    if !repeated.is_empty() {
        ledger.tasks.extend(read::whole_tasks(transaction, &repeated).await?);
    }
    if !missing.is_empty() {
        let missing: Vec<GrantId> = missing.into_iter().collect();
        for (user, grant) in read::grants_by_id(transaction, &missing).await? {
            if let Some(holder) = ledger.holders.get_mut(&user) {
                holder.account.add_grant(grant);
            }
        }
    }
    Ok(())
}

/// Writes all that was decided; the statements travel together.
async fn write_decided(transaction: &Transaction<'_>, ledger: &Ledger) -> Result<(), DatabaseError> {
    let changed: Vec<&Holder> =
        ledger.holders.values().filter(|holder| holder.account.is_changed()).collect();
    let accounts: Vec<&Account> = changed.iter().map(|holder| &holder.account).collect();
    let (now, writes) = (ledger.now, &ledger.writes);
    futures_util::try_join!(
        write::insert_grants(transaction, &accounts, now),
        write::update_grants(transaction, &accounts),
        write::insert_tasks(transaction, &writes.tasks, now),
        write::insert_holds(transaction, &accounts, now),
        write::settle_holds(transaction, &accounts, now),
        write::finish_tasks(transaction, &writes.endings, now),
        write::insert_adjustments(transaction, &accounts, now),
        write::forget_old_keys(transaction, &writes.keys),
        write::insert_keys(transaction, &writes.keys),
        api_keys::add_spent(transaction, &writes.spent),
        api_keys::take_back(transaction, &writes.spent),
        write::insert_events(transaction, &writes.events, now),
        write::insert_audit(transaction, &writes.audit),
        write::update_users(transaction, &changed),
    )?;
    Ok(())
}
