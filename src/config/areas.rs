//! The areas of the settings. Units stand in the names; ranges in `check.rs`; reasons in `config.toml`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use secrecy::SecretString;
use serde::{Deserialize, Deserializer};
use url::Url;

/// Reads a secret without ever repeating it in an error.
pub(super) fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::String(text) => Ok(Some(SecretString::from(text))),
        _ => Err(serde::de::Error::custom("expected text in quotes")),
    }
}

fn secrets<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<SecretString>, D::Error> {
    let expected = || serde::de::Error::custom("expected a list of texts in quotes");
    let serde_json::Value::Array(items) = serde_json::Value::deserialize(deserializer)? else {
        return Err(expected());
    };
    items.iter().map(|item| item.as_str().map(SecretString::from).ok_or_else(expected)).collect()
}

/// Reads an http or https address.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Url>, D::Error> {
    let url = Url::parse(&String::deserialize(deserializer)?).ok();
    let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    url.map(Some).ok_or_else(|| serde::de::Error::custom("expected an http or https address"))
}

/// `server`: listeners, limits of requests, shutdown.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Server {
    /// Address of the service; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Address of `/metrics`; port 0 takes a free one.
    pub metrics_listen: SocketAddr,
    /// The origin clients and providers reach us at; makes callback and file links.
    #[serde(deserialize_with = "address")]
    pub public_url: Option<Url>,
    /// A label in logs and admin views; the host name when unset.
    pub replica_id: Option<String>,
    /// Proxies whose `X-Forwarded-For` is believed: addresses or networks (`10.0.0.0/8`).
    pub trusted_proxies: Vec<Network>,
    /// How long a shutdown may take.
    pub shutdown_ms: u64,
    /// Largest request body; beyond it 413.
    pub body_limit_bytes: usize,
    /// HTTP worker threads; 0 means one for each core.
    pub workers: usize,
    /// Origins a browser may call from; none by default.
    pub cors_origins: Vec<String>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            metrics_listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9090)),
            public_url: None,
            replica_id: None,
            trusted_proxies: Vec::new(),
            shutdown_ms: 30_000,
            body_limit_bytes: 1_048_576,
            workers: 0,
            cors_origins: Vec::new(),
        }
    }
}

impl Server {
    /// The replica's label: `replica_id`, else the name of the host.
    pub fn replica_label(&self) -> String {
        let host = || std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let label = self.replica_id.clone().unwrap_or_else(host);
        match label.trim() {
            "" => "replica".to_owned(),
            label => label.to_owned(),
        }
    }

    /// Whether `peer` is a proxy whose `X-Forwarded-For` counts.
    pub fn trusts(&self, peer: IpAddr) -> bool {
        self.trusted_proxies.iter().any(|network| network.contains(peer))
    }
}

/// An address or a network in CIDR form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// Whether the network holds `address`; an IPv4 address inside IPv6 counts as itself.
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            _ => false,
        }
    }
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || "expected an address or a network, such as 10.0.0.0/8".to_owned();
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.trim().parse().map_err(|_| refused())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), |prefix| prefix.trim().parse().map_err(|_| refused()))?;
        if prefix > longest { Err(refused()) } else { Ok(Self { address, prefix }) }
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// `database`: PostgreSQL and its pool.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// `postgres://user:password@host:port/database`; holds a password, so a secret.
    #[serde(deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// Connections opened at start.
    pub pool_min: usize,
    /// Connections at most.
    pub pool_max: usize,
    /// A connection idle longer is closed, down to `pool_min`.
    pub pool_idle_ms: u64,
    /// How long a request waits for a connection before 503.
    pub pool_acquire_ms: u64,
    /// How long connecting may take.
    pub connect_timeout_ms: u64,
    /// PostgreSQL ends a statement that runs longer; 0 is off.
    pub statement_timeout_ms: u64,
    /// PostgreSQL ends a wait for a lock that lasts longer; 0 is off.
    pub lock_timeout_ms: u64,
    /// PostgreSQL ends a session that idles inside a transaction longer; 0 is off.
    pub idle_in_transaction_timeout_ms: u64,
}

impl Default for Database {
    fn default() -> Self {
        Self {
            url: None,
            pool_min: 10,
            pool_max: 100,
            pool_idle_ms: 30_000,
            pool_acquire_ms: 10_000,
            connect_timeout_ms: 5_000,
            statement_timeout_ms: 30_000,
            lock_timeout_ms: 10_000,
            idle_in_transaction_timeout_ms: 30_000,
        }
    }
}

/// `redis`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Redis {
    /// `redis://:password@host:port/0`; holds a password, so a secret.
    #[serde(deserialize_with = "secret")]
    pub url: Option<SecretString>,
    /// Stands before every key, so that installations can share one Redis.
    pub key_prefix: String,
    /// How long connecting may take.
    pub connect_timeout_ms: u64,
    /// How long an answer may take.
    pub response_timeout_ms: u64,
}

impl Default for Redis {
    fn default() -> Self {
        Self { url: None, key_prefix: String::new(), connect_timeout_ms: 1_000, response_timeout_ms: 2_000 }
    }
}

