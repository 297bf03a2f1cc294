//! `greenroom doctor`: looks at everything the service needs and says how to mend what is wrong.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use chrono::TimeDelta;
use clap::Args;
use greenroom_actors::clock::{Clock, SystemClock};
use greenroom_actors::database::Database;
use greenroom_actors::inspection::{DatabaseFacts, RedisFacts};
use greenroom_actors::redis_client::RedisClient;
use secrecy::ExposeSecret;

use super::block_on;
use crate::app::PlatformAnswer;
use crate::config::Settings;
use crate::{app, migrations, telemetry};

/// The oldest PostgreSQL the migrations are written for.
const OLDEST_POSTGRESQL: i32 = 140_000;
/// A clock further off than this makes tokens of one replica invalid at another.
const MOST_SKEW_MS: i64 = 2_000;

/// Arguments of `greenroom doctor`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: before the first start of the service\n  greenroom doctor --config /etc/greenroom.toml"
)]
pub(super) struct Doctor {}

/// What was found so far.
#[derive(Default)]
struct Findings {
    wrong: usize,
}

impl Findings {
    fn good(&self, subject: &str, detail: &str) {
        println!("ok     {subject}: {detail}");
    }

    fn wrong(&mut self, subject: &str, detail: &str, mend: &str) {
        self.wrong += 1;
        println!("WRONG  {subject}: {detail}\n       {mend}");
    }
}

