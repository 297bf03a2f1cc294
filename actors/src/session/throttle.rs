//! Guessing of passwords, bounded for each phone (or account without one) over all replicas.
//!
//! A guess takes a place before the password is looked at and gives it back with its outcome, so that a
//! thousand guesses at once are no more than five. Five failures close the phone for fifteen minutes; a success
//! forgets them. A guess that never came back (its replica died) counts as a failure. Without Redis there is no
//! guessing at all.

use super::{
    SessionError,
    scripts::{millis, timed_script},
};
use crate::redis_client::{RedisClient, RedisUnavailable};
use redis::{AsyncCommands, Script};
use std::{sync::LazyLock, time::Duration};
use uuid::Uuid;

/// Failures that close a phone.
const FAILURES: u32 = 5;
/// How long it stays closed, and how long failures are remembered.
const LOCK: Duration = Duration::from_secs(15 * 60);
/// Longest life of a guess that nobody reports on.
const GUESS: Duration = Duration::from_secs(60);
/// How long a guess waits for a place, which the owner of five devices may have to.
const WAIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// One hash a phone: `failures`, and each guess under way with the time it ends.
static BEGIN: LazyLock<Script> = LazyLock::new(|| {
    timed_script(
        "local failures, guesses = tonumber(redis.call('HGET', KEYS[1], 'failures') or '0'), 0
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  if fields[i] ~= 'failures' then
    if tonumber(fields[i + 1]) > now then
      guesses = guesses + 1
    else
      redis.call('HDEL', KEYS[1], fields[i])
      failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
    end
  end
end
if failures >= tonumber(ARGV[2]) then return math.max(redis.call('PTTL', KEYS[1]), 1) end
if failures + guesses >= tonumber(ARGV[2]) then return -1 end
redis.call('HSET', KEYS[1], ARGV[1], now + ARGV[4])
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 0",
    )
});

static FAILED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return failures",
    )
});

static ENDED: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('HDEL', KEYS[1], ARGV[1])
if ARGV[2] == 'succeeded' then redis.call('HDEL', KEYS[1], 'failures') end",
    )
});

/// The throttle of password sign-in.
#[derive(Clone)]
pub(super) struct Throttle {
    redis: RedisClient,
}

/// A guess that has its place.
#[derive(Debug)]
pub(super) struct Guess {
    key: String,
    id: String,
}

impl Throttle {
    /// Over this Redis.
    #[must_use]
    pub(super) fn new(redis: RedisClient) -> Self {
        Self { redis }
    }

    /// Takes a place for one guess of `subject`'s password: a phone, or the user where there is none.
    ///
    /// # Errors
    /// [`SessionError::Locked`], [`SessionError::Busy`] or [`SessionError::Redis`].
    pub(super) async fn begin(&self, subject: &str) -> Result<Guess, SessionError> {
        let guess = Guess { key: self.key(subject), id: Uuid::now_v7().to_string() };
        let waiting = async {
            loop {
                match self.try_begin(&guess).await? {
                    0 => return Ok(()),
                    -1 => tokio::time::sleep(PAUSE).await,
                    left_ms => {
                        let retry_after_s = left_ms.unsigned_abs().div_ceil(1000);
                        return Err(SessionError::Locked { retry_after_s });
                    }
                }
            }
        };
        tokio::time::timeout(WAIT, waiting).await.unwrap_or(Err(SessionError::Busy))?;
        Ok(guess)
    }

    /// Forgets the failures of `subject`, whose password is another one now.
    pub(super) async fn forget(&self, subject: &str) {
        let forgotten = self.redis.connection().del::<_, ()>(self.key(subject)).await;
        if let Err(error) = forgotten {
            tracing::warn!(%error, "failed sign-ins of an older password still count");
        }
    }

    fn key(&self, subject: &str) -> String {
        self.redis.key(&format!("login:{subject}"))
    }

    async fn try_begin(&self, guess: &Guess) -> Result<i64, RedisUnavailable> {
        let mut call = BEGIN.key(&guess.key);
        call.arg(&guess.id).arg(FAILURES).arg(millis(LOCK)).arg(millis(GUESS));
        Ok(call.invoke_async(&mut self.redis.connection()).await?)
    }

    /// The guess was wrong. Answers whether it was the one that closes.
    ///
    /// # Errors
    /// Where it could not be counted; it must not be answered then.
    pub(super) async fn failed(&self, guess: Guess) -> Result<bool, RedisUnavailable> {
        let mut call = FAILED.key(guess.key);
        call.arg(guess.id).arg(millis(LOCK));
        let failures: u32 = call.invoke_async(&mut self.redis.connection()).await?;
        Ok(failures == FAILURES)
    }

    /// The guess was right; earlier failures are forgotten. Should Redis not hear of it, the guess will count as
    /// a failure, which one success more mends.
    pub(super) async fn succeeded(&self, guess: Guess) {
        self.end(guess, "succeeded").await;
    }

    /// The guess was neither right nor wrong: it could not be looked at.
    pub(super) async fn abandoned(&self, guess: Guess) {
        self.end(guess, "abandoned").await;
    }

    async fn end(&self, guess: Guess, outcome: &str) {
        let mut call = ENDED.key(guess.key);
        call.arg(guess.id).arg(outcome);
        if let Err(error) = call.invoke_async::<()>(&mut self.redis.connection()).await {
            tracing::warn!(error = %crate::causes(&error), outcome, "the end of a sign-in could not be written to Redis");
        }
    }
}
