//! The configuration of a provider of kind `http_async`: what an admin writes, checked and compiled.

use super::super::{
    address_guard::AddressGuard,
    checked::{self, Whole, fault},
    http_exchange::{
        auth::Auth,
        config::{self, RESPONSE, RequestConfig, RequestDocument, ResponseConfig, ResponseDocument},
    },
    provider_settings::ProviderSettings,
};
use greenroom_actors::pipeline::{
    Fault,
    provider::CallPolicy,
    template::{Scope, Template},
};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use url::{Origin, Url};

/// What the templates of a request see.
const REQUEST: Scope = Scope { variables: &["input", "task", "step", "attempt"], files: true };

/// What they see where the provider may call back.
const REQUEST_WITH_CALLBACK: Scope =
    Scope { variables: &["input", "task", "step", "attempt", "callback"], files: true };

/// What the address at which a job is asked about may be made of.
const QUESTION: Scope = Scope { variables: &["input", "task", "step", "attempt", "job"], files: false };

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    base_url: String,
    request: Option<RequestDocument>,
    submit: Option<SubmitDocument>,
    poll: Option<PollDocument>,
    callback: Option<bool>,
    response: Option<ResponseDocument>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SubmitDocument {
    id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct PollDocument {
    url: String,
    #[serde(default)]
    interval_ms: Whole<100, 60_000, 1000>,
    status: String,
    done: Vec<String>,
    #[serde(default)]
    failed: Vec<String>,
}

/// A configuration ready for calls. There is `poll`, or a callback, or both.
pub(super) struct HttpAsyncConfig {
    pub(super) request: RequestConfig,
    /// Where the answer to a submission names the job; always there with `poll`.
    pub(super) job_id: Option<Template>,
    pub(super) poll: Option<PollConfig>,
    pub(super) response: ResponseConfig,
    pub(super) auth: Option<Auth>,
    pub(super) policy: CallPolicy,
}

/// How a job is asked about.
pub(super) struct PollConfig {
    pub(super) url: Template,
    pub(super) interval: Duration,
    pub(super) status: Template,
    done: Vec<String>,
    failed: Vec<String>,
    /// Where the admin wrote out the host, which makes it one that may have the credentials.
    written_origin: Option<Origin>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobState {
    /// It is not over, or the answer does not say.
    Open,
    Done,
    Failed,
}

impl HttpAsyncConfig {
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
        let names_callback = config["request"].to_string().contains("callback");
        let document: Document = checked::read("", Value::Object(own))?;
        let mut faults = Vec::new();

        let callback = document.callback.unwrap_or(false);
        if document.poll.is_none() && !callback {
            faults
                .push(fault("/poll", "must be there where callback is not true: nobody would hear of a job"));
        }
        if document.poll.is_none() && callback && !names_callback {
            let message = "must name {{ callback.url }}: the provider would not know whom to call back";
            faults.push(fault("/request", message));
        }
        let scope = if callback { REQUEST_WITH_CALLBACK } else { REQUEST };
        let request = document.request.unwrap_or_default();
        let request = RequestConfig::compile(&document.base_url, request, scope, guard, &mut faults);
        if document.submit.is_none() && document.poll.is_some() {
            faults
                .push(fault("/submit", "must say where the job's id is, so that the job can be asked about"));
        }
        let job_id =
            document.submit.and_then(|submit| config::text(&submit.id, "/submit/id", RESPONSE, &mut faults));
        let poll = document.poll.and_then(|poll| PollConfig::compile(poll, guard, &mut faults));
        let response = ResponseConfig::compile(document.response.unwrap_or_default(), &mut faults);
        let auth = Auth::compile(auth, &mut faults);
        match request {
            Some(request) if faults.is_empty() => {
                let policy = CallPolicy { polls: poll.is_some(), callback, ..settings.policy() };
                Ok(Self { request, job_id, poll, response, auth, policy })
            }
            _ => Err(faults),
        }
    }

    /// Whether credentials may go to `url`: a provider's answer, which makes up part of it, must not lead them to
    /// a host that the admin did not write.
    pub(super) fn trusts(&self, url: &Url) -> bool {
        let origin = url.origin();
        origin == self.request.url.origin()
            || self.poll.as_ref().is_some_and(|poll| poll.written_origin.as_ref() == Some(&origin))
    }
}

impl PollConfig {
    fn compile(document: PollDocument, guard: AddressGuard, faults: &mut Vec<Fault>) -> Option<Self> {
        let written = written_host(&document.url);
        if let Some(Err(refused)) = written.as_ref().map(|url| guard.check(url)) {
            faults.push(fault("/poll/url", refused.to_string()));
        }
        if document.done.is_empty() {
            faults.push(fault("/poll/done", "must name at least one status"));
        }
        for (index, status) in document.failed.iter().enumerate() {
            if document.done.contains(status) {
                faults.push(fault(format!("/poll/failed/{index}"), "stands in done as well"));
            }
        }
        let url = config::text(&document.url, "/poll/url", QUESTION, faults);
        let status = config::text(&document.status, "/poll/status", RESPONSE, faults);
        Some(Self {
            url: url?,
            interval: Duration::from_millis(document.interval_ms.0.into()),
            status: status?,
            done: document.done,
            failed: document.failed,
            written_origin: written.map(|url| url.origin()),
        })
    }

    /// Where a job stands by what [`Self::status`] made of an answer.
    pub(super) fn state(&self, status: Option<Value>) -> JobState {
        let status = match status {
            None | Some(Value::Null) => return JobState::Open,
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        };
        if self.done.contains(&status) {
            JobState::Done
        } else if self.failed.contains(&status) {
            JobState::Failed
        } else {
            JobState::Open
        }
    }
}

/// The host of a template of an address, where it stands there in full before anything that is put in.
pub(super) fn written_host(template: &str) -> Option<Url> {
    let (scheme, rest) = template.split_once("://")?;
    let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
    let is_written = !scheme.contains('{') && !authority.contains('{');
    Url::parse(&format!("{scheme}://{authority}/")).ok().filter(|_| is_written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn polled() -> Value {
        json!({
            "baseUrl": "https://ai.example/v1/jobs", "submit": {"id": "{{ body.id }}"},
            "poll": {"url": "https://ai.example/v1/jobs/{{ job.id }}", "status": "{{ body.state }}", "done": ["ok"]}
        })
    }

    fn called_back() -> Value {
        json!({"baseUrl": "https://ai.example/v1/jobs", "callback": true,
               "request": {"body": {"notify": "{{ callback.url }}"}}})
    }

    fn compiled(config: &Value) -> Result<HttpAsyncConfig, Vec<Fault>> {
        HttpAsyncConfig::compile(config, None, AddressGuard::new(false))
    }

    #[test]
    fn a_job_is_polled_or_called_back_or_both() {
        let config = compiled(&polled()).unwrap();
        assert!(config.policy.polls && !config.policy.callback);
        let poll = config.poll.unwrap();
        assert_eq!(poll.interval, Duration::from_secs(1));
        let config = compiled(&called_back()).unwrap();
        assert!(!config.policy.polls && config.policy.callback && config.job_id.is_none());
        let mut both = polled();
        both["callback"] = json!(true);
        let config = compiled(&both).unwrap();
        assert!(config.policy.polls && config.policy.callback);
    }

    #[test]
    fn each_fault_has_its_path() {
        let polled = |pointer: &str, value: Value| with(polled(), pointer, value);
        let called_back = |pointer: &str, value: Value| with(called_back(), pointer, value);
        for (config, path) in [
            (json!({"baseUrl": "https://ai.example"}), "/poll"),
            (json!({"callback": true}), "/baseUrl"),
            (called_back("/callback", json!(false)), "/poll"),
            (called_back("/callback", json!(false)), "/request/body/notify"),
            (called_back("/callback", json!("yes")), "/callback"),
            (called_back("/request", json!({"body": {}})), "/request"),
            (called_back("/submit", json!({})), "/submit/id"),
            (called_back("/submit", json!({"id": "{{ input.id }}"})), "/submit/id"),
            (called_back("/submit", json!({"id": "{{ body.id }}", "more": 1})), "/submit/more"),
            (polled("/submit", Value::Null), "/submit"),
            (polled("/poll/url", json!(7)), "/poll/url"),
            (polled("/poll/url", json!("{{ body.url }}")), "/poll/url"),
            (polled("/poll/url", json!("http://127.0.0.1/{{ job.id }}")), "/poll/url"),
            (polled("/poll/url", json!("http://10.0.0.1")), "/poll/url"),
            (polled("/poll/url", json!("https://me:word@ai.example/")), "/poll/url"),
            (polled("/poll/intervalMs", json!(99)), "/poll/intervalMs"),
            (polled("/poll/intervalMs", json!(60_001)), "/poll/intervalMs"),
            (polled("/poll/status", json!("{{ job.id }}")), "/poll/status"),
            (polled("/poll/status", json!("{{ body. }}")), "/poll/status"),
            (polled("/poll/done", json!([])), "/poll/done"),
            (polled("/poll/done", json!("ok")), "/poll/done"),
            (polled("/poll/done", json!(["ok", 1])), "/poll/done/1"),
            (polled("/poll/failed", json!(["bad", "ok"])), "/poll/failed/1"),
            (polled("/poll/tries", json!(3)), "/poll/tries"),
            (polled("/request", json!({"body": "{{ job.id }}"})), "/request/body"),
            (polled("/response", json!({"output": "{{ job.id }}"})), "/response/output"),
        ] {
            let faults = compiled(&config).err().unwrap_or_default();
            assert!(faults.iter().any(|fault| fault.path == path), "{config}: {faults:?}");
        }
    }

    fn with(mut config: Value, pointer: &str, value: Value) -> Value {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = config.pointer_mut(parent).and_then(Value::as_object_mut).unwrap();
        if value.is_null() {
            parent.remove(key)
        } else {
            parent.insert(key.to_owned(), value)
        };
        config
    }

    #[test]
    fn a_status_is_compared_as_text() {
        let mut config = polled();
        config["poll"]["done"] = json!(["ok", "2", "true"]);
        config["poll"]["failed"] = json!(["bad"]);
        let poll = compiled(&config).unwrap().poll.unwrap();
        for (status, state) in [
            (json!("ok"), JobState::Done),
            (json!(2), JobState::Done),
            (json!(true), JobState::Done),
            (json!("bad"), JobState::Failed),
            (json!("OK"), JobState::Open),
            (json!("queued"), JobState::Open),
            (json!(null), JobState::Open),
        ] {
            assert_eq!(poll.state(Some(status.clone())), state, "{status}");
        }
        assert_eq!(poll.state(None), JobState::Open);
    }

    #[test]
    fn credentials_go_only_where_the_admin_wrote_the_host() {
        let mut config = polled();
        config["poll"]["url"] = json!("https://status.example/{{ job.id }}");
        let config = compiled(&config).unwrap();
        let trusts = |url: &str| config.trusts(&Url::parse(url).unwrap());
        assert!(trusts("https://ai.example/other") && trusts("https://status.example/7"));
        for url in [
            "http://ai.example/",
            "https://ai.example:444/",
            "https://evil.example/",
            "https://ai.example.evil/",
        ] {
            assert!(!trusts(url), "{url}");
        }
        for template in
            ["{{ job.id }}", "/jobs/{{ job.id }}", "https://{{ job.id }}/", "https://ai.example{{ job.id }}"]
        {
            assert!(written_host(template).is_none(), "{template}");
        }
    }
}