impl Doctor {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<ExitCode> {
        let mut findings = Findings::default();
        match Settings::load(config) {
            Ok(settings) => {
                telemetry::start_log(&settings.logs);
                check_settings(&settings, &mut findings);
                check_storage(&settings.storage.dir, &mut findings);
                block_on(async {
                    check_database(&settings, &mut findings).await;
                    check_redis(&settings, &mut findings).await;
                    check_platforms(&settings, &mut findings).await
                })?;
            }
            Err(problems) => {
                for problem in problems {
                    findings.wrong("settings", &problem.to_string(), "docs/configuration.md lists all keys");
                }
            }
        }
        match findings.wrong {
            0 => println!("nothing is wrong"),
            1 => println!("1 thing is wrong"),
            wrong => println!("{wrong} things are wrong"),
        }
        Ok(if findings.wrong == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn check_settings(settings: &Settings, findings: &mut Findings) {
    let refusals = settings.refusals_for_serve();
    if refusals.is_empty() {
        findings.good("settings", "`greenroom serve` accepts them");
    }
    for refusal in refusals {
        findings.wrong(
            "settings",
            &format!("{} {}", refusal.key, refusal.message),
            "`greenroom serve` refuses this",
        );
    }
}

fn check_storage(dir: &Path, findings: &mut Findings) {
    let probe = dir.join(format!(".doctor-{}", std::process::id()));
    let outcome = std::fs::create_dir_all(dir)
        .and_then(|()| std::fs::write(&probe, "written by greenroom doctor"))
        .and_then(|()| std::fs::remove_file(&probe));
    match outcome {
        Ok(()) => findings.good("files", &format!("{} can be written", dir.display())),
        Err(error) => findings.wrong(
            "files",
            &format!("{} cannot be written: {error}", dir.display()),
            "give the service's user the directory of storage.dir",
        ),
    }
}

async fn check_database(settings: &Settings, findings: &mut Findings) {
    let Some(url) = &settings.database.url else { return };
    let place = url.expose_secret().parse::<tokio_postgres::Config>().map(|config| place_of(&config));
    let place = place.unwrap_or_default();
    let database = match app::database(&settings.database, "doctor") {
        Ok(database) => database,
        Err(error) => return findings.wrong("PostgreSQL", &format!("{error:#}"), "correct database.url"),
    };
    let asked_at = SystemClock.now();
    let begun = Instant::now();
    let facts = match DatabaseFacts::read(&database).await {
        Ok(facts) => facts,
        Err(error) => {
            let cause = anyhow::Error::from(error);
            return findings.wrong(
                "PostgreSQL",
                &format!("no answer from {place}: {cause:#}"),
                "start it, or correct database.url; the user and the database must exist",
            );
        }
    };
    findings.good("PostgreSQL", &format!("{} at {place}", facts.version));
    check_database_facts(settings, &facts, findings);
    let skew = (facts.clock - asked_at).num_milliseconds();
    let took = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
    if skew < -MOST_SKEW_MS || skew > MOST_SKEW_MS.saturating_add(took) {
        let detail = format!(
            "this machine is {:.1} s off PostgreSQL's clock",
            TimeDelta::milliseconds(skew).as_seconds_f64()
        );
        findings.wrong("clock", &detail, "run a time service on both machines");
    } else {
        findings.good("clock", "agrees with PostgreSQL's");
    }
    check_schema(&database, findings).await;
}

fn check_database_facts(settings: &Settings, facts: &DatabaseFacts, findings: &mut Findings) {
    if facts.version_number < OLDEST_POSTGRESQL {
        findings.wrong("PostgreSQL", "older than 14", "update it to 14 or later");
    }
    if facts.is_standby {
        findings.wrong(
            "PostgreSQL",
            "a standby, which refuses every write",
            "let database.url name the primary",
        );
    }
    for setting in &facts.unsafe_settings {
        let detail = format!("{setting}: a crash may lose what clients were told is done");
        findings.wrong("PostgreSQL", &detail, "set it to on in postgresql.conf");
    }
    // this replica is not counted while it does not run
    match facts.pool_warning(settings.database.pool_max, facts.live_replicas) {
        Some(warning) => findings.wrong("connections", &warning, "or put a pooler in session mode between"),
        None => findings.good("connections", &format!("PostgreSQL grants {}", facts.connections_granted)),
    }
}

async fn check_schema(database: &Database, findings: &mut Findings) {
    match migrations::pending(database).await {
        Ok(pending) if pending.is_empty() => findings.good("schema", "up to date"),
        Ok(pending) => {
            let detail = format!("{} migrations are missing, from {} on", pending.len(), pending[0]);
            findings.wrong("schema", &detail, "run `greenroom migrate`");
        }
        Err(error) => findings.wrong(
            "schema",
            &format!("{:#}", anyhow::Error::from(error)),
            "the user of database.url must own the tables",
        ),
    }
}

async fn check_redis(settings: &Settings, findings: &mut Findings) {
    if settings.redis.url.is_none() {
        return;
    }
    let client = app::redis_settings(&settings.redis)
        .and_then(|settings| RedisClient::new(&settings).map_err(anyhow::Error::from));
    let facts = match client {
        Ok(client) => RedisFacts::read(&client).await.map_err(anyhow::Error::from),
        Err(error) => Err(error),
    };
    let facts = match facts {
        Ok(facts) => facts,
        Err(error) => {
            return findings.wrong("Redis", &format!("{error:#}"), "start it, or correct redis.url");
        }
    };
    findings.good("Redis", &facts.version);
    if !facts.is_new_enough() {
        findings.wrong("Redis", "older than 6.2", "update it to 6.2 or later");
    }
    if facts.role == "slave" {
        findings.wrong("Redis", "a replica, which refuses every write", "let redis.url name the primary");
    }
    if facts.max_memory > 0 && facts.eviction != "noeviction" {
        let detail = format!("maxmemory-policy is {}: full memory would sign people out", facts.eviction);
        findings.wrong("Redis", &detail, "set maxmemory-policy to noeviction, and watch used_memory");
    }
}

async fn check_platforms(settings: &Settings, findings: &mut Findings) -> Result<()> {
    for PlatformAnswer { section, refusal } in app::ask_platforms(&settings.gateways).await? {
        match refusal {
            None => findings.good(section, "the platform takes the account"),
            Some(refusal) => findings.wrong(
                section,
                &refusal,
                "the warning on standard error says why; docs/configuration.md says where each value comes from",
            ),
        }
    }
    Ok(())
}

/// Host, port and database of an address, without user and password.
fn place_of(config: &tokio_postgres::Config) -> String {
    let host = match config.get_hosts().first() {
        Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
        Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
        None => "localhost".to_owned(),
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    format!("{host}:{port}/{}", config.get_dbname().unwrap_or_default())
}
