//! The device sessions of each user in Redis, `refresh:<userId>`: a hash with a field for each session.
//!
//! Each script is atomic, so any number of replicas may work on the same user. Times are Redis' own.

use super::{
    Origin,
    scripts::{millis, timed_script},
};
use crate::{
    ids::{SessionId, UserId},
    redis_client::{RedisClient, RedisUnavailable},
};
use chrono::{DateTime, Utc};
use redis::{AsyncCommands, Script};
use serde::{Deserialize, Serialize};
use std::{sync::LazyLock, time::Duration};

/// Devices of one user; one more makes the oldest leave.
pub(super) const MOST: usize = 10;
/// For so long after a rotation the token before it says again what it said.
const REPLAY: Duration = Duration::from_secs(10);

/// What is kept of a session. Nothing of it can be used as a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Device {
    pub(super) nonce: String,
    /// Which key the token that is good was derived with.
    pub(super) kid: String,
    /// The number of the token that is good.
    pub(super) n: u64,
    /// The generation of the user's sessions when it was opened; see `users.session_generation`.
    pub(super) generation: i64,
    pub(super) agent: String,
    pub(super) address: String,
    /// Milliseconds since 1970: when it was opened, last refreshed, and when it ends.
    #[serde(default)]
    pub(super) created: i64,
    #[serde(default)]
    pub(super) used: i64,
    #[serde(default)]
    pub(super) expires: i64,
}

impl Device {
    /// A session that begins with token 1 of that key.
    pub(super) fn new(key_id: &str, generation: i64, origin: &Origin) -> Self {
        Self {
            nonce: hex::encode(rand::random::<[u8; 16]>()),
            kid: key_id.to_owned(),
            n: 1,
            generation,
            agent: origin.user_agent.clone().unwrap_or_default(),
            address: origin.address.map(|address| address.to_string()).unwrap_or_default(),
            created: 0,
            used: 0,
            expires: 0,
        }
    }

    pub(super) fn time(milliseconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(milliseconds).unwrap_or_default()
    }
}

/// What became of a refresh token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rotation {
    /// It was good and is used up now, or was a moment ago and its successor was not used since: the token of this number
    /// and key takes its place.
    Next(u64, String),
    /// It was used up before: somebody has a copy. The session is closed.
    Reused,
    /// There is no such session.
    Gone,
}

