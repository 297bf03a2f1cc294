//! Reads of the ledger that need no lock and so no actor. Each is one statement or one snapshot.

use super::QuotaError;
use crate::{
    database::{Database, DatabaseError},
    ids::{GrantId, TaskId, UserId},
};
use chrono::{DateTime, Utc};
use std::sync::Arc;
use tokio_postgres::{IsolationLevel, Row};
use uuid::Uuid;

/// Rows of a statement at most.
pub const STATEMENT_ROWS: i64 = 10_000;

/// What a user has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Units that can be spent.
    pub remaining: i64,
    /// Units that running tasks hold.
    pub reserved: i64,
    /// Until when the user is a member, if ever.
    pub membership_expires_at: Option<DateTime<Utc>>,
}

/// What a task holds or was charged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionRecord {
    /// Its id; later ones sort after earlier ones.
    pub id: Uuid,
    /// The task.
    pub task: TaskId,
    /// Units held.
    pub amount: i64,
    /// Units charged.
    pub charged: i64,
    /// `reserved`, `confirmed` or `cancelled`.
    pub phase: String,
    /// When the hold was made.
    pub created_at: DateTime<Utc>,
    /// When it was confirmed or cancelled.
    pub settled_at: Option<DateTime<Utc>>,
}

/// Quota that came in at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRecord {
    /// Its id; later ones sort after earlier ones.
    pub id: GrantId,
    /// Units given.
    pub amount: i64,
    /// Units of them that can be spent; 0 once expired.
    pub remaining: i64,
    /// `purchase`, `gift`, `manual` or `refund`.
    pub kind: String,
    /// When it stops counting.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was given.
    pub created_at: DateTime<Utc>,
}

/// The movements of a user's balance (remaining plus reserved) in a period. Opening plus the rows' amounts is
/// the closing, always.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The balance before the first row.
    pub opening: i64,
    /// The balance after the last row.
    pub closing: i64,
    /// In the order of the ledger.
    pub rows: Vec<StatementRow>,
}

/// One movement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatementRow {
    /// When. A charge counts at its confirmation.
    pub at: DateTime<Utc>,
    /// `grant`, `charge`, `expiry`, `clawback` or `correction`.
    pub kind: String,
    /// Units; negative for what went.
    pub amount: i64,
    /// The balance after it.
    pub balance: i64,
    /// The task that was charged for.
    pub task: Option<TaskId>,
    /// The order that was paid.
    pub order: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

pub(super) async fn quota(database: &Database, user: UserId) -> Result<Option<Quota>, DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "select u.quota_remaining - coalesce((
                    select sum(g.remaining) from quota_grants g
                    where g.user_id = u.id and g.live and g.expires_at <= clock_timestamp()
                ), 0)::bigint,
                u.quota_reserved, u.membership_expires_at
            from users u where u.id = $1",
        )
        .await?;
    let quota = |row: Row| {
        Ok(Quota {
            remaining: row.try_get(0)?,
            reserved: row.try_get(1)?,
            membership_expires_at: row.try_get(2)?,
        })
    };
    client.query_opt(&statement, &[&user]).await?.map(quota).transpose()
}

pub(super) async fn users_with_due_grants(
    database: &Database,
    limit: i64,
) -> Result<Vec<UserId>, DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "select distinct user_id from (
                select user_id from quota_grants
                where live and expires_at is not null and expires_at <= clock_timestamp()
                order by expires_at limit $1
            ) due",
        )
        .await?;
    client.query(&statement, &[&limit]).await?.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

pub(super) async fn transactions(
    database: &Database,
    user: UserId,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<TransactionRecord>, DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "select id, task_id, amount, charged, phase, created_at,
                case when idempotent_done then updated_at end
            from quota_transactions
            where user_id = $1 and ($2::uuid is null or id < $2) order by id desc limit $3",
        )
        .await?;
    let record = |row: &Row| {
        Ok(TransactionRecord {
            id: row.try_get(0)?,
            task: row.try_get(1)?,
            amount: row.try_get(2)?,
            charged: row.try_get(3)?,
            phase: row.try_get(4)?,
            created_at: row.try_get(5)?,
            settled_at: row.try_get(6)?,
        })
    };
    client.query(&statement, &[&user, &before, &limit]).await?.iter().map(record).collect()
}

