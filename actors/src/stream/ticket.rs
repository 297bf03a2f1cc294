//! Tickets: what a browser, which cannot set headers on a websocket, shows instead of its access token.

use crate::redis_client::{RedisClient, RedisUnavailable};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How long a ticket can be used.
const LIFE: Duration = Duration::from_secs(30);

/// Longer ones are not ours.
const LONGEST: usize = 64;

/// Issues and redeems tickets; each is good for one socket. They lie in Redis under a hash, so whoever reads
/// Redis can use none.
#[derive(Clone)]
pub struct Tickets {
    redis: RedisClient,
}

/// Why a ticket is not good.
#[derive(Debug, thiserror::Error)]
pub enum TicketError {
    /// Never issued, used, or too old.
    #[error("the ticket is not valid")]
    Invalid,
    /// Redis does not answer; the ticket may still be good.
    #[error(transparent)]
    Unavailable(#[from] RedisUnavailable),
}

impl From<redis::RedisError> for TicketError {
    fn from(error: redis::RedisError) -> Self {
        Self::Unavailable(error.into())
    }
}

impl Tickets {
    /// Tickets in this Redis.
    #[must_use]
    pub fn new(redis: RedisClient) -> Self {
        Self { redis }
    }

    /// How long a ticket can be used.
    #[must_use]
    pub fn life() -> Duration {
        LIFE
    }

    /// Issues a ticket that stands for `bearer`, which [`Self::redeem`] gives back once.
    ///
    /// # Errors
    /// When Redis does not answer.
    pub async fn issue(&self, bearer: &str) -> Result<String, TicketError> {
        let ticket = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>());
        redis::cmd("SET")
            .arg(self.key(&ticket))
            .arg(bearer)
            .arg("EX")
            .arg(LIFE.as_secs())
            .query_async::<()>(&mut self.redis.connection())
            .await?;
        Ok(ticket)
    }

    /// Takes a ticket; it is used up.
    ///
    /// # Errors
    /// [`TicketError::Invalid`] if it stands for nothing (any more).
    pub async fn redeem(&self, ticket: &str) -> Result<String, TicketError> {
        if ticket.len() > LONGEST {
            return Err(TicketError::Invalid);
        }
        let bearer: Option<String> =
            redis::cmd("GETDEL").arg(self.key(ticket)).query_async(&mut self.redis.connection()).await?;
        bearer.ok_or(TicketError::Invalid)
    }

    fn key(&self, ticket: &str) -> String {
        self.redis.key(&format!("ws_ticket:{}", hex::encode(Sha256::digest(ticket.as_bytes()))))
    }
}
