//! What each command wants loaded, and how it is decided on the loaded [`Ledger`].
//!
//! `again` says that the same command was handed to a COMMIT that got no answer: what is found done may be its
//! own work, so it is answered as the first time and not as a repeat.

use super::{
    Cancel, Cancelled, Confirm, Confirmed, Correct, Corrected, ExpireDue, Expired, Grant, Granted,
    QuotaError, Reserve, Reserved,
    ledger::{Ledger, Needs, Reason},
    state::GrantTerms,
};
use crate::{ask::Reply, idempotency::Answer, pipeline::task_rows::TaskRow};
use std::sync::Arc;

/// A command of the ledger.
pub(crate) trait Command: 'static {
    /// What it answers.
    type Done: 'static;

    /// Names what it wants loaded.
    fn needs(&self, needs: &mut Needs);

    /// Does it in memory. What refuses has changed nothing.
    fn decide(&self, ledger: &mut Ledger, again: bool) -> Result<Self::Done, QuotaError>;

    /// How much of a batch it fills.
    fn weight(&self) -> usize {
        1
    }
}

/// A command on its way through a flush, whichever it is.
pub(crate) trait Job {
    fn needs(&self, needs: &mut Needs);
    fn weight(&self) -> usize;
    /// Decides, and keeps the answer until the decision is committed.
    fn decide(&mut self, ledger: &mut Ledger, again: bool);
    /// Gives the kept answer.
    fn answer(self: Box<Self>);
    /// Says that nothing was done, and why.
    fn fail(self: Box<Self>, error: QuotaError);
}

/// A command and the way back to who asked it.
pub(crate) struct Asked<C: Command> {
    command: C,
    reply: Reply<Result<C::Done, QuotaError>>,
    decided: Option<Result<C::Done, QuotaError>>,
}

impl<C: Command> Asked<C> {
    pub(crate) fn new(command: C, reply: Reply<Result<C::Done, QuotaError>>) -> Self {
        Self { command, reply, decided: None }
    }
}

impl<C: Command> Job for Asked<C> {
    fn needs(&self, needs: &mut Needs) {
        self.command.needs(needs);
    }

    fn weight(&self) -> usize {
        self.command.weight()
    }

    fn decide(&mut self, ledger: &mut Ledger, again: bool) {
        self.decided = Some(self.command.decide(ledger, again));
    }

    fn answer(self: Box<Self>) {
        // undecided is never answered: its caller hears that the outcome is unknown
        if let Some(decided) = self.decided {
            self.reply.send(decided);
        }
    }

    fn fail(self: Box<Self>, error: QuotaError) {
        self.reply.send(Err(error));
    }
}

impl Command for Reserve {
    type Done = Answer<Reserved>;

    fn needs(&self, needs: &mut Needs) {
        needs.users.insert(self.task.user);
        if self.task.quota_cost > 0 {
            needs.burners.insert(self.task.user);
        }
        needs.starters.insert(self.task.user);
        needs.inserts.insert(self.task.id);
        needs.api_keys.extend(self.task.api_key);
        needs.key(self.idempotency.as_ref());
    }

    fn decide(&self, ledger: &mut Ledger, again: bool) -> Result<Self::Done, QuotaError> {
        let user = self.task.user;
        let held = ledger.holders.get(&user).is_some_and(|it| it.account.phase(self.task.id).is_some());
        if !(again && held)
            && let Some(stored) = ledger.replay(self.idempotency.as_ref())?
        {
            return Ok(Answer::Replayed(stored));
        }
        if held {
            let row = ledger.tasks.get(&self.task.id).ok_or(QuotaError::NoHold)?;
            let task = row.task.clone().unwrap_or_else(|| self.task.clone().into_task(ledger.now));
            return Ok(Answer::First(Reserved { task }));
        }
        ledger.require_living(user)?;
        ledger.require_room(user)?;
        let spender = ledger.require_allowance(&self.task)?;
        let (id, cost) = (self.task.id, self.task.quota_cost);
        ledger.change(user, Reason::Reserved, |account| account.reserve(id, cost, spender))?;
        ledger.count_spent(user, spender, cost);
        ledger.take_room(user);
        let task = self.task.clone().into_task(ledger.now);
        ledger.remember(self.idempotency.as_ref(), &task);
        ledger.tasks.insert(task.id, TaskRow::inserted(&task));
        ledger.writes.tasks.push(self.task.clone());
        Ok(Answer::First(Reserved { task }))
    }
}

impl Command for Confirm {
    type Done = Confirmed;

