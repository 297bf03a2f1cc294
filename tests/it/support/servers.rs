//! The servers of the whole test process: one PostgreSQL and one Redis, started when the first test asks.

use std::path::PathBuf;
use std::time::Duration;

use greenroom::dev::servers::{Durability, Place, PrivatePostgres, PrivateRedis, is_alive};
use greenroom::migrations;
use greenroom_actors::database::{Database, PoolSettings};
use tokio::sync::OnceCell;
use tokio_postgres::NoTls;

use super::keeper::Kept;

const TEMPLATE: &str = "greenroom_template";

/// The shared pair.
pub struct Shared {
    pub postgres: Kept<PrivatePostgres>,
    pub redis: Kept<PrivateRedis>,
}

/// The shared pair, started and migrated at the first call.
pub async fn shared() -> &'static Shared {
    static SHARED: OnceCell<Shared> = OnceCell::const_new();
    SHARED
        .get_or_init(async || {
            remove_leftovers();
            let dir = directory("shared");
            let (postgres, redis) = tokio::join!(start_postgres(dir.clone()), start_redis(dir));
            Shared { postgres, redis }
        })
        .await
}

/// A PostgreSQL for one test, with an empty template of its own.
pub async fn start_postgres(dir: PathBuf) -> Kept<PrivatePostgres> {
    let server = Kept::start(move || {
        PrivatePostgres::start(&Place::prepare(&dir).unwrap(), Durability::Relaxed).unwrap()
    })
    .await;
    let url = server.with(|server| server.url("postgres")).await;
    execute(&url, &format!("create database {TEMPLATE}")).await;
    let url = server.with(|server| server.url(TEMPLATE)).await;
    let database = pool(&url);
    migrations::apply(&database).await.unwrap();
    database.close();
    server
}

/// A Redis for one test.
pub async fn start_redis(dir: PathBuf) -> Kept<PrivateRedis> {
    Kept::start(move || PrivateRedis::start(&Place::prepare(&dir).unwrap(), Durability::Relaxed).unwrap())
        .await
}

/// Makes a database from the template and answers its address.
pub async fn create_database(server: &Kept<PrivatePostgres>, name: &str) -> String {
    let admin = server.with(|server| server.url("postgres")).await;
    // the template's last connection may take a moment to be gone
    super::eventually("a database from the template", async || {
        let client = connect(&admin).await;
        client.batch_execute(&format!("create database {name} template {TEMPLATE}")).await.ok()
    })
    .await;
    let name = name.to_owned();
    server.with(move |server| server.url(&name)).await
}

/// A pool of connections to `url`, as a replica in the test's own process would have.
pub fn pool(url: &str) -> Database {
    let settings = PoolSettings {
        url: url.to_owned().into(),
        application_name: "test".to_owned(),
        min: 0,
        max: 8,
        idle: Duration::from_secs(30),
        acquire: Duration::from_secs(20),
        connect: Duration::from_secs(20),
        statement_timeout: Duration::from_secs(30),
        lock_timeout: Duration::from_secs(20),
        idle_in_transaction_timeout: Duration::from_secs(30),
    };
    Database::new(&settings, NoTls).unwrap()
}

/// Connects to `url`.
pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn execute(url: &str, sql: &str) {
    connect(url).await.batch_execute(sql).await.unwrap();
}

/// A directory for servers of this process.
pub fn directory(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("greenroom-test-{}", std::process::id())).join(name)
}

/// Removes what earlier test processes left: nothing of ours runs at the end of a process, so the next one does it.
fn remove_leftovers() {
    for entry in std::fs::read_dir(std::env::temp_dir()).unwrap().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix("greenroom-test-")?.parse().ok());
        if pid.is_some_and(|pid: u32| !is_alive(pid)) {
            for dir in std::fs::read_dir(entry.path()).into_iter().flatten().flatten() {
                let _ = Place::remove(&dir.path());
            }
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
