//! The arithmetic of the ledger: by example, and against a model that moves single units.

use super::*;
use proptest::prelude::*;
use std::collections::HashMap;

fn at(second: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(second, 0).unwrap()
}

fn empty() -> Account {
    Account::new(UserId::new(), Counters { remaining: 0, reserved: 0, ledger_no: 0 }, Uuid::now_v7)
}

fn terms(amount: i64, reference: &str, priority: i16, expires_at: Option<i64>) -> GrantTerms<'_> {
    let expires_at = expires_at.map(at);
    GrantTerms { amount, kind: GrantKind::Gift, reference, priority, expires_at, reason: "" }
}

fn left(account: &Account) -> HashMap<String, i64> {
    account.grants().map(|grant| (grant.reference.clone(), grant.remaining)).collect()
}

fn expect_left(account: &Account, expected: &[(&str, i64)]) {
    let expected = expected.iter().map(|(name, left)| ((*name).to_owned(), *left)).collect();
    assert_eq!(left(account), expected);
}

#[test]
fn a_hold_burns_by_priority_then_expiry_then_age() {
    let mut account = empty();
    for (reference, priority, expires) in [
        ("never", 0, None),
        ("late", 0, Some(200)),
        ("soon, but not urgent", 1, Some(50)),
        ("soon", 0, Some(100)),
        ("never, younger", 0, None),
    ] {
        account.grant(&terms(10, reference, priority, expires), at(0)).unwrap();
    }
    account.reserve(TaskId::new(), 35, None).unwrap();
    expect_left(
        &account,
        &[("soon", 0), ("late", 0), ("never", 0), ("never, younger", 5), ("soon, but not urgent", 10)],
    );
}

#[test]
fn a_partial_charge_is_taken_from_the_front_and_the_rest_returns_from_the_end() {
    let mut account = empty();
    account.grant(&terms(4, "first", 0, None), at(0)).unwrap();
    account.grant(&terms(10, "second", 0, None), at(0)).unwrap();
    let task = TaskId::new();
    account.reserve(task, 9, None).unwrap();
    let settled = account.confirm(task, 5, at(0)).unwrap();
    assert_eq!(settled, Settled { charged: 5, released: 4 });
    expect_left(&account, &[("first", 0), ("second", 9)]);
    assert_eq!(account.counters(), Counters { remaining: 9, reserved: 0, ledger_no: 3 });
}

#[test]
fn what_returns_to_a_due_grant_expires_at_once() {
    let mut account = empty();
    account.grant(&terms(4, "brief", 0, Some(100)), at(0)).unwrap();
    account.grant(&terms(4, "lasting", 0, None), at(0)).unwrap();
    let task = TaskId::new();
    account.reserve(task, 6, None).unwrap();
    account.cancel(task, at(100)).unwrap();
    expect_left(&account, &[("brief", 0), ("lasting", 4)]);
    let [expiry] = account.adjustments() else { panic!("{:?}", account.adjustments()) };
    assert_eq!((expiry.kind, expiry.amount), (AdjustmentKind::Expiry, -4));
    assert_eq!(expiry.place, Place { no: 3, balance_after: 4 });
}

#[test]
fn a_charge_of_nothing_leaves_no_row_in_the_ledger() {
    let mut account = empty();
    account.grant(&terms(1, "one", 0, None), at(0)).unwrap();
    for (amount, task) in [(1, TaskId::new()), (0, TaskId::new())] {
        account.reserve(task, amount, None).unwrap();
        let settled = account.confirm(task, 0, at(0)).unwrap();
        assert_eq!(settled, Settled { charged: 0, released: amount });
    }
    assert_eq!(account.counters(), Counters { remaining: 1, reserved: 0, ledger_no: 1 });
}

#[test]
fn contradictions_are_refused_and_say_which_phase_stands() {
    let mut account = empty();
    account.grant(&terms(9, "nine", 0, None), at(0)).unwrap();
    let (confirmed, cancelled, unknown) = (TaskId::new(), TaskId::new(), TaskId::new());
    account.reserve(confirmed, 3, None).unwrap();
    account.reserve(cancelled, 3, None).unwrap();
    assert!(matches!(
        account.confirm(confirmed, 4, at(0)),
        Err(QuotaError::ChargeExceedsHold { charge: 4, held: 3 })
    ));
    account.confirm(confirmed, 2, at(0)).unwrap();
    account.cancel(cancelled, at(0)).unwrap();
    assert!(matches!(account.cancel(confirmed, at(0)), Err(QuotaError::AlreadyConfirmed)));
    assert!(matches!(account.confirm(confirmed, 3, at(0)), Err(QuotaError::AlreadyConfirmed)));
    assert!(matches!(account.confirm(cancelled, 2, at(0)), Err(QuotaError::AlreadyCancelled)));
    assert!(matches!(account.cancel(unknown, at(0)), Err(QuotaError::NoHold)));
    assert_eq!(account.counters().remaining, 7);
}

