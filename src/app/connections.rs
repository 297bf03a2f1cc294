//! From settings to PostgreSQL and Redis.

use crate::config;
use anyhow::Context;
use greenroom_actors::{
    database::{Database, PoolSettings},
    redis_client::RedisSettings,
};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use tokio_postgres::{NoTls, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

/// The pool over the database that the settings name; opens no connection yet.
///
/// The connection is encrypted when the URL says `sslmode=require` (the server's certificate must then be one
/// the system trusts) and is plain otherwise.
///
/// # Errors
/// When no URL is set or it cannot be understood.
pub fn database(settings: &config::Database, label: &str) -> anyhow::Result<Database> {
    let url = settings.url.clone().context("database.url is not set")?;
    let encrypted = must_encrypt(&url)?;
    let pool = PoolSettings {
        url,
        application_name: format!("greenroom {label}"),
        min: settings.pool_min,
        max: settings.pool_max,
        idle: Duration::from_millis(settings.pool_idle_ms),
        acquire: Duration::from_millis(settings.pool_acquire_ms),
        connect: Duration::from_millis(settings.connect_timeout_ms),
        statement_timeout: Duration::from_millis(settings.statement_timeout_ms),
        lock_timeout: Duration::from_millis(settings.lock_timeout_ms),
        idle_in_transaction_timeout: Duration::from_millis(settings.idle_in_transaction_timeout_ms),
    };
    let made = if encrypted {
        let (tls, _unreadable) = MakeRustlsConnect::with_native_certs()
            .map_err(|_| anyhow::anyhow!("the system's trusted certificates cannot be read"))?;
        Database::new(&pool, tls)
    } else {
        Database::new(&pool, NoTls)
    };
    made.context("database.url cannot be understood")
}

fn must_encrypt(url: &SecretString) -> anyhow::Result<bool> {
    // the parser's error may quote the URL, and with it the password
    let parsed: tokio_postgres::Config =
        url.expose_secret().parse().map_err(|_| anyhow::anyhow!("database.url cannot be understood"))?;
    Ok(parsed.get_ssl_mode() == SslMode::Require)
}

/// How to reach the Redis that the settings name.
///
/// # Errors
/// When no URL is set.
pub fn redis_settings(settings: &config::Redis) -> anyhow::Result<RedisSettings> {
    Ok(RedisSettings {
        url: settings.url.clone().context("redis.url is not set")?,
        key_prefix: settings.key_prefix.clone(),
        connect: Duration::from_millis(settings.connect_timeout_ms),
        response: Duration::from_millis(settings.response_timeout_ms),
    })
}
