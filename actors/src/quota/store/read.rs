//! What a flush reads, under the lock it begins with.

use super::rows;
use crate::{
    database::DatabaseError,
    idempotency::{self, KeyRow},
    ids::{ApiKeyId, GrantId, TaskId, UserId},
    pipeline::task_rows::{self, TaskRow},
    quota::{
        GrantKind,
        allowance::Spender,
        ledger::{Holder, Needs},
        state::{Account, Change, CorrectionMade, Counters, GrantRow, Hold, Phase, Place, Taken},
    },
};
use chrono::{DateTime, Utc};
use deadpool_postgres::Transaction;
use std::collections::BTreeSet;
use tokio_postgres::{Row, types::Json};
use uuid::Uuid;

pub(super) const LOCK_USERS: &str = "
    select id, quota_remaining, quota_reserved, ledger_no, final_no, deleted_at is not null
    from users where id = any($1) order by id for no key update";
pub(super) const CLOCK: &str = "select clock_timestamp()";
pub(super) const HOLDS: &str = "
    select task_id, user_id, id, amount, charged, taken, phase, api_key_id, spent_on
    from quota_transactions where task_id = any($1)";
pub(super) const LIVE_GRANTS: &str = "
    select user_id, id, kind, reference, amount, remaining, priority, expires_at, reason
    from quota_grants where user_id = any($1) and live";
pub(super) const DUE_GRANTS: &str = "
    select user_id, id, kind, reference, amount, remaining, priority, expires_at, reason
    from quota_grants where user_id = any($1) and live and expires_at <= clock_timestamp()";
pub(super) const GRANTS_BY_ID: &str = "
    select user_id, id, kind, reference, amount, remaining, priority, expires_at, reason
    from quota_grants where id = any($1)";
pub(super) const GRANTS_BY_REFERENCE: &str = "
    select g.user_id, g.id, g.kind, g.reference, g.amount, g.remaining, g.priority, g.expires_at, g.reason
    from unnest($1::text[], $2::text[]) as wanted (kind, reference)
    join quota_grants g on g.kind = wanted.kind and g.reference = wanted.reference";
/// How many more tasks may wait of those of the users `$1` who have a limit, which is `$2` where their plan does not say.
pub(super) const ROOM_IN_QUEUE: &str = "
    select u.id, l.most - (select count(*) from (
        select from tasks t where t.user_id = u.id and t.status = 'queued' and t.owner is null limit l.most) q)
    from users u
    left join plans p on p.id = u.membership_plan_id and u.membership_expires_at > clock_timestamp()
    cross join lateral (select coalesce(p.queued_per_user::bigint, $2::bigint) as most) l
    where u.id = any($1) and l.most > 0";
pub(super) const CORRECTIONS: &str = "
    select distinct on (user_id, reference) user_id, reference, id,
        (- sum(amount) over (partition by user_id, reference))::bigint
    from quota_adjustments
    where kind = 'correction' and reference = any($1) and user_id = any($2)
    order by user_id, reference, ledger_no";

/// Locks the users, in the order of their ids.
pub(crate) async fn lock_users(
    transaction: &Transaction<'_>,
    users: &BTreeSet<UserId>,
) -> Result<Vec<(UserId, Holder)>, DatabaseError> {
    let users: Vec<UserId> = users.iter().copied().collect();
    let rows = rows(transaction, LOCK_USERS, &[&users]).await?;
    let holder = |row: &Row| {
        let user = row.try_get(0)?;
        let counters =
            Counters { remaining: row.try_get(1)?, reserved: row.try_get(2)?, ledger_no: row.try_get(3)? };
        let account = Account::new(user, counters, Uuid::now_v7);
        Ok((user, Holder { account, final_no: row.try_get(4)?, deleted: row.try_get(5)? }))
    };
    rows.iter().map(holder).collect()
}

/// PostgreSQL's time of day.
pub(crate) async fn clock(transaction: &Transaction<'_>) -> Result<DateTime<Utc>, DatabaseError> {
    let statement = transaction.prepare_cached(CLOCK).await?;
    Ok(transaction.query_one(&statement, &[]).await?.try_get(0)?)
}

/// The holds of the tasks that are to be inserted or ended, with their users.
pub(crate) async fn holds(
    transaction: &Transaction<'_>,
    needs: &Needs,
) -> Result<Vec<(UserId, TaskId, Hold)>, DatabaseError> {
    let tasks: Vec<TaskId> = needs.inserts.iter().chain(needs.charges.keys()).copied().collect();
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    let hold = |row: &Row| {
        let phase = match row.try_get(6)? {
            "confirmed" => Phase::Confirmed { charged: row.try_get(4)? },
            "cancelled" => Phase::Cancelled,
            _ => Phase::Reserved,
        };
        let Json(taken): Json<Vec<Taken>> = row.try_get(5)?;
        let key: Option<ApiKeyId> = row.try_get(7)?;
        let hold = Hold {
            id: row.try_get(2)?,
            amount: row.try_get(3)?,
            taken,
            phase,
            place: None,
            spender: key.zip(row.try_get(8)?).map(|(key, day)| Spender { key, day }),
            change: Change::None,
        };
        Ok((row.try_get(1)?, row.try_get(0)?, hold))
    };
    rows(transaction, HOLDS, &[&tasks]).await?.iter().map(hold).collect()
}

