//! Taking tasks: queued ones in turn, and those whose replica is gone.
//!
//! Every claim sets the owner and raises `lease_no`, so that whoever ran the task before cannot write any more.

use crate::{
    database::DatabaseError,
    ids::{OwnerId, TaskId, UserId},
    pipeline::{
        Task,
        turns::{Bound, Next, Ring, Standing, Turns, Waiter, choose},
    },
};
use chrono::{DateTime, Utc};
use deadpool_postgres::{Client, Transaction};
use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};
use tokio_postgres::Row;
use uuid::Uuid;

use super::{
    flush::milliseconds,
    read::{TASK_COLUMNS, task_from_row},
};

/// A task that is ours now.
#[derive(Clone, Debug)]
pub(crate) struct Claimed {
    /// Its row.
    pub(crate) task: Task,
    /// The number this claim gave it.
    pub(crate) lease_no: i64,
    /// How often it was taken from a death or a panic with no step finished since.
    pub(crate) stalls: i16,
    /// Its deadline; `None` before its first call.
    pub(crate) deadline_at: Option<DateTime<Utc>>,
    /// How long ago it was accepted.
    pub(crate) age: Duration,
}

const CLAIMED: &str = "t.lease_no, t.stalls, t.deadline_at, \
     (extract(epoch from clock_timestamp() - t.created_at) * 1000)::bigint as age_ms";

impl Claimed {
    fn from_row(row: &Row) -> Result<Self, DatabaseError> {
        let age: i64 = row.try_get("age_ms")?;
        Ok(Self {
            task: task_from_row(row)?,
            lease_no: row.try_get("lease_no")?,
            stalls: row.try_get("stalls")?,
            deadline_at: row.try_get("deadline_at")?,
            age: from_milliseconds(age),
        })
    }
}

/// A time span that was read as milliseconds; what lies in the past is zero.
pub(crate) fn from_milliseconds(milliseconds: i64) -> Duration {
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(0))
}

/// Takes again what `owner` has already: its engine was restarted and the old one's runs must not write. No
/// stall: the supervisor counts an engine's failures.
pub(crate) async fn claim_own(client: &Client, owner: OwnerId) -> Result<Vec<Claimed>, DatabaseError> {
    let text = format!(
        "update tasks t set lease_no = t.lease_no + 1 where t.owner = $1 and t.status in ('queued', 'running') returning {TASK_COLUMNS}, {CLAIMED}"
    );
    let statement = client.prepare_cached(&text).await?;
    client.query(&statement, &[&owner]).await?.iter().map(Claimed::from_row).collect()
}

