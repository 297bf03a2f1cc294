//! Who changed what: one row for each write of an admin, in the transaction that does it.

use crate::{
    database::{Database, DatabaseError},
    ids::UserId,
    quota::AuditEntry,
};
use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use serde_json::Value;
use tokio_postgres::types::ToSql;
use uuid::Uuid;

/// An entry as it stands in its row.
#[derive(Clone, Debug, PartialEq)]
pub struct LoggedEntry {
    /// Its id; later ones sort after earlier ones.
    pub id: Uuid,
    /// Who did it.
    pub actor: UserId,
    /// What was done, such as `quota.grant`.
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// The particulars.
    pub detail: Value,
    /// The request that asked for it.
    pub request_id: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
}

/// Appends entries, within the transaction that does what they tell of.
///
/// # Errors
/// See [`DatabaseError`].
pub async fn insert(client: &impl GenericClient, entries: &[AuditEntry]) -> Result<(), DatabaseError> {
    let statement = client.prepare_cached(INSERT).await?;
    client.execute(&statement, &InsertColumns::new(entries).params()).await?;
    Ok(())
}

/// The log, for those who read it. Clones share the pool.
#[derive(Clone)]
pub struct AuditLog {
    database: Database,
}

impl AuditLog {
    /// The log of `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// At most `limit` entries, newest first, from those older than `before`.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn page(&self, before: Option<Uuid>, limit: i64) -> Result<Vec<LoggedEntry>, DatabaseError> {
        let client = self.database.client().await?;
        let statement = client.prepare_cached(PAGE).await?;
        let rows = client.query(&statement, &[&before, &limit]).await?;
        let entry = |row: &tokio_postgres::Row| {
            Ok(LoggedEntry {
                id: row.try_get(0)?,
                actor: row.try_get(1)?,
                action: row.try_get(2)?,
                target: row.try_get(3)?,
                detail: row.try_get(4)?,
                request_id: row.try_get(5)?,
                at: row.try_get(6)?,
            })
        };
        rows.iter().map(entry).collect()
    }
}

const PAGE: &str = "
    select id, actor_id, action, target, detail, request_id, at from audit_log
    where $1::uuid is null or id < $1 order by id desc limit $2";

/// New rows: ids, actors, actions, targets, details, request ids.
pub(crate) const INSERT: &str = "
    insert into audit_log (id, actor_id, action, target, detail, request_id)
    select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::text[])";

/// The parameters of [`INSERT`].
pub(crate) struct InsertColumns<'a> {
    ids: Vec<Uuid>,
    actors: Vec<UserId>,
    actions: Vec<&'a str>,
    targets: Vec<&'a str>,
    details: Vec<&'a Value>,
    request_ids: Vec<Option<&'a str>>,
}

impl<'a> InsertColumns<'a> {
    pub(crate) fn new(entries: &'a [AuditEntry]) -> Self {
        Self {
            ids: entries.iter().map(|_| Uuid::now_v7()).collect(),
            actors: entries.iter().map(|entry| entry.actor).collect(),
            actions: entries.iter().map(|entry| entry.action).collect(),
            targets: entries.iter().map(|entry| entry.target.as_str()).collect(),
            details: entries.iter().map(|entry| &entry.detail).collect(),
            request_ids: entries.iter().map(|entry| entry.request_id.as_deref()).collect(),
        }
    }

    pub(crate) fn params(&self) -> [&(dyn ToSql + Sync); 6] {
        [&self.ids, &self.actors, &self.actions, &self.targets, &self.details, &self.request_ids]
    }
}
