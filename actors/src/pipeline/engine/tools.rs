//! What all lives of one replica's engine share.

use super::{
    calls::{CallTools, Calls},
    clock::ServerClock,
    health::ProviderHealth,
    jobs::{Inbox, JobTools},
    lease::LeaseClock,
    providers::ProviderBoard,
    run::RunTools,
};
use crate::{
    database::Database,
    ids::OwnerId,
    object_store::ObjectStore,
    pipeline::{
        ReplicaReport,
        definition::{Definition, ProviderNode},
        places::Places,
        provider::ProviderKinds,
        queued_count::QueuedCount,
    },
    quota::QuotaHandle,
    records::{files::Files, pipelines::Pipelines, providers::Providers},
    signals::Signals,
    stream::StreamHandle,
    supervisor::Supervisor,
};
use std::{sync::Arc, time::Duration};

/// How an engine behaves.
#[derive(Clone, Debug)]
pub struct EngineSettings {
    /// What logs and admin views call this replica.
    pub label: String,
    /// Provider calls of one task at once, 1 or more.
    pub max_concurrency: usize,
    /// How long a replica that falls silent keeps its tasks.
    pub lease: Duration,
    /// How long a task may wait for its first call.
    pub queue_ttl: Duration,
    /// Running tasks of a user where the plan does not say; 0 is off.
    pub running_per_user: u32,
    /// Calls at once that are bounded by this machine's cores.
    pub local_calls: usize,
    /// Bytes of a file that goes into a provider's input as base64, at most.
    pub inline_bytes: u64,
    /// How long a shutdown waits for the answers of calls that are away.
    pub drain: Duration,
}

/// What an engine works with.
pub(in crate::pipeline) struct Tools {
    pub(super) settings: EngineSettings,
    /// This process: the owner of all tasks it claims, over all lives of its engine.
    pub(in crate::pipeline) owner: OwnerId,
    pub(super) database: Database,
    pub(super) quota: QuotaHandle,
    pub(super) stream: StreamHandle,
    pub(super) signals: Signals,
    /// Whose actors others are told of.
    supervisor: Supervisor,
    pub(super) lease: Arc<LeaseClock>,
    pub(super) clock: Arc<ServerClock>,
    pub(super) providers: Arc<ProviderBoard>,
    pub(super) health: Arc<ProviderHealth>,
    pub(super) calls: Arc<Calls>,
    pub(super) call_tools: Arc<CallTools>,
    pub(super) run_tools: Arc<RunTools>,
    /// The callbacks that calls wait for.
    pub(in crate::pipeline) inbox: Arc<Inbox>,
    /// Where tasks stand that nobody has claimed.
    pub(in crate::pipeline) places: Places,
    /// How many tasks of all users are queued.
    pub(in crate::pipeline) queued: Arc<QueuedCount>,
}

/// What [`Tools`] are made of, from outside.
pub(in crate::pipeline) struct Parts {
    pub(in crate::pipeline) database: Database,
    pub(in crate::pipeline) quota: QuotaHandle,
    pub(in crate::pipeline) stream: StreamHandle,
    pub(in crate::pipeline) signals: Signals,
    pub(in crate::pipeline) supervisor: Supervisor,
    pub(in crate::pipeline) pipelines: Pipelines,
    pub(in crate::pipeline) providers: Providers,
    pub(in crate::pipeline) kinds: ProviderKinds,
    pub(in crate::pipeline) files: Files,
    pub(in crate::pipeline) store: Arc<dyn ObjectStore>,
}

impl Tools {
    pub(in crate::pipeline) fn new(parts: Parts, settings: EngineSettings) -> Self {
        let lease = Arc::new(LeaseClock::new(settings.lease));
        let clock = Arc::new(ServerClock::default());
        let calls = Arc::new(Calls::default());
        let (owner, inbox) = (OwnerId::new(), Arc::new(Inbox::default()));
        let providers = Arc::new(ProviderBoard::new(parts.providers));
        let health = Arc::new(ProviderHealth::new(Arc::clone(&clock)));
        let call_tools = CallTools {
            kinds: parts.kinds,
            files: parts.files,
            store: parts.store,
            inline_bytes: settings.inline_bytes,
            lease: Arc::clone(&lease),
            health: Arc::clone(&health),
            calls: Arc::clone(&calls),
            jobs: JobTools {
                database: parts.database.clone(),
                owner,
                inbox: Arc::clone(&inbox),
                calls: Arc::clone(&calls),
            },
        };
        let run_tools = RunTools {
            database: parts.database.clone(),
            pipelines: parts.pipelines,
            providers: Arc::clone(&providers),
            health: Arc::clone(&health),
            calls: Arc::clone(&calls),
            clock: Arc::clone(&clock),
            max_concurrency: settings.max_concurrency.max(1),
            queue_ttl: settings.queue_ttl,
        };
        let places = Places::new(parts.database.clone(), settings.running_per_user);
        Self {
            settings,
            owner,
            database: parts.database,
            quota: parts.quota,
            stream: parts.stream,
            signals: parts.signals,
            supervisor: parts.supervisor,
            lease,
            clock,
            providers,
            health,
            calls,
            call_tools: Arc::new(call_tools),
            run_tools: Arc::new(run_tools),
            inbox,
            places,
            queued: Arc::default(),
        }
    }

    /// What others are told of this replica.
    pub(in crate::pipeline) fn report(&self) -> ReplicaReport {
        ReplicaReport { label: self.settings.label.clone(), actors: self.supervisor.snapshot() }
    }

    /// The pool.
    pub(in crate::pipeline) fn database(&self) -> &Database {
        &self.database
    }

    /// The queue of tasks of this definition: the first provider with a ceiling that their first calls ask. And whether
    /// those calls have another one to ask.
    pub(in crate::pipeline) fn queue_of(&self, definition: &Definition) -> (String, bool) {
        let is_bounded = |node: &&ProviderNode| {
            // of one that was saved just now nothing is known yet
            self.providers.policy(&node.provider).is_none_or(|policy| policy.max_concurrency.is_some())
        };
        let first = definition.first_calls().into_iter().find(is_bounded);
        first.map_or_else(Default::default, |node| (node.provider.clone(), !node.fallback.is_empty()))
    }
}
