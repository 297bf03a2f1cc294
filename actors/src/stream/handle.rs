//! What others hold of the stream: the way to publish, and the way to open sockets.

use super::{
    actor::StreamActor,
    messages::{OpenSocket, StreamError},
    socket::{OpenedSocket, Sockets},
    store::postgres,
};
use crate::{
    ask::Mailbox,
    database::Database,
    events::Event,
    ids::{TaskId, UserId},
};
use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Events that may wait for the hub; past it, users are only marked as having something to hear.
const WAITING_EVENTS: usize = 50_000;

/// Batches that may wait.
const WAITING_BATCHES: usize = 8_192;

/// Users marked at most; the comparison of sockets with PostgreSQL finds the others.
const MARKED_USERS: usize = 100_000;

const OPEN_DEADLINE: Duration = Duration::from_secs(5);

/// The way of committed facts to the hub. Never waits and never fails: what does not fit is told later from
/// PostgreSQL, where final events are rows.
#[derive(Clone)]
pub struct StreamHandle {
    sender: mpsc::Sender<Vec<Event>>,
    waiting: Arc<AtomicUsize>,
    behind: Arc<Mutex<HashSet<UserId>>>,
    watching: Watching,
}

/// Users with sockets on this replica, as of a second ago at most.
pub(super) type Watching = Arc<Mutex<HashSet<UserId>>>;

/// The hub's end of a [`StreamHandle`].
pub struct Published {
    pub(super) inbox: Inbox,
    pub(super) behind: Arc<Mutex<HashSet<UserId>>>,
    pub(super) watching: Watching,
}

/// Events that were published and are not relayed yet, in order.
pub(super) struct Inbox {
    receiver: mpsc::Receiver<Vec<Event>>,
    waiting: Arc<AtomicUsize>,
}

impl StreamHandle {
    /// The two ends of the way.
    #[must_use]
    pub fn new() -> (Self, Published) {
        let (sender, receiver) = mpsc::channel(WAITING_BATCHES);
        let waiting = Arc::new(AtomicUsize::new(0));
        let behind = Arc::new(Mutex::new(HashSet::new()));
        let inbox = Inbox { receiver, waiting: Arc::clone(&waiting) };
        let watching = Watching::default();
        let published = Published { inbox, behind: Arc::clone(&behind), watching: Arc::clone(&watching) };
        (Self { sender, waiting, behind, watching }, published)
    }

    /// Hands over events that have happened: their transaction has committed.
    pub fn publish(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let count = events.len();
        let refused = if self.waiting.fetch_add(count, Ordering::Relaxed) > WAITING_EVENTS {
            Some(events)
        } else {
            self.sender.try_send(events).err().map(mpsc::error::TrySendError::into_inner)
        };
        if let Some(events) = refused {
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            metrics::counter!("greenroom_stream_events_deferred_total").increment(count as u64);
            self.mark_behind(events.iter().filter(|event| event.final_no.is_some()).map(|event| event.user));
        }
    }

    /// Users with sockets on this replica, as of a second ago at most.
    #[must_use]
    pub fn watching(&self) -> Vec<UserId> {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Says that these users may have final events in PostgreSQL that nobody published.
    pub fn mark_behind(&self, users: impl IntoIterator<Item = UserId>) {
        mark_behind(&self.behind, users);
    }
}

impl Published {
    /// What was published next: one batch, or several that followed each other at once.
    pub async fn next(&mut self) -> Vec<Event> {
        self.inbox.next(1).await
    }

    /// Takes it that `user` has a socket here.
    pub fn watch(&self, user: UserId) {
        self.watching.lock().unwrap_or_else(PoisonError::into_inner).insert(user);
    }

    /// Whether final events of `user` must be looked up in PostgreSQL.
    #[must_use]
    pub fn is_behind(&self, user: UserId) -> bool {
        self.behind.lock().unwrap_or_else(PoisonError::into_inner).contains(&user)
    }
}

impl Inbox {
    /// What was published: one batch, and those that follow it at once, until there are `most` events or more.
    pub(super) async fn next(&mut self, most: usize) -> Vec<Event> {
        match self.receiver.recv().await {
            Some(events) => self.and_more(events, most),
            // nobody is left who could publish
            None => std::future::pending().await,
        }
    }

    /// The same, without waiting.
    pub(super) fn try_next(&mut self, most: usize) -> Option<Vec<Event>> {
        let events = self.receiver.try_recv().ok()?;
        Some(self.and_more(events, most))
    }

    fn and_more(&mut self, mut events: Vec<Event>, most: usize) -> Vec<Event> {
        while events.len() < most
            && let Ok(more) = self.receiver.try_recv()
        {
            events.extend(more);
        }
        self.waiting.fetch_sub(events.len(), Ordering::Relaxed);
        events
    }
}

/// Notes that final events of `users` must be looked up in PostgreSQL.
pub(super) fn mark_behind(behind: &Mutex<HashSet<UserId>>, users: impl IntoIterator<Item = UserId>) {
    let mut behind = behind.lock().unwrap_or_else(PoisonError::into_inner);
    for user in users {
        if behind.len() >= MARKED_USERS {
            return;
        }
        behind.insert(user);
    }
}

/// The way to open sockets.
#[derive(Clone)]
pub struct SocketsHandle {
    pub(super) mailbox: Mailbox<StreamActor>,
    pub(super) database: Database,
    pub(super) sockets: Arc<Sockets>,
}

impl SocketsHandle {
    /// Opens a socket. From here on its events are kept for it, so it must be polled or dropped.
    ///
    /// # Errors
    /// [`StreamError::Unavailable`] while Redis cannot be reached or the hub restarts.
    pub async fn open(&self, command: OpenSocket) -> Result<OpenedSocket, StreamError> {
        self.mailbox.ask(command, OPEN_DEADLINE).await.map_err(|_| StreamError::Unavailable)?
    }

    /// Tells all clients that the replica is going down (1012) and refuses new ones. To be called before the HTTP
    /// server is stopped, which would wait for the sockets otherwise.
    pub fn close_all(&self) {
        self.sockets.end();
    }

    /// Limits `socket` to the events of `tasks` and of the user.
    ///
    /// # Errors
    /// [`StreamError::ForeignTask`] names one that is not the user's; nothing is changed then.
    pub async fn subscribe(&self, socket: &OpenedSocket, tasks: Vec<TaskId>) -> Result<(), StreamError> {
        if let Some(foreign) = postgres::foreign_task(&self.database, socket.user(), &tasks).await? {
            return Err(StreamError::ForeignTask(foreign));
        }
        socket.set_tasks(Some(tasks.into_iter().collect()));
        Ok(())
    }

    /// Gives `socket` all events of its user again.
    pub fn unsubscribe(&self, socket: &OpenedSocket) {
        socket.set_tasks(None);
    }
}
