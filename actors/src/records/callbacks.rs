//! The inbox of asynchronous providers. A call that may be called back has an address of its own, whose last part
//! is a random token; what is brought there is kept until the call reads it.
//!
//! A row is written by the transaction that writes its attempt, before the call leaves, so no callback can come
//! before its row. Whichever replica is called answers after its commit; the one that waits reads the row. A token
//! is good for one body: a repeat changes nothing.

use crate::{
    database::{Database, DatabaseError},
    ids::AttemptId,
    pipeline::provider::JobBook,
};
use async_trait::async_trait;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use deadpool_postgres::{Client, GenericClient};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// Random bytes of a token.
const TOKEN_BYTES: usize = 32;
/// How long after its call's deadline an address still answers 204: providers repeat callbacks for hours.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// How often a trial looks for its callback.
const TRIAL_POLL: Duration = Duration::from_millis(250);

/// The secret end of one address.
#[derive(Clone, Debug)]
pub struct CallbackToken(SecretString);

impl CallbackToken {
    /// A token nobody can guess.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "two calls differ; a default would not say so")]
    pub fn new() -> Self {
        Self(URL_SAFE_NO_PAD.encode(rand::random::<[u8; TOKEN_BYTES]>()).into())
    }

    /// A token that somebody shows, if it can be one.
    #[must_use]
    pub fn shown(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        (bytes.len() == TOKEN_BYTES).then(|| Self(text.to_owned().into()))
    }

    /// The text in the address.
    #[must_use]
    pub fn secret(&self) -> &SecretString {
        &self.0
    }

    fn hash(&self) -> Vec<u8> {
        Sha256::digest(self.0.expose_secret().as_bytes()).to_vec()
    }
}

/// An address that a call will name.
#[derive(Clone, Debug)]
pub(crate) struct NewCallback {
    pub(crate) token: CallbackToken,
    pub(crate) attempt: AttemptId,
    /// How long the call may take.
    pub(crate) timeout: Duration,
}

/// Writes addresses before their calls leave. One that is written already stays.
pub(crate) async fn insert(client: &impl GenericClient, new: &[NewCallback]) -> Result<(), DatabaseError> {
    if new.is_empty() {
        return Ok(());
    }
    let statement = client
        .prepare_cached(
            "insert into provider_callbacks (token_hash, attempt, expires_at)
             select w.hash, w.attempt, clock_timestamp() + w.kept_ms * interval '1 millisecond'
             from unnest($1::bytea[], $2::uuid[], $3::bigint[]) as w(hash, attempt, kept_ms)
             on conflict do nothing",
        )
        .await?;
    let hashes: Vec<_> = new.iter().map(|callback| callback.token.hash()).collect();
    let attempts: Vec<_> = new.iter().map(|callback| callback.attempt).collect();
    let kept =
        |callback: &NewCallback| i64::try_from((callback.timeout + KEPT).as_millis()).unwrap_or(i64::MAX);
    let kept: Vec<_> = new.iter().map(kept).collect();
    client.execute(&statement, &[&hashes, &attempts, &kept]).await?;
    Ok(())
}

/// A callback that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Whether this was the first for its address; only that one counts.
    pub(crate) is_first: bool,
    /// The call whose address it came to.
    pub(crate) attempt: AttemptId,
}

/// Takes a callback; `None` where there is no such address (any more). What comes for a task that is over is not
/// kept.
pub(crate) async fn take(
    client: &Client,
    token: &CallbackToken,
    body: &[u8],
) -> Result<Option<Taken>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "with taken as (
                 update provider_callbacks c set received_at = clock_timestamp(), body = case when exists (
                     select from step_attempts a join tasks t on t.id = a.task_id
                     where a.id = c.attempt and t.status in ('succeeded', 'failed', 'cancelled')
                 ) then null else $2::bytea end
                 where c.token_hash = $1 and c.received_at is null
                 returning c.attempt
             )
             select c.attempt, exists (select from taken) as is_first
             from provider_callbacks c where c.token_hash = $1",
        )
        .await?;
    let row = client.query_opt(&statement, &[&token.hash(), &body]).await?;
    row.map(|row| Ok(Taken { is_first: row.try_get("is_first")?, attempt: row.try_get("attempt")? }))
        .transpose()
}

