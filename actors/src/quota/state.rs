//! The ledger of one user as arithmetic: grants burn into holds, holds are charged or returned, what is due
//! expires. It knows neither the database nor a clock; ids and the time of day are arguments.
//!
//! A function that refuses has changed nothing. One that is called again with the same arguments answers what
//! it answered first and changes nothing more.

use super::{GrantKind, QuotaError, allowance::Spender};
use crate::ids::{GrantId, TaskId, UserId};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use uuid::Uuid;

/// What must be written of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It stands in the database as it is here.
    None,
    /// It is there, with older values.
    Updated,
    /// It is not there yet.
    Inserted,
}

impl Change {
    fn update(&mut self) {
        if *self == Self::None {
            *self = Self::Updated;
        }
    }
}

/// A row's place in its user's ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// The number, counting from 1 without a gap.
    pub no: i64,
    /// Remaining plus reserved after the row.
    pub balance_after: i64,
}

/// Quota that came in at once, and what is left of it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct GrantRow {
    pub id: GrantId,
    pub kind: GrantKind,
    pub reference: String,
    pub amount: i64,
    pub remaining: i64,
    pub priority: i16,
    pub expires_at: Option<DateTime<Utc>>,
    pub reason: String,
    pub place: Place,
    pub change: Change,
}

/// Lower burns first: by priority, then what expires sooner (what never does, last), then by age.
type BurnKey = (i16, bool, Option<DateTime<Utc>>, GrantId);

impl GrantRow {
    fn burn_key(&self) -> BurnKey {
        (self.priority, self.expires_at.is_none(), self.expires_at, self.id)
    }

    fn is_due(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// What a hold took from one grant, and how much of that was charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Taken {
    pub grant: GrantId,
    pub amount: i64,
    pub charged: i64,
}

/// Where a hold stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Reserved,
    Confirmed { charged: i64 },
    Cancelled,
}

/// The quota transaction of one task.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hold {
    pub id: Uuid,
    pub amount: i64,
    /// In burn order.
    pub taken: Vec<Taken>,
    pub phase: Phase,
    /// Only a charge has one.
    pub place: Option<Place>,
    /// The API key it was counted to, where it was asked for by one.
    pub spender: Option<Spender>,
    pub change: Change,
}

/// Why a grant lost a part that no task was charged for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdjustmentKind {
    Expiry,
    Correction,
}

impl AdjustmentKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Expiry => "expiry",
            Self::Correction => "correction",
        }
    }
}

/// A part that was taken off a grant; to be appended.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Adjustment {
    pub id: Uuid,
    pub grant: GrantId,
    pub kind: AdjustmentKind,
    /// Negative.
    pub amount: i64,
    pub reference: String,
    pub reason: String,
    pub place: Place,
}

/// A correction that was made, by its reference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CorrectionMade {
    /// Its first adjustment.
    pub adjustment: Uuid,
    /// Units it took, over all its adjustments.
    pub amount: i64,
}

/// What a new grant is to be.
#[derive(Clone, Debug)]
pub(crate) struct GrantTerms<'a> {
    pub amount: i64,
    pub kind: GrantKind,
    pub reference: &'a str,
    pub priority: i16,
    pub expires_at: Option<DateTime<Utc>>,
    pub reason: &'a str,
}

/// What became of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub charged: i64,
    pub released: i64,
}

/// The counters of a user as its row has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counters {
    /// What can be spent.
    pub remaining: i64,
    /// What open holds keep.
    pub reserved: i64,
    /// The last number given to a ledger row.
    pub ledger_no: i64,
}

/// One user's counters and those of the user's rows that a command can touch.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    user: UserId,
    counters: Counters,
    grants: BTreeMap<BurnKey, GrantRow>,
    burn_keys: HashMap<GrantId, BurnKey>,
    holds: HashMap<TaskId, Hold>,
    corrections: HashMap<String, CorrectionMade>,
    adjustments: Vec<Adjustment>,
    new_id: fn() -> Uuid,
}

impl Account {
    /// An account without rows; what was loaded is added. `new_id` makes the ids of new rows, each sorting
    /// after those before it.
    pub(crate) fn new(user: UserId, counters: Counters, new_id: fn() -> Uuid) -> Self {
        Self {
            user,
            counters,
            grants: BTreeMap::new(),
            burn_keys: HashMap::new(),
            holds: HashMap::new(),
            corrections: HashMap::new(),
            adjustments: Vec::new(),
            new_id,
        }
    }

    /// Adds a grant that was loaded. One that is here already stays as it is.
    pub(crate) fn add_grant(&mut self, grant: GrantRow) {
        let key = grant.burn_key();
        self.burn_keys.entry(grant.id).or_insert(key);
        self.grants.entry(key).or_insert(grant);
    }

    /// Adds a hold that was loaded.
    pub(crate) fn add_hold(&mut self, task: TaskId, hold: Hold) {
        self.holds.insert(task, hold);
    }

    /// Adds a correction that was loaded.
    pub(crate) fn add_correction(&mut self, reference: String, correction: CorrectionMade) {
        self.corrections.insert(reference, correction);
    }

