//! The buckets of all replicas, in Redis. A key lives as long as its bucket is not full.

use super::state::{Charge, Standing, Verdict};
use crate::redis_client::{RedisClient, RedisUnavailable};
use redis::Script;

/// The buckets of an installation.
pub struct RedisBuckets {
    redis: RedisClient,
    script: Script,
}

/// What Redis decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// When, by its clock.
    pub at_us: u64,
    /// What.
    pub verdict: Option<Verdict>,
}

impl RedisBuckets {
    /// Those of this Redis and prefix.
    #[must_use]
    pub fn new(redis: RedisClient) -> Self {
        Self { redis, script: Script::new(include_str!("charge.lua")) }
    }

    /// Charges one request to all of `charges`, of which there is one at least and each is of another subject or limit,
    /// or to none.
    ///
    /// # Errors
    /// When Redis does not answer as it should; whether it has charged is not known then.
    pub async fn charge(&self, charges: &[&Charge]) -> Result<Decided, RedisUnavailable> {
        let mut call = self.script.prepare_invoke();
        for charge in charges {
            let full: Standing = charge.standing(0);
            call.key(self.redis.key(&charge.key())).arg(full.cost_us()).arg(full.room_us());
        }
        let answer: Vec<u64> = call.invoke_async(&mut self.redis.connection()).await?;
        // `now`, whether granted, and what each owes
        let at_us = answer.first().copied().unwrap_or(0);
        let granted = answer.get(1) == Some(&1);
        let owed = answer.into_iter().skip(2);
        let standings = charges.iter().zip(owed).map(|(charge, owed_us)| charge.standing(owed_us)).collect();
        Ok(Decided { at_us, verdict: Verdict::of(granted, standings) })
    }
}