/// The tasks that are `owner`'s.
pub(crate) async fn own_tasks(client: &Client, owner: OwnerId) -> Result<Vec<TaskId>, DatabaseError> {
    let statement = client
        .prepare_cached("select id from tasks where owner = $1 and status in ('queued', 'running')")
        .await?;
    let rows = client.query(&statement, &[&owner]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Takes again those of `tasks` that are `owner`'s: a claim was committed and its answer lost.
pub(crate) async fn claim_strays(
    client: &Client,
    owner: OwnerId,
    tasks: &[TaskId],
) -> Result<Vec<Claimed>, DatabaseError> {
    let text = format!(
        "update tasks t set lease_no = t.lease_no + 1
         where t.id = any($2) and t.owner = $1 and t.status in ('queued', 'running')
         returning {TASK_COLUMNS}, {CLAIMED}"
    );
    let statement = client.prepare_cached(&text).await?;
    client.query(&statement, &[&owner, &tasks]).await?.iter().map(Claimed::from_row).collect()
}

/// Takes tasks of owners without a row in `replicas`: theirs is the death that `stalls` counts.
pub(crate) async fn claim_orphans(
    client: &Client,
    owner: OwnerId,
    limit: i64,
) -> Result<Vec<Claimed>, DatabaseError> {
    let text = format!(
        "with recursive owners as (
             (select owner from tasks where owner is not null and status in ('queued', 'running')
              order by owner limit 1)
             union all
             select (select t.owner from tasks t
                     where t.owner is not null and t.status in ('queued', 'running') and t.owner > o.owner
                     order by t.owner limit 1)
             from owners o where o.owner is not null
         ), dead as (
             select o.owner from owners o where o.owner is not null
             and not exists (select from replicas r where r.owner = o.owner)
         ), picked as (
             select p.id from dead d cross join lateral (
                 select id from tasks where owner = d.owner and status in ('queued', 'running')
                 limit $2 for no key update skip locked
             ) p limit $2
         )
         update tasks t set owner = $1, lease_no = t.lease_no + 1, stalls = t.stalls + 1
         from picked where t.id = picked.id returning {TASK_COLUMNS}, {CLAIMED}"
    );
    let statement = client.prepare_cached(&text).await?;
    client.query(&statement, &[&owner, &limit]).await?.iter().map(Claimed::from_row).collect()
}

/// Takes running tasks that a replica let go when it was shut down.
pub(crate) async fn claim_released(
    client: &Client,
    owner: OwnerId,
    limit: i64,
) -> Result<Vec<Claimed>, DatabaseError> {
    let text = format!(
        "with picked as (
             select id from tasks where status = 'running' and owner is null
             order by id limit $2 for no key update skip locked
         )
         update tasks t set owner = $1, lease_no = t.lease_no + 1
         from picked where t.id = picked.id returning {TASK_COLUMNS}, {CLAIMED}"
    );
    let statement = client.prepare_cached(&text).await?;
    client.query(&statement, &[&owner, &limit]).await?.iter().map(Claimed::from_row).collect()
}

/// Takes tasks that have been queued for longer than `ttl`, in order to end them.
pub(crate) async fn claim_expired(
    client: &Client,
    owner: OwnerId,
    ttl: Duration,
    limit: i64,
) -> Result<Vec<Claimed>, DatabaseError> {
    let text = format!(
        "with picked as (
             select id from tasks where status = 'queued' and owner is null
             and created_at < (select clock_timestamp() - $2::bigint * interval '1 millisecond')
             limit $3 for no key update skip locked
         )
         update tasks t set owner = $1, lease_no = t.lease_no + 1
         from picked where t.id = picked.id returning {TASK_COLUMNS}, {CLAIMED}"
    );
    let statement = client.prepare_cached(&text).await?;
    let rows = client.query(&statement, &[&owner, &milliseconds(ttl), &limit]).await?;
    rows.iter().map(Claimed::from_row).collect()
}

/// What one claim from a queue brought.
#[derive(Default)]
pub(crate) struct Taken {
    /// The tasks.
    pub(crate) claimed: Vec<Claimed>,
    /// Whether there was room for more, and somebody left who was not looked at.
    pub(crate) more: bool,
}

/// The queues in which tasks wait, and how they stand: some probes of an index each.
pub(crate) async fn queues(
    client: &Client,
    owner: OwnerId,
) -> Result<Vec<(String, Standing)>, DatabaseError> {
    let statement = client
        .prepare_cached(&format!(
            "with recursive waiting as (
                 (select queue from tasks where status = 'queued' and owner is null order by queue limit 1)
                 union all
                 select (select t.queue from tasks t
                         where t.status = 'queued' and t.owner is null and t.queue > waiting.queue
                         order by t.queue limit 1)
                 from waiting where waiting.queue is not null
             ), queues as (select queue from waiting where queue is not null)
             {STANDING}"
        ))
        .await?;
    // a slot that is not used any more counts as free here; the claim itself looks more closely
    let rows = client.query(&statement, &[&owner, &i32::MAX]).await?;
    rows.iter().map(|row| Ok((row.try_get("queue")?, standing(row)?))).collect()
}

