//! What is left of a deleted account: its running tasks are cancelled and its files removed; its ledger is kept.
//!
//! The account is deleted before any of it, so whatever fails here is done by a later run.

use super::{jobs::UpkeepParts, store};
use crate::{
    ids::UserId,
    pipeline::{CancelTask, PipelineError, TaskFilter, TaskStatus},
    records::files::FileError,
};

/// Tasks or files looked at in one step.
const STEP: i64 = 100;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Removes what can be removed of the account of `user`.
pub(super) async fn erase(parts: &UpkeepParts, user: UserId) -> Result<(), Failure> {
    for status in [TaskStatus::Queued, TaskStatus::Running] {
        loop {
            let filter = TaskFilter { user: Some(user), status: Some(status), ..TaskFilter::default() };
            let tasks = parts.pipeline.tasks(filter, STEP).await?;
            for task in &tasks {
                let cancel = CancelTask { user: Some(user), task: task.id, audit: None };
                match parts.pipeline.cancel_task(cancel).await {
                    // it has ended by itself
                    Ok(_) | Err(PipelineError::TaskFinal(_)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if tasks.is_empty() {
                break;
            }
        }
    }
    loop {
        let client = parts.database.client().await?;
        let files = store::files_of(&client, user, STEP).await?;
        drop(client);
        if files.is_empty() {
            break;
        }
        for file in files {
            match parts.files.delete(user, file).await {
                Ok(()) | Err(FileError::NotFound) => {}
                // a task of theirs began meanwhile; the next run cancels it
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// Removes what is left of deleted accounts; answers of how many nothing is left now. One that resists keeps no other
/// from it.
pub(super) async fn erase_deleted(parts: &UpkeepParts, limit: i64) -> Result<u64, Failure> {
    let client = parts.database.client().await?;
    let users = store::deleted_users(&client, limit).await?;
    drop(client);
    let (mut erased, mut failure) = (Vec::new(), None);
    for user in users {
        match erase(parts, user).await {
            Ok(()) => erased.push(user),
            Err(error) => failure = Some(error),
        }
    }
    let client = parts.database.client().await?;
    let count = store::mark_erased(&client, &erased, parts.access_lifetime).await?;
    failure.map_or(Ok(count), Err)
}
