//! What a flush writes, once all is decided.

use super::{Params, exactly};
use crate::{
    database::DatabaseError,
    events::Event,
    idempotency::{self, KeyRow},
    ids::{ApiKeyId, GrantId, TaskId, UserId},
    pipeline::{
        NewTask,
        task_rows::{self, WrittenEnding},
    },
    quota::{
        AuditEntry,
        ledger::Holder,
        state::{Account, Adjustment, Change, GrantRow, Hold, Phase, Taken},
    },
    records::audit_log,
};
use chrono::{DateTime, NaiveDate, Utc};
use deadpool_postgres::Transaction;
use serde_json::Value;
use tokio_postgres::types::Json;
use uuid::Uuid;

pub(super) const INSERT_GRANTS: &str = "
    insert into quota_grants (id, user_id, amount, remaining, kind, reference, priority, expires_at, reason,
        ledger_no, balance_after, created_at)
    select id, user_id, amount, remaining, kind, reference, priority, expires_at, reason, ledger_no,
        balance_after, $1
    from unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::text[], $7::text[], $8::smallint[],
        $9::timestamptz[], $10::text[], $11::bigint[], $12::bigint[])
        as new (id, user_id, amount, remaining, kind, reference, priority, expires_at, reason, ledger_no,
            balance_after)
    order by kind, reference";
pub(super) const UPDATE_GRANTS: &str = "
    update quota_grants g set remaining = new.remaining
    from unnest($1::uuid[], $2::bigint[]) as new (id, remaining) where g.id = new.id";
pub(super) const INSERT_HOLDS: &str = "
    insert into quota_transactions (id, task_id, user_id, amount, charged, taken, phase, ledger_no,
        balance_after, api_key_id, spent_on, created_at, updated_at)
    select id, task_id, user_id, amount, charged, taken, phase, ledger_no, balance_after, api_key_id,
        spent_on, $1, $1
    from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::bigint[], $6::bigint[], $7::jsonb[], $8::text[],
        $9::bigint[], $10::bigint[], $11::uuid[], $12::date[])
        as new (id, task_id, user_id, amount, charged, taken, phase, ledger_no, balance_after, api_key_id,
            spent_on)";
pub(super) const SETTLE_HOLDS: &str = "
    update quota_transactions t
    set charged = new.charged, taken = new.taken, phase = new.phase, ledger_no = new.ledger_no,
        balance_after = new.balance_after, updated_at = $1
    from unnest($2::uuid[], $3::bigint[], $4::jsonb[], $5::text[], $6::bigint[], $7::bigint[])
        as new (id, charged, taken, phase, ledger_no, balance_after)
    where t.id = new.id and t.phase = 'reserved'";
pub(super) const INSERT_ADJUSTMENTS: &str = "
    insert into quota_adjustments (id, user_id, grant_id, kind, amount, reference, reason, ledger_no,
        balance_after, created_at)
    select id, user_id, grant_id, kind, amount, reference, reason, ledger_no, balance_after, $1
    from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::bigint[], $7::text[], $8::text[],
        $9::bigint[], $10::bigint[])
        as new (id, user_id, grant_id, kind, amount, reference, reason, ledger_no, balance_after)";
pub(super) const INSERT_EVENTS: &str = "
    insert into final_events (user_id, final_no, event, task_id, data, at)
    select user_id, final_no, event, task_id, data, $1
    from unnest($2::uuid[], $3::bigint[], $4::text[], $5::uuid[], $6::jsonb[])
        as new (user_id, final_no, event, task_id, data)";
pub(super) const UPDATE_USERS: &str = "
    update users u
    set quota_remaining = new.remaining, quota_reserved = new.reserved, ledger_no = new.ledger_no,
        final_no = new.final_no
    from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
        as new (id, remaining, reserved, ledger_no, final_no)
    where u.id = new.id";

