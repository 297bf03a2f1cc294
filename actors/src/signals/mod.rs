//! Signals: what one replica tells all others at once, so that nobody has to wait for the next look.
//!
//! A [`Signal`] is a hint and never a fact: whoever hears one looks into PostgreSQL. It is sent after the commit it
//! tells of, best effort, over one Redis channel of the installation. **Losing one costs nothing but time**: queued
//! tasks are found by the next look at the queue (1 s), free slots by the next try (250 ms), changed providers by
//! the next reading (1 s), a cancelled task's run at its next write, and a socket of a closed session ends with its
//! access token at the latest. So nothing here is tried again, and without
//! Redis the replicas look instead of hearing.
//!
//! Signals that gather while one message is on its way go in the next, each of them once. Listeners of the same
//! process hear a signal at once, without Redis. Where signals may have been missed (the connection was cut, a
//! listener was too slow) they hear [`Heard::Gap`] and look at everything.

mod courier;

pub use courier::start;

use crate::ids::{AttemptId, SessionId, TaskId, UserId};
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::{Notify, broadcast};
use uuid::Uuid;

/// Signals that may wait for a listener; past it, it hears of a gap.
const WAITING: usize = 4_096;
/// Different signals that may wait to be sent; what does not fit is left to those who look.
const UNSENT: usize = 1_024;

/// A hint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signal {
    /// There are queued tasks to claim.
    TasksQueued,
    /// A replica that ends has let its running tasks go.
    TasksReleased,
    /// A task was cancelled: its run has nothing to do any more.
    TaskCancelled {
        /// Which.
        task: TaskId,
    },
    /// Slots of a provider have become free.
    SlotsFreed {
        /// Which provider.
        provider: String,
    },
    /// Providers were saved or deleted.
    ProvidersChanged,
    /// A provider has called back: its answer is a row.
    CallbackArrived {
        /// Which call it answers.
        attempt: AttemptId,
    },
    /// A session was closed: its sockets are to end.
    SessionClosed {
        /// Whose.
        user: UserId,
        /// Which.
        session: SessionId,
    },
    /// All sessions of a user were closed.
    SessionsClosed {
        /// Whose.
        user: UserId,
        /// All but this one.
        kept: Option<SessionId>,
    },
}

/// What a listener hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Something that happened, here or elsewhere.
    Signal(Signal),
    /// Anything may have happened since.
    Gap,
}

/// The way to signal and to listen. Clones are the same.
#[derive(Clone)]
pub struct Signals {
    shared: Arc<Shared>,
}

struct Shared {
    /// This process, so that it does not hear itself twice.
    process: Uuid,
    listeners: broadcast::Sender<Heard>,
    unsent: Mutex<BTreeSet<Signal>>,
    has_unsent: Notify,
    /// Held while a message is on its way.
    sending: tokio::sync::Mutex<()>,
}

impl Signals {
    /// Signals that reach this process only, until [`start`] connects them.
    #[must_use]
    pub fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                process: Uuid::new_v4(),
                listeners: broadcast::channel(WAITING).0,
                unsent: Mutex::default(),
                has_unsent: Notify::new(),
                sending: tokio::sync::Mutex::default(),
            }),
        }
    }

    /// Tells everybody of what has been committed. Never waits and never fails.
    pub fn send(&self, signal: Signal) {
        self.shared.tell(Heard::Signal(signal.clone()));
        self.send_elsewhere(signal);
    }

    /// The same for what this process knows itself.
    pub fn send_elsewhere(&self, signal: Signal) {
        let mut unsent = self.shared.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        if unsent.len() < UNSENT {
            unsent.insert(signal);
            self.shared.has_unsent.notify_one();
        }
    }

    /// Everything that is signalled from now on. Never ends as long as a [`Signals`] is left.
    pub fn listen(&self) -> impl Stream<Item = Heard> + use<> {
        stream::unfold(self.shared.listeners.subscribe(), |mut receiver| async {
            match receiver.recv().await {
                Ok(heard) => Some((heard, receiver)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((Heard::Gap, receiver)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
    }
}

impl Default for Signals {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn tell(&self, heard: Heard) {
        // without listeners there is nobody to tell
        drop(self.listeners.send(heard));
    }

    fn take_unsent(&self) -> BTreeSet<Signal> {
        std::mem::take(&mut *self.unsent.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    #[test]
    fn what_gathers_is_sent_once_and_heard_here_at_once() {
        let signals = Signals::new();
        let mut listener = Box::pin(signals.listen());
        let freed = Signal::SlotsFreed { provider: "draw".to_owned() };
        for signal in [Signal::TasksQueued, freed.clone(), Signal::TasksQueued] {
            signals.send(signal.clone());
            assert_eq!(listener.next().now_or_never().flatten(), Some(Heard::Signal(signal)));
        }
        assert_eq!(signals.shared.take_unsent(), BTreeSet::from([Signal::TasksQueued, freed]));
        assert!(signals.shared.take_unsent().is_empty());
    }

    #[test]
    fn what_waits_is_bounded() {
        let signals = Signals::new();
        let mut listener = Box::pin(signals.listen());
        for _ in 0..WAITING + 2 {
            signals.send(Signal::TaskCancelled { task: TaskId::new() });
        }
        assert_eq!(listener.next().now_or_never().flatten(), Some(Heard::Gap));
        assert_eq!(signals.shared.take_unsent().len(), UNSENT);
    }
}
