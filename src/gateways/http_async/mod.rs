//! The provider kind `http_async`: a request submits a job, and the job's end is asked for, or brought by a
//! callback, or both; the first answer counts.
//!
//! A submission is a request as the kind `http` makes it; a 2xx answer says that the job is taken. Then, until the
//! call's deadline, the job is asked about every `intervalMs`, and what callbacks bring is read, by the same
//! templates. An answer that does not say that the job is over is no answer, nor is silence, a 404 or a
//! status that may pass: the next one may be better.
//!
//! **After a crash** the call is made again with what is known ([`Submission`]): a job whose id is known is asked
//! about at once; where only a callback can tell, that is waited for. Nothing is submitted twice.

mod config;
#[cfg(test)]
mod tests;

use super::http_exchange::{
    HttpExchange, left, outcome,
    outcome::rejected,
    ready::ReadyConfigs,
    request::{self, Renderer},
    response::{Answer, Reader},
    shown::Shown,
};
use async_trait::async_trait;
use config::{HttpAsyncConfig, JobState, PollConfig};
use greenroom_actors::pipeline::{
    Fault,
    provider::{
        Call, CallError, CallFault, CallOutput, CallPolicy, Exchange, Provider, ProviderRecord, Submission,
    },
    template::Context,
};
use reqwest::StatusCode;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::{
    future::pending,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use url::Url;

/// Where callbacks come in; the token follows.
const CALLBACKS: &str = "/api/v1/provider-callbacks/";

/// How long one question about a job may go unanswered.
const QUESTION_MAX: Duration = Duration::from_secs(30);

/// The longest id of a job, bytes.
const JOB_ID_MAX: usize = 1024;

/// Calls providers that answer later. One for the process.
pub struct HttpAsyncProvider {
    exchange: Arc<HttpExchange>,
    public_url: Url,
    configs: ReadyConfigs<HttpAsyncConfig>,
}

impl HttpAsyncProvider {
    /// A provider that calls by way of `exchange`, and can be called back at the origin `public_url`.
    pub(super) fn new(exchange: Arc<HttpExchange>, public_url: Url) -> Self {
        Self { exchange, public_url, configs: ReadyConfigs::default() }
    }

    fn compile(&self, config: &Value, auth: Option<&Value>) -> Result<HttpAsyncConfig, Vec<Fault>> {
        HttpAsyncConfig::compile(config, auth, self.exchange.guard())
    }

    fn config(&self, record: &Arc<ProviderRecord>) -> Result<Arc<HttpAsyncConfig>, CallError> {
        self.configs.of(record, |config, auth| self.compile(config, auth))
    }

    /// Does the call; notes what went out and came back last where somebody wants to see it.
    async fn perform(&self, call: &Call, notes: Option<&Mutex<Exchange>>) -> Result<CallOutput, CallError> {
        let config = self.config(&call.provider)?;
        let shown = Shown::new(config.auth.as_ref(), call.callback_token.as_ref());
        let job = Job { provider: self, config: &config, call, shown: &shown, notes };
        let in_time = tokio::time::timeout_at(call.deadline.into(), async {
            tokio::select! {
                biased;
                end = job.called_back() => end,
                end = job.asked_for() => end,
            }
        });
        in_time.await.unwrap_or_else(|_| Err(outcome::timed_out()))
    }

    /// The address at which the provider of `call` may call back.
    fn callback_url(&self, call: &Call) -> Option<String> {
        let token = call.callback_token.as_ref()?;
        let mut url = self.public_url.clone();
        url.set_path(&format!("{CALLBACKS}{}", token.expose_secret()));
        Some(url.into())
    }
}

/// One call under way.
struct Job<'a> {
    provider: &'a HttpAsyncProvider,
    config: &'a HttpAsyncConfig,
    call: &'a Call,
    shown: &'a Shown,
    notes: Option<&'a Mutex<Exchange>>,
}

