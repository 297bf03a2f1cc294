//! From settings to the running of tasks.

use super::gateways::Outside;
use crate::config::Settings;
use actix::ArbiterHandle;
use greenroom_actors::{
    database::Database,
    pipeline::{EngineSettings, PipelineHandle, PipelineParts, PipelineSettings},
    quota::QuotaHandle,
    records::pipelines::Pipelines,
    signals::Signals,
    stream::StreamHandle,
    supervisor::Supervisor,
};
use std::{sync::Arc, time::Duration};

/// What the pipeline stands on besides what is outside.
pub(super) struct Ground<'a> {
    pub(super) database: &'a Database,
    pub(super) quota: &'a QuotaHandle,
    pub(super) stream: &'a StreamHandle,
    pub(super) signals: &'a Signals,
    pub(super) pipelines: &'a Pipelines,
    pub(super) outside: &'a Outside,
}

/// Starts the pipeline on `arbiter`; `label` is this replica's.
pub(super) fn start(
    supervisor: &Supervisor,
    arbiter: &ArbiterHandle,
    ground: &Ground<'_>,
    settings: &Settings,
    label: &str,
) -> PipelineHandle {
    let parts = PipelineParts {
        database: ground.database.clone(),
        quota: ground.quota.clone(),
        stream: ground.stream.clone(),
        signals: ground.signals.clone(),
        pipelines: ground.pipelines.clone(),
        providers: ground.outside.providers.clone(),
        kinds: ground.outside.kinds.clone(),
        files: ground.outside.files.clone(),
        store: Arc::clone(ground.outside.files.store()),
    };
    let engine = EngineSettings {
        label: label.to_owned(),
        max_concurrency: settings.pipeline.max_concurrency,
        lease: Duration::from_millis(settings.pipeline.lease_ms),
        queue_ttl: Duration::from_millis(settings.pipeline.queue_ttl_ms),
        running_per_user: settings.limits.running_per_user,
        local_calls: std::thread::available_parallelism().map_or(1, usize::from),
        inline_bytes: settings.providers.max_file_bytes,
        // the other half is for what calls leave to be written
        drain: Duration::from_millis(settings.server.shutdown_ms / 2),
    };
    let settings = PipelineSettings { engine, queued_total: settings.limits.queued_total };
    PipelineHandle::start(supervisor, arbiter, parts, settings)
}
