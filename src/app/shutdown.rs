//! What ends the process, and in which order its parts end.

use greenroom_actors::supervisor::{Escalation, Supervisor};
use tokio::signal::unix::{SignalKind, signal};

/// Why the process ends.
#[derive(Debug)]
pub(super) enum Reason {
    /// Somebody asked for it.
    Signal(&'static str),
    /// An actor failed too often.
    Escalation(Escalation),
}

/// Waits for a reason to end.
pub(super) async fn awaited(supervisor: &Supervisor) -> anyhow::Result<Reason> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => Reason::Signal("SIGTERM"),
        _ = interrupt.recv() => Reason::Signal("SIGINT"),
        escalation = supervisor.escalated() => Reason::Escalation(escalation),
    })
}

impl Reason {
    /// What the process's exit says of it.
    pub(super) fn into_outcome(self) -> anyhow::Result<()> {
        match self {
            Self::Signal(signal) => {
                tracing::info!(signal, "shut down");
                Ok(())
            }
            Self::Escalation(escalation) => Err(escalation.into()),
        }
    }
}
