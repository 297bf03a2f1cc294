//! How the providers fare, as each replica last wrote it, and all replicas together.

use crate::{database::DatabaseError, ids::OwnerId};
use chrono::{DateTime, Utc};
use deadpool_postgres::Client;
use std::collections::HashMap;

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BreakerState {
    /// Calls leave.
    Closed,
    /// One call leaves, to see whether the provider is back.
    HalfOpen,
    /// No call leaves.
    Open,
}

impl BreakerState {
    /// The name in the API and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }

    fn named(name: &str) -> Self {
        match name {
            "open" => Self::Open,
            "half_open" => Self::HalfOpen,
            _ => Self::Closed,
        }
    }
}

/// How a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastError {
    /// A stable code, such as `PROVIDER_TIMEOUT`.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// When.
    pub at: DateTime<Utc>,
}

/// How a provider fares at one replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaFigures {
    /// The replica's label.
    pub replica: String,
    /// Calls that wait there.
    pub waiting: i64,
    /// Its breaker there.
    pub breaker: BreakerState,
    /// When an open breaker lets a call try.
    pub open_until: Option<DateTime<Utc>>,
}

/// How a provider fares, over all replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderFigures {
    /// Calls that are under way.
    pub in_flight: i64,
    /// Tasks that nobody has claimed and whose first call is its.
    pub queued: i64,
    /// Calls that ended in the last five minutes.
    pub calls: i64,
    /// Those of them that failed; a refusal of the content is no failure.
    pub failures: i64,
    /// The failure that came last, of a day.
    pub last_error: Option<LastError>,
    /// Each replica that runs and has called it.
    pub replicas: Vec<ReplicaFigures>,
}

impl ProviderFigures {
    /// Calls that wait, those of tasks in the queue included.
    #[must_use]
    pub fn waiting(&self) -> i64 {
        self.queued + self.replicas.iter().map(|replica| replica.waiting).sum::<i64>()
    }

    /// The share of failures in the calls of the last five minutes, 0 to 1; `None` where there were none.
    #[must_use]
    pub fn error_rate(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        (self.calls > 0).then(|| self.failures as f64 / self.calls as f64)
    }

    /// How its breakers stand: open where one is.
    #[must_use]
    pub fn breaker(&self) -> BreakerState {
        self.replicas.iter().map(|replica| replica.breaker).max().unwrap_or(BreakerState::Closed)
    }
}

/// One replica's figures of one provider, to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FiguresRow {
    pub(crate) provider: String,
    pub(crate) waiting: i64,
    pub(crate) calls: i64,
    pub(crate) failures: i64,
    /// How long a call takes, where some have ended.
    pub(crate) call_ms: Option<i64>,
    pub(crate) breaker: BreakerState,
    pub(crate) open_until: Option<DateTime<Utc>>,
    pub(crate) last_error: Option<LastError>,
}

/// Writes the figures that `owner` has of some providers, of those that still exist.
pub(crate) async fn write_figures(
    client: &Client,
    owner: OwnerId,
    rows: &[FiguresRow],
) -> Result<(), DatabaseError> {
    let statement = client
        .prepare_cached(
            "insert into provider_figures (owner, provider, waiting, calls, failures, call_ms, breaker, open_until,
                                           error_code, error_message, error_at)
             select $1, w.* from unnest($2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
                                        $7::text[], $8::timestamptz[], $9::text[], $10::text[], $11::timestamptz[])
                 as w(provider, waiting, calls, failures, call_ms, breaker, open_until, error_code, error_message,
                      error_at)
             where exists (select from providers p where p.id = w.provider)
             order by w.provider
             on conflict (owner, provider) do update set
                 waiting = excluded.waiting, calls = excluded.calls, failures = excluded.failures,
                 call_ms = excluded.call_ms, breaker = excluded.breaker, open_until = excluded.open_until,
                 error_code = excluded.error_code, error_message = excluded.error_message,
                 error_at = excluded.error_at",
        )
        .await?;
    let providers: Vec<_> = rows.iter().map(|row| row.provider.as_str()).collect();
    let waiting: Vec<_> = rows.iter().map(|row| row.waiting).collect();
    let calls: Vec<_> = rows.iter().map(|row| row.calls).collect();
    let failures: Vec<_> = rows.iter().map(|row| row.failures).collect();
    let lasting: Vec<_> = rows.iter().map(|row| row.call_ms).collect();
    let breakers: Vec<_> = rows.iter().map(|row| row.breaker.name()).collect();
    let untils: Vec<_> = rows.iter().map(|row| row.open_until).collect();
    let error = |row: &FiguresRow| row.last_error.clone();
    let codes: Vec<_> = rows.iter().map(|row| error(row).map(|error| error.code)).collect();
    let messages: Vec<_> = rows.iter().map(|row| error(row).map(|error| error.message)).collect();
    let times: Vec<_> = rows.iter().map(|row| error(row).map(|error| error.at)).collect();
    client
        .execute(
            &statement,
            &[
                &owner, &providers, &waiting, &calls, &failures, &lasting, &breakers, &untils, &codes,
                &messages, &times,
            ],
        )
        .await?;
    Ok(())
}

