//! `greenroom migrate`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::{block_on, settings};
use crate::{app, migrations};

/// Arguments of `greenroom migrate`.
#[derive(Debug, Args)]
#[command(after_help = "Example: fail a deployment whose schema is behind\n  greenroom migrate --check")]
pub(super) struct Migrate {
    /// Change nothing; exit 1 when something is missing
    #[arg(long)]
    check: bool,
}

impl Migrate {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<ExitCode> {
        let settings = settings(config)?;
        block_on(async {
            let database = app::database(&settings.database, "migrate")?;
            if self.check {
                let pending = migrations::pending(&database).await?;
                for name in &pending {
                    println!("missing: {name}");
                }
                if !pending.is_empty() {
                    return Ok(ExitCode::FAILURE);
                }
            } else {
                for name in migrations::apply(&database).await? {
                    println!("applied: {name}");
                }
            }
            println!("the schema is up to date");
            Ok(ExitCode::SUCCESS)
        })
    }
}
