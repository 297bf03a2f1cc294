//! The shared Redis connection and the prefix of this installation's keys.
//!
//! Redis holds what may be lost. Whoever uses it must say what happens without it.

use redis::{
    AsyncConnectionConfig, Client, PushInfo,
    aio::{ConnectionManager, ConnectionManagerConfig, MultiplexedConnection},
};
use secrecy::{ExposeSecret, SecretString};
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::mpsc;

/// Published messages that may wait for their reader; past it the subscription counts as cut.
const WAITING_PUSHES: usize = 16_384;

/// Where Redis is and how patient to be with it.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// `redis://:password@host:port/0`.
    pub url: SecretString,
    /// Stands before every key of this installation.
    pub key_prefix: String,
    /// How long connecting may take.
    pub connect: Duration,
    /// How long an answer may take.
    pub response: Duration,
}

/// One multiplexed connection that reconnects by itself. Clones share it.
#[derive(Clone)]
pub struct RedisClient {
    client: Client,
    connection: ConnectionManager,
    subscribing: AsyncConnectionConfig,
    prefix: std::sync::Arc<str>,
}

/// Redis did not answer as it should.
#[derive(Debug, thiserror::Error)]
#[error("redis is not available")]
pub struct RedisUnavailable(#[from] redis::RedisError);

impl RedisClient {
    /// A client that connects when first used, so that the service starts without Redis.
    ///
    /// # Errors
    /// When the URL cannot be understood. The URL is never part of the error.
    pub fn new(settings: &RedisSettings) -> Result<Self, RedisUnavailable> {
        let url = settings.url.expose_secret();
        let separator = if url.contains('?') { '&' } else { '?' };
        let resp3 = if url.contains("protocol=") {
            url.to_owned()
        } else {
            format!("{url}{separator}protocol=resp3")
        };
        let client = Client::open(resp3)?;
        let subscribing = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect))
            .set_response_timeout(Some(settings.response));
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(settings.connect))
            .set_response_timeout(Some(settings.response))
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(500));
        Ok(Self {
            connection: ConnectionManager::new_lazy_with_config(client.clone(), config)?,
            client,
            subscribing,
            prefix: settings.key_prefix.as_str().into(),
        })
    }

    /// A connection of its own for subscriptions, and what is published on it. It does not reconnect: when the
    /// pushes end, something may have been missed, and the owner must subscribe again and read what it missed.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn subscriber(
        &self,
    ) -> Result<(MultiplexedConnection, mpsc::Receiver<PushInfo>), RedisUnavailable> {
        let (sender, receiver) = mpsc::channel(WAITING_PUSHES);
        // the first message that finds no room takes the only sender away, which ends the pushes for the reader
        let sender = Mutex::new(Some(sender));
        let forward = move |push: PushInfo| {
            let mut sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = sender.as_ref().is_some_and(|sender| sender.try_send(push).is_ok());
            if !sent {
                *sender = None;
            }
            if sent { Ok(()) } else { Err(()) }
        };
        let config = self.subscribing.clone().set_push_sender(forward);
        let connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok((connection, receiver))
    }

    /// The connection, for one command, script or pipeline.
    #[must_use]
    pub fn connection(&self) -> ConnectionManager {
        self.connection.clone()
    }

    /// `name` as this installation's key.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether Redis answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ping(&self) -> Result<(), RedisUnavailable> {
        redis::cmd("PING").query_async::<()>(&mut self.connection()).await?;
        Ok(())
    }
}
