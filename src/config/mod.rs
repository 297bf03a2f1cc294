//! Settings: one struct for each area, read once at start and passed on as plain values.
//!
//! They come in layers, a later one wins: built-in defaults, `config.toml`, variables named
//! `GREENROOM__SECTION__KEY`, the names older deployments already set (`layers.rs`). Whatever is unknown or
//! does not fit is a [`Problem`] that names the key and where it came from; all of them are listed at once.
//! Secrets are `SecretString`: no debug format, error or log line can show one.
//!
//! This room knows nothing of what the settings are for; it reads files and variables and nothing else.

mod areas;
mod check;
mod check_gateways;
mod gateways;
mod layers;
mod refusals;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

pub use areas::{
    Auth, Database, Invitations, Limits, LogFormat, Logs, Pipeline, Profile, Providers, Redis, Secrets,
    Server, Storage, StorageKind, Ws,
};
pub use gateways::{Alipay, Gateways, Kms, Sms, Wechat, WechatPay};
pub use layers::{LEGACY_NAMES, variable_of};

use layers::{Layers, Leaf};

/// Every setting of the process; `config.toml` says what each one is for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Listeners, limits of requests, shutdown.
    pub server: Server,
    /// PostgreSQL and its pool.
    pub database: Database,
    /// Redis.
    pub redis: Redis,
    /// Tokens and passwords.
    pub auth: Auth,
    /// The key that seals what must not be read from the database.
    pub secrets: Secrets,
    /// Running of tasks.
    pub pipeline: Pipeline,
    /// Calls to AI providers.
    pub providers: Providers,
    /// Where files lie.
    pub storage: Storage,
    /// Ceilings for users; 0 switches one off.
    pub limits: Limits,
    /// Websockets.
    pub ws: Ws,
    /// What users may say of themselves.
    pub profile: Profile,
    /// What invitations give.
    pub invitations: Invitations,
    /// Accounts with other platforms.
    pub gateways: Gateways,
    /// How the process writes its log.
    pub logs: Logs,
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// No source names it.
    Default,
    /// A configuration file.
    File(PathBuf),
    /// The defaults of `greenroom dev`.
    Dev,
    /// An environment variable, by name.
    Variable(String),
    /// An option of the command line.
    Option(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("not set"),
            Self::File(path) => write!(f, "from {}", path.display()),
            Self::Dev => f.write_str("set by greenroom dev"),
            Self::Variable(name) => write!(f, "from the variable {name}"),
            Self::Option(name) => write!(f, "from the option {name}"),
        }
    }
}

/// One thing that is wrong with the settings. Never holds the value of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `section.key`; empty when a whole source cannot be read.
    pub key: String,
    /// The source that named it.
    pub origin: Origin,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.key.is_empty() {
            write!(f, "{}: {}", self.origin, self.message)
        } else {
            write!(f, "{} ({}): {}", self.key, self.origin, self.message)
        }
    }
}

/// Settings together with the values that were named by some source; `dev` hands these on to a second replica.
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    leaves: Vec<Leaf>,
}

impl Loaded {
    /// Where the value of `key` came from.
    pub fn origin(&self, key: &str) -> Origin {
        self.leaves
            .iter()
            .rev()
            .find(|leaf| leaf.key == key)
            .map_or(Origin::Default, |leaf| leaf.origin.clone())
    }

    /// Every value some source named, as the environment of another process. Holds secrets in the clear.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut variables = std::collections::BTreeMap::new();
        // a section that is named and left empty says nothing
        for leaf in self.leaves.iter().filter(|leaf| !leaf.is_section()) {
            variables.insert(variable_of(&leaf.key), leaf.as_variable());
        }
        variables.into_iter().filter(|(_, value)| !value.is_empty()).collect()
    }
}

impl Settings {
    /// Reads all sources: `config`, else `./config.toml` when there is one, and the environment.
    ///
    /// # Errors
    /// Every unknown key and bad value of every source.
    pub fn load(config: Option<PathBuf>) -> Result<Self, Vec<Problem>> {
        let (loaded, problems) = Layers::of_process(config).resolve();
        if problems.is_empty() { Ok(loaded.settings) } else { Err(problems) }
    }

    /// As [`Settings::load`], and refuses what is unsafe for production, all in one list.
    ///
    /// # Errors
    /// What [`Settings::load`] refuses, and [`Settings::refusals_for_serve`].
    pub fn load_for_serve(config: Option<PathBuf>) -> Result<Self, Vec<Problem>> {
        let (loaded, mut problems) = Layers::of_process(config).resolve();
        for mut refusal in loaded.settings.refusals_for_serve() {
            if problems.iter().all(|problem| problem.key != refusal.key) {
                refusal.origin = loaded.origin(&refusal.key);
                problems.push(refusal);
            }
        }
        if problems.is_empty() { Ok(loaded.settings) } else { Err(problems) }
    }

    /// As [`Settings::load`] for `greenroom dev`: `dev` stands between file and environment, `options` (of the
    /// command line) wins over all.
    ///
    /// # Errors
    /// What [`Settings::load`] refuses.
    pub fn load_for_dev(
        config: Option<PathBuf>,
        dev: &[(&str, String)],
        options: &[(&'static str, &str, String)],
    ) -> Result<Loaded, Vec<Problem>> {
        let mut layers = Layers::of_process(config);
        layers.between(dev);
        layers.finally(options);
        let (loaded, problems) = layers.resolve();
        if problems.is_empty() { Ok(loaded) } else { Err(problems) }
    }
}

/// The configuration file a command reads: the one it was told, else `./config.toml` when there is one.
fn file_to_read(config: Option<PathBuf>) -> Option<PathBuf> {
    config.or_else(|| Some(PathBuf::from("config.toml")).filter(|path| Path::new(path).exists()))
}
