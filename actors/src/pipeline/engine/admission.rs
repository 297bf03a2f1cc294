//! Calls that wait to be let go: first come, first served, by provider. Pure.
//!
//! Calls of a provider with a ceiling wait for one of its slots, which are rows shared by all replicas. Calls of
//! a provider without one (`image`) wait for this replica's cores. How many of a provider may be tried at all is
//! said by its [`super::gate`].

use crate::{
    ids::{AttemptId, TaskId, UserId},
    pipeline::{
        AttemptCause, WaitingReason,
        provider::{ProviderRecord, RateLimit},
        template::Rendered,
    },
    records::callbacks::CallbackToken,
};
use chrono::{DateTime, TimeDelta, Utc};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

/// A call that a run wants made.
#[derive(Clone, Debug)]
pub(super) struct CallRequest {
    pub(super) attempt: AttemptId,
    pub(super) task: TaskId,
    pub(super) user: UserId,
    pub(super) lease_no: i64,
    pub(super) node: String,
    /// 1 for the node's first call.
    pub(super) number: i32,
    pub(super) provider: Arc<ProviderRecord>,
    /// Whether another provider would be asked if this one refused.
    pub(super) has_fallback: bool,
    /// Slots of the provider; `None` where the replica's cores bound its calls.
    pub(super) ceiling: Option<i32>,
    /// How often the provider may be called.
    pub(super) rate_limit: Option<RateLimit>,
    pub(super) cause: AttemptCause,
    pub(super) idempotency_key: String,
    /// The address it names, where its provider may call back.
    pub(super) callback: Option<CallbackToken>,
    pub(super) timeout: Duration,
    /// The deadline of the task from its first call on, as its definition has it.
    pub(super) task_deadline: Duration,
    pub(super) input: Rendered,
    /// Since when it waits, by PostgreSQL's clock.
    pub(super) since: DateTime<Utc>,
}

impl CallRequest {
    /// Whether it is the call of `node` that has this number.
    pub(super) fn is(&self, task: TaskId, node: &str, number: i32) -> bool {
        self.task == task && self.number == number && self.node == node
    }
}

/// The longest time that a hold is believed: an administrator may have ended what it is for.
const BELIEVED: Duration = Duration::from_secs(1);

/// Why no call of a provider is tried for a while: the last try found it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// When it will be over.
    pub(super) until: Instant,
    /// When a call is tried again.
    pub(super) again: Instant,
    pub(super) reason: WaitingReason,
}

impl Hold {
    /// A hold of which `left` is left at `now`.
    pub(super) fn new(now: Instant, left: Duration, reason: WaitingReason) -> Self {
        Self { until: now + left, again: now + left.min(BELIEVED), reason }
    }
}

/// By how much longer a call has to wait at another replica for a slot to be left to it: what is known of it is as old
/// as what that replica last wrote, and handing a slot over costs a commit and a signal.
pub(super) const LONGER: TimeDelta = TimeDelta::milliseconds(250);
/// How long a free slot is left to a call that waits for longer at another replica.
pub(super) const COURTESY: Duration = Duration::from_millis(100);
/// How long none is, once one was left in vain: the other replica is dead, or hears nothing.
const IMPATIENCE: Duration = Duration::from_secs(5);

/// How the slots of a provider are shared with calls at other replicas that wait for longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// They are left to them, since then.
    Courteous(Instant),
    /// They are not, until then.
    Impatient(Instant),
}

/// What a try of a provider's calls came to, beside calls that wait for longer at other replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encounter {
    /// There were none, or slots enough.
    None,
    /// A slot was left to them.
    Left,
    /// They were overtaken.
    Overtook,
}

/// Where a waiting call stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place<'a> {
    pub(super) provider: &'a str,
    /// 0 is next.
    pub(super) position: usize,
}

