//! The log: structured lines on standard error, for people or for machines.
//!
//! A failure is logged once, where it is handled. No field ever holds a secret.

use std::io;

use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, Logs};

/// Libraries that tell at `info` what only their own authors want to know. Directives may switch them on again.
const CHATTY: [&str; 2] = ["actix_server", "refinery_core"];
/// Libraries that tell at `debug` or `trace` what passes through them: parameters of statements, headers, keys.
/// Nothing switches that on.
const TELLTALE: [&str; 8] =
    ["tokio_postgres", "postgres_protocol", "h2", "hyper", "hyper_util", "reqwest", "rustls", "tungstenite"];

fn filter(level: &str) -> Targets {
    let targets = match level.parse::<LevelFilter>() {
        Ok(level) => {
            let quiet = CHATTY.map(|target| (target, level.min(LevelFilter::WARN)));
            Targets::new().with_targets(quiet).with_default(level)
        }
        Err(_) => level.parse().unwrap_or_else(|_| Targets::new().with_default(LevelFilter::INFO)),
    };
    let louder = TELLTALE.into_iter().filter(|target| targets.would_enable(target, &Level::DEBUG));
    let limits: Vec<_> = louder.map(|target| (target, LevelFilter::INFO)).collect();
    targets.with_targets(limits)
}

/// Starts the log of this process, and sends panics through it. Calling it again changes nothing.
pub fn start_log(logs: &Logs) {
    let registry = tracing_subscriber::registry().with(filter(&logs.level));
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let started = match logs.format {
        LogFormat::Text => {
            let colours = io::IsTerminal::is_terminal(&io::stderr());
            registry.with(layer.with_ansi(colours).with_target(false)).try_init()
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_span_list(false)).try_init(),
    };
    if started.is_ok() {
        std::panic::set_hook(Box::new(|panic| {
            let location = panic.location().map(ToString::to_string).unwrap_or_default();
            let message = panic.payload_as_str().unwrap_or("a value that is no text");
            tracing::error!(location, message, "panic");
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_keeps_chatty_libraries_quiet() {
        let info = filter("info");
        assert!(info.would_enable("greenroom::app", &Level::INFO));
        assert!(!info.would_enable("greenroom::app", &Level::DEBUG));
        assert!(!info.would_enable("actix_server::worker", &Level::INFO));
        assert!(!filter("off").would_enable("actix_server", &Level::WARN));
    }

    #[test]
    fn directives_say_exactly_what_is_written() {
        let directives = filter("warn,actix_server=info");
        assert!(directives.would_enable("actix_server", &Level::INFO));
        assert!(!directives.would_enable("greenroom", &Level::INFO));
    }

    #[test]
    fn nothing_makes_libraries_tell_what_passes_through_them() {
        for level in ["trace", "debug,tokio_postgres=trace", "off,h2=debug"] {
            let filter = filter(level);
            for target in ["tokio_postgres::query", "h2::codec", "hyper::proto"] {
                assert!(!filter.would_enable(target, &Level::DEBUG), "{target} at {level}");
            }
        }
        assert!(!filter("error").would_enable("hyper", &Level::INFO));
        assert!(filter("error").would_enable("hyper", &Level::ERROR));
    }
}
