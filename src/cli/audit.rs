//! `greenroom audit`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use greenroom_actors::audit;
use serde_json::json;

use super::{block_on, settings};
use crate::app;

/// Arguments of `greenroom audit`.
#[derive(Debug, Args)]
#[command(after_help = "Example: every night, with an alert when it exits with 1\n  greenroom audit --json")]
pub(super) struct Audit {
    /// Print one JSON object instead of a line for each breach
    #[arg(long)]
    json: bool,
}

impl Audit {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<ExitCode> {
        let settings = settings(config)?;
        block_on(async {
            let database = app::database(&settings.database, "audit")?;
            let breaches = audit::audit(&database).await?;
            if self.json {
                let breach = |breach: &audit::Breach| json!({ "check": breach.check, "subject": breach.subject, "detail": breach.detail });
                let found: Vec<_> = breaches.iter().map(breach).collect();
                let checks: Vec<_> = audit::names().collect();
                println!("{}", json!({ "clean": found.is_empty(), "checks": checks, "breaches": found }));
            } else {
                for breach in &breaches {
                    println!("{}: {}: {}", breach.check, breach.subject, breach.detail);
                }
                if breaches.is_empty() {
                    println!("clean: {} checks hold", audit::names().count());
                }
            }
            Ok(if breaches.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        })
    }
}
