//! Codes that are sent to phones: six digits, good once, for five minutes and five tries, and only for what they were
//! asked for.
//!
//! `code:<scene>:<phone>` holds a keyed hash, so whoever reads Redis learns no code. `codes_sent:<phone>` counts what is
//! sent. A code that was right is remembered for a minute or longer by who used it, so that a command that is asked again
//! finds it right again. One that certainly nothing was done with is given back.

use super::{
    Phone, Scene, SessionError,
    keyed_hash::keyed_hash,
    scripts::{millis, timed_script},
};
use crate::redis_client::{RedisClient, RedisUnavailable};
use hmac::Mac;
use rand::RngExt;
use redis::Script;
use secrecy::{ExposeSecret, SecretBox, SecretString};
use std::{
    sync::{Arc, LazyLock},
    time::Duration,
};
use uuid::Uuid;

/// How long a code is good.
pub const CODE_LIFETIME: Duration = Duration::from_secs(300);
/// Between two codes for one phone.
pub const CODE_GAP: Duration = Duration::from_secs(60);
/// Codes for one phone a day.
const A_DAY: u32 = 10;
const DAY: Duration = Duration::from_secs(24 * 3600);
/// Tries of one code.
const TRIES: u32 = 5;
/// How long, at least, a code that was used is recognised by who used it.
const ASKED_AGAIN: Duration = Duration::from_secs(60);

/// Counts one code more: 0, or after how many milliseconds it may be asked for.
static COUNT: LazyLock<Script> = LazyLock::new(|| {
    timed_script(
        "local sent = redis.call('HMGET', KEYS[1], 'last', 'count')
local wait = sent[1] and tonumber(sent[1]) + ARGV[1] - now or 0
if wait > 0 then return wait end
if tonumber(sent[2] or '0') >= tonumber(ARGV[2]) then return math.max(redis.call('PTTL', KEYS[1]), 1) end
redis.call('HSET', KEYS[1], 'last', now)
redis.call('HINCRBY', KEYS[1], 'count', 1)
if redis.call('PTTL', KEYS[1]) < 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 0",
    )
});

/// Takes back the last code that was counted: it was certainly not sent.
static FORGET: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HDEL', KEYS[1], 'last') == 1 then redis.call('HINCRBY', KEYS[1], 'count', -1) end
redis.call('DEL', KEYS[2])",
    )
});

static KEEP: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'hash', ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[2])",
    )
});

/// What a code that is shown turns out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// The one that was sent; it is used up now.
    Right,
    /// Another one, and one try less is left.
    Wrong,
    /// None is good: none was sent, or it was used, is too old or had its five tries.
    Void,
}

/// 1 where `ARGV[1]` is the code's hash and nobody but `ARGV[2]` has used it, 2 where it is another one.
static USE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local code = redis.call('HMGET', KEYS[1], 'hash', 'used_by')
if not code[1] then return 0 end
if code[2] then return (code[1] == ARGV[1] and code[2] == ARGV[2]) and 1 or 0 end
if code[1] == ARGV[1] then
  redis.call('HSET', KEYS[1], 'used_by', ARGV[2])
  if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
  return 1
end
if redis.call('HINCRBY', KEYS[1], 'tries', 1) >= tonumber(ARGV[3]) then redis.call('DEL', KEYS[1]) end
return 2",
    )
});

/// The code is good again that `ARGV[1]` has used.
static GIVE_BACK: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "if redis.call('HGET', KEYS[1], 'used_by') == ARGV[1] then redis.call('HDEL', KEYS[1], 'used_by') end",
    )
});

/// The codes.
#[derive(Clone)]
pub(super) struct Codes {
    redis: RedisClient,
    key: Arc<SecretBox<[u8; 32]>>,
}

impl Codes {
    /// Codes in this Redis, hashed with this key.
    pub(super) fn new(redis: RedisClient, key: [u8; 32]) -> Self {
        Self { redis, key: Arc::new(SecretBox::new(Box::new(key))) }
    }

    /// A fresh code for `phone`, in place of an earlier one.
    ///
    /// # Errors
    /// [`SessionError::TooManyCodes`] or [`SessionError::Redis`].
    pub(super) async fn issue(&self, phone: &Phone, scene: Scene) -> Result<SecretString, SessionError> {
        let mut connection = self.redis.connection();
        let mut count = COUNT.key(self.sent_key(phone));
        count.arg(millis(CODE_GAP)).arg(A_DAY).arg(millis(DAY));
        let wait: i64 = count.invoke_async(&mut connection).await.map_err(RedisUnavailable::from)?;
        if wait > 0 {
            let retry_after_s = wait.unsigned_abs().div_ceil(1000);
            let most = if retry_after_s > CODE_GAP.as_secs() { A_DAY } else { 1 };
            return Err(SessionError::TooManyCodes { retry_after_s, most });
        }
        // the generator of this thread is a CSPRNG
        let code: SecretString = format!("{:06}", rand::rng().random_range(0..1_000_000)).into();
        let mut keep = KEEP.key(self.code_key(phone, scene));
        keep.arg(self.hash(phone, scene, &code)).arg(millis(CODE_LIFETIME));
        keep.invoke_async::<()>(&mut connection).await.map_err(RedisUnavailable::from)?;
        Ok(code)
    }

    /// The last code was certainly not sent, so that it does not count.
    pub(super) async fn forget(&self, phone: &Phone, scene: Scene) {
        let mut call = FORGET.key(self.sent_key(phone));
        call.key(self.code_key(phone, scene));
        if let Err(error) = call.invoke_async::<()>(&mut self.redis.connection()).await {
            tracing::warn!(%error, "a code that was not sent still counts");
        }
    }

    /// Whether `code` was sent to `phone` for this; then it is used up for everybody but `user`, the command that asks.
    pub(super) async fn consume(
        &self,
        phone: &Phone,
        scene: Scene,
        code: &SecretString,
        user: Uuid,
    ) -> Result<Shown, RedisUnavailable> {
        let mut call = USE.key(self.code_key(phone, scene));
        call.arg(self.hash(phone, scene, code)).arg(user.to_string()).arg(TRIES).arg(millis(ASKED_AGAIN));
        let said: i64 = call.invoke_async(&mut self.redis.connection()).await?;
        Ok(match said {
            1 => Shown::Right,
            2 => Shown::Wrong,
            _ => Shown::Void,
        })
    }

    /// Nothing was done with the code that `user` has used.
    pub(super) async fn give_back(&self, phone: &Phone, scene: Scene, user: Uuid) {
        let mut call = GIVE_BACK.key(self.code_key(phone, scene));
        call.arg(user.to_string());
        if let Err(error) = call.invoke_async::<()>(&mut self.redis.connection()).await {
            tracing::warn!(error = %crate::causes(&error), "a code that was of no use is not given back");
        }
    }

    fn hash(&self, phone: &Phone, scene: Scene, code: &SecretString) -> String {
        let mut mac = keyed_hash(&self.key);
        mac.update(format!("{}|{}|{}", scene.name(), phone.digits(), code.expose_secret()).as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    fn code_key(&self, phone: &Phone, scene: Scene) -> String {
        self.redis.key(&format!("code:{}:{}", scene.name(), phone.digits()))
    }

    fn sent_key(&self, phone: &Phone) -> String {
        self.redis.key(&format!("codes_sent:{}", phone.digits()))
    }
}