    pub(crate) fn user(&self) -> UserId {
        self.user
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    pub(crate) fn phase(&self, task: TaskId) -> Option<Phase> {
        self.holds.get(&task).map(|hold| hold.phase)
    }

    /// The API key that the hold of `task` was counted to.
    pub(crate) fn spender(&self, task: TaskId) -> Option<Spender> {
        self.holds.get(&task).and_then(|hold| hold.spender)
    }

    /// Whether any row is to be written. Nothing changes the counters, or is told, without a row.
    pub(crate) fn is_changed(&self) -> bool {
        !self.adjustments.is_empty()
            || self.holds.values().any(|hold| hold.change != Change::None)
            || self.grants.values().any(|grant| grant.change != Change::None)
    }

    /// Every hold that is here.
    pub(crate) fn holds(&self) -> impl Iterator<Item = (TaskId, &Hold)> {
        self.holds.iter().map(|(task, hold)| (*task, hold))
    }

    /// Every grant that is here, in burn order.
    pub(crate) fn grants(&self) -> impl Iterator<Item = &GrantRow> {
        self.grants.values()
    }

    /// The parts taken off grants since the account was loaded, in ledger order.
    pub(crate) fn adjustments(&self) -> &[Adjustment] {
        &self.adjustments
    }

    /// Grants that the hold of `task` took from and that are not here. They must be added before a part of it
    /// can be returned.
    pub(crate) fn missing_grants(&self, task: TaskId) -> impl Iterator<Item = GrantId> {
        let taken = self.holds.get(&task).map(|hold| hold.taken.as_slice()).unwrap_or_default();
        taken.iter().map(|taken| taken.grant).filter(|grant| !self.burn_keys.contains_key(grant))
    }

    /// Holds `amount` for `task`, which `spender` has asked for where it is an API key.
    pub(crate) fn reserve(
        &mut self,
        task: TaskId,
        amount: i64,
        spender: Option<Spender>,
    ) -> Result<(), QuotaError> {
        if self.holds.contains_key(&task) {
            return Ok(());
        }
        let taken = self.burn(amount)?;
        self.counters.reserved += amount;
        let taken = taken.into_iter().map(|(grant, amount)| Taken { grant, amount, charged: 0 }).collect();
        let id = (self.new_id)();
        let (phase, change) = (Phase::Reserved, Change::Inserted);
        let hold = Hold { id, amount, taken, phase, place: None, spender, change };
        self.holds.insert(task, hold);
        Ok(())
    }

    /// Charges `charge` of what `task` holds, in burn order, and returns the rest from the end.
    pub(crate) fn confirm(
        &mut self,
        task: TaskId,
        charge: i64,
        now: DateTime<Utc>,
    ) -> Result<Settled, QuotaError> {
        let held = self.holds.get(&task).ok_or(QuotaError::NoHold)?;
        match held.phase {
            Phase::Cancelled => return Err(QuotaError::AlreadyCancelled),
            Phase::Confirmed { charged } if charged != charge => return Err(QuotaError::AlreadyConfirmed),
            Phase::Confirmed { charged } => {
                return Ok(Settled { charged, released: held.amount - charged });
            }
            Phase::Reserved if !(0..=held.amount).contains(&charge) => {
                return Err(QuotaError::ChargeExceedsHold { charge, held: held.amount });
            }
            Phase::Reserved => {}
        }
        self.settle(task, Phase::Confirmed { charged: charge }, charge, now)
    }

    /// Returns all that `task` holds.
    pub(crate) fn cancel(&mut self, task: TaskId, now: DateTime<Utc>) -> Result<Settled, QuotaError> {
        let held = self.holds.get(&task).ok_or(QuotaError::NoHold)?;
        match held.phase {
            Phase::Confirmed { .. } => Err(QuotaError::AlreadyConfirmed),
            Phase::Cancelled => Ok(Settled { charged: 0, released: held.amount }),
            Phase::Reserved => self.settle(task, Phase::Cancelled, 0, now),
        }
    }

    /// Adds a grant. Answers its id.
    pub(crate) fn grant(
        &mut self,
        terms: &GrantTerms<'_>,
        now: DateTime<Utc>,
    ) -> Result<GrantId, QuotaError> {
        if let Some(known) = self.granted(terms.kind, terms.reference) {
            return if known.amount == terms.amount {
                Ok(known.id)
            } else {
                Err(QuotaError::ReferenceReused)
            };
        }
        self.counters.remaining += terms.amount;
        let id = GrantId((self.new_id)());
        let place = self.next_place();
        self.add_grant(GrantRow {
            id,
            kind: terms.kind,
            reference: terms.reference.to_owned(),
            amount: terms.amount,
            remaining: terms.amount,
            priority: terms.priority,
            expires_at: terms.expires_at,
            reason: terms.reason.to_owned(),
            place,
            change: Change::Inserted,
        });
        self.expire_due(now);
        Ok(id)
    }

    /// Whether a grant of this kind and reference is here.
    pub(crate) fn granted(&self, kind: GrantKind, reference: &str) -> Option<&GrantRow> {
        self.grants.values().find(|grant| grant.kind == kind && grant.reference == reference)
    }

    /// Takes `amount` away, in burn order.
    pub(crate) fn correct(
        &mut self,
        amount: i64,
        reference: &str,
        reason: &str,
    ) -> Result<CorrectionMade, QuotaError> {
        if let Some(&known) = self.corrections.get(reference) {
            return if known.amount == amount { Ok(known) } else { Err(QuotaError::ReferenceReused) };
        }
        let taken = self.burn(amount)?;
        // all is taken already; the rows are written as if one after the other
        self.counters.remaining += amount;
        let first = self.adjustments.len();
        for (grant, part) in taken {
            self.counters.remaining -= part;
            self.adjust(AdjustmentKind::Correction, grant, part, reference, reason);
        }
        let adjustment = self.adjustments.get(first).map_or_else(Uuid::nil, |adjustment| adjustment.id);
        let made = CorrectionMade { adjustment, amount };
        self.corrections.insert(reference.to_owned(), made);
        Ok(made)
    }

    /// Whether a correction of this reference is here.
    pub(crate) fn corrected(&self, reference: &str) -> Option<CorrectionMade> {
        self.corrections.get(reference).copied()
    }

    /// Writes off what is left of grants that are due.
    pub(crate) fn expire_due(&mut self, now: DateTime<Utc>) {
        let mut written_off = Vec::new();
        for grant in self.grants.values_mut().filter(|grant| grant.remaining > 0 && grant.is_due(now)) {
            written_off.push((grant.id, std::mem::take(&mut grant.remaining)));
            grant.change.update();
        }
        for (grant, part) in written_off {
            self.counters.remaining -= part;
            self.adjust(AdjustmentKind::Expiry, grant, part, &grant.to_string(), "");
        }
    }

    /// Takes `amount` off the grants in burn order; says what came from which.
    fn burn(&mut self, amount: i64) -> Result<Vec<(GrantId, i64)>, QuotaError> {
        let remaining = self.counters.remaining;
        if amount > remaining || amount < 0 {
            return Err(QuotaError::Insufficient { needed: amount, remaining });
        }
        let mut left = amount;
        let mut taken = Vec::new();
        for grant in self.grants.values().filter(|grant| grant.remaining > 0) {
            if left == 0 {
                break;
            }
            let part = left.min(grant.remaining);
            left -= part;
            taken.push((grant.id, part));
        }
        if left > 0 {
            // grants are missing here: what cannot be found must not be taken
            return Err(QuotaError::Insufficient { needed: amount, remaining: amount - left });
        }
        for (grant, part) in &taken {
            if let Some(grant) = self.burn_keys.get(grant).and_then(|key| self.grants.get_mut(key)) {
                grant.remaining -= part;
                grant.change.update();
            }
        }
        self.counters.remaining -= amount;
        Ok(taken)
    }

    fn settle(
        &mut self,
        task: TaskId,
        phase: Phase,
        charge: i64,
        now: DateTime<Utc>,
    ) -> Result<Settled, QuotaError> {
        let place = Place {
            no: self.counters.ledger_no + 1,
            balance_after: self.counters.remaining + self.counters.reserved - charge,
        };
        let held = self.holds.get(&task).ok_or(QuotaError::NoHold)?.amount;
        if charge < held && self.missing_grants(task).next().is_some() {
            // a part must never be returned to nowhere
            return Err(QuotaError::NoHold);
        }
        let hold = self.holds.get_mut(&task).ok_or(QuotaError::NoHold)?;
        let released = hold.amount - charge;
        let mut left = charge;
        for taken in &mut hold.taken {
            taken.charged = left.min(taken.amount);
            left -= taken.charged;
            let part = taken.amount - taken.charged;
            let grant = self.burn_keys.get(&taken.grant).and_then(|key| self.grants.get_mut(key));
            if let (Some(grant), 1..) = (grant, part) {
                grant.remaining += part;
                grant.change.update();
            }
        }
        hold.phase = phase;
        hold.change.update();
        self.counters.reserved -= hold.amount;
        self.counters.remaining += released;
        if charge > 0 {
            hold.place = Some(place);
            self.counters.ledger_no = place.no;
        }
        self.expire_due(now);
        Ok(Settled { charged: charge, released })
    }

    fn adjust(&mut self, kind: AdjustmentKind, grant: GrantId, part: i64, reference: &str, reason: &str) {
        let adjustment = Adjustment {
            id: (self.new_id)(),
            grant,
            kind,
            amount: -part,
            reference: reference.to_owned(),
            reason: reason.to_owned(),
            place: self.next_place(),
        };
        self.adjustments.push(adjustment);
    }

    fn next_place(&mut self) -> Place {
        self.counters.ledger_no += 1;
        Place { no: self.counters.ledger_no, balance_after: self.counters.remaining + self.counters.reserved }
    }
}

#[cfg(test)]
mod tests;