#[test]
fn a_reference_stands_for_one_amount() {
    let mut account = empty();
    let grant = account.grant(&terms(5, "order", 0, None), at(0)).unwrap();
    assert_eq!(account.grant(&terms(5, "order", 0, None), at(0)).unwrap(), grant);
    assert!(matches!(account.grant(&terms(6, "order", 0, None), at(0)), Err(QuotaError::ReferenceReused)));
    account.correct(2, "mistake", "").unwrap();
    assert!(matches!(account.correct(1, "mistake", ""), Err(QuotaError::ReferenceReused)));
    assert!(matches!(
        account.correct(4, "greed", ""),
        Err(QuotaError::Insufficient { needed: 4, remaining: 3 })
    ));
}

#[test]
fn parts_are_not_returned_to_grants_that_were_not_loaded() {
    let mut account = empty();
    account.grant(&terms(5, "spent", 0, None), at(0)).unwrap();
    let task = TaskId::new();
    account.reserve(task, 5, None).unwrap();
    let (_, hold) = account.holds().next().unwrap();
    let counters = Counters { remaining: 0, reserved: 5, ledger_no: 1 };
    let mut loaded = Account::new(account.user(), counters, Uuid::now_v7);
    loaded.add_hold(task, hold.clone());
    assert_eq!(loaded.missing_grants(task).count(), 1);
    assert!(matches!(loaded.cancel(task, at(0)), Err(QuotaError::NoHold)));
    assert_eq!(loaded.counters(), counters);
    assert!(loaded.confirm(task, 5, at(0)).is_ok(), "a full charge returns nothing");
}

#[test]
fn what_cannot_be_found_is_not_taken() {
    let counters = Counters { remaining: 9, reserved: 0, ledger_no: 1 };
    let mut account = Account::new(UserId::new(), counters, Uuid::now_v7);
    assert!(matches!(
        account.reserve(TaskId::new(), 5, None),
        Err(QuotaError::Insufficient { needed: 5, remaining: 0 })
    ));
    assert_eq!(account.counters(), counters);
}

#[derive(Clone, Debug)]
enum Move {
    Reserve { task: usize, amount: i64 },
    Confirm { task: usize, charge: i64 },
    Cancel { task: usize },
    Grant { reference: usize, amount: i64, priority: i16, expires: Option<i64> },
    Correct { reference: usize, amount: i64 },
    Wait { seconds: i64 },
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let task = || 0..6usize;
    let one = prop_oneof![
        4 => (task(), 0..12i64).prop_map(|(task, amount)| Move::Reserve { task, amount }),
        3 => (task(), 0..12i64).prop_map(|(task, charge)| Move::Confirm { task, charge }),
        2 => task().prop_map(|task| Move::Cancel { task }),
        4 => (0..9usize, 1..15i64, 0..3i16, prop::option::of(0..60i64)).prop_map(
            |(reference, amount, priority, expires)| Move::Grant { reference, amount, priority, expires }
        ),
        1 => (0..4usize, 1..8i64).prop_map(|(reference, amount)| Move::Correct { reference, amount }),
        1 => (1..15i64).prop_map(|seconds| Move::Wait { seconds }),
    ];
    prop::collection::vec(one, 1..60)
}

/// Where one unit of quota is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Unit {
    Free,
    Held(usize),
    Charged(usize),
    Gone,
}

/// The ledger, one unit at a time: a grant is its priority, its expiry and where each of its units is.
#[derive(Default)]
struct Model {
    grants: Vec<(i16, Option<i64>, Vec<Unit>)>,
    answers: HashMap<String, i64>,
}

