//! `dev.json`: what `greenroom dev` tells others about itself.

use serde_json::{Map, Value, json};

use super::demo_data::Demo;
use super::origin;
use crate::app::Addresses;
use crate::config::{Loaded, variable_of};

/// The content of the file. It holds secrets.
pub(super) fn told(loaded: &Loaded, addresses: Addresses, demo: &Demo) -> Value {
    let environment = environment(loaded);
    let value = |key: &str| environment.get(&variable_of(key)).cloned().unwrap_or_default();
    json!({
        "url": origin(addresses.service),
        "metricsUrl": origin(addresses.metrics),
        "databaseUrl": value("database.url"),
        "redisUrl": value("redis.url"),
        "pid": std::process::id(),
        "accounts": demo.accounts.iter().map(|account| json!({
            "role": account.role,
            "phone": account.phone,
            "password": account.password,
        })).collect::<Vec<_>>(),
        "pipelines": demo.pipelines.iter().map(|pipeline| json!({
            "id": pipeline.id,
            "name": pipeline.name,
        })).collect::<Vec<_>>(),
        "env": environment,
        "sandbox": {},
    })
}

/// All that a `greenroom serve` needs to join as a second replica: every setting that is not a default, but
/// listeners of its own.
fn environment(loaded: &Loaded) -> Map<String, Value> {
    let mut environment: Map<String, Value> =
        loaded.environment().into_iter().map(|(name, value)| (name, Value::from(value))).collect();
    for key in ["server.listen", "server.metrics_listen"] {
        environment.insert(variable_of(key), Value::from("127.0.0.1:0"));
    }
    environment
}
