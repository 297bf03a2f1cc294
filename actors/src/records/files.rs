//! Files of users: what they upload, what their tasks make. The bytes lie in the object store; a row says whose
//! they are.
//!
//! A row is written before its bytes come (`completed_at` is null) and counts for nothing until they are known
//! to be there. Bytes are removed before their row: a crash in between leaves a row whose deletion can be
//! repeated, never bytes that nobody knows of.

use crate::{
    database::{Database, DatabaseError},
    ids::{FileId, TaskId, UserId},
    object_store::{ObjectStore, ObjectStoreError},
    pipeline::provider::{CallError, FileAccess},
};
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use std::{sync::Arc, time::Duration};
use tokio_postgres::Row;

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// Sent by its user.
    Upload,
    /// Made by a task on its way.
    Intermediate,
    /// Named by a task's output.
    Output,
}

impl FileKind {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Upload, Self::Intermediate, Self::Output];

    /// The name in the API and in the database.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Intermediate => "intermediate",
            Self::Output => "output",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A file's row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its id.
    pub id: FileId,
    /// Whose it is.
    pub user: UserId,
    /// The task that made it, if one did.
    pub task: Option<TaskId>,
    /// What it is for.
    pub kind: FileKind,
    /// A name to show.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// Its size in bytes; of an upload that is not complete, the promised one.
    pub size: u64,
    /// Where its bytes lie.
    pub object_key: String,
    /// Whether its bytes are known to be there.
    pub is_complete: bool,
    /// When its row was written.
    pub created_at: DateTime<Utc>,
}

/// An upload that is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUpload {
    /// Whose it will be.
    pub user: UserId,
    /// A name to show.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// Its size in bytes.
    pub size: u64,
}

/// Why a file was not read or changed.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The user has no such file.
    #[error("there is no such file")]
    NotFound,
    /// The bytes are not there, or not as many as promised.
    #[error("the bytes of the file are not there in full")]
    UploadIncomplete,
    /// A task that has not ended may still read it.
    #[error("a task that has not ended uses the file")]
    InUse,
    /// PostgreSQL.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// The object store.
    #[error(transparent)]
    Store(#[from] ObjectStoreError),
}

impl From<tokio_postgres::Error> for FileError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Database(error.into())
    }
}

/// Where the bytes of a file lie.
#[must_use]
pub fn object_key(user: UserId, file: FileId) -> String {
    format!("{user}/{file}")
}

/// How long an upload may be completed after it was announced.
const COMPLETE_WITHIN: &str = "24 hours";

/// When an upload that was never completed is removed. The hour between the two is far more than the time a
/// completion takes, so nothing is removed that is just being completed.
const ABANDONED_AFTER: &str = "25 hours";

const COLUMNS: &str = "id, user_id, task_id, kind, name, content_type, size, object_key, completed_at is not null as is_complete, \
     created_at";

/// The files. Clones share the pool and the store.
#[derive(Clone)]
pub struct Files {
    database: Database,
    store: Arc<dyn ObjectStore>,
}

impl Files {
    /// The files of `database` whose bytes lie in `store`.
    #[must_use]
    pub fn new(database: Database, store: Arc<dyn ObjectStore>) -> Self {
        Self { database, store }
    }