/// Writes the grants that are new.
pub(crate) async fn insert_grants(
    transaction: &Transaction<'_>,
    accounts: &[&Account],
    now: DateTime<Utc>,
) -> Result<(), DatabaseError> {
    let new = changed_grants(accounts, Change::Inserted);
    let users: Vec<UserId> = new.iter().map(|(user, _)| *user).collect();
    let ids: Vec<GrantId> = new.iter().map(|(_, grant)| grant.id).collect();
    let amounts: Vec<i64> = new.iter().map(|(_, grant)| grant.amount).collect();
    let remaining: Vec<i64> = new.iter().map(|(_, grant)| grant.remaining).collect();
    let kinds: Vec<&str> = new.iter().map(|(_, grant)| grant.kind.name()).collect();
    let references: Vec<&str> = new.iter().map(|(_, grant)| grant.reference.as_str()).collect();
    let priorities: Vec<i16> = new.iter().map(|(_, grant)| grant.priority).collect();
    let expiries: Vec<Option<DateTime<Utc>>> = new.iter().map(|(_, grant)| grant.expires_at).collect();
    let reasons: Vec<&str> = new.iter().map(|(_, grant)| grant.reason.as_str()).collect();
    let nos: Vec<i64> = new.iter().map(|(_, grant)| grant.place.no).collect();
    let balances: Vec<i64> = new.iter().map(|(_, grant)| grant.place.balance_after).collect();
    let params: Params<'_> = &[
        &now,
        &ids,
        &users,
        &amounts,
        &remaining,
        &kinds,
        &references,
        &priorities,
        &expiries,
        &reasons,
        &nos,
        &balances,
    ];
    exactly(transaction, (INSERT_GRANTS, "the insertion of grants"), params, new.len()).await
}

/// Writes what is left of the grants that were here before.
pub(crate) async fn update_grants(
    transaction: &Transaction<'_>,
    accounts: &[&Account],
) -> Result<(), DatabaseError> {
    let changed = changed_grants(accounts, Change::Updated);
    let ids: Vec<GrantId> = changed.iter().map(|(_, grant)| grant.id).collect();
    let remaining: Vec<i64> = changed.iter().map(|(_, grant)| grant.remaining).collect();
    exactly(transaction, (UPDATE_GRANTS, "the update of grants"), &[&ids, &remaining], changed.len()).await
}

fn changed_grants<'a>(accounts: &[&'a Account], change: Change) -> Vec<(UserId, &'a GrantRow)> {
    let of = |account: &&'a Account| {
        let user = account.user();
        account.grants().filter(move |grant| grant.change == change).map(move |grant| (user, grant))
    };
    accounts.iter().flat_map(of).collect()
}

/// Inserts the tasks.
pub(crate) async fn insert_tasks(
    transaction: &Transaction<'_>,
    tasks: &[NewTask],
    now: DateTime<Utc>,
) -> Result<(), DatabaseError> {
    let columns = task_rows::InsertColumns::new(tasks, now);
    exactly(transaction, (task_rows::INSERT, "the insertion of tasks"), &columns.params(), tasks.len()).await
}

/// Writes the endings of tasks.
pub(crate) async fn finish_tasks(
    transaction: &Transaction<'_>,
    endings: &[WrittenEnding],
    now: DateTime<Utc>,
) -> Result<(), DatabaseError> {
    let columns = task_rows::FinishColumns::new(endings, now);
    exactly(transaction, (task_rows::FINISH, "the ending of tasks"), &columns.params(), endings.len()).await
}

/// The columns that both writes of holds share.
struct HoldColumns<'a> {
    len: usize,
    users: Vec<UserId>,
    tasks: Vec<TaskId>,
    ids: Vec<Uuid>,
    amounts: Vec<i64>,
    charged: Vec<i64>,
    taken: Vec<Json<&'a [Taken]>>,
    phases: Vec<&'static str>,
    nos: Vec<Option<i64>>,
    balances: Vec<Option<i64>>,
    api_keys: Vec<Option<ApiKeyId>>,
    days: Vec<Option<NaiveDate>>,
}