/// Opens `ARGV[1]` as `ARGV[2]` for `ARGV[3]` ms, among at most `ARGV[4]`. Answers the session as it stands, which is an
/// earlier one where this is asked again, and those that had to leave.
static OPEN: LazyLock<Script> = LazyLock::new(|| {
    timed_script(
        "local own = redis.call('HGET', KEYS[1], ARGV[1])
if own then return {own} end
local sessions = {}
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local session = cjson.decode(all[i + 1])
  if session.expires <= now then
    redis.call('HDEL', KEYS[1], all[i])
  else
    sessions[#sessions + 1] = {all[i], session.created}
  end
end
table.sort(sessions, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
local session = cjson.decode(ARGV[2])
session.created, session.used, session.rotated, session.expires = now, now, now, now + ARGV[3]
local answer = {cjson.encode(session)}
for i = 1, #sessions - ARGV[4] + 1 do
  redis.call('HDEL', KEYS[1], sessions[i][1])
  answer[#answer + 1] = sessions[i][1]
end
redis.call('HSET', KEYS[1], ARGV[1], answer[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return answer",
    )
});

/// Rotates session `ARGV[1]` of nonce `ARGV[2]` and generation `ARGV[3]` with token `ARGV[4]`: it lasts `ARGV[5]` ms more,
/// and repeats are answered for `ARGV[6]` ms. `ARGV[7]` and `ARGV[8]` are where it was used, `ARGV[9]` is the key of the next
/// token.
static ROTATE: LazyLock<Script> = LazyLock::new(|| {
    timed_script(
        "local own = redis.call('HGET', KEYS[1], ARGV[1])
if not own then return {'gone', 0, ''} end
local session = cjson.decode(own)
if session.nonce ~= ARGV[2] then return {'gone', 0, ''} end
if session.expires <= now or session.generation ~= tonumber(ARGV[3]) then
  redis.call('HDEL', KEYS[1], ARGV[1])
  return {'gone', 0, ''}
end
local n = tonumber(ARGV[4])
if n == session.n then
  session.n, session.rotated, session.used, session.expires = n + 1, now, now, now + ARGV[5]
  session.agent, session.address, session.kid = ARGV[7], ARGV[8], ARGV[9]
  redis.call('HSET', KEYS[1], ARGV[1], cjson.encode(session))
  redis.call('PEXPIRE', KEYS[1], ARGV[5])
  return {'next', session.n, session.kid}
end
if n == session.n - 1 and now - session.rotated <= tonumber(ARGV[6]) then
  return {'next', session.n, session.kid}
end
redis.call('HDEL', KEYS[1], ARGV[1])
return {'reused', 0, ''}",
    )
});

/// Closes the sessions of generations before `ARGV[1]`, but `ARGV[2]`, which takes that generation on. Answers which.
static CLOSE_BEFORE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        "local all, generation, closed = redis.call('HGETALL', KEYS[1]), tonumber(ARGV[1]), {}
for i = 1, #all, 2 do
  local session = cjson.decode(all[i + 1])
  if all[i] == ARGV[2] then
    session.generation = generation
    redis.call('HSET', KEYS[1], all[i], cjson.encode(session))
  elseif session.generation < generation then
    redis.call('HDEL', KEYS[1], all[i])
    closed[#closed + 1] = all[i]
  end
end
return closed",
    )
});

/// The sessions of all users.
#[derive(Clone)]
pub(super) struct Devices {
    redis: RedisClient,
    lifetime: Duration,
}

impl Devices {
    /// Sessions in this Redis that end when they are not refreshed for `lifetime`.
    pub(super) fn new(redis: RedisClient, lifetime: Duration) -> Self {
        Self { redis, lifetime }
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Opens a session; the same one asked for again is answered as it stands. Second are the sessions that had to
    /// leave.
    pub(super) async fn open(
        &self,
        user: UserId,
        session: SessionId,
        device: &Device,
    ) -> Result<(Device, Vec<SessionId>), RedisUnavailable> {
        let wanted = serde_json::to_string(device).unwrap_or_default();
        let mut call = OPEN.key(self.key(user));
        call.arg(session.to_string()).arg(wanted).arg(millis(self.lifetime)).arg(MOST);
        let mut answer: Vec<String> = call.invoke_async(&mut self.redis.connection()).await?;
        let left = answer.split_off(answer.len().min(1));
        // what the script wrote is what it was given and three times
        let opened = answer.first().and_then(|text| serde_json::from_str(text).ok());
        let left = left.iter().filter_map(|id| id.parse().ok()).collect();
        Ok((opened.unwrap_or_else(|| device.clone()), left))
    }

    /// The session, if it is there.
    pub(super) async fn find(
        &self,
        user: UserId,
        session: SessionId,
    ) -> Result<Option<Device>, RedisUnavailable> {
        let found: Option<String> = self.redis.connection().hget(self.key(user), session.to_string()).await?;
        Ok(found.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Takes the token of that number, which has been proven genuine; the next one is derived with the key `next_key_id`.
    pub(super) async fn rotate(
        &self,
        (user, session): (UserId, SessionId),
        device: &Device,
        generation: i64,
        number: u64,
        next_key_id: &str,
        origin: &Origin,
    ) -> Result<Rotation, RedisUnavailable> {
        let mut call = ROTATE.key(self.key(user));
        call.arg(session.to_string()).arg(&device.nonce).arg(generation).arg(number);
        call.arg(millis(self.lifetime)).arg(millis(REPLAY));
        call.arg(origin.user_agent.as_deref().unwrap_or(&device.agent));
        call.arg(origin.address.map_or_else(|| device.address.clone(), |address| address.to_string()));
        call.arg(next_key_id);
        let (outcome, number, key_id): (String, u64, String) =
            call.invoke_async(&mut self.redis.connection()).await?;
        Ok(match outcome.as_str() {
            "next" => Rotation::Next(number, key_id),
            "reused" => Rotation::Reused,
            _ => Rotation::Gone,
        })
    }

    /// All sessions of a user that have not ended, with their ids.
    pub(super) async fn list(&self, user: UserId) -> Result<Vec<(SessionId, Device)>, RedisUnavailable> {
        let mut connection = self.redis.connection();
        let mut pipe = redis::pipe();
        pipe.cmd("TIME").hgetall(self.key(user));
        let ((seconds, _), all): ((i64, i64), Vec<(String, String)>) =
            pipe.query_async(&mut connection).await?;
        let read = |(id, text): (String, String)| Some((id.parse().ok()?, serde_json::from_str(&text).ok()?));
        let sessions = all.into_iter().filter_map(read);
        Ok(sessions.filter(|(_, device): &(_, Device)| device.expires > seconds * 1000).collect())
    }

    /// Closes a session.
    pub(super) async fn close(&self, user: UserId, session: SessionId) -> Result<(), RedisUnavailable> {
        Ok(self.redis.connection().hdel(self.key(user), session.to_string()).await?)
    }

    /// Closes the sessions of a user that were opened before `generation` began, but `kept`, which goes on in it.
    /// Answers which.
    pub(super) async fn close_before(
        &self,
        user: UserId,
        generation: i64,
        kept: Option<SessionId>,
    ) -> Result<Vec<SessionId>, RedisUnavailable> {
        let mut call = CLOSE_BEFORE.key(self.key(user));
        call.arg(generation).arg(kept.map(|kept| kept.to_string()).unwrap_or_default());
        let closed: Vec<String> = call.invoke_async(&mut self.redis.connection()).await?;
        Ok(closed.iter().filter_map(|id| id.parse().ok()).collect())
    }

    fn key(&self, user: UserId) -> String {
        self.redis.key(&format!("refresh:{user}"))
    }
}
