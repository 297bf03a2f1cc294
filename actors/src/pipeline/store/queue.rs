//! Who waits in the queues, as it stands.

use crate::{
    database::DatabaseError,
    ids::{TaskId, UserId},
    pipeline::turns::{Crowd, Ring, Turns},
};
use chrono::{DateTime, Utc};
use deadpool_postgres::Client;
use std::{collections::HashMap, time::Duration};

use super::flush::milliseconds;

/// Where a task stands that nobody has claimed.
pub(crate) struct OwnPlace {
    pub(crate) task: TaskId,
    pub(crate) user: UserId,
    pub(crate) queue: String,
    pub(crate) ring: Ring,
    /// The user's own tasks in the same ring that start before it.
    pub(crate) before: i64,
    /// Whether the user has as many tasks running as may be.
    pub(crate) at_user_ceiling: bool,
}

/// The places of those of `tasks` that nobody has claimed, among the tasks of the same user. `ceiling` holds where the
/// user's plan says nothing.
pub(crate) async fn own_places(
    client: &Client,
    tasks: &[TaskId],
    ceiling: i64,
) -> Result<Vec<OwnPlace>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "with users_asked as (
                 select t.user_id, c.ceiling > 0 and c.ceiling <= (
                     select count(*) from tasks r where r.user_id = t.user_id
                     and r.owner is not null and r.status in ('queued', 'running')) as at_user_ceiling
                 from (select distinct user_id from tasks where id = any($1)) t
                 join users u on u.id = t.user_id
                 left join plans p on p.id = u.membership_plan_id and u.membership_expires_at > clock_timestamp()
                 cross join lateral (select coalesce(p.running_per_user::bigint, $2::bigint) as ceiling) c
             ), own as (
                 select q.id, q.user_id, q.queue, q.priority, u.at_user_ceiling,
                     row_number() over (partition by q.user_id, q.queue, q.priority order by q.id) - 1 as before
                 from users_asked u
                 join tasks q on q.user_id = u.user_id and q.status = 'queued' and q.owner is null
             )
             select * from own where id = any($1)",
        )
        .await?;
    let rows = client.query(&statement, &[&tasks, &ceiling]).await?;
    rows.iter()
        .map(|row| {
            Ok(OwnPlace {
                task: row.try_get("id")?,
                user: row.try_get("user_id")?,
                queue: row.try_get("queue")?,
                ring: Ring::with(row.try_get("priority")?),
                before: row.try_get("before")?,
                at_user_ceiling: row.try_get("at_user_ceiling")?,
            })
        })
        .collect()
}

/// What waits in a queue, and for what.
#[derive(Clone, Debug, Default)]
pub(crate) struct Queue {
    pub(crate) crowd: Crowd,
    /// When the pause ends that its provider asked for.
    pub(crate) paused_until: Option<DateTime<Utc>>,
}

/// The queues: one pass over an index, for readers who keep it for a while.
pub(crate) async fn read_queues(client: &Client) -> Result<HashMap<String, Queue>, DatabaseError> {
    let mut queues: HashMap<String, Queue> = HashMap::new();
    let statement = client
        .prepare_cached(
            "select queue, priority, user_id, count(*) from tasks where status = 'queued' and owner is null
             group by queue, priority, user_id",
        )
        .await?;
    for row in client.query(&statement, &[]).await? {
        let crowd = &mut queues.entry(row.try_get(0)?).or_default().crowd;
        let ring = match Ring::with(row.try_get(1)?) {
            Ring::Members => &mut crowd.members,
            Ring::Guests => &mut crowd.guests,
        };
        ring.insert(row.try_get(2)?, row.try_get(3)?);
    }
    let statement = client
        .prepare_cached(
            "select q.queue, q.member, q.guest, q.members, p.paused_until from task_queues q
             left join providers p on p.id = q.queue and p.paused_until > clock_timestamp()",
        )
        .await?;
    for row in client.query(&statement, &[]).await? {
        if let Some(queue) = queues.get_mut(row.try_get::<_, &str>(0)?) {
            queue.crowd.turns =
                Turns { member: row.try_get(1)?, guest: row.try_get(2)?, members: row.try_get(3)? };
            queue.paused_until = row.try_get(4)?;
        }
    }
    Ok(queues)
}

/// The first queued tasks of those of `users` who were not told for so long what their tasks wait for; takes it on to
/// tell them. `most` is of a user and of all.
pub(crate) async fn queued_to_tell(
    client: &Client,
    users: &[UserId],
    most: (i64, i64),
    silent: Duration,
) -> Result<Vec<TaskId>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "with waiting as (
                 select u.user_id, q.id from unnest($1::uuid[]) as u(user_id) cross join lateral (
                     select id from tasks where user_id = u.user_id and status = 'queued' and owner is null
                     order by queue, priority, id limit $2
                 ) q limit $3
             ), told as (
                 insert into users_told as t (user_id)
                 select distinct user_id from waiting order by user_id
                 on conflict (user_id) do update set told_at = excluded.told_at
                 where t.told_at < clock_timestamp() - $4::bigint * interval '1 millisecond'
                 returning user_id
             )
             select w.id from waiting w join told using (user_id)",
        )
        .await?;
    let rows = client.query(&statement, &[&users, &most.0, &most.1, &milliseconds(silent)]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}
