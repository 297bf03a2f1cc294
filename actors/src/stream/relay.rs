//! The way of published events into Redis, and what makes up for it when it was blocked.

use super::{
    handle::Inbox,
    hub::Hub,
    state::{FinalRange, relay},
    store::{
        postgres::{self, FinalsWanted},
        redis::{self as store, Batch},
    },
};
use crate::{events::Event, faults, ids::UserId};
use std::{collections::HashMap, rc::Rc, sync::PoisonError, time::Duration};
use tokio::sync::OwnedMutexGuard;

/// Events relayed in one round trip, about.
const EVENTS_AT_ONCE: usize = 2_000;

/// Finals read from PostgreSQL for one user at a time.
const FINALS_AT_ONCE: usize = 200;

/// Bytes of them.
const FINALS_BYTES: i64 = 256 << 10;

/// Rounds to fill what is missing before a user is left to the next retry.
const ROUNDS: usize = 50;

/// Users made up for at a time.
const USERS_AT_ONCE: usize = 500;

/// Users whose sockets are compared with PostgreSQL in one statement.
const COMPARED_AT_ONCE: usize = 5_000;

const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Every so many retries the sockets are compared with PostgreSQL: a replica may have died between its COMMIT
/// and its relay. Twice in a row, since the first time it may just be on its way.
const COMPARE_EVERY: u32 = 3;

pub(super) struct RelayLoop {
    hub: Rc<Hub>,
    // users whose sockets lacked a final event at the last comparison, and up to which
    suspects: HashMap<UserId, i64>,
    down: bool,
}

impl RelayLoop {
    pub(super) fn new(hub: Rc<Hub>) -> Self {
        Self { hub, suspects: HashMap::new(), down: false }
    }