/// How each of `queues` stands: `$1` is this owner, `$2` the ceiling of their providers.
const STANDING: &str = "
    select q.queue, taken.*,
        (select count(*) from provider_slots s where s.provider = q.queue and s.slot < $2
         and (s.attempt is null or s.held_until < clock_timestamp())
         and not exists (select from providers p
                         where p.id = q.queue and p.paused_until > clock_timestamp())) as free
    from queues q cross join lateral (
        select count(*) as taken, count(*) filter (where t.owner = $1) as taken_here,
            count(*) filter (where t.has_fallback) as taken_with_fallback
        from tasks t where t.queue = q.queue and t.status = 'queued' and t.owner is not null
    ) taken";

fn standing(row: &Row) -> Result<Standing, DatabaseError> {
    Ok(Standing {
        free: row.try_get("free")?,
        taken: row.try_get("taken")?,
        taken_here: row.try_get("taken_here")?,
        taken_with_fallback: row.try_get("taken_with_fallback")?,
    })
}

/// Takes tasks whose turn it is in `queue`, as many as `bound` allows and `most` at most. `None` while another replica
/// does.
///
/// `ceiling` of a user's running tasks holds where the plan says nothing; 0 is no ceiling. Both are exact across
/// replicas: one transaction at a time claims from a queue, and one those of a user; they count after they have
/// locked.
pub(crate) async fn claim_queued(
    client: &mut Client,
    owner: OwnerId,
    queue: &str,
    bound: Bound,
    most: i64,
    ceiling: i64,
) -> Result<Option<Taken>, DatabaseError> {
    let transaction = client.transaction().await?;
    let Some(mut turns) = lock_turns(&transaction, queue).await? else { return Ok(None) };
    let slots = match bound {
        Bound::Slots { ceiling, .. } | Bound::Fallbacks { ceiling } => ceiling,
        Bound::Cores(_) => 0,
    };
    let waiters = match bound {
        Bound::Fallbacks { .. } => "status = 'queued' and owner is null and has_fallback",
        Bound::Slots { .. } | Bound::Cores(_) => "status = 'queued' and owner is null",
    };
    let text = format!("with queues as (select $3::text as queue) {STANDING}");
    let statement = transaction.prepare_cached(&text).await?;
    let row = transaction.query_one(&statement, &[&owner, &slots, &queue]).await?;
    let limit = bound.room(standing(&row)?).min(most);
    let Ok(wanted @ 1..) = usize::try_from(limit) else { return Ok(Some(Taken::default())) };

    let (mut members, mut guests) = (Next::default(), Next::default());
    let mut users = Vec::new();
    for (ring, next) in [(Ring::Members, &mut members), (Ring::Guests, &mut guests)] {
        let (found, is_whole) =
            users_in_turn(&transaction, waiters, queue, (ring, turns.last(ring)), limit + PASSED).await?;
        users.extend_from_slice(&found);
        next.is_whole = is_whole;
        next.waiters = found.into_iter().map(|user| Waiter { user, tasks: VecDeque::new() }).collect();
    }
    users.sort_unstable();
    users.dedup();
    let found = users.len();
    let users = lock_users(&transaction, &users).await?;
    // where the whole ring is here, it is gone around more than once
    let each = |next: &Next| match (next.is_whole, i64::try_from(next.waiters.len())) {
        (true, Ok(waiters @ 1..)) => 2 * limit / waiters + 1,
        _ => 1,
    };
    let each = (each(&members), each(&guests));
    let (mut room, mut tasks) = first_tasks(&transaction, waiters, queue, &users, each, ceiling).await?;
    for (ring, next) in [(Ring::Members, &mut members), (Ring::Guests, &mut guests)] {
        for waiter in &mut next.waiters {
            waiter.tasks = tasks.remove(&(ring.priority(), waiter.user)).unwrap_or_default();
        }
    }
    let is_whole = members.is_whole && guests.is_whole && users.len() == found;
    let chosen = choose(&mut turns, &mut members, &mut guests, &mut room, wanted);

    let text = format!(
        "with picked as (
             select id from tasks where id = any($2) and status = 'queued' and owner is null
             for no key update skip locked
         )
         update tasks t set owner = $1, lease_no = t.lease_no + 1
         from picked where t.id = picked.id returning {TASK_COLUMNS}, {CLAIMED}"
    );
    let statement = transaction.prepare_cached(&text).await?;
    let rows = transaction.query(&statement, &[&owner, &chosen]).await?;
    let claimed: Vec<_> = rows.iter().map(Claimed::from_row).collect::<Result<_, _>>()?;
    let statement = transaction
        .prepare_cached("update task_queues set member = $2, guest = $3, members = $4 where queue = $1")
        .await?;
    transaction.execute(&statement, &[&queue, &turns.member, &turns.guest, &turns.members]).await?;
    transaction.commit().await?;
    let more = claimed.len() < wanted && (!is_whole || !claimed.is_empty());
    Ok(Some(Taken { claimed, more }))
}

