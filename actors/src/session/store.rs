//! The identity columns of `users`, and the sessions that were closed.

use super::{Origin, Role, SessionError, WechatUser, state::Phone};
use crate::{
    database::{Database, DatabaseError, commit},
    ids::{SessionId, UserId},
    quota::{self, Grant},
    records::{
        api_keys,
        security_log::{self, NewEntry, SecurityEvent},
        users::{self, UserRecord},
    },
};
use deadpool_postgres::{Client, Transaction};
use secrecy::ExposeSecret;
use std::time::Duration;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

/// What a sign-in compares with.
pub(super) struct Identity {
    pub(super) user: UserId,
    pub(super) phone: Option<String>,
    pub(super) password_hash: Option<String>,
    pub(super) banned: bool,
    /// Counts the times all sessions were closed.
    pub(super) generation: i64,
}

const IDENTITY: &str = "id, phone, password_hash, banned_at is not null as banned, session_generation";

impl Identity {
    fn from_row(row: &Row) -> Result<Self, DatabaseError> {
        Ok(Self {
            user: row.try_get("id")?,
            phone: row.try_get("phone")?,
            password_hash: row.try_get("password_hash")?,
            banned: row.try_get("banned")?,
            generation: row.try_get("session_generation")?,
        })
    }
}

async fn identity(
    database: &Database,
    condition: &str,
    params: &[&(dyn ToSql + Sync)],
) -> Result<Option<Identity>, DatabaseError> {
    let client = database.client().await?;
    let text = format!("select {IDENTITY} from users where deleted_at is null and {condition}");
    let statement = client.prepare_cached(&text).await?;
    client.query_opt(&statement, params).await?.as_ref().map(Identity::from_row).transpose()
}

/// The account of `user`.
pub(super) async fn identity_of_user(
    database: &Database,
    user: UserId,
) -> Result<Option<Identity>, DatabaseError> {
    identity(database, "id = $1", &[&user]).await
}

/// The account of `phone`.
pub(super) async fn identity_of_phone(
    database: &Database,
    phone: &Phone,
) -> Result<Option<Identity>, DatabaseError> {
    identity(database, "phone = $1", &[&phone.digits()]).await
}

/// The account of the mini-program's user: the one that has the openid, else the one that has the unionid.
pub(super) async fn identity_of_wechat(
    database: &Database,
    wechat: &WechatUser,
) -> Result<Option<Identity>, DatabaseError> {
    let condition =
        "(wechat_openid = $1 or wechat_unionid = $2) order by wechat_openid = $1 desc nulls last limit 1";
    identity(database, condition, &[&wechat.openid.expose_secret(), &unionid(wechat)]).await
}

fn unionid(wechat: &WechatUser) -> Option<&str> {
    wechat.unionid.as_ref().map(ExposeSecret::expose_secret)
}

/// The user behind a referrer's id.
pub(super) async fn referrer_by_id(
    database: &Database,
    user: UserId,
) -> Result<Option<UserId>, DatabaseError> {
    referrer(database, "id = $1", &user).await
}

/// The user behind an invite code.
pub(super) async fn referrer_by_invite_code(
    database: &Database,
    code: &str,
) -> Result<Option<UserId>, DatabaseError> {
    referrer(database, "invite_code = $1", &code).await
}

async fn referrer(
    database: &Database,
    condition: &str,
    param: &(dyn ToSql + Sync),
) -> Result<Option<UserId>, DatabaseError> {
    let client = database.client().await?;
    let text = format!("select id from users where {condition} and deleted_at is null and banned_at is null");
    let statement = client.prepare_cached(&text).await?;
    let row = client.query_opt(&statement, &[param]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// An account to be made.
pub(super) struct NewIdentity<'a> {
    pub(super) user: UserId,
    pub(super) phone: Option<&'a Phone>,
    pub(super) password_hash: Option<&'a str>,
    pub(super) wechat: Option<(&'a WechatUser, &'a [u8])>,
    pub(super) role: Role,
    pub(super) referrer: Option<UserId>,
    pub(super) session: Option<SessionId>,
    pub(super) origin: &'a Origin,
    /// What the account and who brought it are given, unless somebody with one of `digests` was given something before.
    pub(super) gifts: Vec<Grant>,
    pub(super) digests: Vec<Vec<u8>>,
}

/// What became of an insertion.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    Done,
    PhoneTaken,
    WechatTaken,
    InviteCodeTaken,
}

