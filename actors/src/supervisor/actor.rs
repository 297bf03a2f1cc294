//! The glue to actix: lives of actors under `catch_unwind`, and the order in which they end.

use super::{Condition, Decision, RestartBudget, RestartPolicy, Vitals, VitalsSnapshot};
use crate::ask::Mailbox;
use actix::{Actor, ArbiterHandle, AsyncContext, Context, Handler, Message};
use futures_util::FutureExt;
use std::{
    any::Any,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};
use tokio::sync::watch;

/// Finish what you hold, answer it, then stop. Sent once, at shutdown.
pub struct Drain;

impl Message for Drain {
    type Result = ();
}

/// What the supervisor needs to know of an actor besides how to make it.
#[derive(Clone, Copy, Debug)]
pub struct ChildSpec {
    /// The room the actor lives in.
    pub name: &'static str,
    /// Which of several equals.
    pub shard: Option<usize>,
    /// Unanswered commands at most; one more is refused as overloaded.
    pub capacity: usize,
}

/// An actor whose restart budget is spent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the {actor} actor failed too often; last panic: {panic}")]
pub struct Escalation {
    /// Which actor.
    pub actor: &'static str,
    /// The message of its last panic.
    pub panic: String,
}

/// A panic inside [`run_isolated`], as text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Isolated(pub String);

/// Keeps a set of actors alive. Clones share the set.
#[derive(Clone)]
pub struct Supervisor {
    policy: RestartPolicy,
    shared: Arc<Shared>,
}

struct Shared {
    children: Mutex<Vec<Child>>,
    escalation: watch::Sender<Option<Escalation>>,
    draining: AtomicBool,
}

struct Child {
    vitals: Arc<Vitals>,
    drain: Box<dyn Fn() + Send>,
    ended: watch::Receiver<bool>,
}

impl Supervisor {
    /// A supervisor with no children yet.
    #[must_use]
    pub fn new(policy: RestartPolicy) -> Self {
        Self {
            policy,
            shared: Arc::new(Shared {
                children: Mutex::new(Vec::new()),
                escalation: watch::channel(None).0,
                draining: AtomicBool::new(false),
            }),
        }
    }

    /// Starts an actor on `arbiter` and keeps it alive there. `make` is called for each life.
    pub fn start<A>(
        &self,
        arbiter: &ArbiterHandle,
        spec: ChildSpec,
        make: impl Fn(&Mailbox<A>) -> A + Send + 'static,
    ) -> Mailbox<A>
    where
        A: Actor<Context = Context<A>> + Handler<Drain>,
    {
        let vitals = Arc::new(Vitals::new(spec.name, spec.shard));
        let mailbox = Mailbox::new(Arc::clone(&vitals), spec.capacity);
        let (ended, ended_receiver) = watch::channel(false);
        let addressee = mailbox.clone();
        self.children().push(Child {
            vitals,
            drain: Box::new(move || addressee.drain()),
            ended: ended_receiver,
        });
        let life = Life {
            spec,
            mailbox: mailbox.clone(),
            budget: RestartBudget::new(self.policy),
            shared: Arc::clone(&self.shared),
        };
        arbiter.spawn_fn(move || {
            actix::spawn(async move {
                life.run(make).await;
                ended.send_replace(true);
            });
        });
        mailbox
    }

    /// Waits until some actor's restart budget is spent. The process should end then.
    pub async fn escalated(&self) -> Escalation {
        let mut receiver = self.shared.escalation.subscribe();
        loop {
            if let Some(escalation) = receiver.borrow_and_update().clone() {
                return escalation;
            }
            if receiver.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Whether every actor takes messages.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.children().iter().all(|child| child.vitals.condition() == Condition::Running)
    }

    /// The figures of all actors, in the order they were started.
    #[must_use]
    pub fn snapshot(&self) -> Vec<VitalsSnapshot> {
        self.children().iter().map(|child| child.vitals.snapshot()).collect()
    }

    /// Lets every actor finish what it holds, the last started first, each at most until `deadline`.
    pub async fn drain(&self, deadline: Instant) {
        self.shared.draining.store(true, Ordering::SeqCst);
        let children = std::mem::take(&mut *self.children());
        for mut child in children.into_iter().rev() {
            (child.drain)();
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, child.ended.wait_for(|&ended| ended)).await.is_err() {
                tracing::warn!(
                    actor = child.vitals.name(),
                    "actor did not finish before the shutdown deadline"
                );
            }
        }
    }

    fn children(&self) -> std::sync::MutexGuard<'_, Vec<Child>> {
        self.shared.children.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All the lives of one actor.
struct Life<A: Actor> {
    spec: ChildSpec,
    mailbox: Mailbox<A>,
    budget: RestartBudget,
    shared: Arc<Shared>,
}

impl<A> Life<A>
where
    A: Actor<Context = Context<A>> + Handler<Drain>,
{
    async fn run(mut self, make: impl Fn(&Mailbox<A>) -> A) {
        let vitals = Arc::clone(self.mailbox.vitals());
        loop {
            vitals.set_condition(Condition::Starting);
            let end = self.live(&make).await;
            self.mailbox.set_address(None);
            if self.shared.draining.load(Ordering::SeqCst) {
                vitals.set_condition(Condition::Stopped);
                return;
            }
            let panic = match end {
                Ok(()) => "it stopped without being asked to".to_owned(),
                Err(Isolated(panic)) => panic,
            };
            vitals.failed(panic.clone());
            match self.budget.failed(Instant::now()) {
                Decision::Restart { after } => {
                    tracing::error!(actor = self.spec.name, shard = self.spec.shard, %panic, pause_ms = after.as_millis(), "actor failed and is started again");
                    vitals.set_condition(Condition::BackingOff);
                    tokio::time::sleep(after).await;
                }
                Decision::Escalate => {
                    tracing::error!(actor = self.spec.name, shard = self.spec.shard, %panic, "actor failed too often");
                    vitals.set_condition(Condition::Failed);
                    self.shared.escalation.send_replace(Some(Escalation { actor: self.spec.name, panic }));
                    return;
                }
            }
        }
    }

    async fn live(&self, make: &impl Fn(&Mailbox<A>) -> A) -> Result<(), Isolated> {
        let actor = std::panic::catch_unwind(AssertUnwindSafe(|| make(&self.mailbox)))
            .map_err(|panic| Isolated(panic_text(&*panic)))?;
        let mut context = Context::new();
        context.set_mailbox_capacity(self.spec.capacity);
        self.mailbox.set_address(Some(context.address()));
        self.mailbox.vitals().set_condition(Condition::Running);
        run_isolated(context, actor).await
    }
}

impl<A: Actor<Context = Context<A>> + Handler<Drain>> Mailbox<A> {
    fn drain(&self) {
        if let Some(address) = self.address() {
            // a full mailbox still takes this: the bound is for callers
            #[expect(
                clippy::disallowed_methods,
                reason = "shutdown must reach an actor whose mailbox is full"
            )]
            address.do_send(Drain);
        }
    }
}

/// Runs one life of an actor to its end; a panic in it becomes an error.
///
/// # Errors
/// The panic's message.
pub async fn run_isolated<A>(context: Context<A>, actor: A) -> Result<(), Isolated>
where
    A: Actor<Context = Context<A>>,
{
    AssertUnwindSafe(context.into_future(actor))
        .catch_unwind()
        .await
        .map(drop)
        .map_err(|panic| Isolated(panic_text(&*panic)))
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}
