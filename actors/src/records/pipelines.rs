//! Pipelines and their versions, as administrators write them and as runs use them.
//!
//! A version never changes once written, so compiled definitions are kept in memory; which version is
//! published is read from PostgreSQL each time and so holds on every replica at once.

use crate::{
    database::{Database, DatabaseError, commit},
    ids::{PipelineId, UserId},
    pipeline::{Fault, definition::Definition},
    quota::AuditEntry,
};
use chrono::{DateTime, Utc};
use deadpool_postgres::{GenericClient, Transaction};
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};
use tokio_postgres::Row;

/// Compiled definitions kept at once; at some 100 kB each this is 25 MB at most.
const COMPILED_MAX: usize = 256;

/// A pipeline's row, and how far its versions have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pipeline {
    /// Its id, over all versions.
    pub id: PipelineId,
    /// The name in its newest version.
    pub name: String,
    /// The description in its newest version.
    pub description: String,
    /// The version new tasks start with; `None` when nobody can start one.
    pub published_version: Option<i32>,
    /// The newest version.
    pub latest_version: i32,
    /// When its first version was written.
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    pub updated_at: DateTime<Utc>,
}

/// One version as it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct PipelineVersion {
    /// Which pipeline.
    pub pipeline: PipelineId,
    /// 1 and up.
    pub version: i32,
    /// The definition.
    pub definition: Value,
    /// Who wrote it.
    pub created_by: Option<UserId>,
    /// When.
    pub created_at: DateTime<Utc>,
}

/// A pipeline that tasks can be started of, in its published version.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its id.
    pub id: PipelineId,
    /// The published version.
    pub version: i32,
    /// What that version says.
    pub definition: Arc<Definition>,
}

/// Why a pipeline was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum PipelineRecordError {
    /// No pipeline has this id.
    #[error("there is no such pipeline")]
    NotFound,
    /// The pipeline has no such version.
    #[error("the pipeline has no version {0}")]
    VersionNotFound(i32),
    /// The definition cannot be run.
    #[error("the definition has faults")]
    Invalid(Vec<Fault>),
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl From<tokio_postgres::Error> for PipelineRecordError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// The pipelines. Clones share the compiled definitions.
#[derive(Clone)]
pub struct Pipelines {
    database: Database,
    compiled: Arc<Mutex<Compiled>>,
}

#[derive(Default)]
struct Compiled {
    definitions: HashMap<(PipelineId, i32), Arc<Definition>>,
    oldest_first: VecDeque<(PipelineId, i32)>,
}

const PIPELINE_COLUMNS: &str = "p.id, p.name, p.description, p.published_version, p.created_at, p.updated_at, \
     (select max(v.version) from pipeline_versions v where v.pipeline_id = p.id) as latest_version";

impl Pipelines {
    /// The pipelines of `database`, none compiled yet.
    #[must_use]
    pub fn new(database: Database) -> Self {
        Self { database, compiled: Arc::default() }
    }

    /// Checks a definition against the providers there are now. Writes nothing.
    ///
    /// # Errors
    /// [`PipelineRecordError::Invalid`] with every fault.
    pub async fn validate(&self, definition: &Value) -> Result<Definition, PipelineRecordError> {
        let client = self.database.client().await?;
        let statement = client.prepare_cached("select id from providers").await?;
        let providers: HashSet<String> = client
            .query(&statement, &[])
            .await?
            .iter()
            .map(|row| row.try_get(0))
            .collect::<Result<_, tokio_postgres::Error>>()?;
        Definition::parse(definition, &|id| providers.contains(id)).map_err(PipelineRecordError::Invalid)
    }

    /// Writes a new pipeline, as a draft in version 1.
    ///
    /// # Errors
    /// [`PipelineRecordError::Invalid`] with every fault; PostgreSQL.
    pub async fn create(
        &self,
        definition: &Value,
        audit: AuditBy,
    ) -> Result<PipelineVersion, PipelineRecordError> {
        let parsed = self.validate(definition).await?;
        let pipeline = PipelineId::new();
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let statement = transaction
            .prepare_cached("insert into pipelines (id, name, description) values ($1, $2, $3)")
            .await?;
        transaction.execute(&statement, &[&pipeline, &parsed.name, &parsed.description]).await?;
        let version = insert_version(&transaction, pipeline, 1, definition, audit.actor).await?;
        audit.write(&transaction, "pipeline.create", pipeline, json!({"version": 1})).await?;
        commit(transaction).await?;
        Ok(version)
    }

