//! `greenroom serve`: the service in production.

use super::refused;
use crate::{
    app::{self, UnsentCodes},
    config::Settings,
    telemetry,
};
use anyhow::Result;
use clap::Args;
use std::path::PathBuf;
use std::process::ExitCode;

/// Runs the service on the configured PostgreSQL and Redis.
///
/// Needs `database.url`, `redis.url`, `auth.jwt_secret` and `secrets.key`, and beyond loopback
/// `server.public_url`. Unsafe settings are refused, all in one list.
#[derive(Debug, Args)]
#[command(after_help = "Example: settings from a file, secrets from the environment\n  \
    JWT_SECRET=... GREENROOM__SECRETS__KEY=... greenroom serve --config /etc/greenroom/config.toml")]
pub(super) struct Serve {}

impl Serve {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<ExitCode> {
        let settings = Settings::load_for_serve(config).map_err(refused)?;
        telemetry::start_log(&settings.logs);
        actix_web::rt::System::new().block_on(app::run(settings, UnsentCodes::NotOffered, |addresses| {
            println!("listening on http://{}", addresses.service);
            println!("metrics on http://{}", addresses.metrics);
        }))?;
        Ok(ExitCode::SUCCESS)
    }
}
