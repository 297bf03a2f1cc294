//! What `greenroom serve` refuses although it is well formed: settings that are unsafe in production.

use std::os::unix::fs::PermissionsExt;

use secrecy::{ExposeSecret, SecretString};

use super::{Origin, Problem, Settings};
use crate::sealing::key_bytes;

/// Words of secrets that were copied from a page instead of made.
const EXAMPLE_WORDS: [&str; 8] = [
    "example",
    "changeme",
    "change-me",
    "change_me",
    "replace-me",
    "replace_me",
    "your-secret",
    "your_secret",
];

impl Settings {
    /// Every setting that is unsafe for production, with what to do about it.
    pub fn refusals_for_serve(&self) -> Vec<Problem> {
        let mut refusals = Vec::new();
        let mut refuse = |key: &str, message: String| {
            refusals.push(Problem { key: key.to_owned(), origin: Origin::Default, message });
        };
        let required = [
            ("database.url", &self.database.url, "the PostgreSQL to use"),
            ("redis.url", &self.redis.url, "the Redis to use"),
            (
                "auth.jwt_secret",
                &self.auth.jwt_secret,
                "32 bytes or more, such as `openssl rand -base64 48` makes",
            ),
            ("secrets.key", &self.secrets.key, "32 bytes in base64, such as `openssl rand -base64 32` makes"),
        ];
        for (key, secret, wanted) in required {
            if secret.is_none() {
                refuse(key, format!("is required: {wanted}; set {}", super::variable_of(key)));
            }
        }
        if self.auth.jwt_secret.as_ref().is_some_and(is_example) {
            refuse(
                "auth.jwt_secret",
                "is an example; make your own with `openssl rand -base64 48`".to_owned(),
            );
        }
        let is_example_key = |key: &SecretString| is_example(key) || key_bytes(key) == Some([0; 32]);
        if self.secrets.key.as_ref().is_some_and(is_example_key) {
            refuse("secrets.key", "is an example; make your own with `openssl rand -base64 32`".to_owned());
        }
        if self.secrets.previous_keys.iter().any(is_example_key) {
            refuse("secrets.previous_keys", "holds an example".to_owned());
        }
        if self.auth.previous_jwt_secrets.iter().any(is_example) {
            refuse("auth.previous_jwt_secrets", "holds an example".to_owned());
        }
        if !self.server.listen.ip().is_loopback() && self.server.public_url.is_none() {
            let message = format!(
                "is required because server.listen is {}: the address clients reach this service at",
                self.server.listen
            );
            refuse("server.public_url", message);
        }
        let keys = [
            ("gateways.wechat_pay.private_key_path", &self.gateways.wechat_pay.private_key_path),
            ("gateways.alipay.private_key_path", &self.gateways.alipay.private_key_path),
        ];
        for (key, path) in keys {
            let Some(path) = path else { continue };
            match std::fs::metadata(path) {
                Ok(file) if file.permissions().mode() & 0o004 != 0 => {
                    refuse(key, format!("{0} can be read by everyone; `chmod 600 {0}`", path.display()));
                }
                Ok(_) => {}
                Err(error) => refuse(key, format!("{} cannot be read: {error}", path.display())),
            }
        }
        refusals
    }
}

fn is_example(secret: &SecretString) -> bool {
    let secret = secret.expose_secret().to_lowercase();
    EXAMPLE_WORDS.iter().any(|word| secret.contains(word))
}
