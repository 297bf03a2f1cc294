//! The identity columns of `users`.

use super::{Role, SessionError, state::Phone};
use crate::{
    database::{Database, DatabaseError},
    ids::UserId,
};

/// What a sign-in compares with.
#[derive(Debug)]
pub(super) struct Identity {
    pub(super) user: UserId,
    pub(super) role: Role,
    pub(super) password_hash: Option<String>,
    pub(super) banned: bool,
}

/// An account to be made.
#[derive(Debug)]
pub(super) struct NewIdentity<'a> {
    pub(super) user: UserId,
    pub(super) phone: &'a Phone,
    pub(super) password_hash: &'a str,
    pub(super) role: Role,
    pub(super) referrer: Option<UserId>,
}

/// What became of an insertion.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inserted {
    Done,
    PhoneTaken,
    InviteCodeTaken,
}

/// The account of `phone`.
pub(super) async fn identity_of(
    database: &Database,
    phone: &Phone,
) -> Result<Option<Identity>, DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "select id, role, password_hash, banned_at is not null from users \
             where phone = $1 and deleted_at is null",
        )
        .await?;
    let row = client.query_opt(&statement, &[&phone.digits()]).await?;
    Ok(row.map(|row| Identity {
        user: row.get(0),
        role: Role::named(row.get(1)).unwrap_or(Role::User),
        password_hash: row.get(2),
        banned: row.get(3),
    }))
}

/// The user behind a referrer's id.
pub(super) async fn referrer_by_id(
    database: &Database,
    user: UserId,
) -> Result<Option<UserId>, DatabaseError> {
    let client = database.client().await?;
    let statement =
        client.prepare_cached("select id from users where id = $1 and deleted_at is null").await?;
    Ok(client.query_opt(&statement, &[&user]).await?.map(|row| row.get(0)))
}

/// The user behind an invite code.
pub(super) async fn referrer_by_invite_code(
    database: &Database,
    code: &str,
) -> Result<Option<UserId>, DatabaseError> {
    let client = database.client().await?;
    let statement =
        client.prepare_cached("select id from users where invite_code = $1 and deleted_at is null").await?;
    Ok(client.query_opt(&statement, &[&code]).await?.map(|row| row.get(0)))
}

/// Inserts an account. The same id and phone again is done already.
pub(super) async fn insert(
    database: &Database,
    new: &NewIdentity<'_>,
    invite_code: &str,
) -> Result<Inserted, DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "insert into users (id, phone, password_hash, role, referrer_id, invite_code) \
             values ($1, $2, $3, $4, $5, $6)",
        )
        .await?;
    let phone = new.phone.digits();
    let done = client
        .execute(
            &statement,
            &[&new.user, &phone, &new.password_hash, &new.role.name(), &new.referrer, &invite_code],
        )
        .await;
    let Err(error) = done.map_err(DatabaseError::from) else { return Ok(Inserted::Done) };
    match error.constraint() {
        Some("users_invite_code_key") => Ok(Inserted::InviteCodeTaken),
        Some("users_phone_key" | "users_pkey") => {
            let statement = client.prepare_cached("select 1 from users where id = $1 and phone = $2").await?;
            let ours = client.query_opt(&statement, &[&new.user, &phone]).await?.is_some();
            Ok(if ours { Inserted::Done } else { Inserted::PhoneTaken })
        }
        _ => Err(error),
    }
}

/// Whether a failed write may have been done all the same: the connection broke while it was under way.
pub(super) fn may_be_done(error: &SessionError) -> bool {
    matches!(error, SessionError::Database(DatabaseError::Unavailable(_)))
}
