//! What one flush knows and decides: the accounts of its users, the tasks and keys its commands name, and what
//! is to be written of all of them. Everything here is in memory; reading and writing is `flush`'s.

use super::{
    AuditEntry, GrantKind, QuotaError,
    allowance::{Allowance, Spender},
    state::{Account, Phase, Settled},
};
use crate::{
    events::{Event, EventKind},
    idempotency::{Idempotent, KeyRow, StoredAnswer},
    ids::{ApiKeyId, TaskId, UserId},
    pipeline::{
        NewTask, TaskEnding,
        task_rows::{TaskRow, WrittenEnding},
    },
};
use chrono::{DateTime, NaiveDate, Utc};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// What a batch of commands wants loaded.
#[derive(Default)]
pub(crate) struct Needs {
    /// Whose rows are locked, in the order of their locks.
    pub users: BTreeSet<UserId>,
    /// Those of them whose grants may burn: all that are live are read, else only what is due.
    pub burners: BTreeSet<UserId>,
    /// Those who start tasks: how many more may wait is read.
    pub starters: BTreeSet<UserId>,
    /// Tasks to insert; one that has a hold already is a repeat, and its whole row is the answer.
    pub inserts: BTreeSet<TaskId>,
    /// Tasks to end, and the least that is charged for each: what it holds beyond goes back.
    pub charges: BTreeMap<TaskId, i64>,
    /// Keys of callers.
    pub keys: BTreeSet<(UserId, String)>,
    /// API keys that tasks to insert were asked for by.
    pub api_keys: BTreeSet<ApiKeyId>,
    /// Grants that may exist.
    pub references: Vec<(GrantKind, String)>,
    /// Corrections that may exist.
    pub corrections: Vec<String>,
}

impl Needs {
    pub(super) fn ending(&mut self, user: UserId, task: TaskId, charge: i64) {
        self.users.insert(user);
        let least = self.charges.entry(task).or_insert(charge);
        *least = charge.min(*least);
    }

    pub(super) fn key<R>(&mut self, key: Option<&Idempotent<R>>) {
        if let Some(key) = key {
            self.keys.insert((key.user, key.key.clone()));
        }
    }
}

/// A user's account and what else stands in the user's row.
pub(crate) struct Holder {
    pub account: Account,
    /// The profile is gone; the ledger stays.
    pub deleted: bool,
    /// The last number given to a final event.
    pub final_no: i64,
}
/// Why `remaining` changed.
#[derive(Clone, Copy)]
pub(crate) enum Reason {
    Reserved,
    Returned,
    Granted,
    Corrected,
    Expired,
}

impl Reason {
    const fn name(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Returned => "returned",
            Self::Granted => "granted",
            Self::Corrected => "corrected",
            Self::Expired => "expired",
        }
    }
}

/// What is to be written besides the accounts.
#[derive(Default)]
pub(crate) struct Writes {
    pub tasks: Vec<NewTask>,
    pub endings: Vec<WrittenEnding>,
    pub keys: Vec<KeyRow>,
    /// How much more, or less, an API key has spent of a day, and whose key it is.
    pub spent: BTreeMap<(ApiKeyId, NaiveDate), (UserId, i64)>,
    pub audit: Vec<AuditEntry>,
    pub events: Vec<Event>,
}

/// The picture one flush works on.
pub(crate) struct Ledger {
    /// PostgreSQL's time, read after the locks.
    pub now: DateTime<Utc>,
    /// `quota.low` is told when `remaining` falls below it; 0 for never.
    pub low: i64,
    pub holders: HashMap<UserId, Holder>,
    pub tasks: HashMap<TaskId, TaskRow>,
    /// How many more tasks of a user may wait; of those who are not here any number may.
    pub room: HashMap<UserId, i64>,
    pub keys: HashMap<(UserId, String), KeyRow>,
    /// What API keys may spend; of those that are revoked there is none.
    pub allowances: HashMap<ApiKeyId, Allowance>,
    /// Grants that were asked for and are another user's.
    pub foreign_references: HashSet<(GrantKind, String)>,
    pub writes: Writes,
}

impl Ledger {
    /// Writes off what is due, before any command is looked at.
    pub(crate) fn expire_due(&mut self) {
        let users: BTreeSet<UserId> = self.holders.keys().copied().collect();
        for user in users {
            let now = self.now;
            // a user who is not here has nothing that is due
            drop(self.change(user, Reason::Expired, |account| {
                account.expire_due(now);
                Ok(())
            }));
        }
    }

    /// Whether one more task of the user may wait.
    pub(super) fn require_room(&self, user: UserId) -> Result<(), QuotaError> {
        if self.room.get(&user).is_some_and(|room| *room <= 0) {
            Err(QuotaError::TooManyQueued)
        } else {
            Ok(())
        }
    }

    /// One more task of the user waits.
    pub(super) fn take_room(&mut self, user: UserId) {
        if let Some(room) = self.room.get_mut(&user) {
            *room -= 1;
        }
    }

    /// Whether the API key that asked for the task, if one did, may spend its cost; who it is to be counted to. What is
    /// free is counted to nobody, so that a key that has spent nothing can be deleted one day.
    pub(super) fn require_allowance(&self, task: &NewTask) -> Result<Option<Spender>, QuotaError> {
        let Some(key) = task.api_key else { return Ok(None) };
        let allowance = self.allowances.get(&key).filter(|allowance| allowance.user == task.user);
        let allowance = allowance.ok_or(QuotaError::ApiKeyRevoked)?;
        allowance.require(task.quota_cost)?;
        Ok((task.quota_cost > 0).then_some(Spender { key, day: allowance.today }))
    }

