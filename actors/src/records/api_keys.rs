//! Keys by which programs call in a user's name: named, for some scopes only, with an end and a cap if wished.
//!
//! The text of a key is 32 random bytes, shown once; its SHA-256 is what is stored, and what it is found by. A slow hash
//! would protect nothing: there is no guessing 32 random bytes. A key is looked up anew for each request and kept nowhere,
//! so one that is revoked works on no replica from then on; its sockets are told. What keys have spent is counted by
//! the quota actor's flush, in `api_key_usage`.

use crate::{
    database::{Database, DatabaseError, commit},
    ids::{ApiKeyId, SessionId, UserId},
    records::security_log::{self, KEPT_DAYS, NewEntry, SecurityEvent},
    session::Origin,
    signals::{Signal, Signals},
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use deadpool_postgres::GenericClient;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_postgres::{Row, types::ToSql};
use uuid::Uuid;

/// Keys of a user that work at one time.
pub const LIVE_KEYS: i64 = 20;

/// What the text of a key begins with, and that of an access token never.
pub const PREFIX: &str = "grk_";

const RANDOM_BYTES: usize = 32;

/// What `k` has spent of the day and the month that it is now in Asia/Shanghai, as `spent`.
macro_rules! spent {
    () => {
        "cross join lateral (
            select now.day, coalesce(sum(u.amount) filter (where u.day = now.day), 0)::bigint as today,
                coalesce(sum(u.amount), 0)::bigint as this_month
            from (select (clock_timestamp() at time zone 'Asia/Shanghai')::date as day) now
            left join api_key_usage u on u.key_id = k.id
                and u.day >= date_trunc('month', now.day::timestamp)::date
                and u.day < (date_trunc('month', now.day::timestamp) + interval '1 month')::date
            group by now.day) spent"
    };
}
pub(crate) use spent;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Starting and cancelling tasks.
    Tasks,
    /// Files, whatever one does with them.
    Files,
    /// Looking: at tasks, files, pipelines, quota, and live.
    Read,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Tasks, Self::Files, Self::Read];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Files => "files",
            Self::Read => "read",
        }
    }

    /// The scope of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// The text of a key: a secret.
#[derive(Clone, Debug)]
pub struct KeyText(SecretString);

impl KeyText {
    /// A text that nobody has seen.
    #[must_use]
    pub fn random() -> Self {
        let random = BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; RANDOM_BYTES]>());
        Self(format!("{PREFIX}{random}").into())
    }

    /// `text`, where it could be a key's.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let random = BASE64_URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?;
        (random.len() == RANDOM_BYTES).then(|| Self(text.into()))
    }

    /// The text itself, for the one who may see it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.expose()).into()
    }
}

/// A key to be made.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// The id it will have: the same command again is recognised by it.
    pub id: ApiKeyId,
    /// In whose name it calls.
    pub user: UserId,
    /// Its text.
    pub text: KeyText,
    /// What its owner calls it.
    pub name: String,
    /// What it is for; one at least.
    pub scopes: Vec<Scope>,
    /// Units its tasks may cost a day.
    pub daily_quota: Option<i64>,
    /// Units its tasks may cost a month.
    pub monthly_quota: Option<i64>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
    /// The caller's idempotency key, if it sent one.
    pub idempotency_key: Option<String>,
}

/// A key's row, and what it has spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKeyRecord {
    /// Its id.
    pub id: ApiKeyId,
    /// What its owner calls it.
    pub name: String,
    /// What it is for.
    pub scopes: Vec<Scope>,
    /// Units its tasks may cost a day.
    pub daily_quota: Option<i64>,
    /// Units its tasks may cost a month.
    pub monthly_quota: Option<i64>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last shown to us, to a minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Units that its tasks of today hold and were charged.
    pub used_today: i64,
    /// The same of this month.
    pub used_this_month: i64,
}

/// A key that works.
#[derive(Clone, Debug)]
pub struct ApiKey {
    /// Its id.
    pub id: ApiKeyId,
    /// In whose name it calls.
    pub user: UserId,
    /// What it is for.
    pub scopes: Vec<Scope>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
}

impl ApiKey {
    /// What its sockets are opened in: they end when this is closed, as those of a session do.
    #[must_use]
    pub fn session(&self) -> SessionId {
        session_of(self.id)
    }
}

fn session_of(key: ApiKeyId) -> SessionId {
    SessionId(key.0)
}

