//! Credentials: the header that carries them.

use super::super::checked::{self, fault};
use greenroom_actors::pipeline::Fault;
use reqwest::header::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::Value;

/// Credentials, as they are sealed.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
enum AuthDocument {
    Bearer { token: SecretString },
    Header { name: String, value: SecretString },
}

/// The header that carries the credentials, and the secret itself, so that it can be masked.
pub(in crate::gateways) struct Auth {
    pub(in crate::gateways) name: HeaderName,
    pub(in crate::gateways) value: HeaderValue,
    pub(in crate::gateways) secret: SecretString,
}

impl Auth {
    /// Reads credentials, if there are any.
    pub(in crate::gateways) fn compile(auth: Option<&Value>, faults: &mut Vec<Fault>) -> Option<Self> {
        let auth = auth.filter(|auth| !auth.is_null())?;
        Self::read(auth).map_err(|more| faults.extend(more)).ok()
    }

    fn read(auth: &Value) -> Result<Self, Vec<Fault>> {
        let (name, value, secret) = match checked::read("/auth", auth.clone())? {
            AuthDocument::Bearer { token } => {
                (HeaderName::from_static("authorization"), format!("Bearer {}", token.expose_secret()), token)
            }
            AuthDocument::Header { name, value } => {
                let name = HeaderName::try_from(name.as_str())
                    .map_err(|_| vec![fault("/auth/name", "is no name of a header")])?;
                (name, value.expose_secret().to_owned(), value)
            }
        };
        let path =
            if name == "authorization" && auth["type"] == "bearer" { "/auth/token" } else { "/auth/value" };
        if secret.expose_secret().is_empty() {
            return Err(vec![fault(path, "must not be empty")]);
        }
        let mut value = HeaderValue::try_from(value)
            .map_err(|_| vec![fault(path, "has characters that a header cannot carry")])?;
        value.set_sensitive(true);
        Ok(Self { name, value, secret })
    }
}
