//! The configuration of a provider of kind `http`: what an admin writes, checked and compiled.

use super::super::{
    address_guard::AddressGuard,
    checked,
    http_exchange::{
        auth::Auth,
        config::{RequestConfig, RequestDocument, ResponseConfig, ResponseDocument},
    },
    provider_settings::ProviderSettings,
};
use greenroom_actors::pipeline::{Fault, provider::CallPolicy, template::Scope};
use serde::Deserialize;
use serde_json::Value;

/// What the templates of a request see.
const REQUEST: Scope = Scope { variables: &["input", "task", "step", "attempt"], files: true };

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    base_url: String,
    request: Option<RequestDocument>,
    response: Option<ResponseDocument>,
}

/// A configuration ready for calls.
pub(super) struct HttpConfig {
    pub(super) request: RequestConfig,
    pub(super) response: ResponseConfig,
    pub(super) auth: Option<Auth>,
    pub(super) policy: CallPolicy,
}

impl HttpConfig {
    /// Checks and compiles.
    ///
    /// # Errors
    /// Everything that can be found at once, each with its path.
    pub(super) fn compile(
        config: &Value,
        auth: Option<&Value>,
        guard: AddressGuard,
    ) -> Result<Self, Vec<Fault>> {
        let (settings, own) = ProviderSettings::split(config)?;
        let document: Document = checked::read("", Value::Object(own))?;
        let mut faults = Vec::new();
        let request = document.request.unwrap_or_default();
        let request = RequestConfig::compile(&document.base_url, request, REQUEST, guard, &mut faults);
        let response = ResponseConfig::compile(document.response.unwrap_or_default(), &mut faults);
        let auth = Auth::compile(auth, &mut faults);
        match request {
            Some(request) if faults.is_empty() => {
                Ok(Self { request, response, auth, policy: settings.policy() })
            }
            _ => Err(faults),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::Method;
    use serde_json::json;

    fn compiled(config: Value, auth: Option<Value>) -> Result<HttpConfig, Vec<Fault>> {
        HttpConfig::compile(&config, auth.as_ref(), AddressGuard::new(false))
    }

    #[test]
    fn an_address_is_enough() {
        let config = compiled(json!({"baseUrl": "https://ai.example/v1"}), None).unwrap();
        assert_eq!(config.request.method, Method::POST);
        assert!(config.request.body.is_none() && config.response.output.is_none() && config.auth.is_none());
        assert_eq!(config.policy.max_concurrency, Some(5));
    }

    #[test]
    fn each_fault_has_its_path() {
        let with = |key: &str, value: Value| {
            let mut config = json!({"baseUrl": "https://ai.example/v1"});
            config[key] = value;
            config
        };
        for (config, path) in [
            (json!({}), "/baseUrl"),
            (json!({"baseUrl": 7}), "/baseUrl"),
            (json!({"baseUrl": "ai.example"}), "/baseUrl"),
            (json!({"baseUrl": "http://127.0.0.1/"}), "/baseUrl"),
            (json!({"baseUrl": "http://169.254.169.254/latest/meta-data"}), "/baseUrl"),
            (json!({"baseUrl": "https://me:word@ai.example/"}), "/baseUrl"),
            (with("poll", json!({})), "/poll"),
            (with("timeoutMs", json!(1)), "/timeoutMs"),
            (with("request", json!({"method": "TRACE"})), "/request/method"),
            (with("request", json!({"verb": "GET"})), "/request/verb"),
            (with("request", json!({"headers": {"X-A": 7}})), "/request/headers/X-A"),
            (with("request", json!({"headers": {"bad name": "x"}})), "/request/headers/bad name"),
            (
                with("request", json!({"headers": {"Authorization": "Bearer x"}})),
                "/request/headers/Authorization",
            ),
            (with("request", json!({"headers": {"X-A": "{{ secrets }}"}})), "/request/headers/X-A"),
            (with("request", json!({"body": {"a": [1, "{{ input. }}"]}})), "/request/body/a/1"),
            (with("request", json!({"body": "{{ callback.url }}"})), "/request/body"),
            (with("response", json!({"output": {"a": "{{ input.a }}"}})), "/response/output/a"),
            (with("response", json!({"files": {"picture": {"path": "x"}}})), "/response/files/picture"),
            (
                with("response", json!({"files": {"picture": {"url": "{{ body. }}"}}})),
                "/response/files/picture/url",
            ),
            (with("response", json!({"error": "{{ body | nonsense }}"})), "/response/error"),
            (with("response", json!({"contentRejected": "{{ nobody }}"})), "/response/contentRejected"),
        ] {
            let faults = compiled(config.clone(), None).err().unwrap_or_default();
            assert!(faults.iter().any(|fault| fault.path.starts_with(path)), "{config}: {faults:?}");
            assert!(!faults.is_empty(), "{config}");
        }
    }

    #[test]
    fn faults_of_several_places_come_together() {
        let config = json!({
            "baseUrl": "http://10.0.0.1/",
            "request": {"headers": {"Host": "x"}, "body": "{{ a }}"},
            "response": {"output": "{{ b }}"}
        });
        let paths: Vec<String> =
            compiled(config, None).err().unwrap_or_default().into_iter().map(|fault| fault.path).collect();
        for path in ["/baseUrl", "/request/headers/Host", "/request/body", "/response/output"] {
            assert!(paths.contains(&path.to_owned()), "{path} in {paths:?}");
        }
    }

    #[test]
    fn credentials_are_checked_and_never_shown() {
        let config = json!({"baseUrl": "https://ai.example/v1"});
        let auth = json!({"type": "bearer", "token": "s3cret"});
        let auth = compiled(config.clone(), Some(auth)).unwrap().auth.unwrap();
        assert_eq!(auth.value.to_str().unwrap(), "Bearer s3cret");
        assert!(!format!("{:?}", auth.value).contains("s3cret"));
        for (auth, path) in [
            (json!({"type": "basic"}), "/auth/type"),
            (json!({"type": "bearer"}), "/auth/token"),
            (json!({"type": "bearer", "token": ""}), "/auth/token"),
            (json!({"type": "bearer", "token": "a\nb"}), "/auth/token"),
            (json!({"type": "header", "name": "x y", "value": "v"}), "/auth/name"),
            (json!({"type": "header", "name": "x", "value": "v\u{0}"}), "/auth/value"),
            (json!({"type": "header", "name": "x", "value": "v", "more": 1}), "/auth"),
        ] {
            let faults = compiled(config.clone(), Some(auth.clone())).err().unwrap_or_default();
            assert!(faults.iter().any(|fault| fault.path == path), "{auth}: {faults:?}");
            assert!(faults.iter().all(|fault| !fault.message.contains("a\nb")));
        }
    }
}