impl<'a> HoldColumns<'a> {
    fn new(accounts: &[&'a Account], change: Change) -> Self {
        let of = |account: &&'a Account| {
            let user = account.user();
            let holds = account.holds().filter(move |(_, hold)| hold.change == change);
            holds.map(move |(task, hold)| (user, task, hold))
        };
        let mut changed: Vec<(UserId, TaskId, &Hold)> = accounts.iter().flat_map(of).collect();
        changed.sort_unstable_by_key(|(_, task, _)| *task);
        let holds = || changed.iter().map(|(_, _, hold)| *hold);
        Self {
            len: changed.len(),
            users: changed.iter().map(|(user, _, _)| *user).collect(),
            tasks: changed.iter().map(|(_, task, _)| *task).collect(),
            ids: holds().map(|hold| hold.id).collect(),
            amounts: holds().map(|hold| hold.amount).collect(),
            charged: holds()
                .map(|hold| if let Phase::Confirmed { charged } = hold.phase { charged } else { 0 })
                .collect(),
            taken: holds().map(|hold| Json(hold.taken.as_slice())).collect(),
            phases: holds()
                .map(|hold| match hold.phase {
                    Phase::Reserved => "reserved",
                    Phase::Confirmed { .. } => "confirmed",
                    Phase::Cancelled => "cancelled",
                })
                .collect(),
            nos: holds().map(|hold| hold.place.map(|place| place.no)).collect(),
            balances: holds().map(|hold| hold.place.map(|place| place.balance_after)).collect(),
            api_keys: holds().map(|hold| hold.spender.map(|spender| spender.key)).collect(),
            days: holds().map(|hold| hold.spender.map(|spender| spender.day)).collect(),
        }
    }
}

/// Writes the holds that are new, settled or not.
pub(crate) async fn insert_holds(
    transaction: &Transaction<'_>,
    accounts: &[&Account],
    now: DateTime<Utc>,
) -> Result<(), DatabaseError> {
    let new = HoldColumns::new(accounts, Change::Inserted);
    let params: Params<'_> = &[
        &now,
        &new.ids,
        &new.tasks,
        &new.users,
        &new.amounts,
        &new.charged,
        &new.taken,
        &new.phases,
        &new.nos,
        &new.balances,
        &new.api_keys,
        &new.days,
    ];
    exactly(transaction, (INSERT_HOLDS, "the insertion of holds"), params, new.len).await
}

/// Writes what became of holds that were open.
pub(crate) async fn settle_holds(
    transaction: &Transaction<'_>,
    accounts: &[&Account],
    now: DateTime<Utc>,
) -> Result<(), DatabaseError> {
    let settled = HoldColumns::new(accounts, Change::Updated);
    let params: Params<'_> = &[
        &now,
        &settled.ids,
        &settled.charged,
        &settled.taken,
        &settled.phases,
        &settled.nos,
        &settled.balances,
    ];
    exactly(transaction, (SETTLE_HOLDS, "the settlement of holds"), params, settled.len).await
}

/// Appends what was taken off grants.
pub(crate) async fn insert_adjustments(
    transaction: &Transaction<'_>,
    accounts: &[&Account],
    now: DateTime<Utc>,
) -> Result<(), DatabaseError> {
    let of = |account: &&Account| account.adjustments().len();
    let len = accounts.iter().map(of).sum();
    let new =
        || accounts.iter().flat_map(|account| account.adjustments().iter().map(|new| (account.user(), new)));
    let users: Vec<UserId> = new().map(|(user, _)| user).collect();
    let ids: Vec<Uuid> = new().map(|(_, new)| new.id).collect();
    let grants: Vec<GrantId> = new().map(|(_, new)| new.grant).collect();
    let kinds: Vec<&str> = new().map(|(_, new)| new.kind.name()).collect();
    let amounts: Vec<i64> = new().map(|(_, new)| new.amount).collect();
    let references: Vec<&str> = new().map(|(_, new): (_, &Adjustment)| new.reference.as_str()).collect();
    let reasons: Vec<&str> = new().map(|(_, new): (_, &Adjustment)| new.reason.as_str()).collect();
    let nos: Vec<i64> = new().map(|(_, new)| new.place.no).collect();
    let balances: Vec<i64> = new().map(|(_, new)| new.place.balance_after).collect();
    let params: Params<'_> =
        &[&now, &ids, &users, &grants, &kinds, &amounts, &references, &reasons, &nos, &balances];
    exactly(transaction, (INSERT_ADJUSTMENTS, "the insertion of adjustments"), params, len).await
}

