//! The object store on a local directory: one machine, or one shared file system for all replicas.
//!
//! An object is a file `objects/ab/cd/<key>`, where `abcd` begins the hash of its key and slashes of the key
//! are underscores; keys of other than small letters, digits, hyphens and slashes do not exist. Bytes are
//! written under `tmp/`, synced, and only then get their name, so a crash leaves either the whole object or a
//! leftover in `tmp/`, which the next start removes when it is a day old.
//!
//! Clients come by signed links (see [`links`]) that `src/http/objects.rs` serves.

mod files;
mod links;
#[cfg(test)]
mod tests;

use crate::sealing::DerivedKeys;
use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use files::{Files, Written};
use futures_util::StreamExt;
use greenroom_actors::{
    clock::Clock,
    object_store::{
        LinkError, LinkedObjects, ObjectBytes, ObjectDownload, ObjectPage, ObjectStore, ObjectStoreError,
        PresignedUpload, UploadGrant,
    },
};
use links::{Download, LinkSigner};
use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};
use tokio_util::io::ReaderStream;
use url::Url;

/// How long a sender may be silent in the middle of an upload.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Objects in a directory.
pub struct LocalObjectStore {
    files: Files,
    links: LinkSigner,
    clock: Arc<dyn Clock>,
}

impl LocalObjectStore {
    /// A store in `directory`, made if it is missing. Links begin with `public_url`, the origin clients
    /// reach us at, and are signed with `link_keys`, which must be the same on all replicas.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn open(
        directory: PathBuf,
        public_url: Url,
        link_keys: &DerivedKeys,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        Ok(Self { files: Files::open(directory)?, links: LinkSigner::new(public_url, link_keys), clock })
    }

    fn expiry(&self, lasting: Duration) -> DateTime<Utc> {
        self.clock.now() + TimeDelta::from_std(lasting).unwrap_or_default()
    }
}

#[async_trait]
impl ObjectStore for LocalObjectStore {
    async fn put(&self, key: &str, _content_type: &str, bytes: Bytes) -> Result<(), ObjectStoreError> {
        let mut part = self.files.begin(key).await?;
        part.write(&bytes).await?;
        Ok(part.replace().await?)
    }

    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ObjectStoreError> {
        let (file, size) = self.files.read(key).await?.ok_or(ObjectStoreError::NotFound)?;
        if size > limit {
            return Err(ObjectStoreError::TooLarge { limit });
        }
        Ok(files::read_whole(file, size).await?)
    }

    async fn size(&self, key: &str) -> Result<Option<u64>, ObjectStoreError> {
        Ok(self.files.read(key).await?.map(|(_, size)| size))
    }

    async fn delete(&self, key: &str) -> Result<(), ObjectStoreError> {
        Ok(self.files.delete(key).await?)
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<ObjectPage, ObjectStoreError> {
        Ok(self.files.list(after, limit).await?)
    }

    fn presign_upload(&self, key: &str, content_type: &str, size: u64, lasting: Duration) -> PresignedUpload {
        let expires_at = self.expiry(lasting);
        let grant = UploadGrant { key: key.to_owned(), content_type: content_type.to_owned(), size };
        PresignedUpload {
            method: "PUT",
            url: self.links.upload(&grant, expires_at),
            headers: BTreeMap::from([("Content-Type".to_owned(), content_type.to_owned())]),
            expires_at,
        }
    }

    fn presign_download(&self, key: &str, content_type: &str, name: &str, lasting: Duration) -> String {
        let download =
            Download { key: key.to_owned(), content_type: content_type.to_owned(), name: name.to_owned() };
        self.links.download(&download, self.expiry(lasting))
    }
}

#[async_trait(?Send)]
impl LinkedObjects for LocalObjectStore {
    fn check_upload(&self, key: &str, query: &str) -> Result<UploadGrant, LinkError> {
        self.links.check_upload(key, query, self.clock.now()).ok_or(LinkError::Refused)
    }

    async fn receive(&self, grant: &UploadGrant, mut bytes: ObjectBytes<'_>) -> Result<(), LinkError> {
        let unavailable = |error: io::Error| LinkError::Store(error.into());
        if self.files.read(&grant.key).await.map_err(unavailable)?.is_some() {
            return Err(LinkError::Exists);
        }
        let mut part = self.files.begin(&grant.key).await.map_err(unavailable)?;
        let wrong_size = LinkError::WrongSize { expected: grant.size };
        let mut received = 0;
        loop {
            let silent = |_| LinkError::Interrupted(io::ErrorKind::TimedOut.into());
            let Some(chunk) = tokio::time::timeout(SILENCE_MAX, bytes.next()).await.map_err(silent)? else {
                break;
            };
            let chunk = chunk.map_err(LinkError::Interrupted)?;
            received += chunk.len() as u64;
            if received > grant.size {
                return Err(wrong_size);
            }
            part.write(&chunk).await.map_err(unavailable)?;
        }
        if received != grant.size {
            return Err(wrong_size);
        }
        match part.create().await.map_err(unavailable)? {
            Written::New => Ok(()),
            Written::AlreadyThere => Err(LinkError::Exists),
        }
    }

    async fn open(&self, key: &str, query: &str) -> Result<ObjectDownload, LinkError> {
        let Download { key, content_type, name } =
            self.links.check_download(key, query, self.clock.now()).ok_or(LinkError::Refused)?;
        let found = self.files.read(&key).await.map_err(ObjectStoreError::from)?;
        let (file, size) = found.ok_or(ObjectStoreError::NotFound)?;
        Ok(ObjectDownload {
            content_type,
            name,
            size,
            bytes: Box::pin(ReaderStream::with_capacity(file, 65_536)),
        })
    }
}
