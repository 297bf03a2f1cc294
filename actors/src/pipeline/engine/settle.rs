//! The end of a task: its status and its quota, written in one transaction by the quota actor.

use crate::{
    ids::{TaskId, UserId},
    pipeline::{Failure, Lease, TaskEnding, TaskStatus, state::Ending},
    quota::{Cancel, Confirm, QuotaError, QuotaHandle},
};
use std::time::Duration;

/// How long to wait before the quota actor is asked again, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How the settling of a task came out. Both are definite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settled {
    /// It ended as this says.
    As(TaskStatus),
    /// Somebody else has ended it, or runs it now.
    Lost,
}

/// Ends a task, however often it must be asked for: a repeat is answered as the first time.
pub(super) async fn settle(
    quota: &QuotaHandle,
    user: UserId,
    task: TaskId,
    lease: Lease,
    ending: Ending,
) -> Settled {
    let mut pause = PAUSES.0;
    let status = match &ending {
        Ending::Succeeded { .. } => TaskStatus::Succeeded,
        Ending::Failed { .. } => TaskStatus::Failed,
    };
    if let Ending::Succeeded { charge_fault: Some(fault), .. } = &ending {
        tracing::error!(fault, %task, "a pipeline's charge is no number: the task costs all that it reserved");
        metrics::counter!("greenroom_charges_invalid_total").increment(1);
    }
    loop {
        let error = match ask(quota, user, task, lease, ending.clone()).await {
            Ok(()) => return Settled::As(status),
            Err(
                QuotaError::LeaseLost
                | QuotaError::TaskFinal(_)
                | QuotaError::AlreadyConfirmed
                | QuotaError::AlreadyCancelled,
            ) => return Settled::Lost,
            Err(error) => error,
        };
        // an undo must not fail: what cannot be settled now is tried until it can, and a person is told
        let error = crate::causes(&error);
        if pause == PAUSES.1 {
            tracing::error!(error, %task, "a task cannot be settled");
        } else {
            tracing::warn!(error, %task, "a task is not settled yet");
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn ask(
    quota: &QuotaHandle,
    user: UserId,
    task: TaskId,
    lease: Lease,
    ending: Ending,
) -> Result<(), QuotaError> {
    let lease = Some(lease);
    match ending {
        Ending::Succeeded { output, charge, .. } => {
            let ending =
                TaskEnding { status: TaskStatus::Succeeded, output: Some(output), error: None, lease };
            quota.confirm(Confirm { user, task, charge, ending }).await.map(drop)
        }
        Ending::Failed { error, charge } => {
            let ending = TaskEnding { status: TaskStatus::Failed, output: None, error: Some(error), lease };
            if charge > 0 {
                quota.confirm(Confirm { user, task, charge, ending }).await.map(drop)
            } else {
                quota.cancel(Cancel { user, task, ending, audit: None }).await.map(drop)
            }
        }
    }
}

/// A failure that no node caused.
pub(super) fn failed(code: &str, message: &str) -> Ending {
    let error = Failure { code: code.to_owned(), message: message.to_owned(), node_id: None };
    Ending::Failed { error, charge: 0 }
}
