//! One open socket, shared by the hub that fills its queue and the connection that drains it.

use super::{
    messages::{CloseCause, Cut, Outgoing, Position, ResumeFrom, StreamEvent},
    state::{Applied, Offer, Page, SocketState, Want},
};
use crate::ids::{SessionId, TaskId, UserId};
use futures_util::Stream;
use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// A socket's number within its process.
pub(super) type SocketId = u64;

/// How a connection is judged by the way it takes what waits for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// More came than its queue holds, and it took nothing for this long: too slow. One that takes anything is
    /// not cut off: its events come from the history in pages, which costs no memory.
    pub stopped: Duration,
    /// Something waits and nothing was taken for this long: too slow.
    pub stalled: Duration,
    /// The close was not taken for this long after that: cut.
    pub cut: Duration,
}

/// All open sockets of the process. It outlives the hub's lives: a fresh hub takes over what is registered.
#[derive(Debug)]
pub(super) struct Sockets {
    by_id: Mutex<HashMap<SocketId, Arc<Socket>>>,
    next: AtomicU64,
    // the replica is going down
    ending: AtomicBool,
    // the ids of sockets that want a page; each at most once, so at most as many as there are sockets
    wanting: mpsc::UnboundedSender<SocketId>,
}

impl Sockets {
    pub(super) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<SocketId>) {
        let (wanting, receiver) = mpsc::unbounded_channel();
        let sockets = Self { by_id: Mutex::default(), next: 1.into(), ending: false.into(), wanting };
        (Arc::new(sockets), receiver)
    }

    pub(super) fn register(
        self: &Arc<Self>,
        (user, session): (UserId, SessionId),
        state: SocketState,
        held: bool,
        cut: Option<Cut>,
        now: Instant,
    ) -> Arc<Socket> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let socket = Arc::new(Socket {
            id,
            user,
            wanting: self.wanting.clone(),
            inner: Mutex::new(Inner { state, session, waker: None, held, asked: false, taken_at: now, cut }),
        });
        self.lock().insert(id, Arc::clone(&socket));
        if self.is_ending() {
            socket.close(CloseCause::Restarting);
        }
        socket.inner().ask_for_page(&socket);
        socket
    }

    pub(super) fn get(&self, id: SocketId) -> Option<Arc<Socket>> {
        self.lock().get(&id).map(Arc::clone)
    }

    pub(super) fn remove(&self, id: SocketId) {
        self.lock().remove(&id);
    }

    pub(super) fn all(&self) -> Vec<Arc<Socket>> {
        self.lock().values().map(Arc::clone).collect()
    }

    /// Closes all sockets, and those that are still on their way in, because the replica is going down.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        for socket in self.all() {
            socket.close(CloseCause::Restarting);
        }
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SocketId, Arc<Socket>>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One socket.
pub(super) struct Socket {
    pub(super) id: SocketId,
    pub(super) user: UserId,
    wanting: mpsc::UnboundedSender<SocketId>,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket").field("id", &self.id).field("user", &self.user).finish_non_exhaustive()
    }
}

struct Inner {
    state: SocketState,
    session: SessionId,
    waker: Option<Waker>,
    // nothing is taken yet: the client may first say where to resume
    held: bool,
    // its id waits in the channel of those that want a page
    asked: bool,
    taken_at: Instant,
    cut: Option<Cut>,
}

/// What a look at a socket found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Checkup {
    /// Items in its queue.
    pub waiting: usize,
    /// It was judged too slow just now.
    pub judged_slow: bool,
    /// It was cut just now.
    pub cut: bool,
}

impl Inner {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn ask_for_page(&mut self, socket: &Socket) {
        if !self.asked && self.state.needs_page() {
            // the receiver lives as long as the process; without it there is nobody to read pages anyway
            self.asked = socket.wanting.send(socket.id).is_ok();
        }
    }
}

impl Socket {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Live events of its user. Says how many it took.
    pub(super) fn offer(&self, events: &[Arc<StreamEvent>]) -> u64 {
        let mut inner = self.inner();
        let was_empty = !inner.state.has_waiting();
        let mut queued = 0;
        for event in events {
            match inner.state.offer(event) {
                Offer::Queued => queued += 1,
                Offer::Skipped => {}
                Offer::Gap | Offer::Overflow => break,
            }
        }
        if was_empty && queued > 0 {
            inner.taken_at = Instant::now();
        }
        inner.ask_for_page(self);
        inner.wake();
        queued
    }

    /// Makes it read its events from the history, because live ones may have been missed.
    pub(super) fn catch_up(&self) {
        let mut inner = self.inner();
        inner.state.catch_up();
        inner.ask_for_page(self);
    }

    /// Like [`Self::catch_up`] for a fresh hub, which knows nothing of pages that were being read.
    pub(super) fn adopt(&self) {
        let mut inner = self.inner();
        inner.state.catch_up();
        inner.state.forget_reading();
        inner.asked = false;
        inner.ask_for_page(self);
    }

    pub(super) fn want(&self) -> Option<Want> {
        let mut inner = self.inner();
        inner.asked = false;
        inner.state.want()
    }

