//! What a flush reads and writes of the spending of API keys. A batch that has no task of one sends none of these.

use super::{exactly, rows};
use crate::{
    database::DatabaseError,
    ids::{ApiKeyId, UserId},
    quota::allowance::Allowance,
    records::api_keys::spent,
};
use chrono::NaiveDate;
use deadpool_postgres::Transaction;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::Row;

type Spent = BTreeMap<(ApiKeyId, NaiveDate), (UserId, i64)>;

/// What the keys `$1` that are not revoked may spend, and have spent.
pub(super) const ALLOWANCES: &str = concat!(
    "select k.id, k.user_id, k.daily_quota, k.monthly_quota, spent.day, spent.today, spent.this_month
    from api_keys k ",
    spent!(),
    " where k.id = any($1) and k.revoked_at is null"
);
pub(super) const ADD_SPENT: &str = "
    insert into api_key_usage (key_id, day, user_id, amount)
    select key_id, day, user_id, amount
    from unnest($1::uuid[], $2::date[], $3::uuid[], $4::bigint[]) as new (key_id, day, user_id, amount)
    on conflict (key_id, day) do update set amount = api_key_usage.amount + excluded.amount";
/// Apart from [`ADD_SPENT`]: a negative amount would break the column's check before its row was looked for.
pub(super) const TAKE_BACK: &str = "
    update api_key_usage u set amount = u.amount - back.amount
    from unnest($1::uuid[], $2::date[], $3::bigint[]) as back (key_id, day, amount)
    where u.key_id = back.key_id and u.day = back.day";

/// What these keys may spend; a revoked one is left out.
pub(crate) async fn allowances(
    transaction: &Transaction<'_>,
    keys: &BTreeSet<ApiKeyId>,
) -> Result<Vec<(ApiKeyId, Allowance)>, DatabaseError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let keys: Vec<ApiKeyId> = keys.iter().copied().collect();
    let allowance = |row: &Row| {
        let allowance = Allowance {
            user: row.try_get(1)?,
            daily: row.try_get(2)?,
            monthly: row.try_get(3)?,
            today: row.try_get(4)?,
            spent_today: row.try_get(5)?,
            spent_this_month: row.try_get(6)?,
        };
        Ok((row.try_get(0)?, allowance))
    };
    rows(transaction, ALLOWANCES, &[&keys]).await?.iter().map(allowance).collect()
}

/// Adds what keys have spent.
pub(crate) async fn add_spent(transaction: &Transaction<'_>, spent: &Spent) -> Result<(), DatabaseError> {
    let more = || spent.iter().filter(|(_, (_, amount))| *amount > 0);
    let keys: Vec<ApiKeyId> = more().map(|((key, _), _)| *key).collect();
    let days: Vec<NaiveDate> = more().map(|((_, day), _)| *day).collect();
    let users: Vec<UserId> = more().map(|(_, (user, _))| *user).collect();
    let amounts: Vec<i64> = more().map(|(_, (_, amount))| *amount).collect();
    let what = (ADD_SPENT, "the count of what API keys spend");
    exactly(transaction, what, &[&keys, &days, &users, &amounts], keys.len()).await
}

/// Takes off what has come back; it was counted before, so its row is there.
pub(crate) async fn take_back(transaction: &Transaction<'_>, spent: &Spent) -> Result<(), DatabaseError> {
    let less = || spent.iter().filter(|(_, (_, amount))| *amount < 0);
    let keys: Vec<ApiKeyId> = less().map(|((key, _), _)| *key).collect();
    let days: Vec<NaiveDate> = less().map(|((_, day), _)| *day).collect();
    let amounts: Vec<i64> = less().map(|(_, (_, amount))| -*amount).collect();
    let what = (TAKE_BACK, "the return of what API keys have spent");
    exactly(transaction, what, &[&keys, &days, &amounts], keys.len()).await
}
