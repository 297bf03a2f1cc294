//! What bounds a provider's calls besides its slots: how often it may be called, and a pause it asked for.
//!
//! Lock order within a flush: tasks, providers, rates, slots.

use crate::{
    database::DatabaseError,
    pipeline::rates::{Rates, Window},
};
use deadpool_postgres::Transaction;
use std::time::Duration;
use tokio_postgres::Row;

use super::flush::milliseconds;

/// What has been counted of a provider, locked.
pub(crate) struct LockedRates {
    pub(crate) provider: String,
    pub(crate) rates: Rates,
    /// PostgreSQL's time once the row was locked, milliseconds since the epoch.
    pub(crate) now: i64,
}

pub(super) const LOCK_RATES: &str = "with locked as materialized (
         select * from provider_rates where provider = any($1) order by provider for no key update
     )
     select *, (extract(epoch from clock_timestamp()) * 1000)::bigint as now_ms from locked";

/// Locks what has been counted of these providers, and begins to count where nothing was.
pub(crate) async fn lock_rates(
    transaction: &Transaction<'_>,
    providers: &[&str],
) -> Result<Vec<LockedRates>, DatabaseError> {
    if providers.is_empty() {
        return Ok(Vec::new());
    }
    let statement = transaction.prepare_cached(LOCK_RATES).await?;
    let mut rows = transaction.query(&statement, &[&providers]).await?;
    if rows.len() < providers.len() {
        let insert = transaction
            .prepare_cached(
                "insert into provider_rates (provider) select id from providers where id = any($1) order by id
                 on conflict do nothing",
            )
            .await?;
        transaction.execute(&insert, &[&providers]).await?;
        rows = transaction.query(&statement, &[&providers]).await?;
    }
    rows.iter().map(locked).collect()
}

fn locked(row: &Row) -> Result<LockedRates, DatabaseError> {
    let window = |newest, calls| -> Result<Window, DatabaseError> {
        Ok(Window { newest: row.try_get(newest)?, calls: row.try_get(calls)? })
    };
    Ok(LockedRates {
        provider: row.try_get("provider")?,
        rates: Rates {
            second: window("second_newest", "second_calls")?,
            minute: window("minute_newest", "minute_calls")?,
        },
        now: row.try_get("now_ms")?,
    })
}

/// Writes what was counted of a provider that is locked.
pub(crate) async fn save_rates(
    transaction: &Transaction<'_>,
    locked: &LockedRates,
) -> Result<(), DatabaseError> {
    let statement = transaction
        .prepare_cached(
            "update provider_rates set second_newest = $2, second_calls = $3, minute_newest = $4, minute_calls = $5
             where provider = $1",
        )
        .await?;
    let Rates { second, minute } = &locked.rates;
    transaction
        .execute(
            &statement,
            &[&locked.provider, &second.newest, &second.calls, &minute.newest, &minute.calls],
        )
        .await?;
    Ok(())
}

/// Lets nobody call these providers for so long from now on; a longer pause that stands already stays.
pub(crate) async fn pause_providers(
    transaction: &Transaction<'_>,
    pauses: &[(&str, Duration)],
) -> Result<(), DatabaseError> {
    if pauses.is_empty() {
        return Ok(());
    }
    let statement = transaction
        .prepare_cached(
            "with paused as (
                 select p.id, w.pause_ms from unnest($1::text[], $2::bigint[]) as w(id, pause_ms)
                 join providers p on p.id = w.id order by p.id for no key update of p
             )
             update providers p
             set paused_until = greatest(p.paused_until,
                                         clock_timestamp() + paused.pause_ms * interval '1 millisecond')
             from paused where p.id = paused.id",
        )
        .await?;
    let providers: Vec<_> = pauses.iter().map(|(provider, _)| *provider).collect();
    let pauses: Vec<_> = pauses.iter().map(|(_, pause)| milliseconds(*pause)).collect();
    transaction.execute(&statement, &[&providers, &pauses]).await?;
    Ok(())
}

/// How long those of `providers` are still paused that are.
pub(crate) async fn pauses(
    transaction: &Transaction<'_>,
    providers: &[&str],
) -> Result<Vec<(String, Duration)>, DatabaseError> {
    let statement = transaction
        .prepare_cached(
            "select id, ceil(extract(epoch from paused_until - clock_timestamp()) * 1000)::bigint as left_ms
             from providers where id = any($1) and paused_until > clock_timestamp()",
        )
        .await?;
    let rows = transaction.query(&statement, &[&providers]).await?;
    rows.iter()
        .map(|row| Ok((row.try_get("id")?, super::claim::from_milliseconds(row.try_get("left_ms")?))))
        .collect()
}
