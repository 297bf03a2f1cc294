//! Ranges and cross-checks: what a type alone cannot say.

use std::ops::RangeInclusive;

use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::filter::{LevelFilter, Targets};

use super::Settings;
use crate::sealing::key_bytes;

/// Shortest secret that may sign tokens: the output of SHA-256.
pub(super) const JWT_SECRET_BYTES: usize = 32;

const DAY_MS: u64 = 86_400_000;
const GIB: u64 = 1 << 30;

impl Settings {
    /// Values out of range, as (key, what would be right).
    pub(super) fn check(&self) -> Vec<(&'static str, String)> {
        let mut found = Vec::new();
        self.check_ranges(&mut found);
        self.check_secrets(&mut found);
        self.gateways.check(&mut found);
        let database = &self.database;
        if database.pool_min > database.pool_max {
            found.push(("database.pool_min", "must not be more than database.pool_max".to_owned()));
        }
        if self.server.cors_origins.iter().any(|origin| !is_origin(origin)) {
            let expected = "must be origins, such as https://app.example.com, without a path";
            found.push(("server.cors_origins", expected.to_owned()));
        }
        if self.redis.key_prefix.contains(['{', '}']) || self.redis.key_prefix.len() > 64 {
            found.push(("redis.key_prefix", "must be at most 64 bytes, without braces".to_owned()));
        }
        let names_a_level =
            |text: &str| text.split(',').any(|part| part.trim().parse::<LevelFilter>().is_ok());
        if self.logs.level.parse::<Targets>().is_err() || !names_a_level(&self.logs.level) {
            found.push((
                "logs.level",
                "must be a level (error, warn, info, debug, trace) or directives".to_owned(),
            ));
        }
        found
    }

    fn check_ranges(&self, found: &mut Vec<(&'static str, String)>) {
        let mut range = |key, value: u64, allowed: RangeInclusive<u64>| {
            if !allowed.contains(&value) {
                found.push((key, format!("must be between {} and {}", allowed.start(), allowed.end())));
            }
        };
        let size = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
        range("server.shutdown_ms", self.server.shutdown_ms, 0..=600_000);
        range("server.body_limit_bytes", size(self.server.body_limit_bytes), 1_024..=GIB);
        range("server.workers", size(self.server.workers), 0..=1_024);
        range("database.pool_min", size(self.database.pool_min), 0..=10_000);
        range("database.pool_max", size(self.database.pool_max), 4..=10_000);
        range("database.pool_idle_ms", self.database.pool_idle_ms, 1_000..=DAY_MS);
        range("database.pool_acquire_ms", self.database.pool_acquire_ms, 10..=600_000);
        range("database.connect_timeout_ms", self.database.connect_timeout_ms, 10..=600_000);
        range("database.statement_timeout_ms", self.database.statement_timeout_ms, 0..=DAY_MS);
        range("database.lock_timeout_ms", self.database.lock_timeout_ms, 0..=DAY_MS);
        let idle_in_transaction = self.database.idle_in_transaction_timeout_ms;
        range("database.idle_in_transaction_timeout_ms", idle_in_transaction, 0..=DAY_MS);
        range("redis.connect_timeout_ms", self.redis.connect_timeout_ms, 10..=600_000);
        range("redis.response_timeout_ms", self.redis.response_timeout_ms, 10..=600_000);
        range("auth.access_ttl_s", self.auth.access_ttl_s.into(), 1..=86_400);
        range("auth.refresh_ttl_s", self.auth.refresh_ttl_s.into(), 60..=31_536_000);
        range("auth.bcrypt_cost", self.auth.bcrypt_cost.into(), 10..=16);
        range("pipeline.max_concurrency", size(self.pipeline.max_concurrency), 1..=1_000);
        range("pipeline.lease_ms", self.pipeline.lease_ms, 1_000..=600_000);
        range("pipeline.queue_ttl_ms", self.pipeline.queue_ttl_ms, 1_000..=30 * DAY_MS);
        range("providers.max_response_bytes", size(self.providers.max_response_bytes), 1_024..=GIB);
        range("providers.max_file_bytes", self.providers.max_file_bytes, 1_024..=GIB);
        range("storage.max_upload_bytes", self.storage.max_upload_bytes, 1..=5 * GIB);
        range("storage.upload_ttl_s", self.storage.upload_ttl_s, 10..=86_400);
        range("storage.link_ttl_s", self.storage.link_ttl_s, 10..=86_400);
        range("limits.requests_per_minute", self.limits.requests_per_minute.into(), 0..=1_000_000);
        let sign_in = self.limits.sign_in_per_address_per_minute;
        range("limits.sign_in_per_address_per_minute", sign_in.into(), 0..=100_000);
        range("ws.max_per_user", size(self.ws.max_per_user), 0..=10_000);
        range("ws.queue_events", size(self.ws.queue_events), 16..=100_000);
        range("ws.history_events", size(self.ws.history_events), 0..=1_000_000);
        range("ws.history_s", self.ws.history_s, 1..=604_800);
        range("ws.heartbeat_s", self.ws.heartbeat_s, 1..=300);
    }

    /// The form of the secrets that are set; that some are missing only `serve` minds.
    fn check_secrets(&self, found: &mut Vec<(&'static str, String)>) {
        let exposed = |secret: &Option<SecretString>| secret.as_ref().map(|s| s.expose_secret().to_owned());
        if exposed(&self.database.url).is_some_and(|url| url.parse::<tokio_postgres::Config>().is_err()) {
            let message = "must be like postgres://user:password@host:5432/database";
            found.push(("database.url", message.to_owned()));
        }
        if exposed(&self.redis.url).is_some_and(|url| redis::parse_redis_url(&url).is_none()) {
            found.push(("redis.url", "must be like redis://:password@host:6379/0".to_owned()));
        }
        let too_short = |secret: &SecretString| secret.expose_secret().len() < JWT_SECRET_BYTES;
        let short =
            || format!("must be {JWT_SECRET_BYTES} bytes or more, such as `openssl rand -base64 48` makes");
        if self.auth.jwt_secret.as_ref().is_some_and(too_short) {
            found.push(("auth.jwt_secret", short()));
        }
        if self.auth.previous_jwt_secrets.iter().any(too_short) {
            found.push(("auth.previous_jwt_secrets", format!("each {}", short())));
        }
        let key = "must be 32 bytes in base64, such as `openssl rand -base64 32` makes";
        if self.secrets.key.as_ref().is_some_and(|text| key_bytes(text).is_none()) {
            found.push(("secrets.key", key.to_owned()));
        }
        if self.secrets.previous_keys.iter().any(|text| key_bytes(text).is_none()) {
            found.push(("secrets.previous_keys", format!("each {key}")));
        }
    }
}

/// Whether a browser could send `text` as the `Origin` of a page.
fn is_origin(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https") && url.origin().ascii_serialization() == text
    })
}