/// Why a key was not made, found or revoked.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// It never was one, or works no more.
    #[error("the API key is not valid")]
    Invalid,
    /// Its user is banned.
    #[error("the user of the API key is banned")]
    Banned,
    /// The user has no such key.
    #[error("there is no such API key")]
    NotFound,
    /// The user is gone.
    #[error("there is no such user")]
    UserNotFound,
    /// As many keys of the user work as may.
    #[error("the user has as many API keys as may be")]
    TooMany,
    /// The idempotency key has made this key before; its text cannot be shown again.
    #[error("the request has made an API key before")]
    Repeated(ApiKeyId),
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<tokio_postgres::Error> for ApiKeyError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The keys. Clones share the pool.
#[derive(Clone)]
pub struct ApiKeys {
    database: Database,
    signals: Signals,
}

const SELECT: &str = concat!(
    "select k.id, k.name, k.scopes, k.daily_quota, k.monthly_quota, k.expires_at, k.created_at, k.last_used_at,
        spent.today, spent.this_month
    from api_keys k ",
    spent!(),
    " where k.user_id = $1 and "
);

impl ApiKeys {
    /// The keys in `database`; sockets of those that are revoked hear of it by `signals`.
    #[must_use]
    pub fn new(database: Database, signals: Signals) -> Self {
        Self { database, signals }
    }

