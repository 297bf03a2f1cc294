//! What the scripts of sessions and codes share.

use redis::Script;
use std::time::Duration;

/// A script that begins with `now`, Redis' own time in milliseconds since 1970.
pub(super) fn timed_script(body: &str) -> Script {
    Script::new(&format!(
        "local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
{body}"
    ))
}

/// A time span as scripts count it.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
