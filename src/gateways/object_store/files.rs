//! Files in a directory that appear whole or not at all.

use bytes::Bytes;
use greenroom_actors::object_store::{ObjectPage, StoredObject};
use sha2::{Digest, Sha256};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    fs::{self, File},
    io::{AsyncReadExt, AsyncWriteExt},
};
use uuid::Uuid;

/// The longest key.
const KEY_MAX: usize = 200;

/// A leftover of a crash this old belongs to nobody.
const LEFTOVER_AGE: Duration = Duration::from_secs(24 * 3600);

/// The directory.
pub(super) struct Files {
    root: PathBuf,
}

/// A file that has no name yet; dropped, it is gone.
pub(super) struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

/// What came of giving a file its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is there now.
    New,
    /// Another was there, and stays.
    AlreadyThere,
}

impl Files {
    /// Makes the directory where it is missing and removes old leftovers.
    pub(super) fn open(root: PathBuf) -> io::Result<Self> {
        let files = Self { root };
        std::fs::create_dir_all(files.root.join("objects"))?;
        std::fs::create_dir_all(files.parts())?;
        for entry in std::fs::read_dir(files.parts())? {
            let entry = entry?;
            let age = entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|at| at.elapsed().ok());
            if age.is_some_and(|age| age > LEFTOVER_AGE) {
                let _ = std::fs::remove_file(entry.path()); // another replica may have been faster
            }
        }
        Ok(files)
    }

    /// Opens an object for reading and says its size.
    pub(super) async fn read(&self, key: &str) -> io::Result<Option<(File, u64)>> {
        let Some(path) = self.path(key) else { return Ok(None) };
        match File::open(path).await {
            Ok(file) => {
                let size = file.metadata().await?.len();
                Ok(Some((file, size)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins an object.
    pub(super) async fn begin(&self, key: &str) -> io::Result<Part> {
        let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "no such key can exist");
        let target = self.path(key).ok_or_else(invalid)?;
        let path = self.parts().join(Uuid::new_v4().to_string());
        let file = File::create_new(&path).await?;
        Ok(Part { file, path, target })
    }

    /// Removes an object; one that is not there counts as removed.
    pub(super) async fn delete(&self, key: &str) -> io::Result<()> {
        let Some(path) = self.path(key) else { return Ok(()) };
        match fs::remove_file(path).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The objects of the directories behind `after` (`ab/cd`), at least `limit` of them where there are so many.
    pub(super) async fn list(&self, after: Option<&str>, limit: usize) -> io::Result<ObjectPage> {
        let objects = self.root.join("objects");
        let after = after.unwrap_or_default().to_owned();
        let listed = tokio::task::spawn_blocking(move || list(&objects, &after, limit)).await;
        listed.map_err(io::Error::other)?
    }

    fn parts(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// Where an object lies; nowhere for a key that we would never make.
    fn path(&self, key: &str) -> Option<PathBuf> {
        let is_word = |word: &str| {
            !word.is_empty()
                && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        };
        if key.len() > KEY_MAX || !key.split('/').all(is_word) {
            return None;
        }
        let hash = hex::encode(Sha256::digest(key));
        Some(self.root.join("objects").join(&hash[..2]).join(&hash[2..4]).join(key.replace('/', "_")))
    }
}

fn list(objects: &Path, after: &str, limit: usize) -> io::Result<ObjectPage> {
    let mut page = ObjectPage::default();
    let (first_after, second_after) = after.split_once('/').unwrap_or((after, ""));
    for first in names(objects)?.into_iter().filter(|first| first.as_str() >= first_after) {
        let directory = objects.join(&first);
        for second in names(&directory)? {
            if first == first_after && second.as_str() <= second_after {
                continue;
            }
            let directory = directory.join(&second);
            for name in names(&directory)? {
                // one that is gone by now is none
                let Ok(metadata) = std::fs::metadata(directory.join(&name)) else { continue };
                let age = metadata.modified()?.elapsed().unwrap_or_default();
                page.objects.push(StoredObject { key: name.replace('_', "/"), age });
            }
            if page.objects.len() >= limit {
                page.next = Some(format!("{first}/{second}"));
                return Ok(page);
            }
        }
    }
    Ok(page)
}

/// The names in a directory, in their order.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names: Vec<String> = std::fs::read_dir(directory)?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

impl Part {
    /// Appends.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).await
    }

    /// Gives it its name, in the place of what has it now.
    pub(super) async fn replace(mut self) -> io::Result<()> {
        let directory = self.settle().await?;
        fs::rename(&self.path, &self.target).await?;
        sync_directory(&directory).await
    }

    /// Gives it its name, unless another has it.
    pub(super) async fn create(mut self) -> io::Result<Written> {
        let directory = self.settle().await?;
        // a second name is refused where the first exists, and the part's own name goes with the part
        match fs::hard_link(&self.path, &self.target).await {
            Ok(()) => sync_directory(&directory).await.map(|()| Written::New),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Written::AlreadyThere),
            Err(error) => Err(error),
        }
    }

    /// Makes the bytes durable and the target's directory ready.
    async fn settle(&mut self) -> io::Result<PathBuf> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let directory = self.target.parent().map(Path::to_path_buf).unwrap_or_default();
        fs::create_dir_all(&directory).await?;
        Ok(directory)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path); // renamed already, or removed at a later start
    }
}

/// The whole of an open file.
pub(super) async fn read_whole(file: File, size: u64) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    // a file never changes once it has its name, so this is all of it
    file.take(size).read_to_end(&mut bytes).await?;
    Ok(bytes.into())
}

/// Makes the names in a directory durable, and the directory's own.
async fn sync_directory(directory: &Path) -> io::Result<()> {
    for directory in directory.ancestors().take(3) {
        File::open(directory).await?.sync_all().await?;
    }
    Ok(())
}