/// Forgets what replicas that are gone wrote, their last errors after a day, and whom they told.
pub(crate) async fn forget_figures(client: &Client) -> Result<(), DatabaseError> {
    let statement = client
        .prepare_cached(
            "delete from provider_figures f
             where not exists (select from replicas r where r.owner = f.owner)
             and (f.error_at is null or f.error_at < clock_timestamp() - interval '1 day')",
        )
        .await?;
    client.execute(&statement, &[]).await?;
    let gone = "
        delete from slot_waits w where not exists (select from replicas r where r.owner = w.owner);
        delete from task_waits w where not exists (select from replicas r where r.owner = w.owner);
        delete from users_told where told_at < clock_timestamp() - interval '1 day'";
    client.batch_execute(gone).await?;
    Ok(())
}

/// How a provider fares at all replicas but one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Elsewhere {
    /// Calls that wait there.
    pub(crate) waiting: i64,
    /// How long a call takes, where some have ended.
    pub(crate) call_ms: Option<i64>,
}

/// How the providers fare at other replicas than `owner`.
pub(crate) async fn figures_elsewhere(
    client: &Client,
    owner: OwnerId,
) -> Result<HashMap<String, Elsewhere>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select f.provider, sum(f.waiting)::bigint, avg(f.call_ms)::bigint
             from provider_figures f join replicas r on r.owner = f.owner
             where f.owner <> $1 and r.expires_at > clock_timestamp() group by f.provider",
        )
        .await?;
    let rows = client.query(&statement, &[&owner]).await?;
    let elsewhere = |row: &tokio_postgres::Row| {
        Ok((row.try_get(0)?, Elsewhere { waiting: row.try_get(1)?, call_ms: row.try_get(2)? }))
    };
    rows.iter().map(elsewhere).collect()
}

/// How these providers fare.
pub(crate) async fn provider_figures(
    client: &Client,
    providers: &[&str],
) -> Result<HashMap<String, ProviderFigures>, DatabaseError> {
    let mut figures: HashMap<String, ProviderFigures> = HashMap::new();
    // what is under way is told by the attempts themselves, whoever made them
    let statement = client
        .prepare_cached(
            "select provider_id, count(*) from step_attempts
             where status = 'running' and deadline_at > clock_timestamp() and provider_id = any($1)
             group by provider_id",
        )
        .await?;
    for row in client.query(&statement, &[&providers]).await? {
        figures.entry(row.try_get(0)?).or_default().in_flight = row.try_get(1)?;
    }
    let statement = client
        .prepare_cached(
            "select queue, count(*) from tasks
             where status = 'queued' and owner is null and queue = any($1) group by queue",
        )
        .await?;
    for row in client.query(&statement, &[&providers]).await? {
        figures.entry(row.try_get(0)?).or_default().queued = row.try_get(1)?;
    }
    let statement = client
        .prepare_cached(
            "select f.*, r.label from provider_figures f
             left join replicas r on r.owner = f.owner and r.expires_at > clock_timestamp()
             where f.provider = any($1) order by r.label, f.owner",
        )
        .await?;
    for row in client.query(&statement, &[&providers]).await? {
        let of = figures.entry(row.try_get("provider")?).or_default();
        if let (Some(code), Some(message), Some(at)) =
            (row.try_get("error_code")?, row.try_get("error_message")?, row.try_get("error_at")?)
        {
            let error = LastError { code, message, at };
            if of.last_error.as_ref().is_none_or(|last| last.at < error.at) {
                of.last_error = Some(error);
            }
        }
        // of a replica that is gone only its last error still says something
        let Some(replica) = row.try_get("label")? else { continue };
        of.calls += row.try_get::<_, i64>("calls")?;
        of.failures += row.try_get::<_, i64>("failures")?;
        of.replicas.push(ReplicaFigures {
            replica,
            waiting: row.try_get("waiting")?,
            breaker: BreakerState::named(row.try_get("breaker")?),
            open_until: row.try_get("open_until")?,
        });
    }
    Ok(figures)
}