    /// Writes the next version of a pipeline. What is published stays published.
    ///
    /// # Errors
    /// [`PipelineRecordError::NotFound`], [`PipelineRecordError::Invalid`]; PostgreSQL.
    pub async fn add_version(
        &self,
        pipeline: PipelineId,
        definition: &Value,
        audit: AuditBy,
    ) -> Result<PipelineVersion, PipelineRecordError> {
        let parsed = self.validate(definition).await?;
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let next = lock(&transaction, pipeline).await?.latest_version + 1;
        let version = insert_version(&transaction, pipeline, next, definition, audit.actor).await?;
        let statement = transaction
            .prepare_cached(
                "update pipelines set name = $2, description = $3, updated_at = clock_timestamp() where id = $1",
            )
            .await?;
        transaction.execute(&statement, &[&pipeline, &parsed.name, &parsed.description]).await?;
        audit.write(&transaction, "pipeline.version", pipeline, json!({"version": next})).await?;
        commit(transaction).await?;
        Ok(version)
    }

    /// Lets tasks start with `version`, the newest when it is not said.
    ///
    /// # Errors
    /// [`PipelineRecordError::NotFound`], [`PipelineRecordError::VersionNotFound`]; PostgreSQL.
    pub async fn publish(
        &self,
        pipeline: PipelineId,
        version: Option<i32>,
        audit: AuditBy,
    ) -> Result<Pipeline, PipelineRecordError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let found = lock(&transaction, pipeline).await?;
        let version = version.unwrap_or(found.latest_version);
        if !(1..=found.latest_version).contains(&version) {
            return Err(PipelineRecordError::VersionNotFound(version));
        }
        let published = set_published(&transaction, pipeline, Some(version)).await?;
        audit.write(&transaction, "pipeline.publish", pipeline, json!({"version": version})).await?;
        commit(transaction).await?;
        Ok(published)
    }

    /// Lets no new task start. Tasks that run go on.
    ///
    /// # Errors
    /// [`PipelineRecordError::NotFound`]; PostgreSQL.
    pub async fn unpublish(
        &self,
        pipeline: PipelineId,
        audit: AuditBy,
    ) -> Result<Pipeline, PipelineRecordError> {
        let mut client = self.database.client().await?;
        let transaction = client.transaction().await?;
        let found = lock(&transaction, pipeline).await?;
        let unpublished = set_published(&transaction, pipeline, None).await?;
        let detail = json!({"version": found.published_version});
        audit.write(&transaction, "pipeline.unpublish", pipeline, detail).await?;
        commit(transaction).await?;
        Ok(unpublished)
    }

    /// One pipeline with its newest version.
    ///
    /// # Errors
    /// [`PipelineRecordError::NotFound`]; PostgreSQL.
    pub async fn get(
        &self,
        pipeline: PipelineId,
    ) -> Result<(Pipeline, PipelineVersion), PipelineRecordError> {
        let client = self.database.client().await?;
        let text = format!("select {PIPELINE_COLUMNS} from pipelines p where p.id = $1");
        let statement = client.prepare_cached(&text).await?;
        let row = client.query_opt(&statement, &[&pipeline]).await?.ok_or(PipelineRecordError::NotFound)?;
        let found = pipeline_from_row(&row)?;
        let statement = client
            .prepare_cached(
                "select pipeline_id, version, definition, created_by, created_at from pipeline_versions
                 where pipeline_id = $1 and version = $2",
            )
            .await?;
        let row = client.query_one(&statement, &[&pipeline, &found.latest_version]).await?;
        Ok((found, version_from_row(&row)?))
    }

    /// A page of all pipelines, newest first, made before `before`.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn list(
        &self,
        before: Option<PipelineId>,
        limit: i64,
    ) -> Result<Vec<Pipeline>, PipelineRecordError> {
        let client = self.database.client().await?;
        let text = format!(
            "select {PIPELINE_COLUMNS} from pipelines p where $1::uuid is null or p.id < $1
             order by p.id desc limit $2"
        );
        let statement = client.prepare_cached(&text).await?;
        let rows = client.query(&statement, &[&before, &limit]).await?;
        Ok(rows.iter().map(pipeline_from_row).collect::<Result<_, _>>()?)
    }

    /// A page of the pipelines that tasks can be started of, newest first, made before `before`.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn list_published(
        &self,
        before: Option<PipelineId>,
        limit: i64,
    ) -> Result<Vec<Published>, PipelineRecordError> {
        let client = self.database.client().await?;
        let statement = client
            .prepare_cached(
                "select id, published_version from pipelines
                 where published_version is not null and ($1::uuid is null or id < $1)
                 order by id desc limit $2",
            )
            .await?;
        let rows = client.query(&statement, &[&before, &limit]).await?;
        drop(client);
        let mut published = Vec::with_capacity(rows.len());
        for row in rows {
            let (id, version) = (row.try_get(0)?, row.try_get(1)?);
            published.push(Published { id, version, definition: self.definition(id, version).await? });
        }
        Ok(published)
    }

    /// One pipeline that tasks can be started of.
    ///
    /// # Errors
    /// [`PipelineRecordError::NotFound`], also when it is not published; PostgreSQL.
    pub async fn published(&self, pipeline: PipelineId) -> Result<Published, PipelineRecordError> {
        let client = self.database.client().await?;
        let statement = client
            .prepare_cached(
                "select published_version from pipelines where id = $1 and published_version is not null",
            )
            .await?;
        let row = client.query_opt(&statement, &[&pipeline]).await?.ok_or(PipelineRecordError::NotFound)?;
        let version = row.try_get(0)?;
        drop(client);
        Ok(Published { id: pipeline, version, definition: self.definition(pipeline, version).await? })
    }

    /// The compiled definition of one version.
    ///
    /// # Errors
    /// [`PipelineRecordError::VersionNotFound`]; [`PipelineRecordError::Invalid`] when what is stored cannot be
    /// run by this release; PostgreSQL.
    pub async fn definition(
        &self,
        pipeline: PipelineId,
        version: i32,
    ) -> Result<Arc<Definition>, PipelineRecordError> {
        if let Some(definition) = self.compiled().definitions.get(&(pipeline, version)) {
            return Ok(Arc::clone(definition));
        }
        let client = self.database.client().await?;
        let statement = client
            .prepare_cached(
                "select definition from pipeline_versions where pipeline_id = $1 and version = $2",
            )
            .await?;
        let row = client.query_opt(&statement, &[&pipeline, &version]).await?;
        drop(client);
        let json: Value = row.ok_or(PipelineRecordError::VersionNotFound(version))?.try_get(0)?;
        let definition = Arc::new(Definition::parse(&json, &|_| true).map_err(PipelineRecordError::Invalid)?);
        let mut compiled = self.compiled();
        if compiled.definitions.insert((pipeline, version), Arc::clone(&definition)).is_none() {
            compiled.oldest_first.push_back((pipeline, version));
        }
        if compiled.oldest_first.len() > COMPILED_MAX
            && let Some(oldest) = compiled.oldest_first.pop_front()
        {
            compiled.definitions.remove(&oldest);
        }
        Ok(definition)
    }

    fn compiled(&self) -> std::sync::MutexGuard<'_, Compiled> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who changes a pipeline, for the audit log.
