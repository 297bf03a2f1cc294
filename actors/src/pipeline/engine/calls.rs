//! Calls on their way: each a task of its own under `catch_unwind`, from its slot to its answer or deadline.
//!
//! A call outlives the run that wanted it and the engine that let it go: what it does at the provider has
//! happened, so its answer is kept in the [`Calls`] until it is written, and a run that is rebuilt in the same
//! process hears it.

use super::{
    admission::CallRequest,
    files,
    flush::Granted,
    health::ProviderHealth,
    jobs::{AttemptJobs, JobTools},
    lease::LeaseClock,
};
use crate::{
    ids::{AttemptId, TaskId, UserId},
    object_store::ObjectStore,
    pipeline::{
        provider::{Call, CallError, CallFault, FileAccess, ProviderKinds, Submission},
        store::FileRow,
    },
    records::files::Files,
};
use futures_util::FutureExt;
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::mpsc::UnboundedSender;

/// The largest output of a step, bytes of JSON.
const OUTPUT_BYTES: usize = 1 << 20;

/// Which call of which step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CallId {
    pub(super) attempt: AttemptId,
    pub(super) task: TaskId,
    pub(super) user: UserId,
    pub(super) node: String,
    pub(super) number: i32,
    pub(super) provider: String,
}

impl CallId {
    fn of(request: &CallRequest) -> Self {
        Self {
            attempt: request.attempt,
            task: request.task,
            user: request.user,
            node: request.node.clone(),
            number: request.number,
            provider: request.provider.id.clone(),
        }
    }
}

/// How a call ended.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) call: CallId,
    pub(super) result: Result<Value, CallError>,
    /// The files the output names; stored already.
    pub(super) files: Vec<FileRow>,
}

/// The calls of this process that are on their way, or answered and not written yet.
#[derive(Default)]
pub(super) struct Calls {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    calls: HashMap<AttemptId, State>,
    /// Whom to tell of answers: the engine's current life.
    listener: Option<UnboundedSender<Arc<Answer>>>,
}

enum State {
    Away {
        call: CallId,
        /// Whether its job is written: another process can ask about it.
        can_be_resumed: bool,
    },
    Answered(Arc<Answer>),
}

/// What calls need besides what is theirs.
pub(super) struct CallTools {
    pub(super) kinds: ProviderKinds,
    pub(super) files: Files,
    pub(super) store: Arc<dyn ObjectStore>,
    /// Bytes of a file that is sent as base64, at most.
    pub(super) inline_bytes: u64,
    pub(super) lease: Arc<LeaseClock>,
    pub(super) health: Arc<ProviderHealth>,
    pub(super) calls: Arc<Calls>,
    pub(super) jobs: JobTools,
}

impl Calls {
    /// Tells `listener` of answers from now on. Those that came before are [`Self::answers`].
    pub(super) fn listen(&self, listener: UnboundedSender<Arc<Answer>>) {
        self.inner().listener = Some(listener);
    }

    /// The calls of a task whose answers are to come or not written yet.
    pub(super) fn of_task(&self, task: TaskId) -> Vec<CallId> {
        let inner = self.inner();
        let calls = inner.calls.values().map(|state| match state {
            State::Away { call, .. } => call,
            State::Answered(answer) => &answer.call,
        });
        calls.filter(|call| call.task == task).cloned().collect()
    }

    /// The answers for a task that are not written yet.
    pub(super) fn answers_of(&self, task: TaskId) -> Vec<Arc<Answer>> {
        let mut answers = self.answers();
        answers.retain(|answer| answer.call.task == task);
        answers
    }

    /// All answers that are not written yet.
    pub(super) fn answers(&self) -> Vec<Arc<Answer>> {
        let inner = self.inner();
        let answers = inner.calls.values().filter_map(|state| match state {
            State::Answered(answer) => Some(Arc::clone(answer)),
            State::Away { .. } => None,
        });
        answers.collect()
    }

    /// The tasks with calls that have no answer yet.
    pub(super) fn busy_tasks(&self) -> HashSet<TaskId> {
        let inner = self.inner();
        let away = inner.calls.values().filter_map(|state| match state {
            State::Away { call, .. } => Some(call.task),
            State::Answered(_) => None,
        });
        away.collect()
    }

    /// Forgets calls whose answers are written.
    pub(super) fn forget(&self, written: &[AttemptId]) {
        let mut inner = self.inner();
        for attempt in written {
            inner.calls.remove(attempt);
        }
    }

    /// How many calls have no answer yet.
    pub(super) fn away(&self) -> usize {
        self.inner().calls.values().filter(|state| matches!(state, State::Away { .. })).count()
    }

    /// Whether a call has no answer yet that no other process could take up.
    pub(super) fn is_needed(&self) -> bool {
        let inner = self.inner();
        inner.calls.values().any(|state| matches!(state, State::Away { can_be_resumed: false, .. }))
    }

    /// Says that a call's job is written.
    pub(super) fn can_be_resumed(&self, attempt: AttemptId) {
        if let Some(State::Away { can_be_resumed, .. }) = self.inner().calls.get_mut(&attempt) {
            *can_be_resumed = true;
        }
    }

