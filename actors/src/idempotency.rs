//! Commands that may be sent twice and are done once.
//!
//! The key's row is written in the transaction that does the work, never before it; it stores what the caller
//! was answered, so a repeat is answered the same. Two replicas that do the same command at once meet at the
//! key's unique row: the second waits, fails, and finds the answer of the first when it tries again.

use crate::{
    database::{Database, DatabaseError},
    ids::UserId,
};
use deadpool_postgres::GenericClient;
use serde_json::Value;
use std::{fmt, time::Duration};

/// How long a key is remembered.
pub const KEY_LIFE: Duration = Duration::from_hours(24);

/// The caller's key for one command, and how its answer will look.
pub struct Idempotent<R> {
    /// Whose key it is: the caller, not whom the command is about.
    pub user: UserId,
    /// 1 to 128 printable characters.
    pub key: String,
    /// Hash of method, path and parsed body; another one under the same key is refused.
    pub request_hash: [u8; 32],
    /// The status that goes with the answer.
    pub status: u16,
    /// Makes the body that is stored and sent.
    pub render: fn(&R) -> Value,
}

impl<R> Clone for Idempotent<R> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), ..*self }
    }
}

impl<R> fmt::Debug for Idempotent<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idempotent").field("user", &self.user).field("key", &self.key).finish_non_exhaustive()
    }
}

/// What a repeat is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredAnswer {
    /// The HTTP status of the first answer.
    pub status: u16,
    /// Its body.
    pub body: Value,
}

/// The answer to a command that may be a repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<R> {
    /// The command was done now.
    First(R),
    /// It had been done before.
    Replayed(StoredAnswer),
}

/// A remembered command: what was asked under the key, and what was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRow {
    /// Whose key it is.
    pub user: UserId,
    /// The key.
    pub key: String,
    /// Hash of the request.
    pub request_hash: Vec<u8>,
    /// What was answered.
    pub answer: StoredAnswer,
}

/// What is remembered of the key, unless it is older than [`KEY_LIFE`].
///
/// # Errors
/// See [`DatabaseError`].
pub async fn find(database: &Database, user: UserId, key: &str) -> Result<Option<KeyRow>, DatabaseError> {
    let client = database.client().await?;
    let statement = client.prepare_cached(FIND).await?;
    let row = client.query_opt(&statement, &[&[user].as_slice(), &[key].as_slice()]).await?;
    row.as_ref().map(key_row).transpose()
}

/// Remembers the answer to a command, within the transaction that does it.
///
/// # Errors
/// [`DatabaseError::Statement`] of the constraint `idempotency_keys_pkey` when another command took the key
/// meanwhile; the transaction must be given up and the key looked up again.
pub async fn insert(client: &impl GenericClient, row: &KeyRow) -> Result<(), DatabaseError> {
    let forget = client.prepare_cached(FORGET_OLD).await?;
    let insert = client.prepare_cached(INSERT).await?;
    client.execute(&forget, &[&[row.user].as_slice(), &[row.key.as_str()].as_slice()]).await?;
    client.execute(&insert, &insert_columns(std::slice::from_ref(row)).params()).await?;
    Ok(())
}

/// Forgets at most `limit` keys that are older than [`KEY_LIFE`]. Answers how many.
///
/// # Errors
/// See [`DatabaseError`].
pub async fn purge(database: &Database, limit: i64) -> Result<u64, DatabaseError> {
    let client = database.client().await?;
    let statement = client.prepare_cached(PURGE).await?;
    Ok(client.execute(&statement, &[&limit]).await?)
}

/// The rows of these keys that still count: `$1` users, `$2` keys.
pub(crate) const FIND: &str = "
    select k.user_id, k.key, k.request_hash, k.status, k.body
    from unnest($1::uuid[], $2::text[]) as wanted (user_id, key)
    join idempotency_keys k on k.user_id = wanted.user_id and k.key = wanted.key
    where k.created_at > clock_timestamp() - interval '24 hours'";

/// Makes room for new rows of these keys: `$1` users, `$2` keys.
pub(crate) const FORGET_OLD: &str = "
    delete from idempotency_keys k using unnest($1::uuid[], $2::text[]) as wanted (user_id, key)
    where k.user_id = wanted.user_id and k.key = wanted.key
    and k.created_at <= clock_timestamp() - interval '24 hours'";

/// New rows, in an order that two transactions share: users, keys, hashes, statuses, bodies.
pub(crate) const INSERT: &str = "
    insert into idempotency_keys (user_id, key, request_hash, status, body)
    select * from unnest($1::uuid[], $2::text[], $3::bytea[], $4::smallint[], $5::jsonb[])
        as new (user_id, key, request_hash, status, body)
    order by user_id, key";

const PURGE: &str = "
    delete from idempotency_keys where (user_id, key) in (
        select user_id, key from idempotency_keys
        where created_at <= clock_timestamp() - interval '24 hours'
        order by created_at limit $1)";

/// The parameters of [`INSERT`].
pub(crate) struct InsertColumns<'a> {
    users: Vec<UserId>,
    keys: Vec<&'a str>,
    hashes: Vec<&'a [u8]>,
    statuses: Vec<i16>,
    bodies: Vec<&'a Value>,
}

impl InsertColumns<'_> {
    pub(crate) fn params(&self) -> [&(dyn tokio_postgres::types::ToSql + Sync); 5] {
        [&self.users, &self.keys, &self.hashes, &self.statuses, &self.bodies]
    }
}

pub(crate) fn insert_columns(rows: &[KeyRow]) -> InsertColumns<'_> {
    InsertColumns {
        users: rows.iter().map(|row| row.user).collect(),
        keys: rows.iter().map(|row| row.key.as_str()).collect(),
        hashes: rows.iter().map(|row| row.request_hash.as_slice()).collect(),
        // an HTTP status has three digits
        statuses: rows.iter().map(|row| i16::try_from(row.answer.status).unwrap_or(i16::MAX)).collect(),
        bodies: rows.iter().map(|row| &row.answer.body).collect(),
    }
}

pub(crate) fn key_row(row: &tokio_postgres::Row) -> Result<KeyRow, DatabaseError> {
    let status: i16 = row.try_get(3)?;
    Ok(KeyRow {
        user: row.try_get(0)?,
        key: row.try_get(1)?,
        request_hash: row.try_get(2)?,
        answer: StoredAnswer { status: u16::try_from(status).unwrap_or_default(), body: row.try_get(4)? },
    })
}
