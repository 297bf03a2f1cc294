//! Providers: whom the steps of pipelines call. The configuration is checked by the kind it is for; credentials
//! are sealed before they reach PostgreSQL and opened only for a call.
//!
//! What is saved holds at once on every replica: a call reads the row, not a copy (see [`Providers::load`]).

use super::{
    audit_log,
    callbacks::{self, CallbackToken, NewCallback, TrialJobs},
    files::UserFiles,
};
use crate::{
    database::{Database, DatabaseError, commit},
    ids::{AttemptId, TaskId},
    pipeline::{
        Fault,
        provider::{
            Call, CallError, CallOutput, CallPolicy, Exchange, Provider, ProviderKinds, ProviderRecord,
            Submission,
        },
    },
    quota::AuditEntry,
    sealer::{SealError, Sealer},
    signals::{Signal, Signals},
};
use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio_postgres::Row;

/// What stands in the place of credentials wherever a provider is read; written back, it keeps them.
pub const AUTH_MASK: &str = "***";

/// An administrator waits for a trial at most this long.
const TRIAL_MAX: Duration = Duration::from_secs(60);

/// Slots of a provider whose kind has no ceiling of its own.
const NO_SLOTS: u32 = 0;

/// A provider as an administrator reads it.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredProvider {
    /// The id pipelines name.
    pub id: String,
    /// Which kind does its calls.
    pub kind: String,
    /// What the administrator wrote, without `id`, `kind`, `auth` and `enabled`.
    pub config: Value,
    /// Whether credentials are kept for it.
    pub has_auth: bool,
    /// Whether it may be called.
    pub enabled: bool,
    /// No call before this time: the provider asked for a pause.
    pub paused_until: Option<DateTime<Utc>>,
    /// When it was first saved.
    pub created_at: DateTime<Utc>,
    /// When it was last saved.
    pub updated_at: DateTime<Utc>,
}

/// What to do about a provider's credentials.
#[derive(Clone, Debug)]
pub enum AuthChange {
    /// Leave what is there, also when nothing is.
    Keep,
    /// There are none.
    Remove,
    /// These, as JSON text.
    Set(SecretString),
}

/// A provider to be saved.
#[derive(Clone, Debug)]
pub struct SaveProvider {
    /// The id pipelines name.
    pub id: String,
    /// Which kind does its calls.
    pub kind: String,
    /// As [`StoredProvider::config`].
    pub config: Value,
    /// Its credentials.
    pub auth: AuthChange,
    /// Whether it may be called.
    pub enabled: bool,
}

/// A provider ready for calls.
#[derive(Clone)]
pub struct ReadyProvider {
    /// The row, credentials opened.
    pub record: Arc<ProviderRecord>,
    /// What the engine goes by.
    pub policy: CallPolicy,
    /// Who does the calls.
    pub kind: Arc<dyn Provider>,
    /// When it was last saved.
    pub saved_at: DateTime<Utc>,
}

/// A call that was made to try a provider.
#[derive(Debug)]
pub struct Tried {
    /// What went out and came back.
    pub exchange: Exchange,
    /// How it ended.
    pub outcome: Result<CallOutput, CallError>,
    /// How long it took.
    pub took: Duration,
}

/// Why a provider was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No provider has this id.
    #[error("there is no such provider")]
    NotFound,
    /// This release has no such kind.
    #[error("there is no such kind of provider")]
    KindUnknown {
        /// The kinds there are.
        known: Vec<&'static str>,
    },
    /// The configuration cannot be used.
    #[error("the configuration has faults")]
    Invalid(Vec<Fault>),
    /// A published pipeline calls it.
    #[error("published pipelines call the provider")]
    InUse {
        /// Their names.
        pipelines: Vec<String>,
    },
    /// The credentials do not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<tokio_postgres::Error> for ProviderError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// `xmin` changes with every write of a row, whoever writes it.
const COLUMNS: &str =
    "xmin::text as row_version, id, kind, config, auth_sealed, enabled, paused_until, created_at, updated_at";

