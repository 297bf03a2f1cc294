//! What handlers hold: handles of actors, record stores, and the few settings that requests depend on.

use super::{client_address::TrustedProxies, idempotency::InProgress, limits::RequestLimits};
use crate::ws::Live;
use greenroom_actors::{
    health::Health,
    limits::Limiter,
    object_store::LinkedObjects,
    pipeline::PipelineHandle,
    quota::QuotaHandle,
    records::{
        api_keys::ApiKeys, audit_log::AuditLog, files::Files, pipelines::Pipelines, plans::Plans,
        providers::Providers, security_log::SecurityLog, users::Users,
    },
    session::{AccessTokens, SessionHandle},
    supervisor::Supervisor,
    upkeep::UpkeepHandle,
};
use std::{sync::Arc, time::Duration};

/// Everything a handler may use; shared by all workers.
pub struct State {
    /// Verifies access tokens.
    pub tokens: Arc<AccessTokens>,
    /// Counts requests.
    pub limiter: Limiter,
    /// Signs people up, in and out.
    pub session: SessionHandle,
    /// The ledger.
    pub quota: QuotaHandle,
    /// Tasks.
    pub pipeline: PipelineHandle,
    /// What tasks can be started of.
    pub pipelines: Pipelines,
    /// The timetable.
    pub upkeep: UpkeepHandle,
    /// Who changed what.
    pub audit_log: AuditLog,
    /// What happened to accounts.
    pub security_log: SecurityLog,
    /// Keys by which programs call.
    pub api_keys: ApiKeys,
    /// Profiles.
    pub users: Users,
    /// What can be bought.
    pub plans: Plans,
    /// Users' files.
    pub files: Files,
    /// Serves the links to files.
    pub objects: Arc<dyn LinkedObjects>,
    /// Whom pipelines may call.
    pub providers: Providers,
    /// What sockets need.
    pub live: Live,
    /// What a load balancer asks for.
    pub health: Arc<Health>,
    /// The actors' figures.
    pub supervisor: Supervisor,
    /// The settings below.
    pub settings: HttpSettings,
    /// Idempotency keys whose first request is still running in this process.
    pub in_progress: InProgress,
}

/// Settings that requests depend on.
#[derive(Clone, Debug)]
pub struct HttpSettings {
    /// This replica's label in admin views.
    pub replica: String,
    /// Age of a refresh token, seconds.
    pub refresh_ttl_s: u32,
    /// How often anybody may ask.
    pub request_limits: RequestLimits,
    /// Who may say where a request comes from.
    pub trusted_proxies: TrustedProxies,
    /// Largest JSON body, bytes.
    pub body_limit_bytes: usize,
    /// Whether clients reach us over https, so that browsers may be told to insist on it.
    pub https: bool,
    /// Origins a browser may call from; none switches CORS off.
    pub cors_origins: Vec<String>,
    /// Hosts an avatar's address may name.
    pub avatar_hosts: Vec<String>,
    /// What may be uploaded.
    pub uploads: UploadSettings,
    /// How long a link to a file works.
    pub link_lasting: Duration,
}

/// What may be uploaded.
#[derive(Clone, Debug)]
pub struct UploadSettings {
    /// Largest file, bytes.
    pub max_bytes: u64,
    /// Media types, in small letters.
    pub types: Vec<String>,
    /// How long an announced upload may take.
    pub lasting: Duration,
}
