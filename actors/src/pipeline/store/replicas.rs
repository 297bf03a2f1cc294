//! The rows of the replicas that run, which say whose tasks are whose.

use crate::{database::DatabaseError, ids::OwnerId, supervisor::VitalsSnapshot};
use chrono::{DateTime, Utc};
use deadpool_postgres::{Client, GenericClient};
use std::time::Duration;
use tokio_postgres::types::Json;

use super::{claim::from_milliseconds, flush::milliseconds};

/// What a replica says of itself.
#[derive(Clone, Debug)]
pub struct ReplicaReport {
    /// What logs and admin views call it.
    pub label: String,
    /// Its actors.
    pub actors: Vec<VitalsSnapshot>,
}

/// Makes `owner`'s row, good for one lease.
pub(crate) async fn register(
    client: &Client,
    owner: OwnerId,
    report: &ReplicaReport,
    lease: Duration,
) -> Result<(), DatabaseError> {
    let statement = client
        .prepare_cached(
            "insert into replicas (owner, label, actors, expires_at)
             values ($1, $2, $3, clock_timestamp() + $4::bigint * interval '1 millisecond')
             on conflict (owner) do update
             set expires_at = excluded.expires_at, steady_since = excluded.steady_since",
        )
        .await?;
    let actors = Json(&report.actors);
    client.execute(&statement, &[&owner, &report.label, &actors, &milliseconds(lease)]).await?;
    Ok(())
}

/// Makes `owner`'s row good for one more lease, also one that has expired meanwhile; `false` when somebody
/// has buried it and may have taken its tasks. A renewal that comes more than half a lease after the last one is
/// no longer in time.
pub(crate) async fn renew(
    client: &Client,
    owner: OwnerId,
    report: &ReplicaReport,
    lease: Duration,
) -> Result<bool, DatabaseError> {
    let statement = client
        .prepare_cached(
            "update replicas set
                 actors = $2,
                 expires_at = clock_timestamp() + $3::bigint * interval '1 millisecond',
                 steady_since = case when expires_at < clock_timestamp() + $3::bigint / 2 * interval '1 millisecond'
                     then clock_timestamp() else steady_since end
             where owner = $1",
        )
        .await?;
    let actors = Json(&report.actors);
    Ok(client.execute(&statement, &[&owner, &actors, &milliseconds(lease)]).await? == 1)
}

/// What the replicas that run besides `owner` said of themselves when they last renewed their rows.
pub(crate) async fn reports(client: &Client, owner: OwnerId) -> Result<Vec<ReplicaReport>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select label, actors from replicas where owner <> $1 and expires_at > clock_timestamp()
             order by label, started_at",
        )
        .await?;
    let rows = client.query(&statement, &[&owner]).await?;
    let reports = rows.iter().map(|row| {
        // another release may say it otherwise
        let actors: serde_json::Value = row.try_get("actors")?;
        let actors = serde_json::from_value(actors).unwrap_or_default();
        Ok(ReplicaReport { label: row.try_get("label")?, actors })
    });
    reports.collect()
}

/// Removes the rows of replicas that fell silent; tasks of an owner without a row are orphans.
///
/// Does so only while `owner`'s own renewals have been in time for one whole lease. Where they were not, it may have
/// been PostgreSQL that was silent, to all replicas. Whoever lives renews its row every quarter of a lease; for it to
/// expire PostgreSQL must have been away for three quarters, and then our own renewals were late as well. The rows say
/// that at the moment of the removal, however long this statement was on its way.
pub(crate) async fn bury_expired(
    client: &Client,
    owner: OwnerId,
    lease: Duration,
) -> Result<u64, DatabaseError> {
    let statement = client
        .prepare_cached(
            "delete from replicas where expires_at < clock_timestamp() and exists (
                 select from replicas where owner = $1
                 and expires_at > clock_timestamp() + $2::bigint / 2 * interval '1 millisecond'
                 and steady_since < clock_timestamp() - $2::bigint * interval '1 millisecond')",
        )
        .await?;
    Ok(client.execute(&statement, &[&owner, &milliseconds(lease)]).await?)
}

/// In what time the first of the other replicas' rows expires, unless it is renewed before.
pub(crate) async fn next_expiry(client: &Client, owner: OwnerId) -> Result<Option<Duration>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select ceil(extract(epoch from min(expires_at) - clock_timestamp()) * 1000)::bigint
             from replicas where owner <> $1",
        )
        .await?;
    let left: Option<i64> = client.query_one(&statement, &[&owner]).await?.try_get(0)?;
    Ok(left.map(from_milliseconds))
}

/// Lets go of all that `owner` has, at once: its tasks are free, its row is gone.
pub(crate) async fn release(client: &mut Client, owner: OwnerId) -> Result<u64, DatabaseError> {
    let transaction = client.transaction().await?;
    let statement = transaction
        .prepare_cached("update tasks set owner = null where owner = $1 and status in ('queued', 'running')")
        .await?;
    let released = transaction.execute(&statement, &[&owner]).await?;
    let statement = transaction.prepare_cached("delete from replicas where owner = $1").await?;
    transaction.execute(&statement, &[&owner]).await?;
    transaction.commit().await?;
    Ok(released)
}

pub(super) const CLOCK: &str = "select clock_timestamp()";

/// PostgreSQL's time of day, read when all that was sent before is done.
pub(crate) async fn clock(client: &impl GenericClient) -> Result<DateTime<Utc>, DatabaseError> {
    let statement = client.prepare_cached(CLOCK).await?;
    Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
}
