//! Whether this replica can serve: what `/health/ready` tells a load balancer.
//!
//! PostgreSQL, its schema and the actors are needed; Redis is not (DESIGN 4.8): without it the replica is ready
//! and degraded.

use crate::{
    database::{Database, DatabaseError},
    redis_client::RedisClient,
    supervisor::Supervisor,
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

/// A probe must hear soon, also where PostgreSQL hangs.
const PATIENCE: Duration = Duration::from_secs(2);

/// The checks, over the things they look at.
pub struct Health {
    database: Database,
    redis: RedisClient,
    supervisor: Supervisor,
    schema_version: i32,
    schema_seen: AtomicBool,
    ending: AtomicBool,
}

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HealthReport {
    /// What is needed and not there: `postgresql`, `migrations`, `actors`, `shutdown`. Empty means ready.
    pub missing: Vec<&'static str>,
    /// What is not there and can be done without: `redis`.
    pub degraded: Vec<&'static str>,
}

impl HealthReport {
    /// Whether requests may be sent here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.missing.is_empty()
    }
}

impl Health {
    /// Checks of these; the schema must have been migrated to `schema_version` or further.
    #[must_use]
    pub fn new(database: Database, redis: RedisClient, supervisor: Supervisor, schema_version: i32) -> Self {
        Self {
            database,
            redis,
            supervisor,
            schema_version,
            schema_seen: AtomicBool::new(false),
            ending: AtomicBool::new(false),
        }
    }

    /// From now on not ready: the process is shutting down.
    pub fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    /// Looks at everything now.
    pub async fn check(&self) -> HealthReport {
        let (database, redis) = tokio::join!(
            tokio::time::timeout(PATIENCE, self.schema_is_current()),
            tokio::time::timeout(PATIENCE, self.redis.ping()),
        );
        let mut report = HealthReport::default();
        match database {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => report.missing.push("migrations"),
            Ok(Err(_)) | Err(_) => report.missing.push("postgresql"),
        }
        if !self.supervisor.is_ready() {
            report.missing.push("actors");
        }
        if self.ending.load(Ordering::SeqCst) {
            report.missing.push("shutdown");
        }
        if !matches!(redis, Ok(Ok(()))) {
            report.degraded.push("redis");
        }
        report
    }

    /// Migrations only go forward, so a schema that was current once stays so.
    async fn schema_is_current(&self) -> Result<bool, DatabaseError> {
        let client = self.database.client().await?;
        if self.schema_seen.load(Ordering::Relaxed) {
            client.simple_query("select 1").await?;
            return Ok(true);
        }
        let statement = "select to_regclass('refinery_schema_history') is not null";
        if !client.query_one(statement, &[]).await?.get::<_, bool>(0) {
            return Ok(false);
        }
        let version: Option<i32> =
            client.query_one("select max(version) from refinery_schema_history", &[]).await?.get(0);
        let current = version >= Some(self.schema_version);
        self.schema_seen.store(current, Ordering::Relaxed);
        Ok(current)
    }
}
