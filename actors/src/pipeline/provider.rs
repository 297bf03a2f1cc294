//! What the engine needs from the outside world: somebody who does one call.
//!
//! One implementation for each provider kind, in `src/gateways/`. A provider knows nothing of tasks' rows, slots
//! or retries: it is given a rendered input and a deadline and says how the call ended.

use crate::ids::{AttemptId, FileId, TaskId, UserId};
use async_trait::async_trait;
use bytes::Bytes;
use secrecy::SecretString;
use serde_json::Value;
use std::{sync::Arc, time::Duration, time::Instant};

/// A provider's row, ready to be called.
#[derive(Clone, Debug)]
pub struct ProviderRecord {
    /// Its id, which pipelines name.
    pub id: String,
    /// Which implementation does its calls.
    pub kind: String,
    /// What the admin wrote, without credentials; validated by the kind when it was saved.
    pub config: Value,
    /// The opened credentials, as JSON text; `None` where the provider needs none.
    pub auth: Option<SecretString>,
    /// Whether it may be called.
    pub enabled: bool,
}

/// One call.
#[derive(Clone)]
pub struct Call {
    /// The attempt's id.
    pub attempt_id: AttemptId,
    /// The task it is for.
    pub task: TaskId,
    /// The task's owner.
    pub user: UserId,
    /// The node it is for.
    pub node: String,
    /// 1 for the node's first call.
    pub attempt: i32,
    /// Whom to call.
    pub provider: Arc<ProviderRecord>,
    /// The node's rendered input.
    pub input: Value,
    /// To be sent along, so that a repeat is recognised.
    pub idempotency_key: String,
    /// When the caller gives up; on the monotonic clock.
    pub deadline: Instant,
    /// The way to the task's files.
    pub files: Arc<dyn FileAccess>,
    /// Whether it is still to be sent.
    pub submission: Submission,
    /// The secret end of the address its provider may call back at; whoever knows it can answer for the provider.
    pub callback_token: Option<SecretString>,
    /// Where a call that submits a job keeps the job's id, and hears of its callback.
    pub jobs: Arc<dyn JobBook>,
}

/// How far a call has come that is made now. Only calls that submit jobs come further than [`Self::Due`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Submission {
    /// It is to be sent.
    Due,
    /// A process that is gone has submitted this job: it is to be asked about and waited for, nothing is submitted.
    Done(String),
    /// A process that is gone may have submitted a job: a callback is to be waited for, nothing is submitted.
    Unknown,
}

/// The memory of one call that submits a job.
#[async_trait]
pub trait JobBook: Send + Sync {
    /// Says that the call has submitted a job of this id, so that a crash does not submit it again. Does not wait
    /// for it to be durable: nothing the call does next depends on that.
    fn submitted(&self, job: &str);

    /// Waits for the next callback that came for this call, or for an earlier one with the same idempotency key,
    /// and gives its body. Never returns where none comes.
    async fn callback(&self) -> Bytes;
}

/// Access to the files of a task's owner, and to no others.
#[async_trait]
pub trait FileAccess: Send + Sync {
    /// The bytes of `file`, if it is the owner's and has at most `limit` of them.
    async fn read(&self, file: FileId, limit: u64) -> Result<Bytes, CallError>;

    /// A link under which anybody can fetch `file` for the time `lasting`.
    async fn link(&self, file: FileId, lasting: Duration) -> Result<String, CallError>;
}

/// A file that a call produced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducedFile {
    /// The top-level field of the step's output that will hold the file's id.
    pub field: String,
    /// A name to show, such as `resize.jpg`.
    pub name: String,
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub bytes: Bytes,
}

/// A call that succeeded.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct CallOutput {
    /// The step's output, without the files.
    pub output: Value,
    /// Files to store; their ids are put into `output`.
    pub files: Vec<ProducedFile>,
}

/// How a call went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallFault {
    /// Worth another try: busy, down, slow.
    Retryable {
        /// The provider's own wish for a pause; it holds for all its calls.
        retry_after: Option<Duration>,
    },
    /// As [`Self::Retryable`], but the provider may have done its work: it was sent and nothing came back.
    Unanswered,
    /// As [`Self::Unanswered`], of a call that a process which is gone may or may not have sent: no fault of the
    /// provider.
    Unheard,
    /// Another try would end the same.
    Permanent,
}

/// A call that failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct CallError {
    /// What may be done about it.
    pub fault: CallFault,
    /// A stable code: `PROVIDER_UNAVAILABLE`, `PROVIDER_TIMEOUT`, `PROVIDER_REJECTED`, `CONTENT_REJECTED`,
    /// `IMAGE_INVALID`, `INPUT_INVALID`.
    pub code: &'static str,
    /// One sentence for the task's owner; no secret, no address.
    pub message: String,
}

