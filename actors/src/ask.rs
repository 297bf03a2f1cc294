//! How callers talk to actors: a [`Mailbox`] that follows an actor over its restarts, and [`Ask`],
//! a command with the way back for its answer.
//!
//! What a caller may conclude from a failure:
//! - [`AskError::Overloaded`] and [`AskError::Down`] are said before the command is handed over: it was
//!   certainly not done.
//! - [`AskError::OutcomeUnknown`] is said after: it may have been done. Ask again with the same key.
//!
//! actix's own `send` cannot tell these apart, and its `do_send` ignores the mailbox bound.

use crate::supervisor::Vitals;
use actix::{Actor, Addr, Handler, Message, dev::ToEnvelope};
use arc_swap::ArcSwapOption;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Why a command has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// As many commands as the mailbox holds are waiting already. Not done.
    #[error("the {0} actor has too much to do")]
    Overloaded(&'static str),
    /// The actor is being restarted. Not done.
    #[error("the {0} actor is restarting")]
    Down(&'static str),
    /// The answer was lost or late. Done or not: ask again with the same idempotency key.
    #[error("the {0} actor did not answer in time")]
    OutcomeUnknown(&'static str),
}

/// A command on its way to an actor.
///
/// It keeps its place in the mailbox's bound until it is answered or dropped, so commands that an actor has
/// taken out of its mailbox to batch them still count.
pub struct Ask<C, R> {
    /// What is asked for.
    pub command: C,
    reply: Reply<R>,
}

/// The way back to one caller.
pub struct Reply<R> {
    sender: oneshot::Sender<R>,
    asked_at: Instant,
    place: Place,
}

/// A command's place in the mailbox's bound, given back when it is answered or dropped.
struct Place {
    vitals: Arc<Vitals>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.vitals.left_mailbox();
    }
}

impl<C: 'static, R: 'static> Message for Ask<C, R> {
    type Result = ();
}

impl<C, R> Ask<C, R> {
    /// Takes the command from its way back, for handlers that answer later.
    pub fn into_parts(self) -> (C, Reply<R>) {
        (self.command, self.reply)
    }
}

impl<R> Reply<R> {
    /// Answers the caller. A caller who has given up is not an error: it will ask again with its key.
    pub fn send(self, answer: R) {
        self.place.vitals.answered(self.asked_at.elapsed());
        drop(self.sender.send(answer));
    }

    /// How long the caller has been waiting.
    #[must_use]
    pub fn waited(&self) -> Duration {
        self.asked_at.elapsed()
    }
}

/// The address of a supervised actor: it points to the newest life of the actor and bounds what waits for it.
pub struct Mailbox<A: Actor> {
    inner: Arc<MailboxInner<A>>,
}

struct MailboxInner<A: Actor> {
    address: ArcSwapOption<Addr<A>>,
    places: Arc<Semaphore>,
    vitals: Arc<Vitals>,
}

impl<A: Actor> Clone for Mailbox<A> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<A: Actor> Mailbox<A> {
    /// A mailbox of an actor that has not started yet, for at most `capacity` unanswered commands.
    #[must_use]
    pub fn new(vitals: Arc<Vitals>, capacity: usize) -> Self {
        Self {
            inner: Arc::new(MailboxInner {
                address: ArcSwapOption::empty(),
                places: Arc::new(Semaphore::new(capacity)),
                vitals,
            }),
        }
    }

    pub(crate) fn set_address(&self, address: Option<Addr<A>>) {
        self.inner.address.store(address.map(Arc::new));
    }

    pub(crate) fn address(&self) -> Option<Arc<Addr<A>>> {
        self.inner.address.load_full()
    }

    /// The figures that the supervisor and the admin page show of this actor.
    #[must_use]
    pub fn vitals(&self) -> &Arc<Vitals> {
        &self.inner.vitals
    }

    /// Hands `command` over and waits for its answer, `deadline` at most.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask<C, R>(&self, command: C, deadline: Duration) -> Result<R, AskError>
    where
        A: Handler<Ask<C, R>>,
        A::Context: ToEnvelope<A, Ask<C, R>>,
        C: Send + 'static,
        R: Send + 'static,
    {
        let name = self.inner.vitals.name();
        let answer = self.hand_over(command)?;
        match tokio::time::timeout(deadline, answer).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) | Err(_) => Err(AskError::OutcomeUnknown(name)),
        }
    }

    /// Hands `command` over without waiting for what becomes of it.
    ///
    /// # Errors
    /// [`AskError::Overloaded`] or [`AskError::Down`]; never [`AskError::OutcomeUnknown`].
    pub fn tell<C>(&self, command: C) -> Result<(), AskError>
    where
        A: Handler<Ask<C, ()>>,
        A::Context: ToEnvelope<A, Ask<C, ()>>,
        C: Send + 'static,
    {
        self.hand_over(command).map(drop)
    }

    fn hand_over<C, R>(&self, command: C) -> Result<oneshot::Receiver<R>, AskError>
    where
        A: Handler<Ask<C, R>>,
        A::Context: ToEnvelope<A, Ask<C, R>>,
        C: Send + 'static,
        R: Send + 'static,
    {
        let vitals = &self.inner.vitals;
        let permit = Arc::clone(&self.inner.places)
            .try_acquire_owned()
            .map_err(|_| AskError::Overloaded(vitals.name()))?;
        let address = self.address().ok_or(AskError::Down(vitals.name()))?;
        let (sender, receiver) = oneshot::channel();
        vitals.entered_mailbox();
        let place = Place { vitals: Arc::clone(vitals), _permit: permit };
        let reply = Reply { sender, asked_at: Instant::now(), place };
        address.try_send(Ask { command, reply }).map_err(|refused| match refused {
            actix::prelude::SendError::Full(_) => AskError::Overloaded(vitals.name()),
            actix::prelude::SendError::Closed(_) => AskError::Down(vitals.name()),
        })?;
        Ok(receiver)
    }
}