/// Makes room for keys that are past their life, among those to be written.
pub(crate) async fn forget_old_keys(
    transaction: &Transaction<'_>,
    new: &[KeyRow],
) -> Result<(), DatabaseError> {
    if new.is_empty() {
        return Ok(());
    }
    let (users, keys): (Vec<UserId>, Vec<&str>) = new.iter().map(|row| (row.user, row.key.as_str())).unzip();
    let statement = transaction.prepare_cached(idempotency::FORGET_OLD).await?;
    transaction.execute(&statement, &[&users, &keys]).await?;
    Ok(())
}

/// Remembers the answers.
pub(crate) async fn insert_keys(transaction: &Transaction<'_>, new: &[KeyRow]) -> Result<(), DatabaseError> {
    let columns = idempotency::insert_columns(new);
    exactly(transaction, (idempotency::INSERT, "the insertion of keys"), &columns.params(), new.len()).await
}

/// Appends the final events.
pub(crate) async fn insert_events(
    transaction: &Transaction<'_>,
    events: &[Event],
    now: DateTime<Utc>,
) -> Result<(), DatabaseError> {
    let users: Vec<UserId> = events.iter().map(|event| event.user).collect();
    let nos: Vec<Option<i64>> = events.iter().map(|event| event.final_no).collect();
    let kinds: Vec<&str> = events.iter().map(|event| event.kind.name()).collect();
    let tasks: Vec<Option<TaskId>> = events.iter().map(|event| event.task).collect();
    let data: Vec<&Value> = events.iter().map(|event| &event.data).collect();
    let params: Params<'_> = &[&now, &users, &nos, &kinds, &tasks, &data];
    exactly(transaction, (INSERT_EVENTS, "the insertion of events"), params, events.len()).await
}

/// Appends to the audit log.
pub(crate) async fn insert_audit(
    transaction: &Transaction<'_>,
    entries: &[AuditEntry],
) -> Result<(), DatabaseError> {
    let columns = audit_log::InsertColumns::new(entries);
    exactly(
        transaction,
        (audit_log::INSERT, "the insertion of audit entries"),
        &columns.params(),
        entries.len(),
    )
    .await
}

/// Writes the users' counters. Last: a row that was updated already would be locked anew by each foreign key
/// that points to it.
pub(crate) async fn update_users(
    transaction: &Transaction<'_>,
    holders: &[&Holder],
) -> Result<(), DatabaseError> {
    let counters = || holders.iter().map(|holder| holder.account.counters());
    let users: Vec<UserId> = holders.iter().map(|holder| holder.account.user()).collect();
    let remaining: Vec<i64> = counters().map(|counters| counters.remaining).collect();
    let reserved: Vec<i64> = counters().map(|counters| counters.reserved).collect();
    let ledger_nos: Vec<i64> = counters().map(|counters| counters.ledger_no).collect();
    let final_nos: Vec<i64> = holders.iter().map(|holder| holder.final_no).collect();
    let params: Params<'_> = &[&users, &remaining, &reserved, &ledger_nos, &final_nos];
    exactly(transaction, (UPDATE_USERS, "the update of users"), params, holders.len()).await
}