impl Model {
    /// Units in the state `from`, in burn order.
    fn units(&mut self, from: Unit) -> Vec<&mut Unit> {
        let mut grants: Vec<_> = self.grants.iter_mut().collect();
        grants.sort_by_key(|(priority, expires, _)| (*priority, expires.unwrap_or(i64::MAX)));
        grants.into_iter().flat_map(|(_, _, units)| units).filter(|unit| **unit == from).collect()
    }

    fn count(&mut self, from: Unit) -> i64 {
        i64::try_from(self.units(from).len()).unwrap()
    }

    /// Moves the first `n` units and, after them, the others.
    fn shift(&mut self, from: Unit, n: i64, to: Unit, others: Unit) {
        for (index, unit) in self.units(from).into_iter().enumerate() {
            *unit = if (index as i64) < n { to } else { others };
        }
    }

    fn expire(&mut self, now: i64) {
        for (_, _, units) in
            self.grants.iter_mut().filter(|(_, expires, _)| expires.is_some_and(|at| at <= now))
        {
            units.iter_mut().filter(|unit| **unit == Unit::Free).for_each(|unit| *unit = Unit::Gone);
        }
    }

    /// Does the move; whether it was accepted.
    fn apply(&mut self, what: &Move, now: i64) -> bool {
        self.expire(now);
        let key = |name: &str, of: usize| format!("{name}{of}");
        let accepted = match *what {
            Move::Wait { .. } => true,
            Move::Grant { reference, amount, priority, expires } => {
                let known = self.answers.get(&key("grant", reference)).copied();
                if known.is_none() {
                    let units = vec![Unit::Free; usize::try_from(amount).unwrap()];
                    self.grants.push((priority, expires, units));
                    self.answers.insert(key("grant", reference), amount);
                }
                known.is_none_or(|known| known == amount)
            }
            Move::Correct { reference, amount } => {
                match self.answers.get(&key("correct", reference)).copied() {
                    Some(known) => known == amount,
                    None if self.count(Unit::Free) < amount => false,
                    None => {
                        self.answers.insert(key("correct", reference), amount);
                        self.shift(Unit::Free, amount, Unit::Gone, Unit::Free);
                        true
                    }
                }
            }
            Move::Reserve { task, amount } => {
                let known = self.answers.contains_key(&key("held", task));
                if !known && self.count(Unit::Free) >= amount {
                    self.answers.insert(key("held", task), amount);
                    self.shift(Unit::Free, amount, Unit::Held(task), Unit::Free);
                }
                self.answers.contains_key(&key("held", task))
            }
            Move::Confirm { task, .. } | Move::Cancel { task } => {
                let charge = if let Move::Confirm { charge, .. } = *what { charge } else { -1 };
                let held = self.answers.get(&key("held", task)).copied().unwrap_or(-1);
                let open = held >= charge && held >= 0 && !self.answers.contains_key(&key("end", task));
                if open {
                    self.answers.insert(key("end", task), charge);
                    self.shift(Unit::Held(task), charge, Unit::Charged(task), Unit::Free);
                }
                self.answers.get(&key("end", task)) == Some(&charge)
            }
        };
        self.expire(now);
        accepted
    }
}

/// The account under test, with names for its tasks and its time.
struct Subject {
    account: Account,
    tasks: Vec<TaskId>,
}

impl Subject {
    fn apply(&mut self, what: &Move, now: i64) -> Result<String, QuotaError> {
        let now = at(now);
        let account = &mut self.account;
        account.expire_due(now);
        match *what {
            Move::Wait { .. } => Ok(String::new()),
            Move::Reserve { task, amount } => {
                account.reserve(self.tasks[task], amount, None).map(|()| String::new())
            }
            Move::Confirm { task, charge } => {
                account.confirm(self.tasks[task], charge, now).map(|settled| format!("{settled:?}"))
            }
            Move::Cancel { task } => {
                account.cancel(self.tasks[task], now).map(|settled| format!("{settled:?}"))
            }
            Move::Grant { reference, amount, priority, expires } => account
                .grant(&terms(amount, &reference.to_string(), priority, expires), now)
                .map(|id| id.to_string()),
            Move::Correct { reference, amount } => {
                account.correct(amount, &reference.to_string(), "").map(|made| format!("{made:?}"))
            }
        }
    }

    /// Everything that would be written, in a stable order.
    fn picture(&self) -> String {
        let mut holds: Vec<_> = self.account.holds().collect();
        holds.sort_by_key(|(task, _)| *task);
        let grants: Vec<_> = self.account.grants().collect();
        format!("{:?}\n{grants:?}\n{holds:?}\n{:?}", self.account.counters(), self.account.adjustments())
    }