/// Users looked at beyond those who are needed: some may have as many running as may be.
const PASSED: i64 = 16;

/// Locks a queue's turns; `None` while another replica has them.
async fn lock_turns(transaction: &Transaction<'_>, queue: &str) -> Result<Option<Turns>, DatabaseError> {
    let statement = transaction
        .prepare_cached(
            "select member, guest, members from task_queues where queue = $1 for no key update skip locked",
        )
        .await?;
    let mut row = transaction.query_opt(&statement, &[&queue]).await?;
    if row.is_none() {
        let insert = transaction
            .prepare_cached(
                "insert into task_queues (queue, member, guest, members) values ($1, $2, $3, $4)
                 on conflict do nothing",
            )
            .await?;
        let Turns { member, guest, members } = Turns::default();
        if transaction.execute(&insert, &[&queue, &member, &guest, &members]).await? == 1 {
            row = transaction.query_opt(&statement, &[&queue]).await?;
        }
    }
    row.map(|row| Ok(Turns { member: row.try_get(0)?, guest: row.try_get(1)?, members: row.try_get(2)? }))
        .transpose()
}

/// At most `limit` users of a ring with tasks among `waiters`, in the order of their turns, and whether these are all:
/// one index probe each.
async fn users_in_turn(
    transaction: &Transaction<'_>,
    waiters: &str,
    queue: &str,
    (ring, last): (Ring, UserId),
    limit: i64,
) -> Result<(Vec<UserId>, bool), DatabaseError> {
    let text = format!(
        "with recursive ring as (
             (select user_id from tasks where {waiters}
              and queue = $1 and priority = $2 and user_id > $3 order by user_id limit 1)
             union all
             select (select user_id from tasks where {waiters}
                     and queue = $1 and priority = $2 and user_id > ring.user_id
                     order by user_id limit 1)
             from ring where ring.user_id is not null
         )
         select user_id from ring where user_id is not null limit $4"
    );
    let statement = transaction.prepare_cached(&text).await?;
    let behind = async |after: UserId, limit: i64| -> Result<Vec<UserId>, DatabaseError> {
        let rows = transaction.query(&statement, &[&queue, &ring.priority(), &after, &limit]).await?;
        Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
    };
    let mut users = behind(last, limit).await?;
    let missing = limit - i64::try_from(users.len()).unwrap_or(limit);
    let nobody = UserId(Uuid::nil());
    if missing > 0 && last != nobody {
        let from_the_start = behind(nobody, missing).await?;
        users.extend(from_the_start.into_iter().filter(|user| *user <= last));
    }
    let is_whole = i64::try_from(users.len()).unwrap_or(limit) < limit;
    Ok((users, is_whole))
}

