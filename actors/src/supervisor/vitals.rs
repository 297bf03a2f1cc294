//! What is visible of an actor: its state, restarts, mailbox and speed.

use std::{
    borrow::Cow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

/// Where an actor stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Condition {
    /// Being made, for the first time or again.
    Starting,
    /// Taking messages.
    Running,
    /// Pausing after a failure, before the next start.
    BackingOff,
    /// Ended on purpose.
    Stopped,
    /// Its restart budget is spent.
    Failed,
}

impl Condition {
    const ALL: [Self; 5] = [Self::Starting, Self::Running, Self::BackingOff, Self::Stopped, Self::Failed];
}

/// The live figures of one actor, shared by its mailbox, its supervisor and whoever looks.
#[derive(Debug)]
pub struct Vitals {
    name: &'static str,
    shard: Option<usize>,
    condition: AtomicU8,
    restarts: AtomicU64,
    last_panic: Mutex<Option<String>>,
    waiting: AtomicUsize,
    handled: AtomicU64,
    // exponentially weighted mean of ask-to-answer, microseconds
    latency_us: AtomicU64,
}

/// A copy of an actor's figures at one moment.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct VitalsSnapshot {
    /// The actor's name, which is also the room its code lives in.
    pub name: Cow<'static, str>,
    /// Which of several equals, for actors that are sharded.
    pub shard: Option<usize>,
    /// Where it stands.
    pub condition: Condition,
    /// How often it was started again after a failure.
    pub restarts: u64,
    /// The message of its last panic.
    pub last_panic: Option<String>,
    /// Commands that wait or are being worked on.
    pub mailbox: usize,
    /// Commands answered since the process started.
    pub handled: u64,
    /// Mean time from ask to answer, milliseconds; newer answers weigh more.
    pub latency_ms: f64,
}

impl Vitals {
    pub(crate) fn new(name: &'static str, shard: Option<usize>) -> Self {
        Self {
            name,
            shard,
            condition: AtomicU8::new(0),
            restarts: AtomicU64::new(0),
            last_panic: Mutex::new(None),
            waiting: AtomicUsize::new(0),
            handled: AtomicU64::new(0),
            latency_us: AtomicU64::new(0),
        }
    }

    /// The actor's name.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Where the actor stands.
    #[must_use]
    pub fn condition(&self) -> Condition {
        let index = usize::from(self.condition.load(Ordering::Relaxed));
        Condition::ALL.get(index).copied().unwrap_or(Condition::Failed)
    }

    pub(crate) fn set_condition(&self, condition: Condition) {
        self.condition.store(condition as u8, Ordering::Relaxed);
    }

    pub(crate) fn failed(&self, panic: String) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
        *self.last_panic.lock().unwrap_or_else(PoisonError::into_inner) = Some(panic);
        metrics::counter!("greenroom_actor_restarts_total", "actor" => self.name).increment(1);
    }

    pub(crate) fn entered_mailbox(&self) {
        self.waiting.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn left_mailbox(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn answered(&self, after: Duration) {
        self.handled.fetch_add(1, Ordering::Relaxed);
        let sample = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        let old = self.latency_us.load(Ordering::Relaxed);
        // racing answers may lose one sample of a mean; that is all
        self.latency_us
            .store(if old == 0 { sample } else { old - old / 16 + sample / 16 }, Ordering::Relaxed);
        metrics::histogram!("greenroom_actor_ask_seconds", "actor" => self.name).record(after.as_secs_f64());
    }

    /// A copy of the figures now.
    #[must_use]
    pub fn snapshot(&self) -> VitalsSnapshot {
        #[expect(clippy::cast_precision_loss, reason = "a mean for people to read")]
        let latency_ms = self.latency_us.load(Ordering::Relaxed) as f64 / 1000.0;
        VitalsSnapshot {
            name: Cow::Borrowed(self.name),
            shard: self.shard,
            condition: self.condition(),
            restarts: self.restarts.load(Ordering::Relaxed),
            last_panic: self.last_panic.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            mailbox: self.waiting.load(Ordering::Relaxed),
            handled: self.handled.load(Ordering::Relaxed),
            latency_ms,
        }
    }
}