#[derive(Clone, Debug)]
pub struct AuditBy {
    /// The administrator.
    pub actor: UserId,
    /// The request that asked for it.
    pub request_id: Option<String>,
}

impl AuditBy {
    async fn write(
        self,
        transaction: &Transaction<'_>,
        action: &'static str,
        pipeline: PipelineId,
        detail: Value,
    ) -> Result<(), DatabaseError> {
        let target = format!("pipeline:{pipeline}");
        let entry = AuditEntry { actor: self.actor, action, target, detail, request_id: self.request_id };
        super::audit_log::insert(transaction, &[entry]).await
    }
}

/// Locks a pipeline's row, so that versions are numbered and published one after the other.
async fn lock(transaction: &Transaction<'_>, pipeline: PipelineId) -> Result<Pipeline, PipelineRecordError> {
    let statement =
        transaction.prepare_cached("select from pipelines where id = $1 for no key update").await?;
    transaction.query_opt(&statement, &[&pipeline]).await?.ok_or(PipelineRecordError::NotFound)?;
    // read after the lock: the newest version may have been written while we waited for it
    let text = format!("select {PIPELINE_COLUMNS} from pipelines p where p.id = $1");
    let statement = transaction.prepare_cached(&text).await?;
    Ok(pipeline_from_row(&transaction.query_one(&statement, &[&pipeline]).await?)?)
}

async fn set_published(
    transaction: &Transaction<'_>,
    pipeline: PipelineId,
    version: Option<i32>,
) -> Result<Pipeline, PipelineRecordError> {
    let text = format!(
        "update pipelines p set published_version = $2, updated_at = clock_timestamp() where p.id = $1
         returning {PIPELINE_COLUMNS}"
    );
    let statement = transaction.prepare_cached(&text).await?;
    Ok(pipeline_from_row(&transaction.query_one(&statement, &[&pipeline, &version]).await?)?)
}

async fn insert_version(
    client: &impl GenericClient,
    pipeline: PipelineId,
    version: i32,
    definition: &Value,
    created_by: UserId,
) -> Result<PipelineVersion, PipelineRecordError> {
    let statement = client
        .prepare_cached(
            "insert into pipeline_versions (pipeline_id, version, definition, created_by)
             values ($1, $2, $3, $4) returning pipeline_id, version, definition, created_by, created_at",
        )
        .await?;
    let row = client.query_one(&statement, &[&pipeline, &version, definition, &created_by]).await?;
    Ok(version_from_row(&row)?)
}

fn pipeline_from_row(row: &Row) -> Result<Pipeline, DatabaseError> {
    Ok(Pipeline {
        id: row.try_get("id")?,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        published_version: row.try_get("published_version")?,
        latest_version: row.try_get("latest_version")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
    })
}

fn version_from_row(row: &Row) -> Result<PipelineVersion, DatabaseError> {
    Ok(PipelineVersion {
        pipeline: row.try_get("pipeline_id")?,
        version: row.try_get("version")?,
        definition: row.try_get("definition")?,
        created_by: row.try_get("created_by")?,
        created_at: row.try_get("created_at")?,
    })
}
