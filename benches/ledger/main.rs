//! How fast the ledger is, always as a ratio to something simpler measured beside it: `script/bench ledger`.
//!
//! A private PostgreSQL is started at its default durability. Each contestant gets a fresh copy of one seeded
//! database and does the same work there: a task is accepted (its row, its hold, its event) and settled (its
//! ending, its charge, its event); provider calls are left out. Contestants: our ledger through its handle,
//! pgbench with one transaction an operation, and bare set-based statements from a client that does nothing else.

mod bare;
mod ours;
mod pgbench;
#[path = "../support/mod.rs"]
mod support;

use anyhow::Result;
use std::time::Duration;
use support::{
    ground::{Ground, MANY},
    table::{row, seconds, verdict},
};

/// Ratios and times that DESIGN asks for at least (or at most, for the last).
const TRANSACTIONS_MANY: f64 = 8.0;
const TRANSACTIONS_ONE: f64 = 15.0;
const SET_BASED: f64 = 0.6;
const P99_MS: f64 = 20.0;

fn main() -> Result<()> {
    let seconds = seconds()?;
    actix::System::new().block_on(run(Duration::from_secs(seconds)))
}

/// Whose tasks a run makes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Users {
    /// Any of [`MANY`].
    Many,
    /// Always the first.
    One,
}

impl Users {
    pub(crate) fn count(self) -> usize {
        match self {
            Self::Many => MANY,
            Self::One => 1,
        }
    }
}

async fn run(length: Duration) -> Result<()> {
    let ground = Ground::prepare().await?;
    println!("{}", ground.machine().await?);
    println!("each contestant runs {} s after a warm-up of 2 s\n", length.as_secs());

    let many = ours::throughput(&ground, Users::Many, length).await?;
    let many_transactions = best_pgbench(&ground, Users::Many, length).await?;
    let set_based = bare::throughput(&ground, length).await?;
    let one = ours::throughput(&ground, Users::One, length).await?;
    let one_transactions = best_pgbench(&ground, Users::One, length).await?;
    let half = many.tasks_per_second / 2.0;
    let latency = ours::latency(&ground, half, length).await?;

    println!("| what | ours | reference | ratio | at least |");
    println!("|---|---|---|---|---|");
    row(
        "tasks/s, 10,000 users, against a transaction an operation",
        many,
        many_transactions,
        TRANSACTIONS_MANY,
    );
    row("tasks/s, one hot user, against a transaction an operation", one, one_transactions, TRANSACTIONS_ONE);
    let bare = set_based.tasks_per_second;
    row("tasks/s, 10,000 users, against set-based statements, 250 a commit", many, bare, SET_BASED);
    println!(
        "| reserve to reply at {half:.0} tasks/s, p99 (p50) | {:.1} ms ({:.1} ms) | | | at most {P99_MS} ms{} |",
        latency.p99_ms,
        latency.p50_ms,
        verdict(latency.p99_ms <= P99_MS),
    );
    println!("\nCPU time for a task, microseconds in PostgreSQL and in this process (callers included):");
    for (who, figure) in [("ours", many), ("ours, one hot user", one), ("set-based", set_based)] {
        println!("- {who}: {:.0} and {:.0}", figure.postgres_us, figure.this_us);
    }
    Ok(())
}

async fn best_pgbench(ground: &Ground, users: Users, length: Duration) -> Result<f64> {
    let few = pgbench::throughput(ground, users, 16, length).await?;
    let more = pgbench::throughput(ground, users, 64, length).await?;
    Ok(few.max(more))
}