/// Inserts an account, with an invite code of the pool where it has one and this is the first try, else with
/// `invite_code`. The same id and phone again is done already.
pub(super) async fn insert(
    database: &Database,
    new: &NewIdentity<'_>,
    invite_code: &str,
    from_pool: bool,
) -> Result<Inserted, DatabaseError> {
    let mut client = database.client().await?;
    quota::prepare(&client).await?;
    let transaction = client.transaction().await?;
    let statement = transaction
        .prepare_cached(
            "with pooled as (
                 delete from invite_codes where code = (
                     select code from invite_codes where $7 limit 1 for update skip locked)
                 returning code
             ), registered as (
                 insert into users (id, phone, password_hash, role, referrer_id, invite_code, wechat_openid,
                                    wechat_unionid, wechat_session_key)
                 values ($1, $2, $3, $4, $5, coalesce((select code from pooled), $6), $8, $9, $10)
                 returning id
             )
             insert into security_log (id, user_id, event, session_id, address, user_agent)
             select $11, id, $12, $13, $14, $15 from registered",
        )
        .await?;
    let phone = new.phone.map(Phone::digits);
    let openid = new.wechat.map(|(wechat, _)| wechat.openid.expose_secret());
    let unionid = new.wechat.and_then(|(wechat, _)| unionid(wechat));
    let session_key = new.wechat.map(|(_, sealed)| sealed);
    let params: [&(dyn ToSql + Sync); 15] = [
        &new.user,
        &phone,
        &new.password_hash,
        &new.role.name(),
        &new.referrer,
        &invite_code,
        &from_pool,
        &openid,
        &unionid,
        &session_key,
        &Uuid::now_v7(),
        &SecurityEvent::Registered.name(),
        &new.session,
        &new.origin.address,
        &new.origin.user_agent,
    ];
    let Err(error) = transaction.execute(&statement, &params).await.map_err(DatabaseError::from) else {
        if !new.gifts.is_empty() && note_gifted(&transaction, &new.digests).await? {
            quota::grant_within(&transaction, &new.gifts).await?;
        }
        commit(transaction).await?;
        return Ok(Inserted::Done);
    };
    transaction.rollback().await?;
    let taken = match error.constraint() {
        Some("users_invite_code_key") => return Ok(Inserted::InviteCodeTaken),
        Some("users_phone_key" | "users_pkey") => Inserted::PhoneTaken,
        Some("users_wechat_openid_key" | "users_wechat_unionid_key") => Inserted::WechatTaken,
        _ => return Err(error),
    };
    let statement = client
        .prepare_cached(
            "select from users where id = $1 and phone is not distinct from $2
             and wechat_openid is not distinct from $3",
        )
        .await?;
    let is_ours = client.query_opt(&statement, &[&new.user, &phone, &openid]).await?.is_some();
    Ok(if is_ours { Inserted::Done } else { taken })
}

/// Notes who is given something; `false` where they were before, by whatever of their names.
async fn note_gifted(transaction: &Transaction<'_>, digests: &[Vec<u8>]) -> Result<bool, DatabaseError> {
    let statement = transaction
        .prepare_cached(
            "insert into gifted_identities select digest from unnest($1::bytea[]) as w(digest) order by digest
             on conflict do nothing",
        )
        .await?;
    let noted = transaction.execute(&statement, &[&digests]).await?;
    Ok(usize::try_from(noted) == Ok(digests.len()))
}

/// What became of keeping a user of the mini-program.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kept {
    Done,
    /// Somebody else has the openid or the unionid.
    Taken,
    /// There is no such account.
    Gone,
}

/// Keeps what the platform says of the mini-program's user who has the account `user`.
pub(super) async fn keep_wechat(
    database: &Database,
    user: UserId,
    wechat: &WechatUser,
    session_key: &[u8],
    log: Option<&NewEntry<'_>>,
) -> Result<Kept, DatabaseError> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    // a unionid that was known stays where the platform leaves it out, and goes with the openid it belongs to
    let statement = transaction
        .prepare_cached(
            "update users set wechat_openid = $2, wechat_session_key = $4, updated_at = clock_timestamp(),
                 wechat_unionid = case wechat_openid when $2 then coalesce($3, wechat_unionid) else $3 end
             where id = $1 and deleted_at is null",
        )
        .await?;
    let params: [&(dyn ToSql + Sync); 4] =
        [&user, &wechat.openid.expose_secret(), &unionid(wechat), &session_key];
    match transaction.execute(&statement, &params).await.map_err(DatabaseError::from) {
        Ok(0) => return Ok(Kept::Gone),
        Ok(_) => {}
        Err(error) if error.constraint().is_some() => return Ok(Kept::Taken),
        Err(error) => return Err(error),
    }
    if let Some(entry) = log {
        security_log::insert(&transaction, entry).await?;
    }
    commit(transaction).await?;
    Ok(Kept::Done)
}