    /// Makes a key. The same command again has made it already.
    ///
    /// # Errors
    /// [`ApiKeyError::TooMany`], [`ApiKeyError::Repeated`], [`ApiKeyError::UserNotFound`]; PostgreSQL.
    pub async fn create(&self, new: &NewApiKey, origin: &Origin) -> Result<ApiKeyRecord, ApiKeyError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        // keys of a user are made one after the other, so that they can be counted
        let lock = "select from users where id = $1 and deleted_at is null for no key update";
        let lock = transaction.prepare_cached(lock).await?;
        if transaction.query_opt(&lock, &[&new.user]).await?.is_none() {
            return Err(ApiKeyError::UserNotFound);
        }
        match made_before(&transaction, new).await? {
            Some(made) if made == new.id => return get(&transaction, new.user, new.id).await,
            Some(made) => return Err(ApiKeyError::Repeated(made)),
            None => {}
        }
        let count = "
            select count(*) from api_keys
            where user_id = $1 and revoked_at is null and (expires_at is null or expires_at > clock_timestamp())";
        let count = transaction.prepare_cached(count).await?;
        let live: i64 = transaction.query_one(&count, &[&new.user]).await?.try_get(0)?;
        if live >= LIVE_KEYS {
            return Err(ApiKeyError::TooMany);
        }
        insert(&transaction, new).await?;
        let scopes = names(&new.scopes);
        let detail = json!({
            "id": new.id, "name": new.name, "scopes": scopes, "expiresAt": new.expires_at,
            "dailyQuota": new.daily_quota, "monthlyQuota": new.monthly_quota,
        });
        let entry = NewEntry::of(new.user, SecurityEvent::ApiKeyCreated, origin).with(detail);
        security_log::insert(&transaction, &entry).await?;
        let record = get(&transaction, new.user, new.id).await?;
        commit(transaction).await?;
        Ok(record)
    }

    /// At most `limit` keys of `user` that are not revoked, newest first, from those older than `before`.
    ///
    /// # Errors
    /// See [`DatabaseError`].
    pub async fn list(
        &self,
        user: UserId,
        before: Option<Uuid>,
        limit: i64,
    ) -> Result<Vec<ApiKeyRecord>, DatabaseError> {
        const LIST: &str =
            "k.revoked_at is null and ($2::uuid is null or k.id < $2) order by k.id desc limit $3";
        let client = self.database.client().await?;
        let statement = client.prepare_cached(&format!("{SELECT}{LIST}")).await?;
        client.query(&statement, &[&user, &before, &limit]).await?.iter().map(record).collect()
    }

    /// Ends a key for good, on all replicas at once, and its sockets. One that is revoked stays so.
    ///
    /// # Errors
    /// [`ApiKeyError::NotFound`], also for another user's; PostgreSQL.
    pub async fn revoke(&self, user: UserId, id: ApiKeyId, origin: &Origin) -> Result<(), ApiKeyError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let find = "select name, revoked_at is not null from api_keys where id = $1 and user_id = $2 for no key update";
        let find = transaction.prepare_cached(find).await?;
        let row = transaction.query_opt(&find, &[&id, &user]).await?.ok_or(ApiKeyError::NotFound)?;
        let (name, is_revoked): (String, bool) = (row.try_get(0)?, row.try_get(1)?);
        if !is_revoked {
            let revoke = "update api_keys set revoked_at = clock_timestamp() where id = $1";
            let revoke = transaction.prepare_cached(revoke).await?;
            transaction.execute(&revoke, &[&id]).await?;
            let entry = NewEntry::of(user, SecurityEvent::ApiKeyRevoked, origin);
            security_log::insert(&transaction, &entry.with(json!({ "id": id, "name": name }))).await?;
            commit(transaction).await?;
        }
        // again where it was revoked before: the first time may have ended before it was told
        self.signals.send(Signal::SessionClosed { user, session: session_of(id) });
        Ok(())
    }

    /// The key of this text, if it works; that it was used is noted at most once a minute, and nobody waits for it.
    ///
    /// # Errors
    /// [`ApiKeyError::Invalid`], [`ApiKeyError::Banned`]; PostgreSQL.
    pub async fn find(&self, text: &str) -> Result<ApiKey, ApiKeyError> {
        const FIND: &str = "
            select k.id, k.user_id, k.scopes, k.expires_at, u.banned_at is not null,
                coalesce(k.last_used_at < clock_timestamp() - interval '1 minute', true)
            from api_keys k join users u on u.id = k.user_id where k.key_hash = $1 and ";
        let hash = KeyText::parse(text).ok_or(ApiKeyError::Invalid)?.hash();
        let client = self.database.client().await?;
        let statement = client.prepare_cached(&format!("{FIND}{WORKS}")).await?;
        let row = client.query_opt(&statement, &[&hash.as_slice()]).await?.ok_or(ApiKeyError::Invalid)?;
        if row.try_get(4)? {
            return Err(ApiKeyError::Banned);
        }
        let key = ApiKey {
            id: row.try_get(0)?,
            user: row.try_get(1)?,
            scopes: scopes(&row, 2)?,
            expires_at: row.try_get(3)?,
        };
        if row.try_get(5)? {
            let (database, id) = (self.database.clone(), key.id);
            tokio::spawn(async move {
                if let Err(error) = note_use(&database, id).await {
                    tracing::warn!(error = %crate::causes(&error), "the use of an API key was not noted");
                }
            });
        }
        Ok(key)
    }

    /// That a key works still which did a moment ago.
    ///
    /// # Errors
    /// [`ApiKeyError::Invalid`], [`ApiKeyError::Banned`]; PostgreSQL.
    pub async fn must_work(&self, key: ApiKeyId) -> Result<(), ApiKeyError> {
        let text = format!(
            "select u.banned_at is not null from api_keys k join users u on u.id = k.user_id
             where k.id = $1 and {WORKS}"
        );
        let client = self.database.client().await?;
        let statement = client.prepare_cached(&text).await?;
        let row = client.query_opt(&statement, &[&key]).await?.ok_or(ApiKeyError::Invalid)?;
        if row.try_get(0)? { Err(ApiKeyError::Banned) } else { Ok(()) }
    }
}

/// What is so of a key `k` of user `u` that works, but for a ban.
const WORKS: &str = "k.revoked_at is null and u.deleted_at is null
    and (k.expires_at is null or k.expires_at > clock_timestamp())";

/// Deletes at most `limit` keys that have been of no use for as long as the security log tells of them. Those that have
/// spent something stay: the ledger names them.
pub(crate) async fn delete_old(client: &impl GenericClient, limit: i64) -> Result<u64, DatabaseError> {
    let statement = client
        .prepare_cached(
            "delete from api_keys where id in (
                 select id from api_keys k
                 where least(revoked_at, expires_at) < clock_timestamp() - $1 * interval '1 day'
                 and not exists (select from api_key_usage u where u.key_id = k.id)
                 limit $2)",
        )
        .await?;
    Ok(client.execute(&statement, &[&f64::from(KEPT_DAYS), &limit]).await?)
}

