//! The schema: what `migrations/` holds is part of the binary, and is applied by `greenroom migrate`.
//!
//! Migrations only go forward. Replicas that start together migrate once, under an advisory lock. Older code runs
//! on a newer schema (expand, then contract), so a database that is ahead is no error.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use greenroom_actors::database::{Database, DatabaseError};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Held while migrating; the number has no meaning.
const LOCK: &str = "select pg_advisory_lock(7305216331)";
const UNLOCK: &str = "select pg_advisory_unlock(7305216331)";

/// The version of the newest migration in this binary.
pub fn newest() -> i32 {
    embedded::migrations::runner()
        .get_migrations()
        .iter()
        .map(refinery::Migration::version)
        .max()
        .unwrap_or(0)
}

/// Applies what is missing; answers the names of what was applied.
///
/// # Errors
/// When PostgreSQL cannot be reached or refuses a migration, or an applied one differs from ours.
pub async fn apply(database: &Database) -> Result<Vec<String>> {
    let mut client = database.client().await.context("PostgreSQL cannot be reached")?;
    // building an index on a large table may take longer than any request may
    client.batch_execute("set statement_timeout = 0").await?;
    client.batch_execute(LOCK).await?;
    let outcome = embedded::migrations::runner()
        .set_abort_missing(false)
        .run_async(&mut **client as &mut tokio_postgres::Client)
        .await;
    client.batch_execute(UNLOCK).await?;
    client.batch_execute("reset statement_timeout").await?;
    Ok(outcome?.applied_migrations().iter().map(ToString::to_string).collect())
}

/// The names of migrations that this binary has and the database has not.
///
/// # Errors
/// When PostgreSQL cannot be reached.
pub async fn pending(database: &Database) -> Result<Vec<String>, DatabaseError> {
    let client = database.client().await?;
    let exists = "select to_regclass('refinery_schema_history') is not null";
    let applied: BTreeSet<i32> = if client.query_one(exists, &[]).await?.get(0) {
        let rows = client.query("select version from refinery_schema_history", &[]).await?;
        rows.iter().map(|row| row.get(0)).collect()
    } else {
        BTreeSet::new()
    };
    let runner = embedded::migrations::runner();
    let ours = runner.get_migrations().iter();
    Ok(ours.filter(|migration| !applied.contains(&migration.version())).map(ToString::to_string).collect())
}