/// Whether a failed write may have been done all the same: the connection broke while it was under way.
pub(super) fn may_be_done(error: &SessionError) -> bool {
    matches!(error, SessionError::Database(DatabaseError::Unavailable(_) | DatabaseError::Unanswered(_)))
}

/// Appends to the security log what changes nothing else.
pub(super) async fn log(database: &Database, entry: &NewEntry<'_>) -> Result<(), DatabaseError> {
    let client = database.client().await?;
    security_log::insert(&client, entry).await
}

/// Whether a session of a user may go on.
#[derive(Debug)]
pub(super) struct Standing {
    pub(super) user: UserRecord,
    pub(super) generation: i64,
    pub(super) is_closed: bool,
}

/// How `session` stands; `None` where there is no such user.
pub(super) async fn standing(
    database: &Database,
    user: UserId,
    session: SessionId,
) -> Result<Option<Standing>, DatabaseError> {
    let client = database.client().await?;
    let text = format!(
        "select {}, u.session_generation,
             exists (select from closed_sessions where session_id = $2) as is_closed
         from users u where u.id = $1 and u.deleted_at is null",
        users::COLUMNS
    );
    let statement = client.prepare_cached(&text).await?;
    let row = client.query_opt(&statement, &[&user, &session]).await?;
    row.map(|row| {
        Ok(Standing {
            user: users::from_row(&row)?,
            generation: row.try_get("session_generation")?,
            is_closed: row.try_get("is_closed")?,
        })
    })
    .transpose()
}

/// Which of `sessions` were closed.
pub(super) async fn closed_among(
    database: &Database,
    sessions: &[SessionId],
) -> Result<Vec<SessionId>, DatabaseError> {
    let client = database.client().await?;
    let statement =
        client.prepare_cached("select session_id from closed_sessions where session_id = any($1)").await?;
    let rows = client.query(&statement, &[&sessions]).await?;
    Ok(rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?)
}

/// Closes sessions of `user` for as long as a token of theirs could live; those that were open are written down in the
/// security log where something is said of them.
pub(super) async fn close_sessions(
    database: &Database,
    user: UserId,
    sessions: &[SessionId],
    keep: Duration,
    log: Option<(SecurityEvent, &Origin)>,
) -> Result<(), DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "with closed as (
                 insert into closed_sessions (session_id, user_id, keep_until)
                 select session_id, $1, clock_timestamp() + $3::bigint * interval '1 millisecond'
                 from unnest($2::uuid[]) as w(session_id) order by session_id
                 on conflict do nothing returning session_id
             )
             insert into security_log (id, user_id, event, session_id, address, user_agent)
             select w.id, $1, $5, w.session_id, $6, $7
             from unnest($4::uuid[], $2::uuid[]) as w(id, session_id) join closed using (session_id)
             where $5::text is not null",
        )
        .await?;
    let ids: Vec<Uuid> = sessions.iter().map(|_| Uuid::now_v7()).collect();
    let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let event = log.map(|(event, _)| event.name());
    let address = log.and_then(|(_, origin)| origin.address);
    let user_agent = log.and_then(|(_, origin)| origin.user_agent.as_deref());
    let params: [&(dyn ToSql + Sync); 7] = [&user, &sessions, &keep, &ids, &event, &address, &user_agent];
    client.execute(&statement, &params).await?;
    Ok(())
}

/// Closes all sessions of a user; answers the generation that holds now, or `None` where there is no such user.
pub(super) async fn close_all_sessions(
    database: &Database,
    user: UserId,
    entry: &NewEntry<'_>,
) -> Result<Option<i64>, DatabaseError> {
    change(database, user, "session_generation = session_generation + 1", "true", &[], entry).await
}

/// Sets a password where the one before is still `old`, and closes all sessions.
pub(super) async fn set_password(
    database: &Database,
    user: UserId,
    old: Option<&str>,
    new: &str,
    entry: &NewEntry<'_>,
) -> Result<Option<i64>, DatabaseError> {
    change(
        database,
        user,
        "password_hash = $2, session_generation = session_generation + 1",
        "password_hash is not distinct from $3",
        &[&new, &old],
        entry,
    )
    .await
}

/// Sets a password whatever the one before was, and closes all sessions.
pub(super) async fn reset_password(
    database: &Database,
    user: UserId,
    new: &str,
    entry: &NewEntry<'_>,
) -> Result<Option<i64>, DatabaseError> {
    let set = "password_hash = $2, session_generation = session_generation + 1";
    change(database, user, set, "true", &[&new], entry).await
}