/// The providers. Clones share everything.
#[derive(Clone)]
pub struct Providers {
    database: Database,
    kinds: ProviderKinds,
    sealer: Arc<dyn Sealer>,
    signals: Signals,
    /// What was made ready, by id: good as long as the row is the one it was made of.
    ready: Arc<Mutex<HashMap<String, Ready>>>,
}

/// A provider made ready, and the version of its row.
struct Ready {
    row_version: String,
    provider: ReadyProvider,
}

impl Providers {
    /// The providers of `database`, of the kinds this release has. Changes are signalled.
    #[must_use]
    pub fn new(database: Database, kinds: ProviderKinds, sealer: Arc<dyn Sealer>, signals: Signals) -> Self {
        Self { database, kinds, sealer, signals, ready: Arc::default() }
    }

    /// A page of all providers by id, those after `after`.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn list(&self, after: Option<&str>, limit: i64) -> Result<Vec<StoredProvider>, ProviderError> {
        let client = self.database.client().await?;
        let text =
            format!("select {COLUMNS} from providers where $1::text is null or id > $1 order by id limit $2");
        let statement = client.prepare_cached(&text).await?;
        let rows = client.query(&statement, &[&after, &limit]).await?;
        Ok(rows.iter().map(stored).collect::<Result<_, _>>()?)
    }

    /// Checks and saves a provider, new or in the place of the one with its id, with as many slots as it may
    /// have calls at once. A pause that the former one asked for is over.
    ///
    /// # Errors
    /// [`ProviderError::KindUnknown`], [`ProviderError::Invalid`]; PostgreSQL.
    pub async fn save(
        &self,
        provider: &SaveProvider,
        audit: AuditEntry,
    ) -> Result<StoredProvider, ProviderError> {
        let kind = self.kind(&provider.kind)?;
        // names are resolved before the transaction: no lock waits for the network
        kind.check_reach(&provider.config).await.map_err(ProviderError::Invalid)?;

        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let text = format!("select {COLUMNS} from providers where id = $1 for no key update");
        let statement = transaction.prepare_cached(&text).await?;
        let before = transaction.query_opt(&statement, &[&provider.id]).await?;
        let kept: Option<Vec<u8>> =
            before.as_ref().map(|row| row.try_get("auth_sealed")).transpose()?.flatten();
        let (auth, sealed) = match &provider.auth {
            AuthChange::Remove => (None, None),
            AuthChange::Set(auth) => {
                (Some(auth.clone()), Some(self.sealer.seal(&purpose(&provider.id), auth)?))
            }
            AuthChange::Keep => {
                let open = |sealed: &Vec<u8>| self.sealer.open(&purpose(&provider.id), sealed);
                (kept.as_ref().map(open).transpose()?, kept)
            }
        };
        let policy = kind
            .check(&provider.config, auth_value(auth.as_ref())?.as_ref())
            .map_err(ProviderError::Invalid)?;

        let text = format!(
            "insert into providers (id, kind, config, auth_sealed, enabled) values ($1, $2, $3, $4, $5)
             on conflict (id) do update set kind = excluded.kind, config = excluded.config,
             auth_sealed = excluded.auth_sealed, enabled = excluded.enabled, paused_until = null,
             updated_at = clock_timestamp()
             returning {COLUMNS}"
        );
        let statement = transaction.prepare_cached(&text).await?;
        let row = transaction
            .query_one(
                &statement,
                &[&provider.id, &provider.kind, &provider.config, &sealed, &provider.enabled],
            )
            .await?;
        let saved = stored(&row)?;
        let slots = i32::try_from(policy.max_concurrency.unwrap_or(NO_SLOTS)).unwrap_or(i32::MAX);
        let statement = transaction
            .prepare_cached(
                "insert into provider_slots (provider, slot) select $1, slot from generate_series(0, $2 - 1) as slot
                 on conflict do nothing",
            )
            .await?;
        transaction.execute(&statement, &[&provider.id, &slots]).await?;
        // a slot beyond the ceiling is not given again; one that is held goes when the provider is next saved
        let statement = transaction
            .prepare_cached(
                "delete from provider_slots where provider = $1 and slot >= $2 and attempt is null",
            )
            .await?;
        transaction.execute(&statement, &[&provider.id, &slots]).await?;
        audit_log::insert(&transaction, std::slice::from_ref(&audit)).await?;
        commit(transaction).await?;
        self.signals.send(Signal::ProvidersChanged);
        Ok(saved)
    }

    /// Removes a provider that no published pipeline calls. Tasks that run with an older version fail at it.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`], [`ProviderError::InUse`]; PostgreSQL.
    pub async fn delete(&self, id: &str, audit: AuditEntry) -> Result<StoredProvider, ProviderError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let text = format!("select {COLUMNS} from providers where id = $1 for update");
        let statement = transaction.prepare_cached(&text).await?;
        let row = transaction.query_opt(&statement, &[&id]).await?.ok_or(ProviderError::NotFound)?;
        let removed = stored(&row)?;
        let statement = transaction
            .prepare_cached(
                "select p.name from pipelines p
                 join pipeline_versions v on v.pipeline_id = p.id and v.version = p.published_version
                 where exists (
                     select from jsonb_array_elements(v.definition -> 'nodes') as node
                     where node ->> 'provider' = $1 or node -> 'fallback' @> to_jsonb($1)
                 ) order by p.name limit 20",
            )
            .await?;
        let pipelines: Vec<String> = transaction
            .query(&statement, &[&id])
            .await?
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, _>>()?;
        if !pipelines.is_empty() {
            return Err(ProviderError::InUse { pipelines });
        }
        let statement = transaction.prepare_cached("delete from providers where id = $1").await?;
        transaction.execute(&statement, &[&id]).await?;
        audit_log::insert(&transaction, std::slice::from_ref(&audit)).await?;
        commit(transaction).await?;
        self.signals.send(Signal::ProvidersChanged);
        Ok(removed)
    }

    /// A provider as it stands now, ready for calls.
    ///
    /// # Errors
    /// [`ProviderError::NotFound`]; [`ProviderError::KindUnknown`] and [`ProviderError::Invalid`] when another
    /// release saved it; [`ProviderError::Seal`]; PostgreSQL.
    pub async fn load(&self, id: &str) -> Result<ReadyProvider, ProviderError> {
        let client = self.database.client().await?;
        let text = format!("select {COLUMNS} from providers where id = $1");
        let statement = client.prepare_cached(&text).await?;
        let row = client.query_opt(&statement, &[&id]).await?.ok_or(ProviderError::NotFound)?;
        drop(client);
        self.ready(&row)
    }

    /// All providers as they stand now; one that cannot be used comes with the reason.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn load_all(
        &self,
    ) -> Result<Vec<(String, Result<ReadyProvider, ProviderError>)>, ProviderError> {
        let client = self.database.client().await?;
        let text = format!("select {COLUMNS} from providers order by id");
        let statement = client.prepare_cached(&text).await?;
        let rows = client.query(&statement, &[]).await?;
        drop(client);
        let all: Vec<(String, Result<ReadyProvider, ProviderError>)> = rows
            .iter()
            .map(|row| Ok((row.try_get("id")?, self.ready(row))))
            .collect::<Result<_, ProviderError>>()?;
        self.known().retain(|id, _| all.iter().any(|(known, _)| known == id));
        Ok(all)
    }

    /// Makes one call of a provider as it stands now, outside of any task and beside its ceilings, with the files
    /// of the administrator who asks. The call itself is no write, but it may cost: it stands in the audit log.
    ///
    /// # Errors
    /// As [`Self::load`]. A call that fails is no error.
    pub async fn try_out(
        &self,
        id: &str,
        input: Value,
        files: UserFiles,
        audit: AuditEntry,
    ) -> Result<Tried, ProviderError> {
        let ready = self.load(id).await?;
        let (task, attempt, timeout) = (TaskId::new(), AttemptId::new(), ready.policy.timeout.min(TRIAL_MAX));
        let token = ready.policy.callback.then(CallbackToken::new);
        let client = self.database.client().await?;
        audit_log::insert(&client, std::slice::from_ref(&audit)).await?;
        if let Some(token) = token.clone() {
            callbacks::insert(&client, &[NewCallback { token, attempt, timeout }]).await?;
        }
        drop(client);
        let started = Instant::now();
        let call = Call {
            attempt_id: attempt,
            task,
            user: audit.actor,
            node: "test".to_owned(),
            attempt: 1,
            provider: ready.record,
            input,
            idempotency_key: format!("{task}:test"),
            deadline: started + timeout,
            files: Arc::new(files),
            submission: Submission::Due,
            callback_token: token.map(|token| token.secret().clone()),
            jobs: Arc::new(TrialJobs::new(self.database.clone(), attempt)),
        };
        let (exchange, outcome) = ready.kind.try_call(call).await;
        Ok(Tried { exchange, outcome, took: started.elapsed() })
    }

    /// Opens credentials and compiles templates once for each version of a row: all providers are read every
    /// second, and few change.
    fn ready(&self, row: &Row) -> Result<ReadyProvider, ProviderError> {
        let (id, row_version): (String, String) = (row.try_get("id")?, row.try_get("row_version")?);
        if let Some(known) = self.known().get(&id).filter(|known| known.row_version == row_version) {
            return Ok(known.provider.clone());
        }
        let (kind, config): (String, Value) = (row.try_get("kind")?, row.try_get("config")?);
        let provider = Arc::clone(self.kind(&kind)?);
        let sealed: Option<Vec<u8>> = row.try_get("auth_sealed")?;
        let auth = sealed.map(|sealed| self.sealer.open(&purpose(&id), &sealed)).transpose()?;
        let policy =
            provider.check(&config, auth_value(auth.as_ref())?.as_ref()).map_err(ProviderError::Invalid)?;
        let enabled = row.try_get("enabled")?;
        let record = Arc::new(ProviderRecord { id: id.clone(), kind, config, auth, enabled });
        let saved_at = row.try_get("updated_at")?;
        let provider = ReadyProvider { record, policy, kind: provider, saved_at };
        self.known().insert(id, Ready { row_version, provider: provider.clone() });
        Ok(provider)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Ready>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kind(&self, kind: &str) -> Result<&Arc<dyn Provider>, ProviderError> {
        self.kinds.get(kind).ok_or_else(|| ProviderError::KindUnknown { known: self.kinds.names() })
    }
}

/// What credentials are sealed for: they open for no other provider.
fn purpose(id: &str) -> String {
    format!("provider:{id}")
}

fn auth_value(auth: Option<&SecretString>) -> Result<Option<Value>, SealError> {
    auth.map(|auth| serde_json::from_str(auth.expose_secret())).transpose().map_err(|_| SealError)
}

/// What the audit log keeps of a saved provider: everything but the credentials.
#[must_use]
pub fn audit_detail(provider: &SaveProvider) -> Value {
    let auth = match provider.auth {
        AuthChange::Keep => "kept",
        AuthChange::Remove => "none",
        AuthChange::Set(_) => "set",
    };
    json!({"kind": provider.kind, "config": provider.config, "enabled": provider.enabled, "auth": auth})
}

fn stored(row: &Row) -> Result<StoredProvider, DatabaseError> {
    let sealed: Option<&[u8]> = row.try_get("auth_sealed")?;
    Ok(StoredProvider {
        id: row.try_get("id")?,
        kind: row.try_get("kind")?,
        config: row.try_get("config")?,
        has_auth: sealed.is_some(),
        enabled: row.try_get("enabled")?,
        paused_until: row.try_get("paused_until")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}