/// Who may end the tasks that are to be ended.
pub(crate) async fn tasks(
    transaction: &Transaction<'_>,
    needs: &Needs,
) -> Result<Vec<(TaskId, TaskRow)>, DatabaseError> {
    if needs.charges.is_empty() {
        return Ok(Vec::new());
    }
    let tasks: Vec<TaskId> = needs.charges.keys().copied().collect();
    rows(transaction, task_rows::READ, &[&tasks]).await?.iter().map(task_rows::task_row).collect()
}

/// How many more tasks of each user may wait, of those who have a limit.
pub(crate) async fn room_in_queue(
    transaction: &Transaction<'_>,
    users: &BTreeSet<UserId>,
    most: i64,
) -> Result<Vec<(UserId, i64)>, DatabaseError> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let users: Vec<UserId> = users.iter().copied().collect();
    let rows = rows(transaction, ROOM_IN_QUEUE, &[&users, &most]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// These tasks, whole.
pub(crate) async fn whole_tasks(
    transaction: &Transaction<'_>,
    tasks: &[TaskId],
) -> Result<Vec<(TaskId, TaskRow)>, DatabaseError> {
    rows(transaction, task_rows::READ_WHOLE, &[&tasks]).await?.iter().map(task_rows::whole_task_row).collect()
}

/// The grants that may burn, with something left.
pub(crate) async fn live_grants(
    transaction: &Transaction<'_>,
    needs: &Needs,
) -> Result<Vec<(UserId, GrantRow)>, DatabaseError> {
    if needs.burners.is_empty() {
        return Ok(Vec::new());
    }
    let users: Vec<UserId> = needs.burners.iter().copied().collect();
    rows(transaction, LIVE_GRANTS, &[&users]).await?.iter().map(grant).collect()
}

/// The grants of the other users that are to be written off.
pub(crate) async fn due_grants(
    transaction: &Transaction<'_>,
    needs: &Needs,
) -> Result<Vec<(UserId, GrantRow)>, DatabaseError> {
    let users: Vec<UserId> = needs.users.difference(&needs.burners).copied().collect();
    if users.is_empty() {
        return Ok(Vec::new());
    }
    rows(transaction, DUE_GRANTS, &[&users]).await?.iter().map(grant).collect()
}

/// These grants.
pub(crate) async fn grants_by_id(
    transaction: &Transaction<'_>,
    grants: &[GrantId],
) -> Result<Vec<(UserId, GrantRow)>, DatabaseError> {
    rows(transaction, GRANTS_BY_ID, &[&grants]).await?.iter().map(grant).collect()
}

/// The grants of these kinds and references, whoever has them.
pub(crate) async fn grants_by_reference(
    transaction: &Transaction<'_>,
    references: &[(GrantKind, String)],
) -> Result<Vec<(UserId, GrantRow)>, DatabaseError> {
    if references.is_empty() {
        return Ok(Vec::new());
    }
    let (kinds, references): (Vec<&str>, Vec<&str>) =
        references.iter().map(|(kind, reference)| (kind.name(), reference.as_str())).unzip();
    rows(transaction, GRANTS_BY_REFERENCE, &[&kinds, &references]).await?.iter().map(grant).collect()
}

fn grant(row: &Row) -> Result<(UserId, GrantRow), DatabaseError> {
    let kind: &str = row.try_get(2)?;
    let grant = GrantRow {
        id: row.try_get(1)?,
        // the column's check allows no other name
        kind: GrantKind::named(kind).unwrap_or(GrantKind::Manual),
        reference: row.try_get(3)?,
        amount: row.try_get(4)?,
        remaining: row.try_get(5)?,
        priority: row.try_get(6)?,
        expires_at: row.try_get(7)?,
        reason: row.try_get(8)?,
        // given when it was inserted, and never written again
        place: Place { no: 0, balance_after: 0 },
        change: Change::None,
    };
    Ok((row.try_get(0)?, grant))
}

/// The corrections of these references.
pub(crate) async fn corrections(
    transaction: &Transaction<'_>,
    needs: &Needs,
) -> Result<Vec<(UserId, String, CorrectionMade)>, DatabaseError> {
    if needs.corrections.is_empty() {
        return Ok(Vec::new());
    }
    let users: Vec<UserId> = needs.users.iter().copied().collect();
    let correction = |row: &Row| {
        let made = CorrectionMade { adjustment: row.try_get(2)?, amount: row.try_get(3)? };
        Ok((row.try_get(0)?, row.try_get(1)?, made))
    };
    rows(transaction, CORRECTIONS, &[&needs.corrections, &users]).await?.iter().map(correction).collect()
}

/// What is remembered of these keys.
pub(crate) async fn keys(
    transaction: &Transaction<'_>,
    keys: &BTreeSet<(UserId, String)>,
) -> Result<Vec<KeyRow>, DatabaseError> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (users, keys): (Vec<UserId>, Vec<&str>) =
        keys.iter().map(|(user, key)| (*user, key.as_str())).unzip();
    let rows = rows(transaction, idempotency::FIND, &[&users, &keys]).await?;
    rows.iter().map(idempotency::key_row).collect()
}