/// Gives a user another phone; an error of the constraint where it is somebody else's.
pub(super) async fn set_phone(
    database: &Database,
    user: UserId,
    phone: &Phone,
    entry: &NewEntry<'_>,
) -> Result<Option<i64>, DatabaseError> {
    change(database, user, "phone = $2", "true", &[&phone.digits()], entry).await
}

/// Deletes an account, where its phone and password are still those of `identity`: nobody can sign in to it, its keys
/// open nothing, and it says nothing of anybody. Answers the generation that holds now.
pub(super) async fn delete_account(
    database: &Database,
    identity: &Identity,
    entry: &NewEntry<'_>,
) -> Result<Option<i64>, DatabaseError> {
    let set = "deleted_at = clock_timestamp(), session_generation = session_generation + 1, phone = null,
         password_hash = null, wechat_openid = null, wechat_unionid = null, wechat_session_key = null,
         nickname = '', avatar = null, gender = 'unknown'";
    let condition = "phone is not distinct from $2 and password_hash is not distinct from $3";
    let params: [&(dyn ToSql + Sync); 2] = [&identity.phone, &identity.password_hash];
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let generation = change_within(&transaction, identity.user, set, condition, &params, entry).await?;
    if generation.is_some() {
        api_keys::revoke_all(&transaction, identity.user).await?;
        commit(transaction).await?;
    }
    Ok(generation)
}

/// Changes a user's row where `condition` holds, and writes down that it was done.
async fn change(
    database: &Database,
    user: UserId,
    set: &str,
    condition: &str,
    params: &[&(dyn ToSql + Sync)],
    entry: &NewEntry<'_>,
) -> Result<Option<i64>, DatabaseError> {
    let mut client = database.client().await?;
    let transaction = client.transaction().await?;
    let generation = change_within(&transaction, user, set, condition, params, entry).await?;
    commit(transaction).await?;
    Ok(generation)
}

async fn change_within(
    transaction: &Transaction<'_>,
    user: UserId,
    set: &str,
    condition: &str,
    params: &[&(dyn ToSql + Sync)],
    entry: &NewEntry<'_>,
) -> Result<Option<i64>, DatabaseError> {
    let text = format!(
        "update users set {set}, updated_at = clock_timestamp()
         where id = $1 and deleted_at is null and {condition} returning session_generation"
    );
    let statement = transaction.prepare_cached(&text).await?;
    let all: Vec<&(dyn ToSql + Sync)> =
        std::iter::once(&user as &(dyn ToSql + Sync)).chain(params.iter().copied()).collect();
    let Some(row) = transaction.query_opt(&statement, &all).await? else { return Ok(None) };
    security_log::insert(transaction, entry).await?;
    Ok(Some(row.try_get(0)?))
}

/// Keeps a hash of the same password that costs more, unless the password was changed meanwhile.
pub(super) async fn rehash(
    database: &Database,
    user: UserId,
    old: &str,
    new: &str,
) -> Result<(), DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached("update users set password_hash = $3 where id = $1 and password_hash = $2")
        .await?;
    client.execute(&statement, &[&user, &old, &new]).await?;
    Ok(())
}

/// Deletes at most `limit` closed sessions of which no token can be left.
pub(crate) async fn delete_old_closings(client: &Client, limit: i64) -> Result<u64, DatabaseError> {
    let statement = client
        .prepare_cached(
            "delete from closed_sessions where session_id in (
                 select session_id from closed_sessions where keep_until < clock_timestamp() limit $1)",
        )
        .await?;
    Ok(client.execute(&statement, &[&limit]).await?)
}

/// Fills the pool of invite codes up with those of `codes` that nobody has.
pub(crate) async fn add_invite_codes(client: &Client, codes: &[String]) -> Result<u64, DatabaseError> {
    let statement = client
        .prepare_cached(
            "insert into invite_codes (code) select code from unnest($1::text[]) as w(code)
             where not exists (select from users u where u.invite_code = w.code) on conflict do nothing",
        )
        .await?;
    Ok(client.execute(&statement, &[&codes]).await?)
}

/// How many invite codes are left in the pool.
pub(crate) async fn count_invite_codes(client: &Client) -> Result<i64, DatabaseError> {
    let statement = client.prepare_cached("select count(*) from invite_codes").await?;
    Ok(client.query_one(&statement, &[]).await?.try_get(0)?)
}

/// Whether `session` was a session of `user` and was closed.
pub(super) async fn is_closed_of(
    database: &Database,
    user: UserId,
    session: SessionId,
) -> Result<bool, DatabaseError> {
    let client = database.client().await?;
    let statement =
        client.prepare_cached("select from closed_sessions where session_id = $2 and user_id = $1").await?;
    Ok(client.query_opt(&statement, &[&user, &session]).await?.is_some())
}