    /// Runs until the hub drains.
    pub(super) async fn run(mut self, mut inbox: OwnedMutexGuard<Inbox>) {
        let mut retry = tokio::time::interval(RETRY_EVERY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut retries: u32 = 0;
        loop {
            let events = tokio::select! {
                events = inbox.next(EVENTS_AT_ONCE) => events,
                () = self.hub.drain.notified() => return,
                _ = retry.tick() => {
                    retries = retries.wrapping_add(1);
                    self.make_up().await;
                    if retries.is_multiple_of(COMPARE_EVERY) {
                        self.compare().await;
                    }
                    continue;
                }
            };
            self.relay(batches(&events)).await;
        }
    }

    /// Relays what is left, at shutdown.
    pub(super) async fn drain(mut self, mut inbox: OwnedMutexGuard<Inbox>) {
        while let Some(events) = inbox.try_next(EVENTS_AT_ONCE) {
            self.relay(batches(&events)).await;
        }
    }

    /// Relays batches; what cannot be relayed is noted as behind if it is final, else dropped.
    async fn relay(&mut self, batches: Vec<Batch>) {
        faults::point("stream.relay");
        let mut batches = batches;
        let mut all_well = true;
        for _ in 0..ROUNDS {
            if batches.is_empty() {
                return;
            }
            let events: usize = batches.iter().map(|batch| batch.lines.len()).sum();
            let standings = match store::relay(&self.hub.redis, self.hub.retention(), &batches).await {
                Ok(standings) => standings,
                Err(error) => return self.failed(&error, &batches),
            };
            let mut dealt_with = Vec::with_capacity(batches.len());
            for (batch, standing) in batches.into_iter().zip(standings) {
                match standing {
                    Ok(standing) => dealt_with.push((batch, standing)),
                    Err(error) => {
                        self.failed(&error, std::slice::from_ref(&batch));
                        all_well = false;
                    }
                }
            }
            if all_well && std::mem::take(&mut self.down) {
                tracing::info!("live updates are relayed again");
            }
            metrics::counter!("greenroom_stream_relayed_total").increment(events as u64);
            let open = dealt_with.into_iter().filter_map(|(batch, standing)| {
                let range = relay::missing(&batch.lines, standing)?;
                Some((batch, standing, range))
            });
            let open: Vec<_> = open.collect();
            let wanted: Vec<_> =
                open.iter().map(|&(ref batch, _, range)| finals_of(batch.user, range)).collect();
            let found = match postgres::finals(&self.hub.database, &wanted, FINALS_BYTES).await {
                Ok(found) => found,
                Err(error) => {
                    let left: Vec<_> = open.into_iter().map(|(batch, ..)| batch).collect();
                    return self.failed(&error, &left);
                }
            };
            batches = open
                .into_iter()
                .zip(found)
                .map(|((batch, standing, _), found)| {
                    let found = found.iter().map(store::line).collect();
                    let (lines, jump) = relay::fill(batch.lines, standing, found);
                    Batch { user: batch.user, lines, jump }
                })
                .collect();
        }
        self.note_behind(&batches);
    }

    fn failed(&mut self, error: &dyn std::error::Error, batches: &[Batch]) {
        if !std::mem::replace(&mut self.down, true) {
            tracing::warn!(error = %crate::causes(&error), "live updates cannot be relayed");
        }
        let events: usize = batches.iter().map(|batch| batch.lines.len()).sum();
        metrics::counter!("greenroom_stream_events_deferred_total").increment(events as u64);
        self.note_behind(batches);
    }

    fn note_behind(&self, batches: &[Batch]) {
        let with_finals =
            batches.iter().filter(|batch| batch.lines.iter().any(|line| line.final_no.is_some()));
        self.hub.mark_behind(with_finals.map(|batch| batch.user));
    }

    /// Relays from PostgreSQL what users marked as behind lack.
    async fn make_up(&mut self) {
        let users: Vec<UserId> = {
            let mut behind = self.hub.behind.lock().unwrap_or_else(PoisonError::into_inner);
            let some: Vec<_> = behind.iter().take(USERS_AT_ONCE).copied().collect();
            for user in &some {
                behind.remove(user);
            }
            some
        };
        if !users.is_empty() {
            self.relay_from_database(&users).await;
        }
    }

    async fn relay_from_database(&mut self, users: &[UserId]) {
        let asking: Vec<_> =
            users.iter().map(|&user| Batch { user, lines: Vec::new(), jump: false }).collect();
        let standings = store::relay(&self.hub.redis, self.hub.retention(), &asking).await;
        let newest = postgres::newest_finals(&self.hub.database, users).await;
        let (standings, newest) = match (standings, newest) {
            (Ok(standings), Ok(newest)) => (standings, newest),
            (Err(error), _) => {
                self.hub.mark_behind(users.iter().copied());
                return self.failed(&error, &[]);
            }
            (_, Err(error)) => {
                self.hub.mark_behind(users.iter().copied());
                return self.failed(&error, &[]);
            }
        };
        let mut unfinished = Vec::new();
        let ranges = users.iter().zip(standings).filter_map(|(user, standing)| {
            let Ok(standing) = standing else {
                unfinished.push(*user);
                return None;
            };
            let upto = *newest.get(user)?;
            // an epoch without finals needs only the newest: it tells every replica that something was missed
            let after = standing.final_no.unwrap_or(upto - 1);
            (after < upto).then(|| finals_of(*user, FinalRange { after, upto }))
        });
        let wanted: Vec<_> = ranges.collect();
        let found = match postgres::finals(&self.hub.database, &wanted, FINALS_BYTES).await {
            Ok(found) => found,
            Err(error) => {
                self.hub.mark_behind(users.iter().copied());
                return self.failed(&error, &[]);
            }
        };
        let batches = wanted.iter().zip(found).filter(|(_, found)| !found.is_empty()).map(|(want, found)| {
            if found.last().and_then(|last| last.final_no).is_some_and(|last| last < want.range.upto) {
                unfinished.push(want.user);
            }
            let jump = found.first().and_then(|first| first.final_no) != Some(want.range.after + 1);
            Batch { user: want.user, lines: found.iter().map(store::line).collect(), jump }
        });
        let batches: Vec<_> = batches.collect();
        self.relay(batches).await;
        self.hub.mark_behind(unfinished);
    }

    /// Compares what live sockets were told with PostgreSQL.
    async fn compare(&mut self) {
        let told = self.hub.told();
        let mut lacking = HashMap::new();
        for told in told.chunks(COMPARED_AT_ONCE) {
            match postgres::users_behind(&self.hub.database, told).await {
                Ok(found) => lacking.extend(found),
                Err(error) => {
                    return tracing::debug!(error = %crate::causes(&error), "sockets cannot be compared with PostgreSQL");
                }
            }
        }
        let told: HashMap<UserId, i64> = told.into_iter().collect();
        let overdue: Vec<UserId> = lacking
            .keys()
            .filter(|&user| {
                self.suspects.get(user).is_some_and(|upto| told.get(user).is_some_and(|told| told < upto))
            })
            .copied()
            .collect();
        self.suspects = lacking;
        for users in overdue.chunks(USERS_AT_ONCE) {
            tracing::info!(
                users = users.len(),
                "final events were not relayed in time and are relayed again"
            );
            self.relay_from_database(users).await;
            // and if they were relayed but did not come here
            self.hub.catch_up(users.iter().copied());
        }
    }
}

fn finals_of(user: UserId, range: FinalRange) -> FinalsWanted {
    FinalsWanted { user, range, rows: FINALS_AT_ONCE }
}

/// A batch for each user, each user's events in the order they were published.
fn batches(events: &[Event]) -> Vec<Batch> {
    let mut places: HashMap<UserId, usize> = HashMap::new();
    let mut batches: Vec<Batch> = Vec::new();
    for event in events {
        let place = *places.entry(event.user).or_insert_with(|| {
            batches.push(Batch { user: event.user, lines: Vec::new(), jump: false });
            batches.len() - 1
        });
        if let Some(batch) = batches.get_mut(place) {
            batch.lines.push(store::line(event));
        }
    }
    batches
}
