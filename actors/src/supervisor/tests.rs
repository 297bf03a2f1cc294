//! What callers see of an actor that fails: each promise of supervision and asking, one test.

use super::{ChildSpec, Condition, Drain, RestartPolicy, Supervisor};
use crate::ask::{Ask, AskError, Mailbox};
use actix::{Actor, Arbiter, AsyncContext, Context, Handler, System};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

const DEADLINE: Duration = Duration::from_secs(5);

/// Counts; told to, it panics, hangs or answers late.
struct Counter {
    life: u64,
    count: u64,
}

#[derive(Clone, Copy)]
enum Do {
    Count,
    TellLife,
    Panic,
    NeverAnswer,
    PanicLater,
}

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Handler<Ask<Do, u64>> for Counter {
    type Result = ();

    fn handle(&mut self, ask: Ask<Do, u64>, context: &mut Self::Context) {
        let (command, reply) = ask.into_parts();
        match command {
            Do::Count => {
                self.count += 1;
                reply.send(self.count);
            }
            Do::TellLife => reply.send(self.life),
            Do::Panic => panic!("told to"),
            Do::NeverAnswer => {
                context.spawn(actix::fut::wrap_future(async move {
                    std::future::pending::<()>().await;
                    drop(reply);
                }));
            }
            Do::PanicLater => {
                reply.send(0);
                context.spawn(actix::fut::wrap_future(async { panic!("told to, later") }));
            }
        }
    }
}

impl Handler<Drain> for Counter {
    type Result = ();

    fn handle(&mut self, _: Drain, context: &mut Self::Context) {
        actix::ActorContext::stop(context);
    }
}

fn start(policy: RestartPolicy, capacity: usize) -> (Supervisor, Mailbox<Counter>) {
    let supervisor = Supervisor::new(policy);
    let lives = Arc::new(AtomicU64::new(0));
    let spec = ChildSpec { name: "counter", shard: None, capacity };
    let mailbox = supervisor.start(&Arbiter::current(), spec, move |_| Counter {
        life: lives.fetch_add(1, Ordering::SeqCst) + 1,
        count: 0,
    });
    (supervisor, mailbox)
}

fn patient() -> RestartPolicy {
    RestartPolicy { backoff: Duration::from_millis(1), ..RestartPolicy::default() }
}

/// Asks until the actor is up.
async fn ask(mailbox: &Mailbox<Counter>, command: Do) -> u64 {
    let end = Instant::now() + DEADLINE;
    loop {
        match mailbox.ask(command, DEADLINE).await {
            Ok(answer) => return answer,
            Err(AskError::Down(_)) if Instant::now() < end => tokio::task::yield_now().await,
            Err(error) => panic!("no answer: {error}"),
        }
    }
}

#[test]
fn after_a_panic_the_same_mailbox_reaches_a_fresh_actor() {
    System::new().block_on(async {
        let (supervisor, mailbox) = start(patient(), 16);
        assert_eq!(ask(&mailbox, Do::Count).await, 1);
        assert_eq!(ask(&mailbox, Do::Count).await, 2);

        let lost = mailbox.ask::<Do, u64>(Do::Panic, DEADLINE).await;
        assert_eq!(lost, Err(AskError::OutcomeUnknown("counter")));

        assert_eq!(ask(&mailbox, Do::TellLife).await, 2);
        assert_eq!(ask(&mailbox, Do::Count).await, 1, "a fresh actor has none of the old one's state");
        let vitals = supervisor.snapshot().remove(0);
        assert_eq!((vitals.restarts, vitals.last_panic.as_deref()), (1, Some("told to")));
    });
}

#[test]
fn a_panic_in_a_spawned_future_restarts_the_actor_too() {
    System::new().block_on(async {
        let (_supervisor, mailbox) = start(patient(), 16);
        ask(&mailbox, Do::PanicLater).await;
        let end = Instant::now() + DEADLINE;
        while ask(&mailbox, Do::TellLife).await != 2 {
            assert!(Instant::now() < end, "the actor was not started again");
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_spent_budget_escalates_with_the_last_panic() {
    System::new().block_on(async {
        let (supervisor, mailbox) = start(RestartPolicy { limit: 2, ..patient() }, 16);
        for life in 1..=3 {
            assert_eq!(ask(&mailbox, Do::TellLife).await, life);
            assert!(mailbox.ask::<Do, u64>(Do::Panic, DEADLINE).await.is_err());
        }
        let escalation = tokio::time::timeout(DEADLINE, supervisor.escalated()).await.expect("an escalation");
        assert_eq!((escalation.actor, escalation.panic.as_str()), ("counter", "told to"));
        assert!(!supervisor.is_ready());
        assert_eq!(supervisor.snapshot()[0].condition, Condition::Failed);
        assert_eq!(mailbox.ask::<Do, u64>(Do::Count, DEADLINE).await, Err(AskError::Down("counter")));
    });
}

#[test]
fn a_full_mailbox_refuses_before_anything_is_done() {
    System::new().block_on(async {
        let (_supervisor, mailbox) = start(patient(), 2);
        assert_eq!(ask(&mailbox, Do::Count).await, 1);
        let _waiting: Vec<_> = (0..2)
            .map(|_| {
                let mailbox = mailbox.clone();
                actix::spawn(async move { mailbox.ask::<Do, u64>(Do::NeverAnswer, DEADLINE).await })
            })
            .collect();
        let end = Instant::now() + DEADLINE;
        while mailbox.vitals().snapshot().mailbox < 2 {
            assert!(Instant::now() < end);
            tokio::task::yield_now().await;
        }
        assert_eq!(mailbox.ask::<Do, u64>(Do::Count, DEADLINE).await, Err(AskError::Overloaded("counter")));
    });
}

#[test]
fn a_late_answer_is_an_unknown_outcome() {
    System::new().block_on(async {
        let (_supervisor, mailbox) = start(patient(), 16);
        ask(&mailbox, Do::Count).await;
        let late = mailbox.ask::<Do, u64>(Do::NeverAnswer, Duration::from_millis(5)).await;
        assert_eq!(late, Err(AskError::OutcomeUnknown("counter")));
    });
}

#[test]
fn draining_ends_the_actor_and_starts_no_new_one() {
    System::new().block_on(async {
        let (supervisor, mailbox) = start(patient(), 16);
        ask(&mailbox, Do::Count).await;
        supervisor.drain(Instant::now() + DEADLINE).await;
        assert_eq!(mailbox.vitals().condition(), Condition::Stopped);
        assert_eq!(mailbox.ask::<Do, u64>(Do::Count, DEADLINE).await, Err(AskError::Down("counter")));
    });
}
