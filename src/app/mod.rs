//! The one place that knows everything: it builds pools, gateways, actors and listeners from the settings,
//! hands each room what it needs, and ends them in order.
//!
//! It holds no rules. What runs where: HTTP and sockets on actix-web's workers, the actors on threads of their
//! own, so that a busy ledger never delays a heartbeat.

mod capacity;
mod connections;
mod gateways;
mod pipeline;
mod shutdown;

pub use connections::{database, redis_settings};
pub use gateways::{PlatformAnswer, UnsentCodes, ask_platforms};

use crate::{
    config::{self, Settings},
    http::{
        self, HttpSettings, State, UploadSettings, client_address::TrustedProxies, idempotency::InProgress,
        limits::RequestLimits, metrics::Metrics,
    },
    migrations,
    ws::Live,
};
use actix::Arbiter;
use actix_web::web;
use anyhow::Context;
use gateways::{Outside, SessionKeys};
use greenroom_actors::{
    health::Health,
    limits::Limiter,
    quota::{QuotaHandle, QuotaSettings},
    records::{
        api_keys::ApiKeys, audit_log::AuditLog, pipelines::Pipelines, plans::Plans,
        security_log::SecurityLog, users::Users,
    },
    redis_client::RedisClient,
    session::{
        AccessTokens, GiftedKeys, InvitationGifts, RefreshKeys, SessionHandle, SessionParts, SessionSettings,
        TokenSettings,
    },
    signals::{self, Signals},
    stream::{self, StreamHandle, StreamSettings, Tickets},
    supervisor::{RestartPolicy, Supervisor},
    upkeep::{UpkeepHandle, UpkeepParts},
};
use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::{Duration, Instant},
};

/// How often recorded figures are folded, and unused connections closed.
const HOUSEKEEPING: Duration = Duration::from_secs(5);

/// Where the service listens.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// The service.
    pub service: SocketAddr,
    /// The metrics.
    pub metrics: SocketAddr,
}

/// Runs the service until a signal or a spent restart budget ends it. `listening` is called once, when requests
/// are taken; the replica may still be unready then, such as while PostgreSQL is away.
///
/// # Errors
/// Where the service cannot start, and where an actor failed too often.
pub async fn run(
    settings: Settings,
    unsent_codes: UnsentCodes,
    listening: impl FnOnce(Addresses),
) -> anyhow::Result<()> {
    capacity::raise_open_files();
    let label = settings.server.replica_label();
    let listener = listen(settings.server.listen, "server.listen")?;
    let metrics_listener = listen(settings.server.metrics_listen, "server.metrics_listen")?;
    let addresses = Addresses { service: listener.local_addr()?, metrics: metrics_listener.local_addr()? };
    let metrics = Metrics::install().context("metrics cannot be collected")?;

    let database = database(&settings.database, &label)?;
    let redis =
        RedisClient::new(&redis_settings(&settings.redis)?).context("redis.url cannot be understood")?;
    if let Err(error) = database.warm().await {
        tracing::warn!(error = %greenroom_actors::causes(&error), "PostgreSQL is not available yet");
    }
    let supervisor = Supervisor::new(RestartPolicy::default());
    let arbiters: Vec<Arbiter> = (0..2).map(|_| Arbiter::new()).collect();
    let signals = Signals::new();
    let (stream, published) = StreamHandle::new();
    let sockets = stream::start(
        &supervisor,
        &arbiters[1].handle(),
        stream_settings(&settings.ws),
        published,
        database.clone(),
        redis.clone(),
        &signals,
    );
    signals::start(&supervisor, &arbiters[1].handle(), &signals, redis.clone());
    let health =
        Arc::new(Health::new(database.clone(), redis.clone(), supervisor.clone(), migrations::newest()));
    let handles: Vec<_> = arbiters.iter().map(Arbiter::handle).collect();
    let quota_settings = QuotaSettings {
        low: i64::from(settings.limits.quota_low),
        queued_per_user: settings.limits.queued_per_user,
        ..QuotaSettings::default()
    };
    let quota = QuotaHandle::start(&supervisor, &handles, &database, &stream, quota_settings);
    let outside = Outside::new(&settings, &database, &signals, addresses.service, unsent_codes)?;
    if settings.auth.register_requires_code && outside.sms.is_none() {
        tracing::warn!("nobody can register by phone: a code is needed, and gateways.sms is not set");
    }
    let session_parts = SessionParts {
        database: database.clone(),
        redis: redis.clone(),
        signals: signals.clone(),
        stream: stream.clone(),
        sms: outside.sms.clone(),
        wechat: outside.wechat.clone(),
        sealer: outside.sealer.clone(),
    };
    let session_settings = session_settings(&settings, &outside.keys);
    let session = SessionHandle::start(&supervisor, &arbiters[0].handle(), session_parts, session_settings);
    let pipelines = Pipelines::new(database.clone());
    let ground = pipeline::Ground {
        database: &database,
        quota: &quota,
        stream: &stream,
        signals: &signals,
        pipelines: &pipelines,
        outside: &outside,
    };
    let pipeline = pipeline::start(&supervisor, &handles[1], &ground, &settings, &label);
    let upkeep = UpkeepHandle::start(
        &supervisor,
        &handles[0],
        UpkeepParts {
            database: database.clone(),
            quota: quota.clone(),
            files: outside.files.clone(),
            pipeline: pipeline.clone(),
            access_lifetime: AccessTokens::taken_for(settings.auth.access_ttl_s),
        },
    );
    let state = web::Data::new(State {
        files: outside.files,
        objects: outside.objects,
        providers: outside.providers,
        tokens: Arc::new(access_tokens(&settings.auth)?),
        limiter: Limiter::new(redis.clone()),
        session,
        quota,
        pipeline,
        pipelines,
        upkeep,
        audit_log: AuditLog::new(database.clone()),
        security_log: SecurityLog::new(database.clone()),
        api_keys: ApiKeys::new(database.clone(), signals.clone()),
        users: Users::new(database.clone(), signals.clone()),
        plans: Plans::new(database.clone()),
        live: Live {
            sockets: sockets.clone(),
            tickets: Tickets::new(redis.clone()),
            heartbeat: Duration::from_secs(settings.ws.heartbeat_s),
        },
        health: Arc::clone(&health),
        supervisor: supervisor.clone(),
        settings: http_settings(&settings, label),
        in_progress: InProgress::default(),
    });

    let grace = Duration::from_millis(settings.server.shutdown_ms);
    let server = http::serve(listener, state, settings.server.workers, grace)?;
    let metrics_server = metrics.serve(metrics_listener)?;
    let (server_handle, metrics_handle) = (server.handle(), metrics_server.handle());
    actix::spawn(server);
    actix::spawn(metrics_server);
    actix::spawn({
        let database = database.clone();
        async move {
            let mut tick = tokio::time::interval(HOUSEKEEPING);
            loop {
                tick.tick().await;
                metrics.fold();
                database.close_idle();
            }
        }
    });
    actix::spawn(capacity::warn_of_pools(database.clone(), settings.database.pool_max));
    tracing::info!(service = %addresses.service, metrics = %addresses.metrics, "listening");
    listening(addresses);

    let reason = shutdown::awaited(&supervisor).await?;
    let deadline = Instant::now() + grace;
    health.end();
    // the server waits for its connections, and sockets would not end by themselves
    sockets.close_all();
    server_handle.stop(true).await;
    supervisor.drain(deadline).await;
    for arbiter in arbiters {
        arbiter.stop();
    }
    database.close();
    metrics_handle.stop(true).await;
    reason.into_outcome()
}

