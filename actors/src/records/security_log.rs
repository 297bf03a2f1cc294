//! What happened to accounts: sign-ins, failures, closed sessions, changes of what signs somebody in. Its owner reads
//! what concerns them, admins all of it; it is kept for 180 days.

use crate::{
    database::{Database, DatabaseError},
    ids::{SessionId, UserId},
    session::Origin,
};
use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::IpAddr;
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

/// Days an entry is kept.
pub const KEPT_DAYS: i32 = 180;

/// Something that happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityEvent {
    /// The account was made.
    Registered,
    /// A session was opened.
    SignedIn,
    /// A password or a code was wrong.
    SignInFailed,
    /// Five failures: sign-in by password is closed for a while.
    SignInLocked,
    /// The owner of a session closed it.
    SignedOut,
    /// All sessions were closed.
    SignedOutEverywhere,
    /// A session was closed from another one, or made room for a newer one.
    SessionClosed,
    /// A refresh token was shown twice: somebody has a copy. The session is closed.
    TokenReused,
    /// A password was set by somebody signed in.
    PasswordSet,
    /// A forgotten password was set anew by a code.
    PasswordReset,
    /// Another phone.
    PhoneChanged,
    /// The mini-program's user was bound.
    WechatBound,
    /// A key for programs was made.
    ApiKeyCreated,
    /// A key for programs was revoked.
    ApiKeyRevoked,
    /// An admin gave another role.
    RoleChanged,
    /// An admin banned the user.
    Banned,
    /// An admin lifted the ban.
    Unbanned,
    /// The account was deleted.
    AccountDeleted,
}

impl SecurityEvent {
    /// The name in the API and in the table.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registered => "registered",
            Self::SignedIn => "signed_in",
            Self::SignInFailed => "sign_in_failed",
            Self::SignInLocked => "sign_in_locked",
            Self::SignedOut => "signed_out",
            Self::SignedOutEverywhere => "signed_out_everywhere",
            Self::SessionClosed => "session_closed",
            Self::TokenReused => "token_reused",
            Self::PasswordSet => "password_set",
            Self::PasswordReset => "password_reset",
            Self::PhoneChanged => "phone_changed",
            Self::WechatBound => "wechat_bound",
            Self::ApiKeyCreated => "api_key_created",
            Self::ApiKeyRevoked => "api_key_revoked",
            Self::RoleChanged => "role_changed",
            Self::Banned => "banned",
            Self::Unbanned => "unbanned",
            Self::AccountDeleted => "account_deleted",
        }
    }
}

/// An entry to be written.
#[derive(Clone, Debug)]
pub(crate) struct NewEntry<'a> {
    pub(crate) user: Option<UserId>,
    pub(crate) event: SecurityEvent,
    pub(crate) session: Option<SessionId>,
    pub(crate) origin: &'a Origin,
    /// Particulars; no secret and no whole phone.
    pub(crate) detail: Value,
}

impl<'a> NewEntry<'a> {
    /// What happened to `user`.
    pub(crate) fn of(user: UserId, event: SecurityEvent, origin: &'a Origin) -> Self {
        Self { user: Some(user), event, session: None, origin, detail: json!({}) }
    }

    /// In that session.
    pub(crate) fn in_session(self, session: SessionId) -> Self {
        Self { session: Some(session), ..self }
    }

    /// With these particulars.
    pub(crate) fn with(self, detail: Value) -> Self {
        Self { detail, ..self }
    }
}

/// Appends an entry, within the transaction that does what it tells of.
pub(crate) async fn insert(client: &impl GenericClient, entry: &NewEntry<'_>) -> Result<(), DatabaseError> {
    let statement = client
        .prepare_cached(
            "insert into security_log (id, user_id, event, session_id, address, user_agent, detail)
             values ($1, $2, $3, $4, $5, $6, $7)",
        )
        .await?;
    let NewEntry { user, event, session, origin, detail } = entry;
    let params: [&(dyn ToSql + Sync); 7] =
        [&Uuid::now_v7(), user, &event.name(), session, &origin.address, &origin.user_agent, detail];
    client.execute(&statement, &params).await?;
    Ok(())
}

/// Deletes at most `limit` entries that are older than they are kept.
pub(crate) async fn delete_old(client: &impl GenericClient, limit: i64) -> Result<u64, DatabaseError> {
    let statement = client
        .prepare_cached(
            "delete from security_log where id in (
                 select id from security_log where at < clock_timestamp() - $1 * interval '1 day' limit $2)",
        )
        .await?;
    Ok(client.execute(&statement, &[&f64::from(KEPT_DAYS), &limit]).await?)
}

/// An entry as it stands in its row.
#[derive(Clone, Debug, PartialEq)]
pub struct SecurityRecord {
    /// Its id; later ones sort after earlier ones.
    pub id: Uuid,
    /// Whose account; none where nobody has the phone.
    pub user: Option<UserId>,
    /// What happened.
    pub event: String,
    /// In which session.
    pub session: Option<SessionId>,
    /// Where from.
    pub address: Option<IpAddr>,
    /// By what client, as it called itself.
    pub user_agent: Option<String>,
    /// Particulars.
    pub detail: Value,
    /// When.
    pub at: DateTime<Utc>,
}

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct SecurityFilter {
    /// Only those of this user.
    pub user: Option<UserId>,
    /// Only those of this kind.
    pub event: Option<SecurityEvent>,
}

/// The log, for those who read it. Clones share the pool.
#[derive(Clone)]
pub struct SecurityLog {
    database: Database,
}

impl SecurityLog {
    /// The log of `database`.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// At most `limit` entries, newest first, from those older than `before`.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn page(
        &self,
        filter: &SecurityFilter,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<SecurityRecord>, DatabaseError> {
        let client = self.database.client().await?;
        let of_user = if filter.user.is_some() { "user_id = $1" } else { "$1::uuid is null" };
        let text = format!(
            "select id, user_id, event, session_id, address, user_agent, detail, at from security_log
             where {of_user} and ($2::text is null or event = $2) and ($3::uuid is null or id < $3)
             order by id desc limit $4"
        );
        let statement = client.prepare_cached(&text).await?;
        let event = filter.event.map(SecurityEvent::name);
        let rows = client.query(&statement, &[&filter.user, &event, &before, &limit]).await?;
        rows.iter().map(record).collect()
    }
}

fn record(row: &Row) -> Result<SecurityRecord, DatabaseError> {
    Ok(SecurityRecord {
        id: row.try_get(0)?,
        user: row.try_get(1)?,
        event: row.try_get(2)?,
        session: row.try_get(3)?,
        address: row.try_get(4)?,
        user_agent: row.try_get(5)?,
        detail: row.try_get(6)?,
        at: row.try_get(7)?,
    })
}
