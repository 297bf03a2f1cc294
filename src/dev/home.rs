//! The directory of `greenroom dev`: its lock, the secrets made once, and `dev.json`.

use std::fs::{self, File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::servers::{Place, write_private};
use super::{random_key, random_text};

/// Everything `--fresh` removes, besides the servers' data.
const KEPT: [&str; 3] = ["secrets.json", "dev.json", "files"];

/// Secrets of this installation, made at the first start and kept where only their owner can read them.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Secrets {
    pub(super) jwt_secret: String,
    pub(super) key: String,
    pub(super) admin_password: String,
    pub(super) user_password: String,
}

/// A directory that is ours while this lives.
pub(super) struct Home {
    dir: PathBuf,
    _lock: File,
}

impl Home {
    /// Takes the directory, and empties it when `fresh`.
    ///
    /// # Errors
    /// When another process has it.
    pub(super) fn take(dir: &Path, fresh: bool) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let mut lock =
            File::options().read(true).write(true).create(true).truncate(false).open(dir.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                lock.read_to_string(&mut owner)?;
                bail!(
                    "another `greenroom dev` (process {}) uses {}; stop it, or choose another --dir",
                    owner.trim(),
                    dir.display()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).context("cannot lock the directory"),
        }
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())?;
        let home = Self { dir, _lock: lock };
        // what a killed predecessor left would tell of a service that is gone
        remove(&home.dev_json())?;
        if fresh {
            home.empty()?;
        }
        Ok(home)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn files(&self) -> PathBuf {
        self.dir.join("files")
    }

    fn empty(&self) -> Result<()> {
        Place::empty(&self.dir)?;
        KEPT.iter().try_for_each(|name| remove(&self.dir.join(name)))
    }

    /// The secrets, made when they are missing.
    pub(super) fn secrets(&self) -> Result<Secrets> {
        let path = self.dir.join("secrets.json");
        if path.exists() {
            let text = fs::read_to_string(&path)?;
            return serde_json::from_str(&text)
                .with_context(|| format!("{} is damaged; --fresh begins anew", path.display()));
        }
        let secrets = Secrets {
            jwt_secret: random_text(48),
            key: random_key(),
            admin_password: random_text(20),
            user_password: random_text(20),
        };
        write_private(&path, serde_json::to_string_pretty(&secrets)?.as_bytes())?;
        Ok(secrets)
    }

    /// Where others read how to reach the service. It is removed when this process ends.
    pub(super) fn dev_json(&self) -> PathBuf {
        self.dir.join("dev.json")
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        let _ = remove(&self.dev_json());
    }
}

fn remove(path: &Path) -> Result<()> {
    let outcome = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match outcome {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// Takes a directory that was let go. A process that another test is just starting may hold the lock for a moment.
    fn take_again(dir: &Path, fresh: bool) -> Home {
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            match Home::take(dir, fresh) {
                Ok(home) => return home,
                Err(error) => assert!(std::time::Instant::now() < until, "{error:#}"),
            }
        }
    }

    #[test]
    fn a_directory_serves_one_process_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::take(dir.path(), false).unwrap();
        let refusal = Home::take(dir.path(), false).err().unwrap().to_string();
        assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
        drop(first);
        take_again(dir.path(), false);
    }

    #[test]
    fn secrets_are_made_once_and_anew_when_fresh() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::take(dir.path(), false).unwrap();
        let first = home.secrets().unwrap();
        assert_eq!(home.secrets().unwrap().user_password, first.user_password);
        let mode = fs::metadata(dir.path().join("secrets.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(home);
        let home = take_again(dir.path(), true);
        assert_ne!(home.secrets().unwrap().user_password, first.user_password);
    }

    #[test]
    fn dev_json_ends_with_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::take(dir.path(), false).unwrap();
        let path = home.dev_json();
        write_private(&path, b"{}").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        drop(home);
        assert!(!path.exists());
        // one that a killed predecessor left
        write_private(&path, b"{}").unwrap();
        take_again(dir.path(), false);
        assert!(!path.exists());
    }
}
