//! Where queued tasks stand that nobody has claimed, for whoever asks on any replica.

use super::{
    Waiting, WaitingReason,
    store::{self, Queue},
};
use crate::{
    database::{Database, DatabaseError},
    ids::{TaskId, UserId},
};
use chrono::{DateTime, Utc};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How long it is believed who waits: however many ask, the queues are counted once in this time.
const FRESH: Duration = Duration::from_secs(1);

/// Where a task stands in its queue.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) task: TaskId,
    pub(super) user: UserId,
    /// The provider whose tasks these are; empty where cores bound them.
    pub(super) queue: String,
    /// Tasks of the queue that start before it; the user's own ones where the user has as many running as may be.
    pub(super) position: i64,
    pub(super) at_user_ceiling: bool,
    /// When the pause ends that the provider asked for.
    pub(super) paused_until: Option<DateTime<Utc>>,
}

impl Place {
    /// What it waits for, as far as can be told without the engine.
    pub(super) fn waiting(&self) -> Waiting {
        let reason =
            if self.at_user_ceiling { WaitingReason::UserCeiling } else { WaitingReason::ProviderCeiling };
        Waiting { reason, position: Some(self.position), eta_ms: None }
    }
}

/// The way to ask.
pub(super) struct Places {
    database: Database,
    /// Running tasks of a user where the plan does not say; 0 is off.
    running_per_user: i64,
    known: Mutex<Option<Known>>,
}

/// Who waits in each queue, and when somebody last set out to read it.
struct Known {
    asked_at: Instant,
    queues: Arc<HashMap<String, Queue>>,
}

impl Places {
    pub(super) fn new(database: Database, running_per_user: u32) -> Self {
        Self { database, running_per_user: i64::from(running_per_user), known: Mutex::new(None) }
    }

    /// The places of those of `tasks` that nobody has claimed.
    pub(super) async fn of(&self, tasks: &[TaskId]) -> Result<Vec<Place>, DatabaseError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let client = self.database.client().await?;
        let own = store::own_places(&client, tasks, self.running_per_user).await?;
        drop(client);
        if own.is_empty() {
            return Ok(Vec::new());
        }
        let queues = self.queues().await?;
        let place = |own: store::OwnPlace| {
            let waits = queues.get(&own.queue);
            let store::OwnPlace { task, user, queue, ring, before, at_user_ceiling } = own;
            let crowd = waits.map(|queue| &queue.crowd).filter(|_| !at_user_ceiling);
            let position = crowd.map_or(before, |crowd| crowd.place(ring, user, before));
            let paused_until = waits.and_then(|queue| queue.paused_until);
            Place { task, user, queue, position, at_user_ceiling, paused_until }
        };
        Ok(own.into_iter().map(place).collect())
    }

    async fn queues(&self) -> Result<Arc<HashMap<String, Queue>>, DatabaseError> {
        let asked_at = Instant::now();
        if let Some(queues) = self.fresh_queues(asked_at) {
            return Ok(queues);
        }
        let client = self.database.client().await?;
        let queues = Arc::new(store::read_queues(&client).await?);
        let known = Known { asked_at, queues: Arc::clone(&queues) };
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
        Ok(queues)
    }

    /// What is known, unless it is for the caller to read it anew: then the others do with what there is meanwhile.
    fn fresh_queues(&self, now: Instant) -> Option<Arc<HashMap<String, Queue>>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_mut()?;
        if now.saturating_duration_since(known.asked_at) >= FRESH {
            known.asked_at = now;
            return None;
        }
        Some(Arc::clone(&known.queues))
    }
}
