//! Jobs that calls have submitted, and callbacks that they wait for.
//!
//! A call that submits a job says its id to [`AttemptJobs`], which writes it to the attempt's row: after a crash
//! whoever takes the task over asks about that job instead of submitting it again. What providers bring by
//! themselves lies in the inbox (`records::callbacks`), whichever replica took it; [`Inbox`] reads it for the calls of
//! this process, all of them by one statement, when it is told that something has come and every second besides.

use super::calls::{CallId, Calls};
use crate::{
    database::{Database, DatabaseError},
    ids::{AttemptId, OwnerId},
    pipeline::{provider::JobBook, store},
    records::callbacks,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{
    Notify,
    mpsc::{self, UnboundedReceiver, UnboundedSender},
};

/// How often the inbox is read when nobody says that something has come.
const POLL: Duration = Duration::from_secs(1);
/// Callbacks read at once; each may be as large as a request's body.
const PAGE: i64 = 64;
/// How long to wait before a job's id that could not be written is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// The callbacks that calls of this process wait for.
#[derive(Default)]
pub(in crate::pipeline) struct Inbox {
    waiting: Mutex<HashMap<AttemptId, Waiting>>,
    arrival: Notify,
}

struct Waiting {
    call: UnboundedSender<Bytes>,
    /// To which attempts' addresses that came which it has heard already.
    heard: HashSet<AttemptId>,
}

impl Inbox {
    /// Says that something has come for `attempt`.
    pub(super) fn arrived(&self, attempt: AttemptId) {
        if self.waiting().contains_key(&attempt) {
            self.look();
        }
    }

    /// Says that there may be something to read.
    pub(super) fn look(&self) {
        self.arrival.notify_one();
    }

    /// Reads what has come, for as long as the process lives.
    pub(in crate::pipeline) async fn watch(self: Arc<Self>, database: Database) {
        loop {
            let _ = tokio::time::timeout(POLL, self.arrival.notified()).await;
            if let Err(error) = self.read(&database).await {
                tracing::warn!(
                    error = %crate::causes(&error),
                    "callbacks of providers cannot be read yet"
                );
            }
        }
    }

    async fn read(&self, database: &Database) -> Result<(), DatabaseError> {
        loop {
            let (waiting, heard) = self.wanted();
            if waiting.is_empty() {
                return Ok(());
            }
            let client = database.client().await?;
            let found = callbacks::heard(&client, &waiting, &heard, PAGE).await?;
            drop(client);
            let is_all = i64::try_from(found.len()).is_ok_and(|found| found < PAGE);
            for callback in found {
                if let Some(call) = self.waiting().get_mut(&callback.waiting)
                    && call.heard.insert(callback.addressed)
                {
                    drop(call.call.send(callback.body));
                }
            }
            if is_all {
                return Ok(());
            }
        }
    }

    fn wanted(&self) -> (Vec<AttemptId>, Vec<AttemptId>) {
        let waiting = self.waiting();
        let heard = waiting.values().flat_map(|call| &call.heard).copied().collect();
        (waiting.keys().copied().collect(), heard)
    }

    /// Waits for callbacks for `attempt`, until the receiver's owner has [forgotten](Self::forget) it.
    fn wait(&self, attempt: AttemptId) -> UnboundedReceiver<Bytes> {
        // unbounded, yet bounded: an attempt hears each of its step's addresses once
        let (call, callbacks) = mpsc::unbounded_channel();
        self.waiting().insert(attempt, Waiting { call, heard: HashSet::new() });
        self.look();
        callbacks
    }

    fn forget(&self, attempt: AttemptId) {
        self.waiting().remove(&attempt);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<AttemptId, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the memory of a call is made of.
#[derive(Clone)]
pub(super) struct JobTools {
    pub(super) database: Database,
    pub(super) owner: OwnerId,
    pub(super) inbox: Arc<Inbox>,
    pub(super) calls: Arc<Calls>,
}

/// The memory of one call.
pub(super) struct AttemptJobs {
    tools: JobTools,
    call: CallId,
    deadline: Instant,
    /// None where nobody calls back.
    callbacks: Option<tokio::sync::Mutex<UnboundedReceiver<Bytes>>>,
}

impl AttemptJobs {
    pub(super) fn new(tools: &JobTools, call: CallId, deadline: Instant, may_be_called_back: bool) -> Self {
        let callbacks = may_be_called_back.then(|| tools.inbox.wait(call.attempt).into());
        Self { tools: tools.clone(), call, deadline, callbacks }
    }
}

#[async_trait]
impl JobBook for AttemptJobs {
    fn submitted(&self, job: &str) {
        let (tools, attempt, job) = (self.tools.clone(), self.call.attempt, job.to_owned());
        let deadline = self.deadline;
        actix::spawn(async move {
            loop {
                let written = async {
                    let client = tools.database.client().await?;
                    store::keep_job(&client, tools.owner, attempt, &job).await
                };
                match written.await {
                    Ok(()) => return tools.calls.can_be_resumed(attempt),
                    Err(error) if Instant::now() < deadline && error.is_transient() => {
                        tracing::warn!(
                            error = %crate::causes(&error),
                            "a job's id is not written yet"
                        );
                        tokio::time::sleep(RETRY).await;
                    }
                    Err(error) => {
                        let error = crate::causes(&error);
                        return tracing::error!(error, "a job's id could not be written");
                    }
                }
            }
        });
    }

    async fn callback(&self) -> Bytes {
        if let Some(callbacks) = &self.callbacks
            && let Some(body) = callbacks.lock().await.recv().await
        {
            return body;
        }
        std::future::pending().await
    }
}

impl Drop for AttemptJobs {
    fn drop(&mut self) {
        if self.callbacks.is_some() {
            self.tools.inbox.forget(self.call.attempt);
        }
    }
}
