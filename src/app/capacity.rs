//! Whether there is room for what the settings allow: open files here, connections at PostgreSQL.

use greenroom_actors::{database::Database, inspection::DatabaseFacts};
use std::time::Duration;

/// By then this replica has its own row and is counted.
const FIRST_LOOK: Duration = Duration::from_secs(2);
/// While PostgreSQL is away.
const AGAIN: Duration = Duration::from_secs(30);

/// Takes as many open files as the system lets us have: each socket is one, and most service managers and shells
/// start a process with room for 1,024.
pub(super) fn raise_open_files() {
    match rlimit::increase_nofile_limit(u64::MAX) {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files cannot be raised"),
    }
}

/// Warns when the replicas' pools together are larger than what PostgreSQL grants. Looks once, and waits for
/// PostgreSQL as long as it takes.
pub(super) async fn warn_of_pools(database: Database, pool_max: usize) {
    tokio::time::sleep(FIRST_LOOK).await;
    loop {
        match DatabaseFacts::read(&database).await {
            Ok(facts) => {
                if let Some(warning) = facts.pool_warning(pool_max, facts.live_replicas) {
                    tracing::warn!("{warning}");
                }
                return;
            }
            Err(_) => tokio::time::sleep(AGAIN).await,
        }
    }
}
