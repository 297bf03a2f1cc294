//! Where the servers keep their data, and as which user they run.
//!
//! PostgreSQL refuses to run as root. When we are root, the servers run as `postgres`, and when that user cannot
//! reach the directory (a clone below /root), the data lies below `/var/lib/greenroom-dev` and the directory holds
//! a link to it.

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use uuid::Uuid;

const OUTSIDE: &str = "/var/lib/greenroom-dev";
const USER: &str = "postgres";

/// A user the servers run as instead of root.
#[derive(Debug, Clone, Copy)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// A directory for the data of private servers.
#[derive(Debug, Clone)]
pub struct Place {
    home: PathBuf,
    pub(super) user: Option<User>,
}

impl Place {
    /// Prepares `dir`, which is made when it is missing.
    ///
    /// # Errors
    /// When a directory cannot be made, or we are root and there is no user `postgres`.
    pub fn prepare(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let dir = dir.canonicalize()?;
        let user = if fs::metadata("/proc/self")?.uid() == 0 { Some(service_user()?) } else { None };
        let link = dir.join("data");
        let home = match (user, fs::symlink_metadata(&link)) {
            (_, Ok(found)) if found.is_symlink() => {
                let target = fs::read_link(&link)?;
                make(&target, user)?;
                target
            }
            (Some(_), Err(_)) if !everyone_reaches(&dir)? => {
                create(Path::new(OUTSIDE), 0o711)?;
                let target = Path::new(OUTSIDE).join(Uuid::now_v7().simple().to_string());
                make(&target, user)?;
                symlink(&target, &link)?;
                target
            }
            _ => {
                make(&link, user)?;
                link
            }
        };
        Ok(Self { home, user })
    }

    /// The directory the servers may write in.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Removes all data of the servers of `dir`, which must have ended.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn empty(dir: &Path) -> Result<()> {
        let link = dir.join("data");
        if fs::symlink_metadata(&link).is_ok_and(|found| found.is_symlink()) {
            let target = fs::read_link(&link)?;
            ensure!(target.starts_with(OUTSIDE), "{} leads to {}", link.display(), target.display());
            remove_all(&target)?;
            fs::remove_file(&link)?;
        }
        remove_all(&link)
    }

    /// Removes `dir` itself too.
    ///
    /// # Errors
    /// As [`Place::empty`].
    pub fn remove(dir: &Path) -> Result<()> {
        Self::empty(dir)?;
        remove_all(dir)
    }
}

fn remove_all(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Makes a directory nobody else may look into, owned by the servers' user.
fn make(dir: &Path, user: Option<User>) -> Result<()> {
    create(dir, 0o700)?;
    if let Some(user) = user {
        chown(dir, Some(user.uid), Some(user.gid))?;
    }
    Ok(())
}

fn create(dir: &Path, mode: u32) -> Result<()> {
    match fs::DirBuilder::new().mode(mode).create(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// Whether any user may pass through all directories down to `dir`.
fn everyone_reaches(dir: &Path) -> Result<bool> {
    for part in dir.ancestors() {
        if fs::metadata(part)?.permissions().mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

fn service_user() -> Result<User> {
    let id = |option| -> Result<u32> {
        let answer = Command::new("id").args([option, USER]).output().context("cannot run id")?;
        if !answer.status.success() {
            bail!("there is no user {USER}; script/setup installs PostgreSQL, which brings it");
        }
        Ok(String::from_utf8_lossy(&answer.stdout).trim().parse()?)
    };
    Ok(User { uid: id("-u")?, gid: id("-g")? })
}

/// Makes `dir` (and what is above it) so that only we may look inside.
///
/// # Errors
/// When it cannot be made.
pub fn private_directory(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(fs::set_permissions(dir, Permissions::from_mode(0o700))?)
}

/// Writes a file only its owner may read, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let unfinished = path.with_extension("new");
    let _ = fs::remove_file(&unfinished);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&unfinished)
        .with_context(|| format!("cannot write {}", unfinished.display()))?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(fs::rename(&unfinished, path)?)
}