/// Access tokens as the settings want them.
///
/// # Errors
/// Where `auth.jwt_secret` is not set.
pub(crate) fn access_tokens(settings: &config::Auth) -> anyhow::Result<AccessTokens> {
    Ok(AccessTokens::new(&TokenSettings {
        secret: settings.jwt_secret.clone().context("auth.jwt_secret is not set")?,
        previous: settings.previous_jwt_secrets.clone(),
        issuer: settings.issuer.clone(),
        audience: settings.audience.clone(),
        lifetime_s: settings.access_ttl_s,
    }))
}

fn session_settings(settings: &Settings, keys: &SessionKeys) -> SessionSettings {
    let config::Invitations { newcomer_quota, referrer_quota } = settings.invitations;
    SessionSettings {
        bcrypt_cost: settings.auth.bcrypt_cost,
        refresh_lifetime: Duration::from_secs(settings.auth.refresh_ttl_s.into()),
        register_requires_code: settings.auth.register_requires_code,
        gifts: InvitationGifts { newcomer: newcomer_quota, referrer: referrer_quota },
        refresh_keys: RefreshKeys::new(keys.refresh.current, &keys.refresh.previous),
        code_key: keys.codes,
        gifted_keys: GiftedKeys::new(keys.gifted.current, &keys.gifted.previous),
    }
}

fn stream_settings(settings: &config::Ws) -> StreamSettings {
    StreamSettings {
        max_per_user: settings.max_per_user,
        queue_events: settings.queue_events,
        history_events: settings.history_events,
        history_age: Duration::from_secs(settings.history_s),
    }
}

fn http_settings(settings: &Settings, replica: String) -> HttpSettings {
    let server = settings.server.clone();
    HttpSettings {
        replica,
        refresh_ttl_s: settings.auth.refresh_ttl_s,
        request_limits: RequestLimits {
            per_minute: settings.limits.requests_per_minute,
            sign_in_per_minute: settings.limits.sign_in_per_address_per_minute,
        },
        trusted_proxies: TrustedProxies::new(move |peer| server.trusts(peer)),
        body_limit_bytes: settings.server.body_limit_bytes,
        https: settings.server.public_url.as_ref().is_some_and(|url| url.scheme() == "https"),
        cors_origins: settings.server.cors_origins.clone(),
        avatar_hosts: settings.profile.avatar_hosts.clone(),
        uploads: UploadSettings {
            max_bytes: settings.storage.max_upload_bytes,
            types: settings.storage.upload_types.iter().map(|kind| kind.to_ascii_lowercase()).collect(),
            lasting: Duration::from_secs(settings.storage.upload_ttl_s),
        },
        link_lasting: Duration::from_secs(settings.storage.link_ttl_s),
    }
}

fn listen(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("{key} = {address} cannot be listened on"))
}
