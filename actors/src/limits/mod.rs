//! Limits of requests, the same over all replicas: how often a user, an address or a network may ask in a minute.
//!
//! The rule is in `state.rs`. The buckets lie in Redis, and one script looks at all those that a request counts for
//! and charges it to all or, where one has no room, to none; it goes by Redis's clock. One request is one
//! round trip, and none where every limit is off.
//!
//! **Without Redis** each limit says what holds ([`WithoutRedis`]): the process counts in a map of its own
//! ([`Buckets`]), or nothing passes. Once Redis has failed, what can be counted here does not wait for it any more;
//! every half second one question beside the requests finds out whether it is back. The buckets of the process
//! begin full and are forgotten when it is.
//!
//! A request that is refused for another reason afterwards has been charged all the same: a limit is about asking.

mod state;
mod store;

pub use state::{Buckets, Charge, Standing, Verdict, WithoutRedis};
pub use store::{Decided, RedisBuckets};

use crate::redis_client::{RedisClient, RedisUnavailable};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How often Redis is asked whether it is back.
const ASK_AGAIN: Duration = Duration::from_millis(500);
/// Buckets a process remembers while Redis is away: about 150 bytes each, so 10 MB.
const BUCKETS: usize = 65_536;

/// Why a request does not pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// There were too many.
    #[error("more than {} requests a minute ({})", .0.per_minute, .0.limit)]
    Exceeded(Standing),
    /// It counts for a limit that does not open without Redis, and Redis is away.
    #[error("requests cannot be counted without Redis")]
    Unavailable,
}

/// Counts requests. Clones are the same.
#[derive(Clone)]
pub struct Limiter {
    shared: Arc<Shared>,
}

struct Shared {
    buckets: RedisBuckets,
    /// Whether Redis did not answer when it was last asked.
    lost: AtomicBool,
    own: Mutex<Own>,
    started: Instant,
}

/// What the process counts itself while Redis is lost.
struct Own {
    buckets: Buckets,
    ask_again_us: u64,
}

impl Limiter {
    /// Over this Redis.
    #[must_use]
    pub fn new(redis: RedisClient) -> Self {
        Self {
            shared: Arc::new(Shared {
                buckets: RedisBuckets::new(redis),
                lost: AtomicBool::new(false),
                own: Mutex::new(Own { buckets: Buckets::new(BUCKETS), ask_again_us: 0 }),
                started: Instant::now(),
            }),
        }
    }

    /// Charges one request to all of `charges`, each of another subject or limit, or to none. Answers the standing
    /// with the fewest requests left; `None` where all limits are off, and then without a word to Redis.
    ///
    /// # Errors
    /// [`LimitError`].
    pub async fn charge(&self, charges: &[Charge]) -> Result<Option<Standing>, LimitError> {
        let charges: Vec<&Charge> = charges.iter().filter(|charge| charge.per_minute > 0).collect();
        if charges.is_empty() {
            return Ok(None);
        }
        match self.verdict(&charges).await? {
            Some(Verdict::Granted(standing)) => Ok(Some(standing)),
            Some(Verdict::Refused(standing)) => {
                metrics::counter!("greenroom_requests_limited_total", "limit" => standing.limit).increment(1);
                Err(LimitError::Exceeded(standing))
            }
            None => Ok(None),
        }
    }

    async fn verdict(&self, charges: &[&Charge]) -> Result<Option<Verdict>, LimitError> {
        let needs_redis = charges.iter().any(|charge| charge.without_redis == WithoutRedis::Refuse);
        // guesses ask it always: they have no other way
        if needs_redis || !self.shared.lost.load(Ordering::Relaxed) {
            match self.shared.buckets.charge(charges).await {
                Ok(decided) => return Ok(decided.verdict),
                Err(error) => self.shared.lose(&error),
            }
        }
        if needs_redis {
            return Err(LimitError::Unavailable);
        }
        let now_us = self.shared.now_us();
        let mut own = self.shared.own();
        if own.ask_again_us <= now_us {
            own.ask_again_us = now_us.saturating_add(micros(ASK_AGAIN));
            tokio::spawn(find(Arc::clone(&self.shared)));
        }
        Ok(own.buckets.charge(charges, now_us))
    }
}

impl Shared {
    fn lose(&self, error: &RedisUnavailable) {
        if !self.lost.swap(true, Ordering::Relaxed) {
            self.own().ask_again_us = self.now_us().saturating_add(micros(ASK_AGAIN));
            tracing::warn!(
                error = %crate::causes(error),
                "limits of requests are counted by this process alone, and nobody signs in: Redis does not answer"
            );
        }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_us(&self) -> u64 {
        micros(self.started.elapsed())
    }
}

/// Asks Redis what a request would ask: one that answers and takes no writes is as good as none.
async fn find(shared: Arc<Shared>) {
    let question = Charge {
        limit: "nobody",
        subject: "asks whether Redis is back".to_owned(),
        per_minute: 1_000_000,
        without_redis: WithoutRedis::CountHere,
    };
    if shared.buckets.charge(&[&question]).await.is_ok() && shared.lost.swap(false, Ordering::Relaxed) {
        shared.own().buckets = Buckets::new(BUCKETS);
        tracing::info!("limits of requests hold over all replicas again");
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
