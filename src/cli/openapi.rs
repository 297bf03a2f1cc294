//! `greenroom openapi`: the contract.

use crate::http;
use anyhow::Result;
use clap::Args;
use std::process::ExitCode;

/// Prints the contract (OpenAPI 3.1, JSON) that the service answers at /openapi.json.
#[derive(Debug, Args)]
#[command(after_help = "Example: keep the contract in a file\n  greenroom openapi > openapi.json")]
pub(super) struct OpenApi {}

impl OpenApi {
    pub(super) fn run(&self) -> Result<ExitCode> {
        println!("{}", http::openapi().to_pretty_json()?);
        Ok(ExitCode::SUCCESS)
    }
}
