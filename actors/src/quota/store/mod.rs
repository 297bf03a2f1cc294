//! The statements of a flush: one function each, set-based over arrays. All are prepared before the first is
//! sent, so that several that are awaited together reach PostgreSQL in the order they are polled.
//!
//! The lock on `users` guards every other row of these users' ledgers: only a flush writes them, and each
//! flush takes that lock first. The rest is read without locks, in statements that begin after it is held.

pub(super) mod api_keys;
pub(super) mod read;
pub(super) mod write;

use crate::{database::DatabaseError, idempotency, pipeline::task_rows, records::audit_log};
use deadpool_postgres::{Client, Transaction};
use futures_util::future::try_join_all;
use tokio_postgres::{Row, types::ToSql};

type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

const ALL: [&str; 27] = [
    read::LOCK_USERS,
    read::CLOCK,
    read::HOLDS,
    task_rows::READ,
    task_rows::READ_WHOLE,
    read::LIVE_GRANTS,
    read::DUE_GRANTS,
    read::GRANTS_BY_ID,
    read::GRANTS_BY_REFERENCE,
    read::CORRECTIONS,
    read::ROOM_IN_QUEUE,
    idempotency::FIND,
    api_keys::ALLOWANCES,
    write::INSERT_GRANTS,
    write::UPDATE_GRANTS,
    task_rows::INSERT,
    write::INSERT_HOLDS,
    write::SETTLE_HOLDS,
    task_rows::FINISH,
    write::INSERT_ADJUSTMENTS,
    idempotency::FORGET_OLD,
    idempotency::INSERT,
    api_keys::ADD_SPENT,
    api_keys::TAKE_BACK,
    write::INSERT_EVENTS,
    audit_log::INSERT,
    write::UPDATE_USERS,
];

/// Prepares what is not prepared yet on this connection, in one round trip.
pub(crate) async fn prepare(client: &Client) -> Result<(), DatabaseError> {
    try_join_all(ALL.map(|sql| client.prepare_cached(sql))).await?;
    Ok(())
}

async fn rows(
    transaction: &Transaction<'_>,
    sql: &'static str,
    params: Params<'_>,
) -> Result<Vec<Row>, DatabaseError> {
    let statement = transaction.prepare_cached(sql).await?;
    Ok(transaction.query(&statement, params).await?)
}

/// Writes, and insists on the number of rows: another number means that the lock does not guard what it should.
async fn exactly(
    transaction: &Transaction<'_>,
    (sql, what): (&'static str, &'static str),
    params: Params<'_>,
    expected: usize,
) -> Result<(), DatabaseError> {
    if expected == 0 {
        return Ok(());
    }
    let statement = transaction.prepare_cached(sql).await?;
    let actual = transaction.execute(&statement, params).await?;
    if actual == expected as u64 {
        Ok(())
    } else {
        Err(DatabaseError::Miscounted { statement: what, expected, actual })
    }
}
