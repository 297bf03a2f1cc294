//! What each job does: in batches, and not for ever.

use super::{erasure, state::Job, store};
use crate::{
    database::{Database, DatabaseError},
    idempotency,
    pipeline::PipelineHandle,
    quota::QuotaHandle,
    records::{api_keys, callbacks, files::Files, security_log},
    session,
};
use deadpool_postgres::Client;
use std::time::Duration;

/// Rows, or users, of one batch.
const BATCH: u16 = 1_000;
/// Batches of one run; with [`BATCH`] a million rows.
const BATCHES: usize = 1_000;
/// Objects looked at in one step.
const OBJECTS: usize = 1_000;
/// An object without a row is let alone so long: its row may be about to be written.
const ORPHAN_AGE: Duration = Duration::from_secs(24 * 3600);

/// What upkeep works with.
#[derive(Clone)]
pub struct UpkeepParts {
    /// The pool.
    pub database: Database,
    /// The ledger.
    pub quota: QuotaHandle,
    /// The users' files.
    pub files: Files,
    /// Their tasks.
    pub pipeline: PipelineHandle,
    /// How long an access token is taken after it was given.
    pub access_lifetime: Duration,
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Does a job; says in a few words what was done.
pub(super) async fn run(job: Job, parts: &UpkeepParts) -> Result<String, Failure> {
    let limit = i64::from(BATCH);
    let done = match job {
        Job::ExpireGrants => {
            repeated(async || Ok(u64::try_from(parts.quota.expire_due(BATCH).await?)?)).await?
        }
        Job::DeleteIdempotencyKeys => {
            repeated(async || Ok(idempotency::purge(&parts.database, limit).await?)).await?
        }
        Job::DeleteFinalEvents => {
            deleted(parts, async |client| store::delete_final_events(client, limit).await).await?
        }
        Job::DeleteProviderCallbacks => {
            deleted(parts, async |client| callbacks::delete_expired(client, limit).await).await?
        }
        Job::DeleteClosedSessions => {
            deleted(parts, async |client| session::delete_old_closings(client, limit).await).await?
        }
        Job::DeleteSecurityLog => {
            deleted(parts, async |client| security_log::delete_old(client, limit).await).await?
        }
        Job::DeleteApiKeys => {
            deleted(parts, async |client| api_keys::delete_old(client, limit).await).await?
        }
        Job::EraseDeletedAccounts => erasure::erase_deleted(parts, limit).await?,
        Job::FillInviteCodes => session::fill_invite_codes(&parts.database.client().await?).await?,
        Job::RemoveAbandonedUploads => {
            repeated(async || Ok(parts.files.remove_abandoned(limit).await?)).await?
        }
        Job::RemoveOrphanObjects => remove_orphan_objects(parts).await?,
    };
    let what = match job {
        Job::ExpireGrants => "users' grants written off",
        Job::DeleteIdempotencyKeys => "keys deleted",
        Job::DeleteFinalEvents => "events deleted",
        Job::DeleteProviderCallbacks => "callbacks deleted",
        Job::DeleteClosedSessions => "closed sessions deleted",
        Job::DeleteSecurityLog => "entries deleted",
        Job::DeleteApiKeys => "keys deleted",
        Job::FillInviteCodes => "codes added",
        Job::EraseDeletedAccounts => "accounts erased",
        Job::RemoveAbandonedUploads => "uploads removed",
        Job::RemoveOrphanObjects => "objects removed",
    };
    Ok(format!("{done} {what}"))
}

/// Deletes batch after batch, each with a connection of its own.
async fn deleted(
    parts: &UpkeepParts,
    delete: impl AsyncFn(&Client) -> Result<u64, DatabaseError>,
) -> Result<u64, Failure> {
    repeated(async || Ok(delete(&parts.database.client().await?).await?)).await
}

/// Does batch after batch until one is not full.
async fn repeated(mut batch: impl AsyncFnMut() -> Result<u64, Failure>) -> Result<u64, Failure> {
    let mut done = 0;
    for _ in 0..BATCHES {
        let now = batch().await?;
        done += now;
        if now < u64::from(BATCH) {
            break;
        }
        // others wait for the same rows and connections
        tokio::task::yield_now().await;
    }
    Ok(done)
}

/// Removes objects that no row names: their task's replica died between storing them and writing their row, or
/// they came by a link whose row was removed meanwhile.
async fn remove_orphan_objects(parts: &UpkeepParts) -> Result<u64, Failure> {
    let mut removed = 0;
    let mut after = None;
    loop {
        let page = parts.files.store().list(after.as_deref(), OBJECTS).await?;
        let old = page.objects.iter().filter(|object| object.age >= ORPHAN_AGE);
        let keys: Vec<&str> = old.map(|object| object.key.as_str()).collect();
        if !keys.is_empty() {
            let client = parts.database.client().await?;
            let orphans = store::keys_of_nobody(&client, &keys).await?;
            drop(client);
            for key in orphans {
                parts.files.store().delete(&key).await?;
                removed += 1;
            }
        }
        after = page.next;
        if after.is_none() {
            return Ok(removed);
        }
    }
}
