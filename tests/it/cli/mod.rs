//! The command line, run as a person runs it.

mod admin;
mod audit;
mod dev;
mod doctor;
mod migrate;
mod serve;
mod task;
mod usage;

use std::process::Output;

/// What a command printed, and with which code it ended.
fn said(output: &Output) -> (i32, String) {
    let text = [output.stdout.as_slice(), b"\n", output.stderr.as_slice()].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}
