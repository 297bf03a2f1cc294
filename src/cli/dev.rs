//! `greenroom dev`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use super::refused;
use crate::dev::{self, DevError, Options};

/// Arguments of `greenroom dev`.
#[derive(Debug, Args)]
#[command(
    after_help = "Example: a second one beside the first\n  greenroom dev --dir /tmp/other --listen 127.0.0.1:0"
)]
pub(super) struct Dev {
    /// Where data, files and demo accounts are kept
    #[arg(long, value_name = "DIR", default_value = ".greenroom")]
    dir: PathBuf,
    /// Address of the service; port 0 takes a free one
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Remove what DIR holds and begin anew
    #[arg(long)]
    fresh: bool,
}

impl Dev {
    pub(super) fn run(&self, config: Option<PathBuf>) -> Result<ExitCode> {
        let options = Options { dir: self.dir.clone(), listen: self.listen, fresh: self.fresh, config };
        dev::run(&options).map_err(|error| match error {
            DevError::Settings(problems) => refused(problems),
            DevError::Other(error) => error,
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
