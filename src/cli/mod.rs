//! The command line: one file for each command.
//!
//! Exit codes: 0 done, 1 failed (refused settings too), 2 wrong use. Results go to standard output, everything else
//! to standard error. This room reads settings, calls `app`, `dev` or a store, and prints; it holds no rules.

mod admin;
mod audit;
mod dev;
mod doctor;
mod migrate;
mod openapi;
mod serve;
mod task;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::config::{Problem, Settings};
use crate::telemetry;

/// An actor-model backend for AI-task products.
#[derive(Debug, Parser)]
#[command(name = "greenroom", version, arg_required_else_help = true, propagate_version = false)]
#[command(after_help = "Example: the service with everything it needs on this machine\n  greenroom dev")]
struct Arguments {
    /// Read settings from FILE instead of ./config.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run everything on this machine: private PostgreSQL and Redis, demo data, the service
    Dev(dev::Dev),
    /// Run the service on the configured PostgreSQL and Redis
    Serve(serve::Serve),
    /// Bring the schema up to date
    Migrate(migrate::Migrate),
    /// Say what is wrong with this installation and how to mend it
    Doctor(doctor::Doctor),
    /// Manage admins
    #[command(subcommand)]
    Admin(admin::Admin),
    /// Check the invariants of ledger and tasks over the whole database
    Audit(audit::Audit),
    /// Look at tasks
    #[command(subcommand)]
    Task(task::Task),
    /// Print the HTTP contract (OpenAPI 3.1)
    Openapi(openapi::OpenApi),
}

/// Runs the command this process was started with.
pub fn run() -> ExitCode {
    // one crypto provider for every TLS connection and every token; a second one would make TLS panic
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let Arguments { config, command } = Arguments::parse();
    let outcome = match command {
        Command::Dev(command) => command.run(config),
        Command::Serve(command) => command.run(config),
        Command::Migrate(command) => command.run(config),
        Command::Doctor(command) => command.run(config),
        Command::Admin(command) => command.run(config),
        Command::Audit(command) => command.run(config),
        Command::Task(command) => command.run(config),
        Command::Openapi(command) => command.run(),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("greenroom: {error:#}");
        ExitCode::FAILURE
    })
}

/// The settings of a command, with its log started.
fn settings(config: Option<PathBuf>) -> Result<Settings> {
    let settings = Settings::load(config).map_err(refused)?;
    telemetry::start_log(&settings.logs);
    Ok(settings)
}

/// All problems in one message, one a line.
fn refused(problems: Vec<Problem>) -> anyhow::Error {
    let lines: Vec<String> = problems.iter().map(|problem| format!("\n  - {problem}")).collect();
    anyhow::anyhow!("the settings are refused:{}", lines.concat())
}

/// Runs `work` to its end on a runtime of its own.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