    /// Counts what an API key, if it was one, has spent; a negative amount has come back.
    pub(super) fn count_spent(&mut self, user: UserId, spender: Option<Spender>, amount: i64) {
        let Some(Spender { key, day }) = spender.filter(|_| amount != 0) else { return };
        if let Some(allowance) = self.allowances.get_mut(&key) {
            allowance.count(day, amount);
        }
        self.writes.spent.entry((key, day)).or_insert((user, 0)).1 += amount;
    }

    /// Whether the user exists and may still spend and be given quota.
    pub(super) fn require_living(&self, user: UserId) -> Result<(), QuotaError> {
        match self.holders.get(&user) {
            Some(holder) if !holder.deleted => Ok(()),
            _ => Err(QuotaError::UserNotFound),
        }
    }

    /// Does something to a user's account and writes down what the user must hear of it.
    pub(super) fn change<T>(
        &mut self,
        user: UserId,
        reason: Reason,
        act: impl FnOnce(&mut Account) -> Result<T, QuotaError>,
    ) -> Result<T, QuotaError> {
        let holder = self.holders.get_mut(&user).ok_or(QuotaError::UserNotFound)?;
        let before = holder.account.counters().remaining;
        let done = act(&mut holder.account)?;
        let after = holder.account.counters();
        if after.remaining != before {
            let data = json!({
                "remaining": after.remaining, "reserved": after.reserved, "reason": reason.name(),
            });
            self.tell(user, EventKind::QuotaChanged, None, data);
        }
        if after.remaining < self.low && before >= self.low {
            self.tell(user, EventKind::QuotaLow, None, json!({ "remaining": after.remaining }));
        }
        Ok(done)
    }

    /// Ends a task: settles its hold and writes its ending.
    pub(super) fn settle(
        &mut self,
        user: UserId,
        task: TaskId,
        ending: &TaskEnding,
        charge: Option<i64>,
    ) -> Result<Settled, QuotaError> {
        let now = self.now;
        let row = self.tasks.get(&task).filter(|row| row.user == user).ok_or(QuotaError::NoHold)?;
        let holder = self.holders.get_mut(&user).ok_or(QuotaError::UserNotFound)?;
        let phase = holder.account.phase(task).ok_or(QuotaError::NoHold)?;
        if row.status.is_final() || phase != Phase::Reserved {
            // nothing is open any more, so this changes nothing and only says what was done before
            let before = match charge {
                _ if phase == Phase::Reserved => Err(QuotaError::TaskFinal(row.status)),
                Some(charge) => holder.account.confirm(task, charge, now),
                None => holder.account.cancel(task, now),
            };
            return match before {
                Ok(settled) if row.status == ending.status => Ok(settled),
                _ if ending.lease.is_none() => Err(QuotaError::TaskFinal(row.status)),
                _ if !row.is_leased_to(ending.lease) => Err(QuotaError::LeaseLost),
                Ok(_) => Err(QuotaError::TaskFinal(row.status)),
                Err(contradiction) => Err(contradiction),
            };
        }
        if ending.lease.is_some() && !row.is_leased_to(ending.lease) {
            return Err(QuotaError::LeaseLost);
        }
        let spender = holder.account.spender(task);
        let settled = self.change(user, Reason::Returned, |account| match charge {
            Some(charge) => account.confirm(task, charge, now),
            None => account.cancel(task, now),
        })?;
        self.count_spent(user, spender, -settled.released);
        if let Some(row) = self.tasks.get_mut(&task) {
            row.finish(ending, now);
        }
        let data = json!({
            "status": ending.status.name(), "output": ending.output, "error": ending.error,
            "files": [], "charged": settled.charged,
        });
        self.tell(user, EventKind::TaskFinished, Some(task), data);
        self.writes.endings.push(WrittenEnding { task, ending: ending.clone() });
        Ok(settled)
    }

    /// What was answered before under the caller's key, if the key was used before for the same request.
    pub(super) fn replay<R>(&self, key: Option<&Idempotent<R>>) -> Result<Option<StoredAnswer>, QuotaError> {
        let Some(key) = key else { return Ok(None) };
        match self.keys.get(&(key.user, key.key.clone())) {
            Some(known) if known.request_hash == key.request_hash => Ok(Some(known.answer.clone())),
            Some(_) => Err(QuotaError::KeyReused),
            None => Ok(None),
        }
    }

    /// Writes down what is answered under the caller's key.
    pub(super) fn remember<R>(&mut self, key: Option<&Idempotent<R>>, answer: &R) {
        let Some(key) = key else { return };
        let row = KeyRow {
            user: key.user,
            key: key.key.clone(),
            request_hash: key.request_hash.to_vec(),
            answer: StoredAnswer { status: key.status, body: (key.render)(answer) },
        };
        if self.keys.insert((key.user, key.key.clone()), row.clone()).is_none() {
            self.writes.keys.push(row);
        }
    }

    fn tell(&mut self, user: UserId, kind: EventKind, task: Option<TaskId>, data: Value) {
        let Some(holder) = self.holders.get_mut(&user) else { return };
        holder.final_no += 1;
        let final_no = Some(holder.final_no);
        self.writes.events.push(Event { user, kind, task, data, at: self.now, final_no });
    }
}
