//! What an API key may spend, and what it has spent: of a day and of a month of the calendar, in Asia/Shanghai.
//!
//! A task counts when it is held, on the day that it is by PostgreSQL's clock; what comes back is taken off that day,
//! whenever it comes. All spending of a key is its user's, so the lock of the user's row, which each flush begins with,
//! makes this exact over all replicas.

use super::{CapPeriod, QuotaError};
use crate::ids::{ApiKeyId, UserId};
use chrono::{Datelike, NaiveDate};

/// Where a hold is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spender {
    pub key: ApiKeyId,
    pub day: NaiveDate,
}

/// The caps of a key, and what it has spent of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Whose key it is.
    pub user: UserId,
    pub today: NaiveDate,
    /// Units; none for no cap.
    pub daily: Option<i64>,
    pub monthly: Option<i64>,
    pub spent_today: i64,
    pub spent_this_month: i64,
}

impl Allowance {
    /// Whether `amount` more may be spent.
    pub(crate) fn require(&self, amount: i64) -> Result<(), QuotaError> {
        let caps = [
            (CapPeriod::Day, self.daily, self.spent_today),
            (CapPeriod::Month, self.monthly, self.spent_this_month),
        ];
        for (period, cap, spent) in caps {
            let Some(cap) = cap else { continue };
            let left = cap.saturating_sub(spent).max(0);
            if amount > left {
                return Err(QuotaError::ApiKeyLimit { period, needed: amount, left });
            }
        }
        Ok(())
    }

    /// Counts what was spent on `day`; a negative amount has come back.
    pub(crate) fn count(&mut self, day: NaiveDate, amount: i64) {
        if day == self.today {
            self.spent_today += amount;
        }
        if (day.year(), day.month()) == (self.today.year(), self.today.month()) {
            self.spent_this_month += amount;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn day(day: u32) -> NaiveDate {
        NaiveDate::from_ymd_opt(2026, 3, day).unwrap()
    }

    fn allowance(daily: Option<i64>, monthly: Option<i64>) -> Allowance {
        let (spent_today, spent_this_month) = (0, 0);
        Allowance { user: UserId::new(), today: day(2), daily, monthly, spent_today, spent_this_month }
    }

    #[test]
    fn without_caps_all_may_be_spent() {
        allowance(None, None).require(i64::MAX).unwrap();
    }

    #[test]
    fn under_a_cap_of_nothing_only_what_is_free_may_be_had() {
        let none = allowance(Some(0), None);
        none.require(0).unwrap();
        let refused = none.require(1).unwrap_err();
        assert!(matches!(refused, QuotaError::ApiKeyLimit { period: CapPeriod::Day, needed: 1, left: 0 }));
    }

    #[test]
    fn what_comes_back_from_yesterday_makes_room_in_the_month_and_not_today() {
        let mut both = allowance(Some(5), Some(8));
        both.count(day(1), 3);
        both.count(day(2), 5);
        let refused = both.require(1).unwrap_err();
        assert!(matches!(refused, QuotaError::ApiKeyLimit { period: CapPeriod::Day, .. }));
        both.count(day(1), -3);
        assert_eq!((both.spent_today, both.spent_this_month), (5, 5));
        both.count(day(2), -5);
        both.require(5).unwrap();
    }

    #[test]
    fn another_month_counts_for_neither() {
        let mut both = allowance(Some(5), Some(5));
        both.count(NaiveDate::from_ymd_opt(2026, 2, 2).unwrap(), 5);
        both.count(NaiveDate::from_ymd_opt(2025, 3, 2).unwrap(), 5);
        both.require(5).unwrap();
    }

    proptest! {
        /// Whatever is asked for in whatever order, what was let through stays within both caps.
        #[test]
        fn caps_hold(
            daily in proptest::option::of(0_i64..40),
            monthly in proptest::option::of(0_i64..40),
            asked in proptest::collection::vec(0_i64..12, 0..30),
        ) {
            let mut key = allowance(daily, monthly);
            let mut spent = 0;
            for amount in asked {
                let fits = [daily, monthly].into_iter().flatten().all(|cap| spent + amount <= cap);
                prop_assert_eq!(key.require(amount).is_ok(), fits);
                if fits {
                    key.count(day(2), amount);
                    spent += amount;
                }
            }
            prop_assert_eq!((key.spent_today, key.spent_this_month), (spent, spent));
        }
    }
}