pub(super) async fn grants(
    database: &Database,
    user: UserId,
    before: Option<Uuid>,
    limit: i64,
) -> Result<Vec<GrantRecord>, DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "select id, amount, case when expires_at <= clock_timestamp() then 0 else remaining end, kind,
                expires_at, created_at
            from quota_grants
            where user_id = $1 and ($2::uuid is null or id < $2) order by id desc limit $3",
        )
        .await?;
    let record = |row: &Row| {
        Ok(GrantRecord {
            id: row.try_get(0)?,
            amount: row.try_get(1)?,
            remaining: row.try_get(2)?,
            kind: row.try_get(3)?,
            expires_at: row.try_get(4)?,
            created_at: row.try_get(5)?,
        })
    };
    client.query(&statement, &[&user, &before, &limit]).await?.iter().map(record).collect()
}

/// The last ledger row of a user before a moment: its number and the balance after it.
const LAST_BEFORE: &str = "
    select ledger_no, balance_after from (
        (select ledger_no, balance_after from quota_grants
            where user_id = $1 and ($2::timestamptz is null or created_at < $2)
            order by ledger_no desc limit 1)
        union all
        (select ledger_no, balance_after from quota_transactions
            where user_id = $1 and ledger_no is not null and ($2::timestamptz is null or updated_at < $2)
            order by ledger_no desc limit 1)
        union all
        (select ledger_no, balance_after from quota_adjustments
            where user_id = $1 and ($2::timestamptz is null or created_at < $2)
            order by ledger_no desc limit 1)
    ) latest order by ledger_no desc limit 1";

const ROWS_BETWEEN: &str = "
    select ledger_no, created_at, 'grant', amount, balance_after, null::uuid,
        case when kind = 'purchase' then reference end, nullif(reason, '')
    from quota_grants where user_id = $1 and ledger_no > $2 and ledger_no <= $3
    union all
    select ledger_no, updated_at, 'charge', - charged, balance_after, task_id, null, null
    from quota_transactions where user_id = $1 and ledger_no > $2 and ledger_no <= $3
    union all
    select ledger_no, created_at, kind, amount, balance_after, null, null, nullif(reason, '')
    from quota_adjustments where user_id = $1 and ledger_no > $2 and ledger_no <= $3
    order by 1";

pub(super) async fn statement(
    database: &Database,
    user: UserId,
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
) -> Result<Statement, QuotaError> {
    let read = async {
        let mut client = database.client().await?;
        let snapshot = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let last_before = snapshot.prepare_cached(LAST_BEFORE).await?;
        let rows_between = snapshot.prepare_cached(ROWS_BETWEEN).await?;
        let place = |row: Option<Row>| -> Result<(i64, i64), DatabaseError> {
            row.map_or(Ok((0, 0)), |row| Ok((row.try_get(0)?, row.try_get(1)?)))
        };
        let (first, opening) = match from {
            Some(from) => place(snapshot.query_opt(&last_before, &[&user, &Some(from)]).await?)?,
            None => (0, 0),
        };
        let (last, closing) = place(snapshot.query_opt(&last_before, &[&user, &to]).await?)?;
        if last <= first {
            return Ok(Ok(Statement { opening, closing: opening, rows: Vec::new() }));
        }
        if last - first > STATEMENT_ROWS {
            return Ok(Err(QuotaError::PeriodTooLong { rows: last - first, limit: STATEMENT_ROWS }));
        }
        let rows = snapshot.query(&rows_between, &[&user, &first, &last]).await?;
        let rows = rows.iter().map(statement_row).collect::<Result<_, DatabaseError>>()?;
        Ok(Ok(Statement { opening, closing, rows }))
    };
    read.await.unwrap_or_else(|error: DatabaseError| Err(QuotaError::Database(Arc::new(error))))
}

fn statement_row(row: &Row) -> Result<StatementRow, DatabaseError> {
    Ok(StatementRow {
        at: row.try_get(1)?,
        kind: row.try_get(2)?,
        amount: row.try_get(3)?,
        balance: row.try_get(4)?,
        task: row.try_get(5)?,
        order: row.try_get(6)?,
        reason: row.try_get(7)?,
    })
}
