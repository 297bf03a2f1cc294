//! How many durable tasks the pipeline runs, as a ratio to a simpler way measured beside it: `script/bench pipeline`.
//!
//! A task is accepted and paid for, forks into five calls of a provider that answers at once, joins and ends. A
//! private PostgreSQL is started at its default durability; each contestant gets a fresh copy of one seeded database.
//! Contestants: our engine and ledger through their handles, as one replica and as two in one process, and pgbench
//! with one transaction for each change of state.

mod ours;
mod provider;
#[path = "../support/mod.rs"]
mod support;
mod transactions;

use anyhow::Result;
use greenroom::dev::servers::{Durability, Place, PrivateRedis};
use std::time::Duration;
use support::{
    ground::Ground,
    table::{row, seconds},
};

/// The ratio that DESIGN asks for at least.
const TRANSACTIONS: f64 = 5.0;
/// Calls of the provider at once, over all replicas.
pub(crate) const CEILING: u32 = 1_000;

fn main() -> Result<()> {
    let seconds = seconds()?;
    actix::System::new().block_on(run(Duration::from_secs(seconds)))
}

async fn run(length: Duration) -> Result<()> {
    let ground = Ground::prepare().await?;
    let dir = std::env::temp_dir().join(format!("greenroom-bench-redis-{}", std::process::id()));
    let redis = PrivateRedis::start(&Place::prepare(&dir)?, Durability::Default)?;
    let pipeline = ours::seed(&ground).await?;
    println!("{}", ground.machine().await?);
    println!("each contestant runs {} s after a warm-up\n", length.as_secs());

    let one = ours::throughput(&ground, &redis.url(), pipeline, 1, length).await?;
    let few = transactions::throughput(&ground, 16, length).await?;
    let more = transactions::throughput(&ground, 64, length).await?;
    let two = ours::throughput(&ground, &redis.url(), pipeline, 2, length).await?;
    let reference = few.max(more);

    println!("| what | ours | reference | ratio | at least |");
    println!("|---|---|---|---|---|");
    row("tasks/s, one replica, against a transaction a change of state", one, reference, TRANSACTIONS);
    row("tasks/s, two replicas in one process, against the same", two, reference, TRANSACTIONS);
    println!("\nCPU time for a task, microseconds in PostgreSQL and in this process (callers included):");
    for (who, figure) in [("one replica", one), ("two replicas", two)] {
        println!("- {who}: {:.0} and {:.0}", figure.postgres_us, figure.this_us);
    }
    drop(redis);
    Place::remove(&dir)
}