/// The queues.
#[derive(Debug)]
pub(super) struct Admission {
    queues: HashMap<String, VecDeque<CallRequest>>,
    local: VecDeque<CallRequest>,
    local_room: usize,
    local_running: HashSet<AttemptId>,
    /// Providers that had fewer free slots than were wanted when last asked.
    starved: HashSet<String>,
    holds: HashMap<String, Hold>,
    sharing: HashMap<String, Sharing>,
}

impl Admission {
    /// No calls, and room for `local_room` calls that are bounded by cores.
    pub(super) fn new(local_room: usize) -> Self {
        Self {
            queues: HashMap::new(),
            local: VecDeque::new(),
            local_room,
            local_running: HashSet::new(),
            starved: HashSet::new(),
            holds: HashMap::new(),
            sharing: HashMap::new(),
        }
    }

    /// Lets a call wait behind those that are there.
    pub(super) fn push(&mut self, request: CallRequest) {
        self.queue(&request).push_back(request);
    }

    fn queue(&mut self, request: &CallRequest) -> &mut VecDeque<CallRequest> {
        match request.ceiling {
            Some(_) => self.queues.entry(request.provider.id.clone()).or_default(),
            None => &mut self.local,
        }
    }

    /// The providers that calls wait for.
    pub(super) fn providers(&self) -> HashSet<&str> {
        let local = self.local.iter().map(|request| request.provider.id.as_str());
        self.queues.keys().map(String::as_str).chain(local).collect()
    }

    /// Whether some call may be let go at `now`, as far as can be told here: `room` says how many of a provider
    /// may be tried.
    pub(super) fn is_promising(&self, now: Instant, room: impl Fn(&str) -> usize) -> bool {
        let is_held = |provider: &str| self.holds.get(provider).is_some_and(|hold| hold.again > now);
        let may_try = |provider: &str| room(provider) > 0 && !is_held(provider);
        let has_core = self.local_running.len() < self.local_room;
        (has_core && self.local.iter().any(|request| may_try(&request.provider.id)))
            || self.queues.keys().any(|provider| !self.starved.contains(provider) && may_try(provider))
    }