/// The key that this command, or another one under the same idempotency key, has made in the last day.
async fn made_before(
    client: &impl GenericClient,
    new: &NewApiKey,
) -> Result<Option<ApiKeyId>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select id from api_keys
             where user_id = $1 and (id = $2
                 or (idempotency_key = $3 and created_at > clock_timestamp() - interval '24 hours'))
             limit 1",
        )
        .await?;
    let row = client.query_opt(&statement, &[&new.user, &new.id, &new.idempotency_key]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

async fn insert(client: &impl GenericClient, new: &NewApiKey) -> Result<(), DatabaseError> {
    let statement = client
        .prepare_cached(
            "insert into api_keys (id, user_id, name, key_hash, scopes, daily_quota, monthly_quota, expires_at,
                 idempotency_key)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        )
        .await?;
    let (hash, scopes) = (new.text.hash(), names(&new.scopes));
    let params: [&(dyn ToSql + Sync); 9] = [
        &new.id,
        &new.user,
        &new.name,
        &hash.as_slice(),
        &scopes,
        &new.daily_quota,
        &new.monthly_quota,
        &new.expires_at,
        &new.idempotency_key,
    ];
    client.execute(&statement, &params).await?;
    Ok(())
}

async fn get(client: &impl GenericClient, user: UserId, id: ApiKeyId) -> Result<ApiKeyRecord, ApiKeyError> {
    let statement = client.prepare_cached(&format!("{SELECT}k.id = $2")).await?;
    let row = client.query_opt(&statement, &[&user, &id]).await?.ok_or(ApiKeyError::NotFound)?;
    Ok(record(&row)?)
}

/// Of many requests at once one notes it, and the others do not wait for the row.
async fn note_use(database: &Database, id: ApiKeyId) -> Result<(), DatabaseError> {
    let client = database.client().await?;
    let statement = client
        .prepare_cached(
            "update api_keys set last_used_at = clock_timestamp() where id = (
                 select id from api_keys
                 where id = $1 and coalesce(last_used_at < clock_timestamp() - interval '1 minute', true)
                 for no key update skip locked)",
        )
        .await?;
    client.execute(&statement, &[&id]).await?;
    Ok(())
}

fn names(scopes: &[Scope]) -> Vec<&'static str> {
    scopes.iter().map(|scope| scope.name()).collect()
}

fn scopes(row: &Row, column: usize) -> Result<Vec<Scope>, DatabaseError> {
    let names: Vec<&str> = row.try_get(column)?;
    // the column's check allows no other names
    Ok(names.into_iter().filter_map(Scope::named).collect())
}

fn record(row: &Row) -> Result<ApiKeyRecord, DatabaseError> {
    Ok(ApiKeyRecord {
        id: row.try_get(0)?,
        name: row.try_get(1)?,
        scopes: scopes(row, 2)?,
        daily_quota: row.try_get(3)?,
        monthly_quota: row.try_get(4)?,
        expires_at: row.try_get(5)?,
        created_at: row.try_get(6)?,
        last_used_at: row.try_get(7)?,
        used_today: row.try_get(8)?,
        used_this_month: row.try_get(9)?,
    })
}

/// Ends all keys of a user, within the transaction that deletes the account.
pub(crate) async fn revoke_all(client: &impl GenericClient, user: UserId) -> Result<(), DatabaseError> {
    let revoke =
        "update api_keys set revoked_at = clock_timestamp() where user_id = $1 and revoked_at is null";
    let statement = client.prepare_cached(revoke).await?;
    client.execute(&statement, &[&user]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_prefix_and_32_random_bytes() {
        let (one, other) = (KeyText::random(), KeyText::random());
        assert_ne!(one.expose(), other.expose());
        assert_eq!(one.expose().len(), PREFIX.len() + 43);
        assert_eq!(KeyText::parse(one.expose()).unwrap().hash(), one.hash());
        assert!(!format!("{one:?}").contains(&one.expose()[4..]));
    }

    #[test]
    fn what_cannot_be_a_key_is_not_looked_for() {
        let random = "A".repeat(43);
        assert!(KeyText::parse(&format!("grk_{random}")).is_some());
        for text in [
            String::new(),
            "grk_".to_owned(),
            random.clone(),
            format!("grk_{random}="),
            format!("grk_{random}A"),
            format!("GRK_{random}"),
            format!("grk_{}+", &random[1..]),
            format!("grk_{}B", &random[1..]),
            format!("grk_{random} "),
        ] {
            assert!(KeyText::parse(&text).is_none(), "{text}");
        }
    }

    #[test]
    fn scopes_are_known_by_their_names() {
        for scope in Scope::ALL {
            assert_eq!(Scope::named(scope.name()), Some(scope));
        }
        assert_eq!(Scope::named("admin"), None);
    }
}