impl CallError {
    /// A failure that another try would not mend.
    pub fn permanent(code: &'static str, message: impl Into<String>) -> Self {
        Self { fault: CallFault::Permanent, code, message: message.into() }
    }

    /// The pause that the provider asked for, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.fault {
            CallFault::Retryable { retry_after } => retry_after,
            CallFault::Unanswered | CallFault::Unheard | CallFault::Permanent => None,
        }
    }

    /// A failure that another try may mend.
    pub fn retryable(code: &'static str, message: impl Into<String>) -> Self {
        Self { fault: CallFault::Retryable { retry_after: None }, code, message: message.into() }
    }
}

/// What went out to a provider and what came back, with all secrets masked.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exchange {
    /// The request as the kind sends it; null where it was not sent.
    pub request: Value,
    /// The answer; null where there is none.
    pub answer: Value,
}

/// Calls that may leave in a span of time, over all replicas; at least 1 where there is a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RateLimit {
    /// In any second.
    pub per_second: Option<u32>,
    /// In any minute.
    pub per_minute: Option<u32>,
}

/// When a replica stops calling a provider for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Calls in a row that failed for a reason of the provider's, 1 or more.
    pub failures: u32,
    /// How long it is left alone then.
    pub open: Duration,
}

/// What the engine must know of a provider to decide about calls of it.
#[derive(Clone, Debug, PartialEq)]
pub struct CallPolicy {
    /// Calls at once in the whole cluster; `None` where only this replica's cores bound it and no slots are
    /// taken.
    pub max_concurrency: Option<u32>,
    /// How often it may be called.
    pub rate_limit: Option<RateLimit>,
    /// When it is left alone; never where there is none.
    pub breaker: Option<BreakerPolicy>,
    /// Whether steps without a fallback wait while it is disabled, instead of failing.
    pub hold_when_disabled: bool,
    /// How long a call may take where its node does not say.
    pub timeout: Duration,
    /// Tries of this provider where the node does not say.
    pub max_attempts: u32,
    /// The first pause between tries where the node does not say; it doubles.
    pub backoff: Duration,
    /// Never repeat a call whose outcome is unknown.
    pub at_most_once: bool,
    /// Send another idempotency key with each attempt.
    pub new_key_per_attempt: bool,
    /// A call without effect outside may be repeated at once after a crash.
    pub pure_call: bool,
    /// Whoever knows the id of a job that a call has submitted can ask what became of it.
    pub polls: bool,
    /// The provider may bring its answer by itself: each call has an address for that.
    pub callback: bool,
}

/// One kind of provider.
#[async_trait]
pub trait Provider: Send + Sync {
    /// The name in `providers.kind`.
    fn kind(&self) -> &'static str;

    /// Checks an admin's configuration (with `auth` beside it, opened) and says what is wrong with it, by path.
    fn check(&self, config: &Value, auth: Option<&Value>) -> Result<CallPolicy, Vec<super::Fault>>;

    /// Checks what only the network can say about a configuration, such as where its host name leads. Asked
    /// when a configuration is saved, after [`Self::check`].
    async fn check_reach(&self, _config: &Value) -> Result<(), Vec<super::Fault>> {
        Ok(())
    }

    /// Does one call. It must end by the call's deadline, and must not panic on any answer.
    async fn call(&self, call: Call) -> Result<CallOutput, CallError>;

    /// Does one call as [`Self::call`], for an admin who wants to see what goes out and comes back.
    async fn try_call(&self, call: Call) -> (Exchange, Result<CallOutput, CallError>) {
        let exchange = Exchange { request: call.input.clone(), answer: Value::Null };
        (exchange, self.call(call).await)
    }
}

/// The provider kinds of this build, by name.
#[derive(Clone, Default)]
pub struct ProviderKinds {
    kinds: Vec<Arc<dyn Provider>>,
}

impl ProviderKinds {
    /// A set of kinds.
    #[must_use]
    pub fn new(kinds: Vec<Arc<dyn Provider>>) -> Self {
        Self { kinds }
    }

    /// The kind of that name.
    #[must_use]
    pub fn get(&self, kind: &str) -> Option<&Arc<dyn Provider>> {
        self.kinds.iter().find(|provider| provider.kind() == kind)
    }

    /// The names, for messages.
    #[must_use]
    pub fn names(&self) -> Vec<&'static str> {
        self.kinds.iter().map(|provider| provider.kind()).collect()
    }
}