    /// The page that was wanted cannot be read now.
    pub(super) fn page_failed(&self) {
        let mut inner = self.inner();
        inner.state.forget_reading();
        inner.ask_for_page(self);
    }

    pub(super) fn apply(&self, page: Page) -> Applied {
        let mut inner = self.inner();
        let was_empty = !inner.state.has_waiting();
        let applied = inner.state.apply(page);
        if was_empty {
            inner.taken_at = Instant::now();
        }
        inner.ask_for_page(self);
        inner.wake();
        applied
    }

    pub(super) fn close(&self, cause: CloseCause) {
        let mut inner = self.inner();
        if inner.state.closing().is_none() {
            inner.state.close(cause);
            inner.taken_at = Instant::now();
        }
        inner.held = false;
        inner.wake();
    }

    /// The session whose token it showed last.
    pub(super) fn session(&self) -> SessionId {
        self.inner().session
    }

    /// The last final event it was told, if it is live.
    pub(super) fn live_final(&self) -> Option<i64> {
        self.inner().state.live_final()
    }

    /// Judges how it reads; cuts it when it was judged before and reads nothing still.
    pub(super) fn check(&self, patience: Patience, now: Instant) -> Checkup {
        let mut inner = self.inner();
        let waiting = inner.state.waiting();
        if !inner.state.has_waiting() {
            return Checkup { waiting, ..Checkup::default() };
        }
        let idle = now.saturating_duration_since(inner.taken_at);
        if inner.state.closing().is_some() {
            let cut = if idle >= patience.cut { inner.cut.take() } else { None };
            let is_cut = cut.is_some();
            if let Some(cut) = cut {
                cut();
            }
            return Checkup { waiting, cut: is_cut, ..Checkup::default() };
        }
        let patience = if inner.state.overflowed() { patience.stopped } else { patience.stalled };
        if idle < patience {
            return Checkup { waiting, ..Checkup::default() };
        }
        inner.state.close(CloseCause::TooSlow);
        inner.taken_at = now;
        inner.wake();
        Checkup { waiting: 0, judged_slow: true, cut: false }
    }
}

/// The connection's end of its socket. Dropping it ends the socket for the hub.
#[derive(Debug)]
pub struct OpenedSocket {
    pub(super) sockets: Arc<Sockets>,
    pub(super) socket: Arc<Socket>,
    /// Where the user's events stood when the socket was opened.
    pub position: Position,
}

impl OpenedSocket {
    /// Whose socket it is.
    #[must_use]
    pub fn user(&self) -> UserId {
        self.socket.user
    }

    /// It goes on in this session of the same user; answers the one before.
    pub fn set_session(&self, session: SessionId) -> SessionId {
        std::mem::replace(&mut self.socket.inner().session, session)
    }

    /// What is to be sent, as it comes. It ends after [`Outgoing::Close`]. Polling it is what counts as reading,
    /// so it must be polled only while the connection has room.
    #[must_use]
    pub fn outgoing(&self) -> Outbox {
        Outbox { socket: Arc::clone(&self.socket), ended: false }
    }

    /// Lets events out, if they were held.
    pub fn release(&self) {
        let mut inner = self.socket.inner();
        inner.held = false;
        inner.wake();
    }

    /// Starts over from what the client says it has.
    pub fn resume(&self, from: ResumeFrom) {
        let mut inner = self.socket.inner();
        inner.state.resume(from);
        inner.held = false;
        inner.ask_for_page(&self.socket);
        inner.wake();
    }

    /// Limits the events to those of `tasks` and of the user; `None` is everything again.
    pub(super) fn set_tasks(&self, tasks: Option<HashSet<TaskId>>) {
        self.socket.inner().state.set_tasks(tasks);
    }

    /// The position the client has reached with what waits for it.
    #[must_use]
    pub fn reached(&self) -> (String, u64) {
        let inner = self.socket.inner();
        let cursor = inner.state.cursor();
        (cursor.epoch.to_string(), cursor.seq)
    }

    /// Takes away the means to cut the connection, for a connection that ends by itself.
    #[must_use]
    pub fn take_cut(&self) -> Option<Cut> {
        self.socket.inner().cut.take()
    }
}

impl Drop for OpenedSocket {
    fn drop(&mut self) {
        self.sockets.remove(self.socket.id);
    }
}

/// What a socket is to send, as a stream.
pub struct Outbox {
    socket: Arc<Socket>,
    ended: bool,
}

impl Stream for Outbox {
    type Item = Outgoing;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Outgoing>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let socket = Arc::clone(&self.socket);
        let mut inner = socket.inner();
        let next = if inner.held { None } else { inner.state.pop() };
        inner.ask_for_page(&socket);
        match next {
            Some(next) => {
                inner.taken_at = Instant::now();
                self.ended = matches!(next, Outgoing::Close(_));
                Poll::Ready(Some(next))
            }
            None => {
                if !inner.waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
                    inner.waker = Some(context.waker().clone());
                }
                Poll::Pending
            }
        }
    }
}