    /// Says that a call leaves; `false` where it has left already.
    fn leaves(&self, call: CallId, can_be_resumed: bool) -> bool {
        let mut inner = self.inner();
        let is_new = !inner.calls.contains_key(&call.attempt);
        if is_new {
            inner.calls.insert(call.attempt, State::Away { call, can_be_resumed });
        }
        is_new
    }

    fn answered(&self, answer: Answer) {
        let answer = Arc::new(answer);
        let mut inner = self.inner();
        inner.calls.insert(answer.call.attempt, State::Answered(Arc::clone(&answer)));
        if let Some(listener) = &inner.listener {
            drop(listener.send(answer));
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a call go. Its answer comes by way of [`Calls::listen`].
pub(super) fn let_go(tools: &Arc<CallTools>, granted: Granted) {
    let call = CallId::of(&granted.request);
    if !tools.calls.leaves(call.clone(), granted.submission != Submission::Due) {
        return;
    }
    let provider = call.provider.clone();
    let began = Instant::now();
    tools.health.left(&provider, call.attempt, granted.request.cause, began);
    let tools = Arc::clone(tools);
    actix::spawn(async move {
        let mut asked = None;
        let made = AssertUnwindSafe(make(&tools, granted, &mut asked)).catch_unwind().await;
        let result = made.unwrap_or_else(|_| {
            tracing::error!(%provider, "a provider's implementation panicked");
            Err(unanswered("PROVIDER_UNAVAILABLE", "The provider could not be called."))
        });
        tools.health.ended(&provider, call.attempt, asked, &result, Instant::now());
        let outcome = result.as_ref().map_or_else(|error| error.code, |_| "ok");
        metrics::counter!("greenroom_provider_calls_total", "provider" => provider.clone(), "outcome" => outcome)
            .increment(1);
        metrics::histogram!("greenroom_provider_call_seconds", "provider" => provider)
            .record(began.elapsed().as_secs_f64());
        let (result, files) = match result {
            Ok((output, files)) => (Ok(output), files),
            Err(error) => (Err(error), Vec::new()),
        };
        tools.calls.answered(Answer { call, result, files });
    });
}

/// Answers for a call that was admitted and then not wanted any more, before it left.
pub(super) fn withhold(tools: &CallTools, granted: &Granted) {
    let call = CallId::of(&granted.request);
    let error =
        CallError::permanent("WITHDRAWN", "The call was not made: its result was not wanted any more.");
    tools.calls.answered(Answer { call, result: Err(error), files: Vec::new() });
}

fn unanswered(code: &'static str, message: &str) -> CallError {
    CallError { fault: CallFault::Unanswered, code, message: message.to_owned() }
}

/// Makes a call; notes in `asked` when its provider was asked, if it comes to that.
async fn make(
    tools: &CallTools,
    granted: Granted,
    asked: &mut Option<Instant>,
) -> Result<(Value, Vec<FileRow>), CallError> {
    let Granted { request, deadline, submission, .. } = granted;
    let may_be_called_back = request.callback.is_some() || submission != Submission::Due;
    let is_unknown = submission == Submission::Unknown;
    let jobs = AttemptJobs::new(&tools.jobs, CallId::of(&request), deadline, may_be_called_back);
    let not_sent =
        || CallError::retryable("PROVIDER_TIMEOUT", "The call could not be sent before its deadline.");
    let access: Arc<dyn FileAccess> = Arc::new(tools.files.of_user(request.user));
    let resolving = files::resolve(request.input, access.as_ref(), tools.inline_bytes, deadline);
    let input = tokio::time::timeout_at(deadline.into(), resolving).await.map_err(|_| not_sent())??;
    let kind = tools.kinds.get(&request.provider.kind).ok_or_else(|| {
        CallError::permanent("PROVIDER_UNAVAILABLE", "The provider is of a kind that is not known here.")
    })?;
    let call = Call {
        attempt_id: request.attempt,
        task: request.task,
        user: request.user,
        node: request.node,
        attempt: request.number,
        provider: request.provider,
        input,
        idempotency_key: request.idempotency_key,
        deadline,
        files: access,
        submission,
        callback_token: request.callback.map(|token| token.secret().clone()),
        jobs: Arc::new(jobs),
    };
    // A replica that could not renew its lease may have been given up by others: it sends nothing until it
    // knows better. The slot is ours until the deadline.
    tokio::time::timeout_at(deadline.into(), tools.lease.until_it_holds()).await.map_err(|_| not_sent())?;
    if deadline.saturating_duration_since(Instant::now()) == Duration::ZERO {
        return Err(not_sent());
    }
    *asked = Some(Instant::now());
    let output = tokio::time::timeout_at(deadline.into(), kind.call(call))
        .await
        .unwrap_or_else(|_| Err(unanswered("PROVIDER_TIMEOUT", "The provider did not answer in time.")))
        .map_err(|error| match error.fault {
            CallFault::Unanswered if is_unknown => CallError { fault: CallFault::Unheard, ..error },
            _ => error,
        })?;
    if serde_json::to_vec(&output.output).map_or(usize::MAX, |json| json.len()) > OUTPUT_BYTES {
        return Err(CallError::permanent("OUTPUT_INVALID", "The step's output is too large."));
    }
    files::keep(tools.store.as_ref(), request.user, request.task, output).await
}
