//! What can be bought: plans are written once, retired, and never deleted.

use crate::{
    database::{Database, DatabaseError, commit},
    quota::AuditEntry,
    records::audit_log,
};
use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use uuid::Uuid;

/// A plan's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its id.
    pub id: Uuid,
    /// Its name, for people.
    pub name: String,
    /// Price in fen.
    pub price_fen: i64,
    /// Units it grants.
    pub quota: i64,
    /// Days of membership it gives.
    pub duration_days: i32,
    /// Tasks its members may have running at once; the configured ceiling where it says none.
    pub running_per_user: Option<i32>,
    /// Tasks of a member that may wait; the configured bound where it says none.
    pub queued_per_user: Option<i32>,
    /// Since when it cannot be bought.
    pub retired_at: Option<DateTime<Utc>>,
    /// When it was written.
    pub created_at: DateTime<Utc>,
}

/// A plan to be sold.
#[derive(Clone, Debug)]
pub struct NewPlan {
    /// Its id.
    pub id: Uuid,
    /// Its name, for people.
    pub name: String,
    /// Price in fen.
    pub price_fen: i64,
    /// Units it grants.
    pub quota: i64,
    /// Days of membership it gives.
    pub duration_days: i32,
    /// Tasks its members may have running at once; the configured ceiling where it says none.
    pub running_per_user: Option<i32>,
    /// Tasks of a member that may wait; the configured bound where it says none.
    pub queued_per_user: Option<i32>,
}

/// The plans. Clones share the pool.
#[derive(Clone)]
pub struct Plans {
    database: Database,
}

const COLUMNS: &str =
    "id, name, price_fen, quota, duration_days, running_per_user, queued_per_user, retired_at, created_at";

impl Plans {
    /// The plans of `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// At most `limit` plans after the plan `after`, oldest first; retired ones only where asked for.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn list(
        &self,
        retired: bool,
        after: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<Plan>, DatabaseError> {
        let client = self.database.client().await?;
        let sql = format!(
            "select {COLUMNS} from plans where ($1 or retired_at is null) and ($2::uuid is null or id > $2) \
             order by id limit $3"
        );
        let statement = client.prepare_cached(&sql).await?;
        let rows = client.query(&statement, &[&retired, &after, &limit]).await?;
        rows.iter().map(from_row).collect()
    }

    /// Writes a plan. The same id again is written already.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn create(&self, new: &NewPlan, audit: Option<&AuditEntry>) -> Result<Plan, DatabaseError> {
        let NewPlan { id, name, price_fen, quota, duration_days, running_per_user, queued_per_user } = new;
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let sql = format!(
            "insert into plans (id, name, price_fen, quota, duration_days, running_per_user, \
                                queued_per_user) \
             values ($1, $2, $3, $4, $5, $6, $7) on conflict (id) do update set id = excluded.id \
             returning {COLUMNS}, xmax = 0 as fresh"
        );
        let statement = transaction.prepare_cached(&sql).await?;
        let row = transaction
            .query_one(
                &statement,
                &[id, name, price_fen, quota, duration_days, running_per_user, queued_per_user],
            )
            .await?;
        if let Some(audit) = audit
            && row.try_get("fresh")?
        {
            audit_log::insert(&transaction, std::slice::from_ref(audit)).await?;
        }
        commit(transaction).await?;
        from_row(&row)
    }

    /// Changes what a plan is called, or whether it can be bought; `None` where there is no such plan. What it costs
    /// and gives never changes: orders refer to it.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn change(
        &self,
        id: Uuid,
        name: Option<&str>,
        retired: Option<bool>,
        audit: &AuditEntry,
    ) -> Result<Option<Plan>, DatabaseError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let sql = format!(
            "update plans set name = coalesce($2, name), retired_at = case $3::boolean \
                when true then coalesce(retired_at, clock_timestamp()) when false then null else retired_at end \
             where id = $1 returning {COLUMNS}"
        );
        let statement = transaction.prepare_cached(&sql).await?;
        let Some(row) = transaction.query_opt(&statement, &[&id, &name, &retired]).await? else {
            return Ok(None);
        };
        audit_log::insert(&transaction, std::slice::from_ref(audit)).await?;
        commit(transaction).await?;
        from_row(&row).map(Some)
    }
}

fn from_row(row: &Row) -> Result<Plan, DatabaseError> {
    Ok(Plan {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        price_fen: row.try_get("price_fen")?,
        quota: row.try_get("quota")?,
        duration_days: row.try_get("duration_days")?,
        running_per_user: row.try_get("running_per_user")?,
        queued_per_user: row.try_get("queued_per_user")?,
        retired_at: row.try_get("retired_at")?,
        created_at: row.try_get("created_at")?,
    })
}
