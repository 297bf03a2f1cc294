//! What PostgreSQL and Redis say of themselves: for `greenroom doctor`, and for the warning at start when the
//! replicas' pools together are larger than what PostgreSQL grants.

use crate::{
    database::{Database, DatabaseError},
    redis_client::{RedisClient, RedisUnavailable},
};
use chrono::{DateTime, Utc};
use std::collections::HashMap;

/// PostgreSQL as it is configured and used now.
#[derive(Clone, Debug)]
pub struct DatabaseFacts {
    /// The version as a number, such as 150018.
    pub version_number: i32,
    /// The version as people write it, such as `15.18`.
    pub version: String,
    /// Connections it grants to ordinary users.
    pub connections_granted: i64,
    /// Replicas whose lease holds; 0 where the schema does not exist yet.
    pub live_replicas: i64,
    /// Its clock.
    pub clock: DateTime<Utc>,
    /// Whether it is a standby, which refuses every write.
    pub is_standby: bool,
    /// Settings that would let a crash lose what was committed.
    pub unsafe_settings: Vec<String>,
}

impl DatabaseFacts {
    /// Asks PostgreSQL.
    ///
    /// # Errors
    /// When it cannot be reached or refuses.
    pub async fn read(database: &Database) -> Result<Self, DatabaseError> {
        let client = database.client().await?;
        let row = client
            .query_one(
                "select current_setting('server_version_num')::int,
                        current_setting('server_version'),
                        current_setting('max_connections')::bigint
                            - current_setting('superuser_reserved_connections')::bigint,
                        clock_timestamp(),
                        pg_is_in_recovery(),
                        to_regclass('replicas') is not null",
                &[],
            )
            .await?;
        let has_schema: bool = row.get(5);
        let live_replicas = if has_schema {
            let query = "select count(*) from replicas where expires_at > clock_timestamp()";
            client.query_one(query, &[]).await?.get(0)
        } else {
            0
        };
        let unsafe_settings = client
            .query(
                "select name || ' = ' || setting from pg_settings
                 where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting = 'off'
                 order by name",
                &[],
            )
            .await?;
        Ok(Self {
            version_number: row.get(0),
            version: row.get(1),
            connections_granted: row.get(2),
            clock: row.get(3),
            is_standby: row.get(4),
            live_replicas,
            unsafe_settings: unsafe_settings.iter().map(|row| row.get(0)).collect(),
        })
    }

    /// What is wrong with pools of `pool_max` in each of `replicas`, when they are more than PostgreSQL grants.
    #[must_use]
    pub fn pool_warning(&self, pool_max: usize, replicas: i64) -> Option<String> {
        let replicas = replicas.max(1);
        let wanted = i64::try_from(pool_max).unwrap_or(i64::MAX).saturating_mul(replicas);
        (wanted > self.connections_granted).then(|| {
            format!(
                "{replicas} replicas with database.pool_max = {pool_max} may want {wanted} connections and \
                 PostgreSQL grants {}; lower database.pool_max or raise max_connections",
                self.connections_granted
            )
        })
    }
}

/// Redis as it is configured now.
#[derive(Clone, Debug)]
pub struct RedisFacts {
    /// The version, such as `7.0.15`.
    pub version: String,
    /// Bytes it may hold; 0 is no limit.
    pub max_memory: u64,
    /// What it does when they are used up.
    pub eviction: String,
    /// `master`, or `slave`, which refuses every write.
    pub role: String,
}

impl RedisFacts {
    /// Asks Redis.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn read(redis: &RedisClient) -> Result<Self, RedisUnavailable> {
        let text: String = redis::cmd("INFO").query_async(&mut redis.connection()).await?;
        let facts: HashMap<&str, &str> =
            text.lines().filter_map(|line| line.trim().split_once(':')).collect();
        let fact = |name: &str| facts.get(name).copied().unwrap_or_default().to_owned();
        Ok(Self {
            version: fact("redis_version"),
            max_memory: fact("maxmemory").parse().unwrap_or(0),
            eviction: fact("maxmemory_policy"),
            role: fact("role"),
        })
    }

    /// Whether it has what Greenroom uses (RESP3 and `XADD` with `MINID`: 6.2).
    #[must_use]
    pub fn is_new_enough(&self) -> bool {
        let mut parts = self.version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (6, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(connections_granted: i64) -> DatabaseFacts {
        DatabaseFacts {
            version_number: 150_000,
            version: "15.0".to_owned(),
            connections_granted,
            live_replicas: 0,
            clock: DateTime::UNIX_EPOCH,
            is_standby: false,
            unsafe_settings: Vec::new(),
        }
    }

    #[test]
    fn pools_larger_than_what_is_granted_are_noticed() {
        assert_eq!(facts(200).pool_warning(100, 2), None);
        assert!(facts(199).pool_warning(100, 2).is_some_and(|warning| warning.contains("200 connections")));
        assert!(facts(99).pool_warning(100, 0).is_some());
    }

    #[test]
    fn versions_of_redis_are_compared_as_numbers() {
        let of = |version: &str| RedisFacts {
            version: version.to_owned(),
            max_memory: 0,
            eviction: String::new(),
            role: String::new(),
        };
        assert!(of("6.2.14").is_new_enough() && of("7.0.15").is_new_enough() && of("10.1").is_new_enough());
        assert!(!of("6.0.16").is_new_enough() && !of("").is_new_enough());
    }
}
