//! Requests and answers for people's eyes: credentials masked, long texts cut.

use super::auth::Auth;
use reqwest::header::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};

/// What stands in the place of a secret.
const MASK: &str = "***";

/// A text longer than this is cut: it is most likely a file in base64.
const TEXT_MAX: usize = 2_000;

/// Shows things of one call.
pub(in crate::gateways) struct Shown {
    /// What must not be seen, wherever it stands.
    secrets: Vec<SecretString>,
}

impl Shown {
    /// Masks the secret of `auth`, and the token of the call's callback: whoever knows it can answer for the
    /// provider.
    pub(in crate::gateways) fn new(auth: Option<&Auth>, callback_token: Option<&SecretString>) -> Self {
        Self { secrets: auth.map(|auth| &auth.secret).into_iter().chain(callback_token).cloned().collect() }
    }

    /// A text without secrets.
    fn masked(&self, text: &str) -> String {
        let unmasked = text.to_owned();
        self.secrets.iter().fold(unmasked, |text, secret| text.replace(secret.expose_secret(), MASK))
    }

    /// A text without secrets, cut after `max` characters.
    pub(in crate::gateways) fn text(&self, text: &str, max: usize) -> String {
        let masked = self.masked(text);
        match masked.char_indices().nth(max) {
            Some((end, _)) => format!("{}… ({} bytes)", &masked[..end], masked.len()),
            None => masked,
        }
    }

    /// A document whose texts are masked and cut.
    pub(in crate::gateways) fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => self.text(text, TEXT_MAX).into(),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => fields
                .iter()
                .map(|(key, field)| (key.clone(), self.value(field)))
                .collect::<Map<_, _>>()
                .into(),
            other => other.clone(),
        }
    }

    /// Headers by name; what was marked as sensitive is masked.
    pub(in crate::gateways) fn headers(&self, headers: &HeaderMap) -> Value {
        let shown = headers.iter().map(|(name, value)| {
            let text = if value.is_sensitive() {
                MASK.to_owned()
            } else {
                self.text(&String::from_utf8_lossy(value.as_bytes()), TEXT_MAX)
            };
            (name.as_str().to_owned(), text.into())
        });
        Value::Object(shown.collect())
    }
}
