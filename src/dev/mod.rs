//! `greenroom dev`: everything a developer needs on one machine, from one command.
//!
//! Private servers (`servers/`), a directory with secrets made once (`home.rs`), the service itself, demo data made
//! through the service's own front door (`demo_data.rs`), and `dev.json`, which tells others how to reach it all
//! (`dev_json.rs`). Nothing that production runs imports this room.

mod demo_data;
mod dev_json;
mod home;
pub mod servers;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Result;
use base64::Engine;
use demo_data::Demo;
use home::{Home, Secrets};
use rand::RngExt;
use rand::distr::Alphanumeric;
use servers::{Durability, Place, PrivatePostgres, PrivateRedis, write_private};

use crate::app::{self, Addresses, UnsentCodes};
use crate::config::{Loaded, Origin, Problem, Settings};
use crate::{migrations, telemetry};

/// What the command line says.
#[derive(Debug)]
pub struct Options {
    /// Where data, files and demo accounts are kept.
    pub dir: PathBuf,
    /// Address of the service, above every setting.
    pub listen: Option<SocketAddr>,
    /// Whether to begin anew.
    pub fresh: bool,
    /// The configuration file.
    pub config: Option<PathBuf>,
}

/// Why `greenroom dev` ended.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The settings are refused.
    #[error("the settings are refused")]
    Settings(Vec<Problem>),
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// Runs everything until a signal ends it.
///
/// Call it on the main thread: the servers end with the thread that started them.
///
/// # Errors
/// When the settings are refused, a server does not start, or the service ends with an error.
pub fn run(options: &Options) -> Result<(), DevError> {
    let begun = Instant::now();
    let before = load(options, &[])?;
    telemetry::start_log(&before.settings.logs);
    let home = Home::take(&options.dir, options.fresh)?;
    let secrets = home.secrets()?;
    let mut servers = Servers::start(&before, &home)?;
    let loaded = load(options, &defaults(&home, &secrets, &servers))?;
    let outcome = actix_web::rt::System::new().block_on(serve(&home, secrets, loaded, begun));
    servers.stop();
    Ok(outcome?)
}

/// Settings of `dev`: `values` stand between the file and the environment.
fn load(options: &Options, values: &[(&str, String)]) -> Result<Loaded, DevError> {
    let listen = options.listen.map(|address| ("--listen", "server.listen", address.to_string()));
    Settings::load_for_dev(options.config.clone(), values, listen.as_slice()).map_err(DevError::Settings)
}

fn defaults(home: &Home, secrets: &Secrets, servers: &Servers) -> Vec<(&'static str, String)> {
    let mut values = vec![
        ("server.metrics_listen", "127.0.0.1:0".to_owned()),
        ("auth.jwt_secret", secrets.jwt_secret.clone()),
        ("auth.register_requires_code", "false".to_owned()),
        ("secrets.key", secrets.key.clone()),
        // whoever tries things out signs many up, all from this machine
        ("limits.sign_in_per_address_per_minute", "0".to_owned()),
        ("providers.allow_private_networks", "true".to_owned()),
        ("storage.dir", home.files().display().to_string()),
    ];
    values.extend(servers.postgres.as_ref().map(|server| ("database.url", server.url("postgres"))));
    values.extend(servers.redis.as_ref().map(|server| ("redis.url", server.url())));
    values
}

/// The private servers; one that the environment names is used instead of a private one.
struct Servers {
    postgres: Option<PrivatePostgres>,
    redis: Option<PrivateRedis>,
}

impl Servers {
    fn start(before: &Loaded, home: &Home) -> Result<Self> {
        let named = |key| matches!(before.origin(key), Origin::Variable(_));
        let place = Place::prepare(home.dir())?;
        let start_postgres = || PrivatePostgres::start(&place, Durability::Default);
        let start_redis = || PrivateRedis::start(&place, Durability::Default);
        Ok(Self {
            postgres: if named("database.url") { None } else { Some(start_postgres()?) },
            redis: if named("redis.url") { None } else { Some(start_redis()?) },
        })
    }

    fn stop(&mut self) {
        if let Some(redis) = &mut self.redis {
            redis.stop();
        }
        if let Some(postgres) = &mut self.postgres {
            postgres.stop();
        }
    }
}

async fn serve(home: &Home, secrets: Secrets, loaded: Loaded, begun: Instant) -> Result<()> {
    let settings = loaded.settings.clone();
    let database = app::database(&settings.database, "dev")?;
    migrations::apply(&database).await?;
    let path = home.dev_json();
    let (failed, failure) = tokio::sync::oneshot::channel();
    let service = app::run(settings, UnsentCodes::Logged, move |addresses| {
        actix_web::rt::spawn(async move {
            let announced = async {
                let demo =
                    Demo::make(&origin(addresses.service), &database, &loaded.settings, &secrets).await?;
                database.close();
                let told = dev_json::told(&loaded, addresses, &demo);
                write_private(&path, serde_json::to_string_pretty(&told)?.as_bytes())
            };
            match announced.await {
                Ok(()) => greet(addresses, &path, begun),
                Err(error) => drop(failed.send(error)),
            }
        });
    });
    tokio::select! {
        outcome = service => outcome,
        Ok(error) = failure => Err(error.context("the demo data could not be made")),
    }
}

/// Where a browser on this machine finds a listener.
fn origin(address: SocketAddr) -> String {
    let local = if address.ip().is_unspecified() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { address.ip() };
    format!("http://{}", SocketAddr::new(local, address.port()))
}

fn greet(addresses: Addresses, dev_json: &Path, begun: Instant) {
    let origin = origin(addresses.service);
    println!(
        "
Greenroom is ready after {:.1} s.

  open    {origin}/docs                 the interface, to try out
          http://{}/metrics      figures for Prometheus
  read    {}    addresses and accounts; passwords stand only there
  paste   script/demo photo.jpg         in another terminal: a lookbook, watched live

Ctrl-C ends it; the next start finds the data again (--fresh begins anew).
",
        begun.elapsed().as_secs_f64(),
        addresses.metrics,
        dev_json.display(),
    );
}

/// Random letters and digits, fit for a password or a key.
pub fn random_text(length: usize) -> String {
    rand::rng().sample_iter(Alphanumeric).take(length).map(char::from).collect()
}

/// 32 random bytes in base64, fit for `secrets.key`.
pub fn random_key() -> String {
    base64::engine::general_purpose::STANDARD.encode(rand::random::<[u8; 32]>())
}
