//! What tasks wait for: said to whoever asks, and told to users with open sockets.

use super::actor::Engine;
use crate::{
    database::DatabaseError,
    events::{Event, EventKind},
    ids::{TaskId, UserId},
    pipeline::{
        Waiting, WaitingReason,
        places::Place,
        store::{self, TaskWait},
    },
};
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::json;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// How often users are told what their tasks wait for.
pub(super) const TELL: Duration = Duration::from_secs(5);
/// Queued tasks of a user, and of all users with sockets here, that are told of.
const TOLD: (i64, i64) = (100, 10_000);

/// What a user was last told of a task.
pub(super) type LastTold = (WaitingReason, Option<i64>);
/// What others can read that a task waits for, and whether a guess of when it goes on is there.
pub(super) type Shared = (LastTold, bool);

impl Engine {
    /// What those of `tasks` wait for that are here and have no call away.
    pub(super) fn waiting(&self, tasks: &[TaskId]) -> HashMap<TaskId, Waiting> {
        let (places, here) = (self.admission.places(), self.admission.waiting());
        let busy = self.tools.calls.busy_tasks();
        let at = Instant::now();
        let now = self.tools.clock.time(at);
        let waiting = tasks.iter().filter_map(|task| {
            let entry = self.runs.get(task).filter(|entry| entry.ending.is_none() && !busy.contains(task))?;
            let pause = entry.backing_off_until.zip(now).map(|(until, now)| (until - now).num_milliseconds());
            let waiting = match pause {
                Some(left) if left > 0 => {
                    Waiting { reason: WaitingReason::Backoff, position: None, eta_ms: Some(left) }
                }
                _ => {
                    let place = places.get(task)?;
                    let here = here.get(place.provider).copied().unwrap_or(0);
                    self.waits_for(place.provider, self.position(*place, here), at)
                }
            };
            Some((*task, waiting))
        });
        waiting.collect()
    }

    /// What tasks wait for that nobody has claimed.
    pub(super) fn waiting_in_queue(&self, places: &[Place]) -> HashMap<TaskId, Waiting> {
        let (here, now) = (self.admission.waiting(), Instant::now());
        let waiting = places.iter().map(|place| {
            if place.at_user_ceiling {
                return (place.task, place.waiting());
            }
            let provider = place.queue.as_str();
            // the calls of those who were taken before go first
            let calls = i64::try_from(here.get(provider).copied().unwrap_or(0)).unwrap_or(i64::MAX);
            let calls = calls.saturating_add(self.figures.waiting_elsewhere(provider));
            let mut waiting = self.waits_for(provider, calls.saturating_add(place.position), now);
            // a pause that no call from here has met yet
            let pause = place.paused_until.zip(self.tools.clock.time(now));
            if let Some(left @ 1..) = pause.map(|(until, now)| (until - now).num_milliseconds()) {
                waiting.reason = WaitingReason::Backoff;
                waiting.eta_ms = waiting.eta_ms.max(Some(left));
            }
            (place.task, waiting)
        });
        waiting.collect()
    }

    /// Tells users what their tasks wait for, where that has changed.
    pub(super) fn tell_waiting(&mut self) {
        let Some(at) = self.tools.clock.time(Instant::now()) else { return };
        let tasks: Vec<TaskId> = self.runs.keys().copied().collect();
        let mut waiting = self.waiting(&tasks);
        let mut events = Vec::new();
        for (task, entry) in &mut self.runs {
            let now = waiting.remove(task);
            let told = std::mem::replace(&mut entry.told, now.as_ref().map(|now| (now.reason, now.position)));
            let Some(now) = now.filter(|now| told != Some((now.reason, now.position))) else { continue };
            events.push(event(entry.user, *task, &now, at));
        }
        self.tools.stream.publish(events);
    }

    /// Writes what tasks wait for that are here, for those who ask other replicas, where that has changed.
    pub(super) fn share_waits(&mut self, context: &mut Context<Self>) {
        let Some(now) = self.tools.clock.time(Instant::now()) else { return };
        let tasks: Vec<TaskId> = self.runs.keys().copied().collect();
        let waiting = self.waiting(&tasks);
        let shared = |now: &Waiting| ((now.reason, now.position), now.eta_ms.is_some());
        let shared: HashMap<TaskId, Shared> =
            waiting.iter().map(|(task, now)| (*task, shared(now))).collect();
        if self.is_sharing_waits || shared == self.shared_waits {
            return;
        }
        let is_new = |task: &TaskId| self.shared_waits.get(task) != shared.get(task);
        let changed = waiting.into_iter().filter(|(task, _)| is_new(task)).map(|(task, waiting)| {
            let Waiting { reason, position, eta_ms } = waiting;
            let until = eta_ms.and_then(|eta| now.checked_add_signed(TimeDelta::try_milliseconds(eta)?));
            TaskWait { task, reason, position, until }
        });
        let changed: Vec<TaskWait> = changed.collect();
        let all: Vec<TaskId> = shared.keys().copied().collect();
        self.is_sharing_waits = true;
        let tools = Arc::clone(&self.tools);
        let write = async move {
            let client = tools.database.client().await?;
            store::write_task_waits(&client, tools.owner, &changed, &all).await
        };
        context.spawn(write.into_actor(self).map(|written: Result<(), DatabaseError>, actor, _| {
            actor.is_sharing_waits = false;
            match written {
                Ok(()) => actor.shared_waits = shared,
                Err(error) => {
                    tracing::warn!(error = %crate::causes(&error), "what tasks wait for is not written");
                }
            }
        }));
    }

    /// Tells users with sockets here what their tasks wait for that nobody has claimed, where that has changed.
    pub(super) fn tell_queued(&mut self, context: &mut Context<Self>) {
        let users = self.tools.stream.watching();
        if users.is_empty() || !self.queued {
            return self.told_in_queue.clear();
        }
        let tools = Arc::clone(&self.tools);
        let places = async move {
            let client = tools.database.client().await?;
            // a user with sockets at several replicas is told by one of them
            let tasks = store::queued_to_tell(&client, &users, TOLD, TELL - TELL / 10).await?;
            drop(client);
            tools.places.of(&tasks).await
        };
        context.spawn(places.into_actor(self).map(|places: Result<Vec<Place>, DatabaseError>, actor, _| {
            match places {
                Ok(places) => actor.tell_places(&places),
                Err(error) => {
                    tracing::warn!(error = %crate::causes(&error), "what queued tasks wait for is not told");
                }
            }
        }));
    }

    fn tell_places(&mut self, places: &[Place]) {
        let Some(at) = self.tools.clock.time(Instant::now()) else { return };
        let waiting = self.waiting_in_queue(places);
        let mut events = Vec::new();
        let mut told = HashMap::new();
        for place in places.iter().filter(|place| !self.runs.contains_key(&place.task)) {
            let Some(now) = waiting.get(&place.task) else { continue };
            told.insert(place.task, (now.reason, now.position));
            if self.told_in_queue.get(&place.task) != told.get(&place.task) {
                events.push(event(place.user, place.task, now, at));
            }
        }
        self.told_in_queue = told;
        self.tools.stream.publish(events);
    }
}

fn event(user: UserId, task: TaskId, waiting: &Waiting, at: DateTime<Utc>) -> Event {
    let Waiting { reason, position, eta_ms } = waiting;
    let data = json!({"reason": reason.name(), "position": position, "etaMs": eta_ms});
    Event { user, kind: EventKind::TaskWaiting, task: Some(task), data, at, final_no: None }
}