/// Those of `users` whose tasks nobody else claims now; nobody will before this transaction ends.
async fn lock_users(transaction: &Transaction<'_>, users: &[UserId]) -> Result<Vec<UserId>, DatabaseError> {
    let statement = transaction
        .prepare_cached(
            "select user_id from unnest($1::uuid[]) as u(user_id)
             where pg_try_advisory_xact_lock(7001, hashtext(user_id::text))",
        )
        .await?;
    let rows = transaction.query(&statement, &[&users]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// How many more tasks each of `users` may run, and their first ones in `queue` among `waiters`, by priority, in order: of members'
/// tasks and of guests' so many of `each`.
async fn first_tasks(
    transaction: &Transaction<'_>,
    waiters: &str,
    queue: &str,
    users: &[UserId],
    each: (i64, i64),
    ceiling: i64,
) -> Result<(HashMap<UserId, i64>, HashMap<(i16, UserId), VecDeque<TaskId>>), DatabaseError> {
    let text = format!(
            "with allowed as (
                 select u.id as user_id, case when c.ceiling = 0 then 1000000 else
                     c.ceiling - (select count(*) from tasks r where r.user_id = u.id
                                  and r.owner is not null and r.status in ('queued', 'running')) end as room
                 from users u
                 left join plans p on p.id = u.membership_plan_id and u.membership_expires_at > clock_timestamp()
                 cross join lateral (select coalesce(p.running_per_user::bigint, $3::bigint) as ceiling) c
                 where u.id = any($2)
             )
             select a.user_id, a.room, w.priority, q.id
             from allowed a
             cross join (values (1::smallint, $4::bigint), (0::smallint, $5::bigint)) as w(priority, most)
             cross join lateral (
                 select id from tasks where queue = $1 and priority = w.priority and user_id = a.user_id
                 and {waiters} order by id limit least(a.room, w.most)
             ) q
             where a.room > 0 order by q.id"
    );
    let statement = transaction.prepare_cached(&text).await?;
    let rows = transaction.query(&statement, &[&queue, &users, &ceiling, &each.0, &each.1]).await?;
    let (mut room, mut tasks) = (HashMap::new(), HashMap::<_, VecDeque<_>>::new());
    for row in rows {
        let user: UserId = row.try_get(0)?;
        room.insert(user, row.try_get(1)?);
        tasks.entry((row.try_get(2)?, user)).or_default().push_back(row.try_get(3)?);
    }
    Ok((room, tasks))
}

/// How many tasks of all users are queued and not taken.
pub(crate) async fn count_queued(client: &Client) -> Result<i64, DatabaseError> {
    let statement =
        client.prepare_cached("select count(*) from tasks where status = 'queued' and owner is null").await?;
    Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
}

/// Counts a panic of the run that holds this lease, and takes the task anew. `None` when the lease is lost.
pub(crate) async fn stall(
    client: &Client,
    owner: OwnerId,
    task: TaskId,
    lease_no: i64,
) -> Result<Option<Claimed>, DatabaseError> {
    let text = format!(
        "update tasks t set stalls = t.stalls + 1, lease_no = t.lease_no + 1
         where t.id = $2 and t.owner = $1 and t.lease_no = $3 and t.status in ('queued', 'running')
         returning {TASK_COLUMNS}, {CLAIMED}"
    );
    let statement = client.prepare_cached(&text).await?;
    let row = client.query_opt(&statement, &[&owner, &task, &lease_no]).await?;
    row.as_ref().map(Claimed::from_row).transpose()
}

/// Closes calls of tasks that are final, whose answer nobody has heard long after their deadline: their replica
/// died and, as the task is over, nobody has taken its place.
pub(crate) async fn close_overdue(client: &Client, limit: i64) -> Result<u64, DatabaseError> {
    let statement = client
        .prepare_cached(
            "with overdue as (
                 select a.id from step_attempts a join tasks t on t.id = a.task_id
                 where a.status = 'running' and a.deadline_at < clock_timestamp() - interval '15 seconds'
                 and t.status in ('succeeded', 'failed', 'cancelled')
                 order by a.deadline_at limit $1 for no key update of a skip locked
             )
             update step_attempts a set status = 'unknown', finished_at = clock_timestamp()
             from overdue where a.id = overdue.id",
        )
        .await?;
    Ok(client.execute(&statement, &[&limit]).await?)
}
