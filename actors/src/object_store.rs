//! Where the bytes of files lie: a local directory or a cloud's object store, behind one trait.

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::Stream;
use std::{collections::BTreeMap, io, pin::Pin, time::Duration};

/// What a client is told so that it can send bytes straight to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PresignedUpload {
    /// The HTTP method to use.
    pub method: &'static str,
    /// Where to; carries its own signature and expiry.
    pub url: String,
    /// Headers to send exactly.
    pub headers: BTreeMap<String, String>,
    /// When the link ends.
    pub expires_at: DateTime<Utc>,
}

/// An object that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredObject {
    /// Its key.
    pub key: String,
    /// How long ago it was written.
    pub age: Duration,
}

/// Some of the objects that are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObjectPage {
    /// The objects; a page may have none and not be the last.
    pub objects: Vec<StoredObject>,
    /// Where the next page begins; `None` on the last.
    pub next: Option<String>,
}

/// Why the store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ObjectStoreError {
    /// There is no such object.
    #[error("there is no such object")]
    NotFound,
    /// The object is larger than the caller can take.
    #[error("the object has more than {limit} bytes")]
    TooLarge {
        /// The caller's bound, bytes.
        limit: u64,
    },
    /// The store cannot be reached or failed; the same may work later.
    #[error("the object store is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<io::Error> for ObjectStoreError {
    fn from(error: io::Error) -> Self {
        Self::Unavailable(Box::new(error))
    }
}

/// A store of immutable objects under keys of our own making.
#[async_trait]
pub trait ObjectStore: Send + Sync {
    /// Stores `bytes` durably under `key`; the same key again replaces it with the same content.
    async fn put(&self, key: &str, content_type: &str, bytes: Bytes) -> Result<(), ObjectStoreError>;

    /// The object's bytes, if it has at most `limit` of them.
    async fn get(&self, key: &str, limit: u64) -> Result<Bytes, ObjectStoreError>;

    /// The object's size in bytes, or `None` where there is none.
    async fn size(&self, key: &str) -> Result<Option<u64>, ObjectStoreError>;

    /// Removes the object; one that is not there counts as removed.
    async fn delete(&self, key: &str) -> Result<(), ObjectStoreError>;

    /// All objects, page by page in the store's own order: some `limit` of them behind `after`, which is where
    /// the page before ended.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<ObjectPage, ObjectStoreError>;

    /// A link that lets its holder upload exactly `size` bytes of `content_type` for the time `lasting`.
    fn presign_upload(&self, key: &str, content_type: &str, size: u64, lasting: Duration) -> PresignedUpload;

    /// A link that lets its holder download the object under the file name `name` for the time `lasting`.
    fn presign_download(&self, key: &str, content_type: &str, name: &str, lasting: Duration) -> String;
}

/// The bytes of an object on their way.
pub type ObjectBytes<'a> = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + 'a>>;

/// What a checked upload link lets its holder do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadGrant {
    /// Under which key.
    pub key: String,
    /// Of which media type.
    pub content_type: String,
    /// Of exactly how many bytes.
    pub size: u64,
}

/// An object on its way to the holder of a download link.
pub struct ObjectDownload {
    /// Its media type.
    pub content_type: String,
    /// The name to save it under.
    pub name: String,
    /// Its bytes' number.
    pub size: u64,
    /// Its bytes.
    pub bytes: ObjectBytes<'static>,
}

/// Why a link was not served.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The signature is not ours, is for something else, or its time is over.
    #[error("the link is not valid, or not any more")]
    Refused,
    /// An upload link was used already.
    #[error("the object is there already")]
    Exists,
    /// Other than the promised number of bytes came.
    #[error("the link is for exactly {expected} bytes")]
    WrongSize {
        /// What was promised.
        expected: u64,
    },
    /// The sender stopped in the middle.
    #[error("the sender stopped")]
    Interrupted(#[source] io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] ObjectStoreError),
}

/// A store whose links our own server serves, because it has none of its own.
#[async_trait(?Send)]
pub trait LinkedObjects: Send + Sync {
    /// Checks an upload link: the key of its path and its query.
    fn check_upload(&self, key: &str, query: &str) -> Result<UploadGrant, LinkError>;

    /// Stores what comes durably, if it is as many bytes as granted and nothing lies there.
    async fn receive(&self, grant: &UploadGrant, bytes: ObjectBytes<'_>) -> Result<(), LinkError>;

    /// Checks a download link and opens its object.
    async fn open(&self, key: &str, query: &str) -> Result<ObjectDownload, LinkError>;
}