    /// Takes out the calls to try at `now`: of each provider at most as many as there is `room` for and as it has
    /// slots.
    pub(super) fn candidates(&mut self, now: Instant, room: impl Fn(&str) -> usize) -> Vec<CallRequest> {
        // a hold that is not believed any more is found again, or not
        self.holds.retain(|_, hold| hold.again > now);
        let holds = &self.holds;
        let room = |provider: &str| if holds.contains_key(provider) { 0 } else { room(provider) };
        let mut candidates = Vec::new();
        for (provider, queue) in &mut self.queues {
            let ceiling = queue.front().and_then(|first| first.ceiling).unwrap_or(0);
            let wanted = usize::try_from(ceiling).unwrap_or(0).min(queue.len()).min(room(provider));
            candidates.extend(queue.drain(..wanted));
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        let mut cores = self.local_room.saturating_sub(self.local_running.len());
        let mut rooms: HashMap<String, usize> = HashMap::new();
        let mut kept = VecDeque::new();
        while cores > 0 {
            let Some(request) = self.local.pop_front() else { break };
            let provider = &request.provider.id;
            let room = rooms.entry(provider.clone()).or_insert_with(|| room(provider));
            if *room == 0 {
                kept.push_back(request);
                continue;
            }
            (cores, *room) = (cores - 1, *room - 1);
            self.local_running.insert(request.attempt);
            candidates.push(request);
        }
        kept.append(&mut self.local);
        self.local = kept;
        candidates
    }

    /// Puts back, in their order and before all others, candidates that could not be let go.
    pub(super) fn put_back(&mut self, refused: Vec<CallRequest>) {
        for request in refused.into_iter().rev() {
            self.local_running.remove(&request.attempt);
            if request.ceiling.is_some() && !self.holds.contains_key(&request.provider.id) {
                self.starved.insert(request.provider.id.clone());
            }
            self.queue(&request).push_front(request);
        }
    }

    /// Calls of a provider were tried at `now`.
    pub(super) fn tried(&mut self, provider: &str, encounter: Encounter, now: Instant) {
        let before = self.sharing.get(provider).copied();
        let is_impatient = matches!(before, Some(Sharing::Impatient(until)) if until > now);
        let after = match (encounter, before) {
            (_, before) if is_impatient => before,
            (Encounter::Overtook, _) => Some(Sharing::Impatient(now + IMPATIENCE)),
            (Encounter::Left, Some(Sharing::Courteous(since))) => Some(Sharing::Courteous(since)),
            (Encounter::Left, _) => Some(Sharing::Courteous(now)),
            (Encounter::None, _) => None,
        };
        match after {
            Some(after) => drop(self.sharing.insert(provider.to_owned(), after)),
            None => drop(self.sharing.remove(provider)),
        }
    }

    /// Whether slots of a provider are not left to others.
    pub(super) fn is_impatient(&self, provider: &str, now: Instant) -> bool {
        match self.sharing.get(provider) {
            Some(Sharing::Courteous(since)) => now.saturating_duration_since(*since) >= COURTESY,
            Some(Sharing::Impatient(until)) => *until > now,
            None => false,
        }
    }

    /// Slots of a provider may have become free: ask it again.
    pub(super) fn retry(&mut self, provider: &str) {
        self.starved.remove(provider);
    }

    /// Slots may have become free: ask all providers again.
    pub(super) fn retry_all(&mut self) {
        self.starved.clear();
    }

    /// No call of a provider is tried before the hold is over.
    pub(super) fn hold(&mut self, provider: String, hold: Hold) {
        self.holds.insert(provider, hold);
    }

    /// What holds the calls of a provider.
    pub(super) fn held(&self, provider: &str) -> Option<Hold> {
        self.holds.get(provider).copied()
    }

    /// A call has ended, or was not let go after all: a core is free again if it took one.
    pub(super) fn ended(&mut self, attempt: AttemptId) {
        self.local_running.remove(&attempt);
    }

    /// Takes a waiting call out, if it waits.
    pub(super) fn withdraw(&mut self, task: TaskId, node: &str, number: i32) -> bool {
        !self.take_out(|request| request.is(task, node, number)).is_empty()
    }

    /// Takes out all that waits for a task.
    pub(super) fn remove_task(&mut self, task: TaskId) {
        self.take_out(|request| request.task == task);
    }

    /// Takes out the waiting calls of a provider that are to ask another one.
    pub(super) fn turn_away(&mut self, provider: &str, only_with_fallback: bool) -> Vec<CallRequest> {
        self.take_out(|request| {
            request.provider.id == provider && (request.has_fallback || !only_with_fallback)
        })
    }

    fn take_out(&mut self, is_wanted: impl Fn(&CallRequest) -> bool) -> Vec<CallRequest> {
        let mut taken = Vec::new();
        for queue in self.queues.values_mut().chain([&mut self.local]) {
            if queue.iter().any(&is_wanted) {
                let (wanted, rest): (VecDeque<_>, _) =
                    std::mem::take(queue).into_iter().partition(&is_wanted);
                taken.extend(wanted);
                *queue = rest;
            }
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        taken
    }

    /// The place of each waiting task in its best queue.
    pub(super) fn places(&self) -> HashMap<TaskId, Place<'_>> {
        let mut places = HashMap::new();
        for queue in self.queues.values().chain([&self.local]) {
            for (position, request) in queue.iter().enumerate() {
                let here = Place { provider: &request.provider.id, position };
                let best = places.entry(request.task).or_insert(here);
                if here.position < best.position {
                    *best = here;
                }
            }
        }
        places
    }

    /// How many calls wait, by provider.
    pub(super) fn waiting(&self) -> HashMap<&str, usize> {
        let mut waiting = HashMap::new();
        for request in self.queues.values().flatten().chain(&self.local) {
            *waiting.entry(request.provider.id.as_str()).or_default() += 1;
        }
        waiting
    }
}
