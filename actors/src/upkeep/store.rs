//! The SQL of the timetable, and of the old rows that no actor owns.

use super::{
    messages::JobRecord,
    state::{CLAIM, Job},
};
use crate::{
    database::DatabaseError,
    ids::{FileId, OwnerId, UserId},
};
use chrono::{DateTime, Utc};
use deadpool_postgres::{Client, GenericClient};
use std::time::Duration;
use tokio_postgres::Row;

/// Makes the rows of jobs that have none, due at the time their schedule says.
pub(super) async fn provide(client: &Client) -> Result<(), DatabaseError> {
    let now = clock(client).await?;
    let statement = client
        .prepare_cached(
            "insert into jobs (name, next_run_at) select * from unnest($1::text[], $2::timestamptz[])
             on conflict do nothing",
        )
        .await?;
    let names = Job::ALL.map(Job::name);
    let times = Job::ALL.map(|job| job.schedule().next(now));
    client.execute(&statement, &[&names.as_slice(), &times.as_slice()]).await?;
    Ok(())
}

/// PostgreSQL's time of day.
pub(super) async fn clock(client: &impl GenericClient) -> Result<DateTime<Utc>, DatabaseError> {
    let statement = client.prepare_cached("select clock_timestamp()").await?;
    Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
}

/// The jobs that are due and that nobody runs.
pub(super) async fn due(client: &Client) -> Result<Vec<Job>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select name from jobs where next_run_at <= clock_timestamp()
             and (running_until is null or running_until < clock_timestamp()) order by next_run_at",
        )
        .await?;
    let rows = client.query(&statement, &[]).await?;
    // a row of another release's job is that release's
    Ok(rows.iter().filter_map(|row| Job::named(row.try_get(0).ok()?)).collect())
}

/// Takes a job, unless somebody runs it or, where it must be `due`, has run it meanwhile.
pub(super) async fn claim(
    client: &impl GenericClient,
    job: Job,
    owner: OwnerId,
    due: bool,
) -> Result<bool, DatabaseError> {
    let statement = client
        .prepare_cached(
            "update jobs set running_by = $2, last_started_at = clock_timestamp(),
                 running_until = clock_timestamp() + $3::bigint * interval '1 second'
             where name = $1 and (running_until is null or running_until < clock_timestamp())
             and (not $4 or next_run_at <= clock_timestamp())",
        )
        .await?;
    let seconds = i64::try_from(CLAIM.as_secs()).unwrap_or(i64::MAX);
    Ok(client.execute(&statement, &[&job.name(), &owner, &seconds, &due]).await? == 1)
}

/// Lets go of a job that has ended, and dates its next run.
pub(super) async fn release(
    client: &Client,
    job: Job,
    owner: OwnerId,
    outcome: &str,
) -> Result<(), DatabaseError> {
    let next = job.schedule().next(clock(client).await?);
    let statement = client
        .prepare_cached(
            "update jobs set running_by = null, running_until = null, last_finished_at = clock_timestamp(),
                 last_outcome = $3, next_run_at = $4
             where name = $1 and running_by = $2",
        )
        .await?;
    client.execute(&statement, &[&job.name(), &owner, &outcome, &next]).await?;
    Ok(())
}

/// The whole timetable.
pub(super) async fn jobs(client: &Client) -> Result<Vec<JobRecord>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select name, next_run_at, coalesce(running_until > clock_timestamp(), false) as is_running,
                    last_started_at, last_finished_at, last_outcome
             from jobs order by name",
        )
        .await?;
    client.query(&statement, &[]).await?.iter().map(record).collect()
}

fn record(row: &Row) -> Result<JobRecord, DatabaseError> {
    Ok(JobRecord {
        name: row.try_get("name")?,
        next_run_at: row.try_get("next_run_at")?,
        is_running: row.try_get("is_running")?,
        last_started_at: row.try_get("last_started_at")?,
        last_finished_at: row.try_get("last_finished_at")?,
        last_outcome: row.try_get("last_outcome")?,
    })
}

/// Deletes at most `limit` final events that are older than seven days. Numbers and times of one user's events
/// ascend together, so what is left of each has no hole.
pub(super) async fn delete_final_events(client: &Client, limit: i64) -> Result<u64, DatabaseError> {
    let statement = client
        .prepare_cached(
            "with old as (
                 select user_id, final_no from final_events where at < clock_timestamp() - interval '7 days'
                 order by user_id, final_no limit $1
             )
             delete from final_events e using old where e.user_id = old.user_id and e.final_no = old.final_no",
        )
        .await?;
    Ok(client.execute(&statement, &[&limit]).await?)
}

/// Which of `keys` no file's row names.
pub(super) async fn keys_of_nobody(client: &Client, keys: &[&str]) -> Result<Vec<String>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select w.key from unnest($1::text[]) as w(key)
             where not exists (select from files f where f.object_key = w.key)",
        )
        .await?;
    let rows = client.query(&statement, &[&keys]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Files of a user, completed or not.
pub(super) async fn files_of(
    client: &Client,
    user: UserId,
    limit: i64,
) -> Result<Vec<FileId>, DatabaseError> {
    let statement =
        client.prepare_cached("select id from files where user_id = $1 order by id limit $2").await?;
    let rows = client.query(&statement, &[&user, &limit]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Deleted accounts of which something may be left.
pub(super) async fn deleted_users(client: &Client, limit: i64) -> Result<Vec<UserId>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select id from users where deleted_at is not null and erased_at is null order by deleted_at limit $1",
        )
        .await?;
    let rows = client.query(&statement, &[&limit]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Marks those of `users` as erased whose access tokens of `lifetime` have ended too, so that nothing can come after
/// but what was under way then: an hour more.
pub(super) async fn mark_erased(
    client: &Client,
    users: &[UserId],
    lifetime: Duration,
) -> Result<u64, DatabaseError> {
    let statement = client
        .prepare_cached(
            "update users set erased_at = clock_timestamp()
             where id = any($1) and deleted_at < clock_timestamp() - interval '1 hour' - $2 * interval '1 second'",
        )
        .await?;
    Ok(client.execute(&statement, &[&users, &lifetime.as_secs_f64()]).await?)
}
