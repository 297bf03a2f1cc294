//! The invariants, checked over the whole database.
//!
//! All checks see one snapshot (a read-only `REPEATABLE READ` transaction without a statement timeout), so they
//! are right while the service runs, and while it runs on several replicas. They lock nothing; a snapshot held
//! for long keeps PostgreSQL from clearing old row versions, so run them when traffic is low on large
//! databases. Each check is one statement that returns what breaks it, and nothing when all is well.

use crate::database::{Database, DatabaseError};
use deadpool_postgres::GenericClient;
use serde::Serialize;
use tokio_postgres::IsolationLevel;

mod checks;

use checks::CHECKS;

/// Breaches of one check that are told at most; where one thing is wrong everywhere, the first say enough.
const BREACHES: usize = 1_000;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Breach {
    /// The check's name.
    pub check: &'static str,
    /// The row or person it is about, such as `user 0190…`.
    pub subject: String,
    /// What is, and what should be.
    pub detail: String,
}

/// One invariant and the statement that finds what breaks it: rows of subject and detail.
struct Check {
    name: &'static str,
    breaches: &'static str,
}

/// The names of all checks.
pub fn names() -> impl Iterator<Item = &'static str> {
    CHECKS.iter().map(|check| check.name)
}

/// Runs every check. What comes back is wrong; an empty list means that all is well.
///
/// # Errors
/// See [`DatabaseError`].
pub async fn audit(database: &Database) -> Result<Vec<Breach>, DatabaseError> {
    let mut client = database.client().await?;
    let snapshot = client
        .build_transaction()
        .isolation_level(IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    snapshot
        .batch_execute(
            "set local statement_timeout = 0; set local idle_in_transaction_session_timeout = 0;
            set local work_mem = '64MB'",
        )
        .await?;
    breaches_seen_by(&snapshot).await
}

/// Runs every check on what `client` sees, in the transaction that it may be in.
///
/// # Errors
/// See [`DatabaseError`].
pub async fn breaches_seen_by(client: &impl GenericClient) -> Result<Vec<Breach>, DatabaseError> {
    let mut breaches = Vec::new();
    for check in CHECKS {
        let sql =
            format!("select * from ({}) as breaches (subject, detail) limit {BREACHES}", check.breaches);
        for row in client.query(&sql, &[]).await? {
            breaches.push(Breach { check: check.name, subject: row.try_get(0)?, detail: row.try_get(1)? });
        }
    }
    Ok(breaches)
}
