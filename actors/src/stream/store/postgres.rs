//! Reads of `final_events` and of `users.final_no`. The stream writes neither.

use crate::{
    database::{Database, DatabaseError},
    events::{Event, EventKind},
    ids::{SessionId, TaskId, UserId},
    stream::state::FinalRange,
};
use std::collections::HashMap;

/// Final events to read for one user.
#[derive(Clone, Copy, Debug)]
pub(in crate::stream) struct FinalsWanted {
    /// Whose.
    pub user: UserId,
    /// Which.
    pub range: FinalRange,
    /// How many at most.
    pub rows: usize,
}

/// The newest final event's number of each user that exists.
pub(in crate::stream) async fn newest_finals(
    database: &Database,
    users: &[UserId],
) -> Result<HashMap<UserId, i64>, DatabaseError> {
    let client = database.client().await?;
    let statement = client.prepare_cached("select id, final_no from users where id = any($1)").await?;
    let rows = client.query(&statement, &[&users]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Those of `told` (users and the last final event they were told) who have newer ones, with the newest.
pub(in crate::stream) async fn users_behind(
    database: &Database,
    told: &[(UserId, i64)],
) -> Result<Vec<(UserId, i64)>, DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "select u.id, u.final_no \
             from unnest($1::uuid[], $2::bigint[]) as told (user_id, final_no) \
             join users u on u.id = told.user_id \
             where u.final_no > told.final_no",
        )
        .await?;
    let users: Vec<UserId> = told.iter().map(|&(user, _)| user).collect();
    let numbers: Vec<i64> = told.iter().map(|&(_, number)| number).collect();
    let rows = client.query(&statement, &[&users, &numbers]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Those of `open` (users and a session or API key of theirs) that have ended: closed, revoked, or their user was
/// banned or deleted.
pub(in crate::stream) async fn ended_sessions(
    database: &Database,
    open: &[(UserId, SessionId)],
) -> Result<Vec<(UserId, SessionId)>, DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "select u.id, open.session_id \
             from unnest($1::uuid[], $2::uuid[]) as open (user_id, session_id) \
             join users u on u.id = open.user_id \
             where u.banned_at is not null or u.deleted_at is not null \
             or exists (select from closed_sessions c where c.session_id = open.session_id) \
             or exists (select from api_keys k where k.id = open.session_id and k.revoked_at is not null)",
        )
        .await?;
    let (users, sessions): (Vec<UserId>, Vec<SessionId>) = open.iter().copied().unzip();
    let rows = client.query(&statement, &[&users, &sessions]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// The final events of each range in ascending order, cut to `rows` and to `bytes` of data (but at least one).
/// The answer has a list for each range.
pub(in crate::stream) async fn finals(
    database: &Database,
    wanted: &[FinalsWanted],
    bytes: i64,
) -> Result<Vec<Vec<Event>>, DatabaseError> {
    let mut found: Vec<Vec<Event>> = wanted.iter().map(|_| Vec::new()).collect();
    if wanted.is_empty() {
        return Ok(found);
    }
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "select w.place, w.user_id, f.final_no, f.event, f.task_id, f.data, f.at \
             from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[]) \
                  with ordinality as w (user_id, after, upto, rows, place) \
             cross join lateral ( \
                 select page.* from ( \
                     select e.*, sum(octet_length(e.data::text)) over (order by e.final_no) \
                                 - octet_length(e.data::text) as bytes_before \
                     from ( \
                         select * from final_events \
                         where user_id = w.user_id and final_no > w.after and final_no <= w.upto \
                         order by final_no limit w.rows \
                     ) e \
                 ) page where page.bytes_before < $5 \
             ) f \
             order by w.place, f.final_no",
        )
        .await?;
    let users: Vec<UserId> = wanted.iter().map(|want| want.user).collect();
    let after: Vec<i64> = wanted.iter().map(|want| want.range.after).collect();
    let upto: Vec<i64> = wanted.iter().map(|want| want.range.upto).collect();
    let rows: Vec<i64> = wanted.iter().map(|want| i64::try_from(want.rows).unwrap_or(i64::MAX)).collect();
    for row in client.query(&statement, &[&users, &after, &upto, &rows, &bytes]).await? {
        let place: i64 = row.try_get(0)?;
        let name: String = row.try_get(3)?;
        let Some(kind) = EventKind::named(&name) else {
            // written by a newer release; its numbers go on without it
            tracing::warn!(event = %name, "unknown kind of final event");
            continue;
        };
        let event = Event {
            user: row.try_get(1)?,
            kind,
            task: row.try_get(4)?,
            data: row.try_get(5)?,
            at: row.try_get(6)?,
            final_no: Some(row.try_get(2)?),
        };
        let index = usize::try_from(place).ok().and_then(|place| place.checked_sub(1));
        if let Some(list) = index.and_then(|index| found.get_mut(index)) {
            list.push(event);
        }
    }
    Ok(found)
}

/// One of `tasks` that is not `user`'s, if there is one.
pub(in crate::stream) async fn foreign_task(
    database: &Database,
    user: UserId,
    tasks: &[TaskId],
) -> Result<Option<TaskId>, DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "select named.id from unnest($2::uuid[]) as named (id) \
             where not exists (select 1 from tasks t where t.id = named.id and t.user_id = $1) limit 1",
        )
        .await?;
    client
        .query_opt(&statement, &[&user, &tasks])
        .await?
        .map(|row| row.try_get(0))
        .transpose()
        .map_err(Into::into)
}
