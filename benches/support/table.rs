//! What a bench is told, and what it prints.

use super::ground::Figure;
use anyhow::{Context, Result};

/// `--seconds N`, how long each contestant runs. Other arguments are those that cargo adds.
pub(crate) fn seconds() -> Result<u64> {
    let mut arguments = std::env::args();
    while let Some(argument) = arguments.next() {
        if argument == "--seconds" {
            return arguments.next().context("--seconds wants a number")?.parse().context("--seconds");
        }
    }
    Ok(15)
}

/// A row of the table: what, ours, the reference, how many times as fast, and how many it should be.
pub(crate) fn row(what: &str, ours: Figure, reference: f64, least: f64) {
    let ours = ours.tasks_per_second;
    let ratio = ours / reference;
    println!("| {what} | {ours:.0} | {reference:.0} | {ratio:.2}x | {least}x{} |", verdict(ratio >= least));
}

/// What a cell adds that says what is asked for.
pub(crate) fn verdict(reached: bool) -> &'static str {
    if reached { "" } else { ", missed" }
}