    /// Where the bytes lie.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// Writes the row of an upload whose bytes are still to come.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn announce(&self, upload: &NewUpload) -> Result<File, FileError> {
        let id = FileId::new();
        let client = self.database.client().await?;
        let text = format!(
            "insert into files (id, user_id, kind, name, content_type, size, object_key)
             values ($1, $2, 'upload', $3, $4, $5, $6) returning {COLUMNS}"
        );
        let statement = client.prepare_cached(&text).await?;
        let size = i64::try_from(upload.size).unwrap_or(i64::MAX);
        let key = object_key(upload.user, id);
        let row = client
            .query_one(&statement, &[&id, &upload.user, &upload.name, &upload.content_type, &size, &key])
            .await?;
        Ok(from_row(&row)?)
    }

    /// A file of `user`, complete or not.
    ///
    /// # Errors
    /// [`FileError::NotFound`]; PostgreSQL.
    pub async fn get(&self, user: UserId, file: FileId) -> Result<File, FileError> {
        let client = self.database.client().await?;
        let text = format!("select {COLUMNS} from files where id = $1 and user_id = $2");
        let statement = client.prepare_cached(&text).await?;
        let row = client.query_opt(&statement, &[&file, &user]).await?.ok_or(FileError::NotFound)?;
        Ok(from_row(&row)?)
    }

    /// The complete files that the given tasks made, oldest first.
    ///
    /// # Errors
    /// PostgreSQL.
    pub async fn of_tasks(&self, tasks: &[TaskId]) -> Result<Vec<File>, FileError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let client = self.database.client().await?;
        let text = format!(
            "select {COLUMNS} from files where task_id = any($1) and completed_at is not null order by id"
        );
        let statement = client.prepare_cached(&text).await?;
        let rows = client.query(&statement, &[&tasks]).await?;
        Ok(rows.iter().map(from_row).collect::<Result<_, _>>()?)
    }

    /// Marks an upload as complete if its bytes are there. Again is the same. A day after it was announced an
    /// upload that is not complete is as good as gone.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::UploadIncomplete`]; PostgreSQL, the store.
    pub async fn complete(&self, user: UserId, file: FileId) -> Result<File, FileError> {
        let found = self.get(user, file).await?;
        if found.is_complete {
            return Ok(found);
        }
        if self.store.size(&found.object_key).await? != Some(found.size) {
            return Err(FileError::UploadIncomplete);
        }
        let client = self.database.client().await?;
        let text = format!(
            "update files set completed_at = coalesce(completed_at, clock_timestamp())
             where id = $1 and user_id = $2
             and (completed_at is not null or created_at > clock_timestamp() - interval '{COMPLETE_WITHIN}')
             returning {COLUMNS}"
        );
        let statement = client.prepare_cached(&text).await?;
        // deleted meanwhile: not there
        let row = client.query_opt(&statement, &[&file, &user]).await?.ok_or(FileError::NotFound)?;
        Ok(from_row(&row)?)
    }

    /// Removes a file, bytes first. A file that a task of its user may still read is kept.
    ///
    /// # Errors
    /// [`FileError::NotFound`], [`FileError::InUse`]; PostgreSQL, the store.
    pub async fn delete(&self, user: UserId, file: FileId) -> Result<(), FileError> {
        let found = self.get(user, file).await?;
        let client = self.database.client().await?;
        let statement = client
            .prepare_cached(
                // three selects, because each has an index of its own on the user's few live tasks
                "select exists (select from tasks where user_id = $1 and status = 'queued' and owner is null
                                and (id = $2 or position($3 in input::text) > 0))
                     or exists (select from tasks where user_id = $1 and owner is not null
                                and status in ('queued', 'running')
                                and (id = $2 or position($3 in input::text) > 0))
                     or exists (select from tasks where user_id = $1 and status = 'running' and owner is null
                                and (id = $2 or position($3 in input::text) > 0))",
            )
            .await?;
        let in_use: bool =
            client.query_one(&statement, &[&user, &found.task, &file.to_string()]).await?.try_get(0)?;
        drop(client);
        if in_use {
            return Err(FileError::InUse);
        }
        self.remove(&found).await
    }

    /// Removes uploads that were never completed and cannot be any more, at most `limit` of them, and says how
    /// many.
    ///
    /// # Errors
    /// PostgreSQL, the store.
    pub async fn remove_abandoned(&self, limit: i64) -> Result<u64, FileError> {
        let client = self.database.client().await?;
        let text = format!(
            "select {COLUMNS} from files
             where completed_at is null and created_at < clock_timestamp() - interval '{ABANDONED_AFTER}'
             order by created_at limit $1"
        );
        let statement = client.prepare_cached(&text).await?;
        let rows = client.query(&statement, &[&limit]).await?;
        drop(client);
        let mut removed = 0;
        for row in &rows {
            self.remove(&from_row(row)?).await?;
            removed += 1;
        }
        Ok(removed)
    }

    async fn remove(&self, file: &File) -> Result<(), FileError> {
        self.store.delete(&file.object_key).await?;
        let client = self.database.client().await?;
        let statement = client
            .prepare_cached(
                "with avatar as (update users set avatar = null where id = $2 and avatar = $1::uuid::text)
                 delete from files where id = $1",
            )
            .await?;
        client.execute(&statement, &[&file.id, &file.user]).await?;
        Ok(())
    }

    /// The files of one user, for the calls of that user's tasks.
    #[must_use]
    pub fn of_user(&self, user: UserId) -> UserFiles {
        UserFiles { files: self.clone(), user }
    }
}

/// What the calls of one user's tasks may read: that user's complete files.
pub struct UserFiles {
    files: Files,
    user: UserId,
}

impl UserFiles {
    async fn find(&self, file: FileId) -> Result<File, CallError> {
        match self.files.get(self.user, file).await {
            Ok(found) if found.is_complete => Ok(found),
            Ok(_) | Err(FileError::NotFound) => Err(no_such_file()),
            Err(error) => Err(cannot_read(&error)),
        }
    }
}

#[async_trait]
impl FileAccess for UserFiles {
    async fn read(&self, file: FileId, limit: u64) -> Result<Bytes, CallError> {
        let found = self.find(file).await?;
        match self.files.store.get(&found.object_key, limit).await {
            Ok(bytes) => Ok(bytes),
            Err(ObjectStoreError::NotFound) => Err(no_such_file()),
            Err(ObjectStoreError::TooLarge { limit }) => {
                Err(CallError::permanent("INPUT_INVALID", format!("a file has more than {limit} bytes")))
            }
            Err(error) => Err(cannot_read(&error)),
        }
    }

    async fn link(&self, file: FileId, lasting: Duration) -> Result<String, CallError> {
        let found = self.find(file).await?;
        Ok(self.files.store.presign_download(&found.object_key, &found.content_type, &found.name, lasting))
    }
}

fn no_such_file() -> CallError {
    CallError::permanent("INPUT_INVALID", "a file that the step names is not there any more")
}

fn cannot_read(error: &dyn std::error::Error) -> CallError {
    tracing::warn!(error = %crate::causes(&error), "a file of a task cannot be read now");
    CallError::retryable("PROVIDER_UNAVAILABLE", "the files of the task cannot be read now")
}

fn from_row(row: &Row) -> Result<File, DatabaseError> {
    let kind: &str = row.try_get("kind")?;
    let size: i64 = row.try_get("size")?;
    Ok(File {
        id: row.try_get("id")?,
        user: row.try_get("user_id")?,
        task: row.try_get("task_id")?,
        // the columns' checks allow nothing else
        kind: FileKind::named(kind).unwrap_or(FileKind::Intermediate),
        name: row.try_get("name")?,
        content_type: row.try_get("content_type")?,
        size: u64::try_from(size).unwrap_or_default(),
        object_key: row.try_get("object_key")?,
        is_complete: row.try_get("is_complete")?,
        created_at: row.try_get("created_at")?,
    })
}