    /// What left a grant by each way: adjusted, held, charged.
    fn gone_from(&self, grant: GrantId) -> (i64, i64, i64) {
        let adjusted: i64 = self
            .account
            .adjustments()
            .iter()
            .filter(|adjustment| adjustment.grant == grant)
            .map(|adjustment| -adjustment.amount)
            .sum();
        let parts = |phase: fn(Phase) -> bool, of: fn(&Taken) -> i64| -> i64 {
            let holds = self.account.holds().filter(|(_, hold)| phase(hold.phase));
            holds.flat_map(|(_, hold)| &hold.taken).filter(|taken| taken.grant == grant).map(of).sum()
        };
        let held = parts(|phase| phase == Phase::Reserved, |taken| taken.amount);
        let charged = parts(|phase| matches!(phase, Phase::Confirmed { .. }), |taken| taken.charged);
        (adjusted, held, charged)
    }

    /// The ledger's rows in order: number, amount, balance after.
    fn ledger(&self) -> Vec<(i64, i64, i64)> {
        let grants = self.account.grants().map(|grant| (grant.place, grant.amount));
        let adjusted = self.account.adjustments().iter().map(|row| (row.place, row.amount));
        let charges = self.account.holds().filter_map(|(_, hold)| match (hold.place, hold.phase) {
            (Some(place), Phase::Confirmed { charged }) => Some((place, -charged)),
            _ => None,
        });
        let rows = grants.chain(adjusted).chain(charges);
        let mut rows: Vec<_> = rows.map(|(place, amount)| (place.no, amount, place.balance_after)).collect();
        rows.sort_unstable();
        rows
    }
}

fn check(subject: &Subject, model: &mut Model) {
    let counters = subject.account.counters();
    assert_eq!(counters.remaining, model.count(Unit::Free));
    assert_eq!(counters.reserved, (0..6).map(|task| model.count(Unit::Held(task))).sum::<i64>());
    // each grant has as many units in each state as the model says, and they make up its amount
    let mut by_age: Vec<_> = subject.account.grants().collect();
    by_age.sort_by_key(|grant| grant.id);
    assert_eq!(by_age.len(), model.grants.len());
    for (grant, (_, _, units)) in by_age.into_iter().zip(&model.grants) {
        let count = |state: fn(&Unit) -> bool| units.iter().filter(|unit| state(unit)).count() as i64;
        let (adjusted, held, charged) = subject.gone_from(grant.id);
        assert_eq!(grant.amount, grant.remaining + adjusted + held + charged);
        assert_eq!(grant.remaining, count(|unit| *unit == Unit::Free));
        assert_eq!(held, count(|unit| matches!(unit, Unit::Held(_))));
        assert_eq!(charged, count(|unit| matches!(unit, Unit::Charged(_))));
    }
    // the statement adds up
    let mut balance = 0;
    for (index, (no, amount, balance_after)) in subject.ledger().into_iter().enumerate() {
        balance += amount;
        assert_eq!((no, balance_after), (index as i64 + 1, balance));
    }
    assert_eq!(balance, counters.remaining + counters.reserved);
    assert_eq!(subject.ledger().len() as i64, counters.ledger_no);
}

proptest! {
    #[test]
    fn every_unit_is_where_the_model_has_it(moves in moves()) {
        let mut subject = Subject { account: empty(), tasks: (0..6).map(|_| TaskId::new()).collect() };
        let mut model = Model::default();
        let mut now = 0;
        for what in moves {
            if let Move::Wait { seconds } = what {
                now += seconds;
            }
            let mut untouched = subject.account.clone();
            untouched.expire_due(at(now));
            let answer = subject.apply(&what, now);
            prop_assert_eq!(answer.is_ok(), model.apply(&what, now), "{:?} was answered {:?}", what, answer);
            check(&subject, &mut model);
            let after = subject.picture();
            if answer.is_err() {
                prop_assert_eq!(subject.account.counters(), untouched.counters(), "a refusal changes nothing");
                prop_assert_eq!(left(&subject.account), left(&untouched));
            }
            // the same again answers the same and changes nothing
            let again = subject.apply(&what, now);
            prop_assert_eq!(format!("{answer:?}"), format!("{again:?}"));
            prop_assert_eq!(after, subject.picture());
        }
    }
}