/// A callback for a call that waits.
pub(crate) struct Heard {
    /// The call that waits.
    pub(crate) waiting: AttemptId,
    /// The call whose address it came to: the same, or an earlier one that asked for the same work.
    pub(crate) addressed: AttemptId,
    pub(crate) body: Bytes,
}

/// At most `limit` callbacks for those that are `waiting`, but for those that came to one of `heard`.
///
/// A provider that knows an idempotency key answers a repeat with the job it has, and that job may know only the
/// address of the first call: so what came to it is also for the later ones.
pub(crate) async fn heard(
    client: &Client,
    waiting: &[AttemptId],
    heard: &[AttemptId],
    limit: i64,
) -> Result<Vec<Heard>, DatabaseError> {
    let statement = client
        .prepare_cached(
            "select w.attempt as waiting, c.attempt as addressed, c.body
             from unnest($1::uuid[]) as w(attempt)
             join step_attempts a on a.id = w.attempt
             join step_attempts s on s.task_id = a.task_id and s.node_id = a.node_id
                 and s.provider_id = a.provider_id and s.idempotency_key = a.idempotency_key
             join provider_callbacks c on c.attempt = s.id
             where c.body is not null and c.attempt <> all ($2::uuid[])
             order by c.received_at limit $3",
        )
        .await?;
    let rows = client.query(&statement, &[&waiting, &heard, &limit]).await?;
    rows.iter()
        .map(|row| {
            let body: Vec<u8> = row.try_get("body")?;
            Ok(Heard {
                waiting: row.try_get("waiting")?,
                addressed: row.try_get("addressed")?,
                body: body.into(),
            })
        })
        .collect()
}

/// Deletes at most `limit` addresses that nobody can mean any more.
pub(crate) async fn delete_expired(client: &Client, limit: i64) -> Result<u64, DatabaseError> {
    let statement = client
        .prepare_cached(
            "with old as (
                 select token_hash from provider_callbacks where expires_at < clock_timestamp()
                 order by expires_at limit $1 for no key update skip locked
             )
             delete from provider_callbacks c using old where c.token_hash = old.token_hash",
        )
        .await?;
    Ok(client.execute(&statement, &[&limit]).await?)
}

/// The memory of a call that an administrator makes to try a provider: it lives as long as the request.
pub(crate) struct TrialJobs {
    database: Database,
    attempt: AttemptId,
    heard: AtomicBool,
}

impl TrialJobs {
    pub(crate) fn new(database: Database, attempt: AttemptId) -> Self {
        Self { database, attempt, heard: AtomicBool::new(false) }
    }

    async fn look(&self) -> Result<Option<Bytes>, DatabaseError> {
        let client = self.database.client().await?;
        let statement =
            client.prepare_cached("select body from provider_callbacks where attempt = $1").await?;
        let row = client.query_opt(&statement, &[&self.attempt]).await?;
        let body: Option<Vec<u8>> = row.map(|row| row.try_get("body")).transpose()?.flatten();
        Ok(body.map(Bytes::from))
    }
}

#[async_trait]
impl JobBook for TrialJobs {
    fn submitted(&self, _job: &str) {}

    async fn callback(&self) -> Bytes {
        loop {
            tokio::time::sleep(TRIAL_POLL).await;
            if !self.heard.load(Ordering::Relaxed)
                && let Ok(Some(body)) = self.look().await
            {
                self.heard.store(true, Ordering::Relaxed);
                return body;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_random_and_known_again() {
        let (one, other) = (CallbackToken::new(), CallbackToken::new());
        assert_ne!(one.hash(), other.hash());
        let shown = CallbackToken::shown(one.secret().expose_secret()).unwrap();
        assert_eq!(shown.hash(), one.hash());
        assert!(!format!("{one:?}").contains(one.secret().expose_secret()));
    }

    #[test]
    fn what_cannot_be_a_token_is_none() {
        let long = "A".repeat(44);
        for text in
            ["", "a", "..", "0198c5e4-0000-7000-8000-000000000000", &long, &format!("{}!", &long[..42])]
        {
            assert!(CallbackToken::shown(text).is_none(), "{text}");
        }
    }
}
