//! The server, the seeded database, and copies of it.

use anyhow::{Context, Result, ensure};
use greenroom::{
    dev::servers::{Durability, Place, PrivatePostgres},
    migrations,
};
use greenroom_actors::{
    audit::audit,
    database::{Database, PoolSettings},
    ids::UserId,
};
use std::{path::PathBuf, time::Duration};
use tokio_postgres::NoTls;
use uuid::Uuid;

/// Users there are.
pub(crate) const MANY: usize = 10_000;
/// Units each user is given; no run can spend them all.
pub(crate) const UNITS: i64 = 1_000_000_000;

/// The database that all others are copies of.
pub(crate) const SEEDED: &str = "seeded";

pub(crate) struct Ground {
    server: PrivatePostgres,
    dir: PathBuf,
}

impl Ground {
    /// Starts the server and seeds the database that the contestants' are copied from.
    pub(crate) async fn prepare() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("greenroom-bench-{}", std::process::id()));
        let place = Place::prepare(&dir)?;
        let ground = Self { server: PrivatePostgres::start(&place, Durability::Default)?, dir };
        ground.execute("postgres", &format!("create database {SEEDED}")).await?;
        let database = ground.pool(SEEDED, 4)?;
        migrations::apply(&database).await?;
        database.close();
        // with ids that pgbench can compute from a number
        let seed = format!(
            "insert into users (id, invite_code, quota_remaining, ledger_no, final_no)
                select ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid, n::text, {UNITS}, 1, 0
                from generate_series(1, {MANY}) as n;
            insert into quota_grants (id, user_id, amount, remaining, kind, reference, ledger_no, balance_after)
                select id, id, {UNITS}, {UNITS}, 'purchase', invite_code, 1, {UNITS} from users;
            vacuum analyze"
        );
        for statement in seed.split(';') {
            ground.execute(SEEDED, statement).await?;
        }
        Ok(ground)
    }

    /// A fresh copy of the seeded database, on a server that has nothing else to write.
    pub(crate) async fn copy(&self, name: &str) -> Result<String> {
        self.execute("postgres", &format!("create database {name} template {SEEDED}")).await?;
        self.execute("postgres", "checkpoint").await?;
        Ok(self.server.url(name))
    }

    /// The invariants must hold after a run, or its figure means nothing.
    pub(crate) async fn check(&self, name: &str) -> Result<()> {
        let database = self.pool(name, 1)?;
        let breaches = audit(&database).await?;
        database.close();
        ensure!(breaches.is_empty(), "the audit of {name} found {breaches:?}");
        Ok(())
    }

    /// Drops a copy, so that its dirty pages trouble no later run.
    pub(crate) async fn drop_copy(&self, name: &str) -> Result<()> {
        self.execute("postgres", &format!("drop database {name} with (force)")).await
    }

    pub(crate) fn pool(&self, name: &str, max: usize) -> Result<Database> {
        let settings = PoolSettings {
            url: self.server.url(name).into(),
            application_name: "bench".to_owned(),
            min: 0,
            max,
            idle: Duration::from_secs(60),
            acquire: Duration::from_secs(60),
            connect: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(60),
            lock_timeout: Duration::from_secs(60),
            idle_in_transaction_timeout: Duration::from_secs(60),
        };
        Ok(Database::new(&settings, NoTls)?)
    }

    /// One of PostgreSQL's programs.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.server.program(name)
    }

    /// What this was measured on.
    pub(crate) async fn machine(&self) -> Result<String> {
        let client = self.connect("postgres").await?;
        let setting = async |name: &str| -> Result<String> {
            Ok(client.query_one(&format!("show {name}"), &[]).await?.try_get(0)?)
        };
        let cores = std::thread::available_parallelism().context("the cores cannot be counted")?;
        Ok(format!(
            "{cores} cores; PostgreSQL {}, fsync {}, synchronous_commit {}",
            setting("server_version").await?,
            setting("fsync").await?,
            setting("synchronous_commit").await?,
        ))
    }

    /// CPU time that PostgreSQL and this process have used so far.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let postmaster = self.server.pid().context("the server has ended")?;
        let mut postgres = Duration::ZERO;
        for entry in std::fs::read_dir("/proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            // processes come and go while we look
            let Some(times) = pid.and_then(ProcessTimes::of) else { continue };
            if pid == Some(postmaster) {
                postgres += times.own + times.ended_children;
            } else if times.parent == postmaster {
                postgres += times.own;
            }
        }
        let this = ProcessTimes::of(std::process::id()).context("/proc is not readable")?;
        Ok(Cpu { postgres, this: this.own })
    }

    pub(crate) async fn connect(&self, name: &str) -> Result<tokio_postgres::Client> {
        let (client, connection) = tokio_postgres::connect(&self.server.url(name), NoTls).await?;
        actix::spawn(connection);
        Ok(client)
    }

    async fn execute(&self, name: &str, sql: &str) -> Result<()> {
        Ok(self.connect(name).await?.batch_execute(sql).await?)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        self.server.kill();
        if let Err(error) = Place::remove(&self.dir) {
            eprintln!("the data of the bench stays in {}: {error:#}", self.dir.display());
        }
    }
}

/// CPU time used.
#[derive(Clone, Copy)]
pub(crate) struct Cpu {
    pub(crate) postgres: Duration,
    pub(crate) this: Duration,
}

struct ProcessTimes {
    parent: u32,
    own: Duration,
    ended_children: Duration,
}

impl ProcessTimes {
    fn of(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // the name before the last bracket may hold anything; from there on, fields 3 and later
        let fields: Vec<u64> =
            stat.rsplit_once(')')?.1.split(' ').map(|it| it.parse().unwrap_or(0)).collect();
        let ticks = |index: usize| fields.get(index).map(|ticks| Duration::from_millis(ticks * 10));
        Some(Self {
            parent: u32::try_from(*fields.get(2)?).ok()?,
            own: ticks(12)? + ticks(13)?,
            ended_children: ticks(14)? + ticks(15)?,
        })
    }
}

/// What a contestant did in its time.
#[derive(Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) tasks_per_second: f64,
    /// CPU microseconds for a task, in PostgreSQL and in this process.
    pub(crate) postgres_us: f64,
    pub(crate) this_us: f64,
}

impl Figure {
    /// `tasks` were settled within `length`; `all` of them used the CPU from `before` to `after`.
    pub(crate) fn new(tasks: u32, length: Duration, all: u32, before: Cpu, after: Cpu) -> Self {
        let each = |from: Duration, to: Duration| (to - from).as_secs_f64() * 1e6 / f64::from(all.max(1));
        Self {
            tasks_per_second: f64::from(tasks) / length.as_secs_f64(),
            postgres_us: each(before.postgres, after.postgres),
            this_us: each(before.this, after.this),
        }
    }
}

/// The user of a number below [`MANY`].
pub(crate) fn user(number: usize) -> UserId {
    let digits = format!("{:012}", number + 1);
    // twelve decimal digits are twelve hexadecimal ones
    let tail = u128::from_str_radix(&digits, 16).unwrap_or_default();
    UserId(Uuid::from_u128(0x0000_0000_0000_7000_8000_0000_0000_0000 | tail))
}