impl Job<'_> {
    /// Waits for a callback that says how the job ended.
    async fn called_back(&self) -> Result<CallOutput, CallError> {
        loop {
            let answer = Answer::called_back(&self.call.jobs.callback().await);
            self.note_answer(&answer);
            let end = match self.reader().accepted(&answer) {
                Ok(()) => self.end_by(&answer).await,
                Err(refused) => Some(Err(refused)),
            };
            match end {
                Some(end) => return end,
                None => tracing::debug!(attempt = %self.call.attempt_id, "a callback says nothing of an end"),
            }
        }
    }

    /// Submits the job, where that was not done, and asks how it ended, where that can be asked.
    async fn asked_for(&self) -> Result<CallOutput, CallError> {
        let (job, pause) = match &self.call.submission {
            Submission::Due => match self.submit().await {
                Ok(job) => (job, true),
                // whether there is a job is not known, and a callback may still tell
                Err(error) if error.fault == CallFault::Unanswered && self.call.callback_token.is_some() => {
                    (None, true)
                }
                Err(error) => return Err(error),
            },
            Submission::Done(job) => (Some(job.clone()), false),
            Submission::Unknown => (None, false),
        };
        match (&self.config.poll, job) {
            (Some(poll), Some(job)) => self.poll(poll, &job, pause).await,
            _ => pending().await,
        }
    }

    async fn submit(&self) -> Result<Option<String>, CallError> {
        let context = self.context(Value::Null);
        let outgoing = self.renderer(&context).work().await?;
        self.note(|exchange| exchange.request = outgoing.shown(self.shown));
        let answer = self.provider.exchange.send(outgoing.request, left(self.call.deadline)?).await?;
        self.note_answer(&answer);
        self.reader().accepted(&answer)?;
        let Some(template) = &self.config.job_id else { return Ok(None) };
        let job = match self.reader().value(Some(template), &answer) {
            Some(Value::String(text)) => text,
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let is_id = (1..=JOB_ID_MAX).contains(&job.len()) && !job.contains(char::is_control);
        if is_id {
            self.call.jobs.submitted(&job);
            Ok(Some(job))
        } else if self.config.poll.is_none() {
            Ok(None) // nobody needs it to hear the callback
        } else {
            Err(rejected("the provider's answer names no job"))
        }
    }

    /// Asks about a job until it is over; first after a pause, if it was submitted just now.
    async fn poll(&self, poll: &PollConfig, job: &str, pause: bool) -> Result<CallOutput, CallError> {
        let mut wait = if pause { poll.interval } else { Duration::ZERO };
        loop {
            tokio::time::sleep(wait).await;
            let failed = match self.ask(poll, job).await {
                Ok(answer) => {
                    self.note_answer(&answer);
                    match self.reader().accepted(&answer) {
                        Ok(()) => match self.end_by(&answer).await {
                            Some(end) => return end,
                            None => None,
                        },
                        // one that was submitted just now may not be known everywhere yet
                        Err(error)
                            if error.code == outcome::REJECTED
                                && answer.status() == Some(StatusCode::NOT_FOUND) =>
                        {
                            None
                        }
                        Err(error) => Some(error),
                    }
                }
                Err(error) => Some(error),
            };
            wait = poll.interval;
            match failed.map(|error| (error.fault, error)) {
                Some((CallFault::Permanent, error)) => return Err(error),
                Some((CallFault::Retryable { retry_after: Some(pause) }, _)) => wait = wait.max(pause),
                _ => {}
            }
        }
    }

    async fn ask(&self, poll: &PollConfig, job: &str) -> Result<Answer, CallError> {
        let context = self.context(json!({ "id": job }));
        let no_address = || rejected("there is no address to ask about the provider's job");
        let rendered = poll.url.render(&context).and_then(|rendered| rendered.resolve(&[]));
        let text = rendered.map_err(|_| no_address())?;
        let base = &self.config.request.url;
        let url = text.as_str().and_then(|text| base.join(text).ok()).ok_or_else(no_address)?;
        let trusted = self.config.trusts(&url);
        let question = self.renderer(&context).question(url, trusted).await?;
        let within = left(self.call.deadline)?.min(QUESTION_MAX);
        self.provider.exchange.send(question, within).await
    }

    /// How the job ended, if an accepted answer says that it has.
    async fn end_by(&self, answer: &Answer) -> Option<Result<CallOutput, CallError>> {
        let reader = self.reader();
        let failed = |said: Option<String>| match said {
            Some(said) => rejected(format!("the provider's job failed: {said}")),
            None => rejected("the provider's job failed"),
        };
        match &self.config.poll {
            Some(poll) => match poll.state(reader.value(Some(&poll.status), answer)) {
                JobState::Open => None,
                JobState::Failed => Some(Err(failed(reader.complaint(answer)))),
                JobState::Done => Some(reader.output(answer).await),
            },
            None => match reader.complaint(answer) {
                Some(said) => Some(Err(failed(Some(said)))),
                None => Some(reader.output(answer).await),
            },
        }
    }

    /// What the templates of requests see; `job` is null before there is one.
    fn context(&self, job: Value) -> Context {
        let callback = self.provider.callback_url(self.call);
        request::context(self.call).with("callback", &json!({ "url": callback })).with("job", &job)
    }

    fn renderer<'a>(&'a self, context: &'a Context) -> Renderer<'a> {
        Renderer {
            config: &self.config.request,
            auth: self.config.auth.as_ref(),
            call: self.call,
            context,
            file_limit: self.provider.exchange.limits.file_bytes,
        }
    }

    fn reader(&self) -> Reader<'_> {
        Reader {
            config: &self.config.response,
            shown: self.shown,
            exchange: &self.provider.exchange,
            base: &self.config.request.url,
            deadline: self.call.deadline,
        }
    }

    fn note_answer(&self, answer: &Answer) {
        self.note(|exchange| exchange.answer = answer.shown(self.shown));
    }

    fn note(&self, change: impl FnOnce(&mut Exchange)) {
        if let Some(notes) = self.notes {
            change(&mut notes.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

#[async_trait]
impl Provider for HttpAsyncProvider {
    fn kind(&self) -> &'static str {
        "http_async"
    }

    fn check(&self, config: &Value, auth: Option<&Value>) -> Result<CallPolicy, Vec<Fault>> {
        self.compile(config, auth).map(|config| config.policy)
    }

    async fn check_reach(&self, config: &Value) -> Result<(), Vec<Fault>> {
        self.exchange.check_base_url(config).await?;
        match config["poll"]["url"].as_str().and_then(config::written_host) {
            Some(url) => self.exchange.check_reach(&url, "/poll/url").await,
            None => Ok(()),
        }
    }

    async fn call(&self, call: Call) -> Result<CallOutput, CallError> {
        self.perform(&call, None).await
    }

    async fn try_call(&self, call: Call) -> (Exchange, Result<CallOutput, CallError>) {
        let notes = Mutex::default();
        let outcome = self.perform(&call, Some(&notes)).await;
        (notes.into_inner().unwrap_or_else(PoisonError::into_inner), outcome)
    }
}