/// `auth`: tokens and passwords.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// Signs access tokens; 32 bytes or more, the same on all replicas.
    #[serde(deserialize_with = "secret")]
    pub jwt_secret: Option<SecretString>,
    /// Other values of `jwt_secret`, earlier or next, whose tokens verify too.
    #[serde(deserialize_with = "secrets")]
    pub previous_jwt_secrets: Vec<SecretString>,
    /// Age of an access token, seconds.
    pub access_ttl_s: u32,
    /// Age of a refresh token, seconds.
    pub refresh_ttl_s: u32,
    /// Cost of a password's hash; each step doubles the time.
    pub bcrypt_cost: u32,
    /// Whether a registration must bring a code sent to the phone.
    pub register_requires_code: bool,
    /// `iss` of access tokens.
    pub issuer: String,
    /// `aud` of access tokens.
    pub audience: String,
}

impl Default for Auth {
    fn default() -> Self {
        Self {
            jwt_secret: None,
            previous_jwt_secrets: Vec::new(),
            access_ttl_s: 900,
            refresh_ttl_s: 604_800,
            bcrypt_cost: 12,
            register_requires_code: true,
            issuer: "greenroom".to_owned(),
            audience: "greenroom".to_owned(),
        }
    }
}

/// `secrets`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Secrets {
    /// 32 bytes in base64: seals credentials, signs links and refresh tokens; the same on all replicas.
    #[serde(deserialize_with = "secret")]
    pub key: Option<SecretString>,
    /// Other values of `key`, earlier or next: what they sealed and signed is accepted too.
    #[serde(deserialize_with = "secrets")]
    pub previous_keys: Vec<SecretString>,
}

/// `pipeline`: running of tasks.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pipeline {
    /// Provider calls of one task at a time.
    pub max_concurrency: usize,
    /// How long a replica that falls silent keeps its tasks.
    pub lease_ms: u64,
    /// A task queued longer fails and its quota returns.
    pub queue_ttl_ms: u64,
}

impl Default for Pipeline {
    fn default() -> Self {
        Self { max_concurrency: 5, lease_ms: 15_000, queue_ttl_ms: 86_400_000 }
    }
}

/// `providers`: calls to AI providers.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Providers {
    /// Whether a provider may stand at a private, loopback or link-local address.
    pub allow_private_networks: bool,
    /// Largest answer of a provider that is read.
    pub max_response_bytes: usize,
    /// Largest file fetched from a provider, and sent to one as base64.
    pub max_file_bytes: u64,
}

impl Default for Providers {
    fn default() -> Self {
        Self { allow_private_networks: false, max_response_bytes: 8 << 20, max_file_bytes: 32 << 20 }
    }
}

/// Kinds of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// A local directory, shared by all replicas.
    Fs,
}

/// `storage`: where files lie.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Storage {
    /// Which object store.
    pub kind: StorageKind,
    /// Directory of the `fs` store; one for all replicas.
    pub dir: PathBuf,
    /// Largest upload.
    pub max_upload_bytes: u64,
    /// Media types a client may upload.
    pub upload_types: Vec<String>,
    /// How long an upload may take from its creation, seconds.
    pub upload_ttl_s: u64,
    /// How long a download link works, seconds.
    pub link_ttl_s: u64,
}

impl Default for Storage {
    fn default() -> Self {
        Self {
            kind: StorageKind::Fs,
            dir: PathBuf::from(".greenroom/files"),
            max_upload_bytes: 20 << 20,
            upload_types: ["image/jpeg", "image/png", "image/webp"].map(str::to_owned).to_vec(),
            upload_ttl_s: 900,
            link_ttl_s: 300,
        }
    }
}

/// `limits`: ceilings; 0 switches one off.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Waiting tasks of a user.
    pub queued_per_user: u32,
    /// Waiting tasks of all users.
    pub queued_total: u32,
    /// Running tasks of a user; a plan may say otherwise.
    pub running_per_user: u32,
    /// A user who has fewer units left than this is told `quota.low`.
    pub quota_low: u32,
    /// Requests of a user, or of an address without a token.
    pub requests_per_minute: u32,
    /// Sign-ins, registrations and codes of an address.
    pub sign_in_per_address_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queued_per_user: 2_000,
            queued_total: 100_000,
            running_per_user: 20,
            quota_low: 0,
            requests_per_minute: 1_200,
            sign_in_per_address_per_minute: 30,
        }
    }
}

/// `ws`: websockets.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ws {
    /// Open sockets of a user; one more closes the oldest with 4009. 0 is off.
    pub max_per_user: usize,
    /// Events that may wait for a slow socket before it is closed with 4008.
    pub queue_events: usize,
    /// Events of a user kept in Redis for a resume.
    pub history_events: usize,
    /// How long they are kept after the newest, seconds.
    pub history_s: u64,
    /// Time between heartbeats, seconds.
    pub heartbeat_s: u64,
}

impl Default for Ws {
    fn default() -> Self {
        Self {
            max_per_user: 20,
            queue_events: 1_000,
            history_events: 5_000,
            history_s: 3_600,
            heartbeat_s: 25,
        }
    }
}

/// `invitations`: what is given where a user brings a new one; 0 is nothing.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Invitations {
    /// Units of quota for the new user.
    pub newcomer_quota: u32,
    /// Units of quota for who brought them.
    pub referrer_quota: u32,
}

/// `profile`: what users may say of themselves.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Profile {
    /// Hosts an avatar's address (https) may name; else an avatar is the id of an own picture.
    pub avatar_hosts: Vec<String>,
}

/// Shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: an object a line.
    Json,
}

/// `logs`.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Logs {
    /// Shape of the lines.
    pub format: LogFormat,
    /// What is written: a level, or directives such as `info,greenroom=debug`.
    pub level: String,
}

impl Default for Logs {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".to_owned() }
    }
}