    fn needs(&self, needs: &mut Needs) {
        needs.ending(self.user, self.task, self.charge);
    }

    fn decide(&self, ledger: &mut Ledger, _again: bool) -> Result<Self::Done, QuotaError> {
        let settled = ledger.settle(self.user, self.task, &self.ending, Some(self.charge))?;
        Ok(Confirmed { charged: settled.charged, released: settled.released })
    }
}

impl Command for Cancel {
    type Done = Cancelled;

    fn needs(&self, needs: &mut Needs) {
        needs.ending(self.user, self.task, 0);
    }

    fn decide(&self, ledger: &mut Ledger, _again: bool) -> Result<Self::Done, QuotaError> {
        let before = ledger.writes.endings.len();
        let settled = ledger.settle(self.user, self.task, &self.ending, None)?;
        if ledger.writes.endings.len() > before {
            ledger.writes.audit.extend(self.audit.clone());
        }
        Ok(Cancelled { released: settled.released })
    }
}

impl Command for Grant {
    type Done = Answer<Granted>;

    fn needs(&self, needs: &mut Needs) {
        needs.users.insert(self.user);
        needs.references.push((self.kind, self.reference.clone()));
        needs.key(self.idempotency.as_ref());
    }

    fn decide(&self, ledger: &mut Ledger, again: bool) -> Result<Self::Done, QuotaError> {
        let holder = ledger.holders.get(&self.user);
        let done = holder.is_some_and(|it| it.account.granted(self.kind, &self.reference).is_some());
        if !(again && done)
            && let Some(stored) = ledger.replay(self.idempotency.as_ref())?
        {
            return Ok(Answer::Replayed(stored));
        }
        if ledger.foreign_references.contains(&(self.kind, self.reference.clone())) {
            return Err(QuotaError::ReferenceReused);
        }
        if !done {
            ledger.require_living(self.user)?;
        }
        let terms = GrantTerms {
            amount: self.amount,
            kind: self.kind,
            reference: &self.reference,
            priority: self.priority,
            expires_at: self.expires_at,
            reason: &self.reason,
        };
        let now = ledger.now;
        let (grant, remaining) = ledger.change(self.user, Reason::Granted, |account| {
            let grant = account.grant(&terms, now)?;
            Ok((grant, account.counters().remaining))
        })?;
        let granted = Granted { grant, amount: self.amount, reason: self.reason.clone(), remaining };
        ledger.remember(self.idempotency.as_ref(), &granted);
        if !done {
            ledger.writes.audit.extend(self.audit.clone());
        }
        Ok(Answer::First(granted))
    }
}

impl Command for Correct {
    type Done = Answer<Corrected>;

    fn needs(&self, needs: &mut Needs) {
        needs.users.insert(self.user);
        needs.burners.insert(self.user);
        needs.corrections.push(self.reference.clone());
        needs.key(self.idempotency.as_ref());
    }

    fn decide(&self, ledger: &mut Ledger, again: bool) -> Result<Self::Done, QuotaError> {
        let holder = ledger.holders.get(&self.user);
        let done = holder.is_some_and(|it| it.account.corrected(&self.reference).is_some());
        if !(again && done)
            && let Some(stored) = ledger.replay(self.idempotency.as_ref())?
        {
            return Ok(Answer::Replayed(stored));
        }
        if !done {
            ledger.require_living(self.user)?;
        }
        let (made, remaining) = ledger.change(self.user, Reason::Corrected, |account| {
            let made = account.correct(self.amount, &self.reference, &self.reason)?;
            Ok((made, account.counters().remaining))
        })?;
        let corrected = Corrected {
            adjustment: made.adjustment,
            amount: self.amount,
            reason: self.reason.clone(),
            remaining,
        };
        ledger.remember(self.idempotency.as_ref(), &corrected);
        if !done {
            ledger.writes.audit.extend(self.audit.clone());
        }
        Ok(Answer::First(corrected))
    }
}

impl Command for ExpireDue {
    type Done = Expired;

    fn needs(&self, needs: &mut Needs) {
        needs.users.extend(self.users.iter().copied());
    }

    fn decide(&self, _ledger: &mut Ledger, _again: bool) -> Result<Self::Done, QuotaError> {
        // every flush begins by writing off what is due of its users
        Ok(Expired)
    }

    fn weight(&self) -> usize {
        self.users.len().max(1)
    }
}

/// The failure of a whole batch, for one of its commands.
pub(crate) fn failure(error: &Arc<crate::database::DatabaseError>) -> QuotaError {
    QuotaError::Database(Arc::clone(error))
}
