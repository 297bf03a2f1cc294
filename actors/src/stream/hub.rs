//! What the hub's loops share: who is followed here, and what they were told.

use super::{
    handle::Watching,
    link::Link,
    messages::{CloseCause, Epoch, OpenSocket, Position, StreamError, StreamEvent},
    socket::{OpenedSocket, Patience, Socket, Sockets},
    state::{QueueLimits, SocketState},
    store::{
        postgres,
        redis::{self as store, ReadWanted, Retention},
    },
};
use crate::{
    database::Database,
    faults,
    ids::{SessionId, UserId},
    redis_client::RedisClient,
};
use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Bytes that may wait for one socket.
const QUEUE_BYTES: usize = 4 << 20;

const PATIENCE: Patience = Patience {
    stopped: Duration::from_secs(5),
    stalled: Duration::from_secs(60),
    cut: Duration::from_secs(30),
};

/// How much the stream may hold.
#[derive(Clone, Copy, Debug)]
pub struct StreamSettings {
    /// Sockets of one user on this replica; one more closes the oldest. 0 is off.
    pub max_per_user: usize,
    /// Events that may wait for one socket.
    pub queue_events: usize,
    /// Events of a user kept in Redis.
    pub history_events: usize,
    /// How long they are kept after the newest.
    pub history_age: Duration,
}

/// A user with sockets on this replica.
#[derive(Default)]
pub(super) struct Followed {
    sockets: Vec<Arc<Socket>>,
    // sockets on their way in
    opening: usize,
    // messages that came for the user; tells a reader whether something came while it read
    pub(super) arrivals: u64,
    // the position of the newest event that came
    pub(super) seen: Option<(Epoch, u64)>,
}

pub(super) struct Hub {
    pub(super) settings: StreamSettings,
    pub(super) database: Database,
    pub(super) redis: RedisClient,
    pub(super) sockets: Arc<Sockets>,
    pub(super) followed: RefCell<HashMap<UserId, Followed>>,
    pub(super) link: Link,
    pub(super) behind: Arc<Mutex<HashSet<UserId>>>,
    watching: Watching,
    /// Ends the relay loop, which gives the inbox back.
    pub(super) drain: Notify,
    figures: Figures,
}

/// What the hub's lives share.
pub(super) struct Shared {
    pub(super) sockets: Arc<Sockets>,
    pub(super) behind: Arc<Mutex<HashSet<UserId>>>,
    pub(super) watching: Watching,
}

struct Figures {
    delivered: metrics::Counter,
    slow: metrics::Counter,
}

impl Hub {
    pub(super) fn new(
        settings: StreamSettings,
        database: Database,
        redis: RedisClient,
        shared: Shared,
        link: Link,
    ) -> Self {
        let Shared { sockets, behind, watching } = shared;
        // a fresh hub takes over the sockets its predecessor left; what they missed comes from the history
        let mut followed: HashMap<UserId, Followed> = HashMap::new();
        for socket in sockets.all() {
            followed.entry(socket.user).or_default().sockets.push(socket);
        }
        for user in followed.values_mut() {
            user.sockets.sort_by_key(|socket| socket.id);
        }
        Self {
            settings,
            database,
            redis,
            sockets,
            followed: RefCell::new(followed),
            link,
            behind,
            watching,
            drain: Notify::new(),
            figures: Figures {
                delivered: metrics::counter!("greenroom_socket_events_total"),
                slow: metrics::counter!("greenroom_sockets_slow_total"),
            },
        }
    }

    pub(super) fn retention(&self) -> Retention {
        Retention { events: self.settings.history_events, age: self.settings.history_age }
    }

    fn queue_limits(&self) -> QueueLimits {
        QueueLimits { events: self.settings.queue_events.max(1), bytes: QUEUE_BYTES }
    }

    /// Opens a socket: subscribe first, then read the position, so that nothing falls between.
    pub(super) async fn open(&self, command: OpenSocket) -> Result<OpenedSocket, StreamError> {
        if self.sockets.is_ending() {
            return Err(StreamError::Unavailable);
        }
        let user = command.user;
        let arrivals = {
            let mut followed = self.followed.borrow_mut();
            let followed = followed.entry(user).or_default();
            followed.opening += 1;
            followed.arrivals
        };
        let position = self.position(user).await;
        let mut followed = self.followed.borrow_mut();
        let followed = followed.entry(user).or_default();
        followed.opening = followed.opening.saturating_sub(1);
        let position = position?;
        let state = match command.resume {
            Some(from) => SocketState::resuming(self.queue_limits(), from),
            None => {
                let mut state = SocketState::live(self.queue_limits(), position.clone());
                if followed.arrivals != arrivals {
                    state.catch_up();
                }
                state
            }
        };
        let now = Instant::now();
        let socket = self.sockets.register((user, command.session), state, command.held, command.cut, now);
        followed.sockets.push(Arc::clone(&socket));
        followed.sockets.retain(|socket| self.sockets.get(socket.id).is_some());
        let most = match self.settings.max_per_user {
            0 => usize::MAX,
            most => most,
        };
        let excess = followed.sockets.len().saturating_sub(most);
        for replaced in followed.sockets.drain(..excess) {
            replaced.close(CloseCause::Replaced);
        }
        Ok(OpenedSocket { sockets: Arc::clone(&self.sockets), socket, position })
    }

    async fn position(&self, user: UserId) -> Result<Position, StreamError> {
        if !self.link.follow(user).await {
            return Err(StreamError::Unavailable);
        }
        let newest = postgres::newest_finals(&self.database, &[user]).await?;
        let newest_final = newest.get(&user).copied().unwrap_or(0);
        let wanted = ReadWanted { user, newest_final, cursor: None, events: 0, bytes: 0 };
        let read = store::read(&self.redis, self.retention(), &[wanted]).await;
        let read = read.ok().and_then(|mut read| read.pop()).and_then(Result::ok);
        let head = read.ok_or(StreamError::Unavailable)?.head;
        if head.final_no < newest_final {
            // on its way, or its replica died before it was relayed
            self.mark_behind([user]);
        }
        Ok(head)
    }

    /// Hands what was published for `user` to the user's sockets.
    pub(super) fn deliver(&self, user: UserId, events: &[Arc<StreamEvent>]) {
        faults::point("stream.deliver");
        let mut followed = self.followed.borrow_mut();
        let Some(followed) = followed.get_mut(&user) else { return };
        followed.arrivals += 1;
        followed.seen = events.last().and_then(|last| last.position.clone());
        let mut delivered = 0;
        for socket in &followed.sockets {
            delivered += socket.offer(events);
        }
        self.figures.delivered.increment(delivered);
    }

    /// The subscriptions stand anew: whatever was published before may have been missed.
    pub(super) fn catch_up_all(&self) {
        for followed in self.followed.borrow().values() {
            for socket in &followed.sockets {
                socket.catch_up();
            }
        }
    }

    /// Ends the sockets of `user` whose session is `closed`.
    pub(super) fn close_sessions(&self, user: UserId, closed: impl Fn(SessionId) -> bool) {
        let followed = self.followed.borrow();
        let sockets = followed.get(&user).into_iter().flat_map(|followed| &followed.sockets);
        for socket in sockets.filter(|socket| closed(socket.session())) {
            socket.close(CloseCause::SessionClosed);
        }
    }

    /// Signals were missed: ends the sockets whose session or key has ended, as far as PostgreSQL knows. The others end
    /// with their access tokens.
    pub(super) async fn close_ended(&self) {
        let open: Vec<(UserId, SessionId)> = {
            let followed = self.followed.borrow();
            let sockets = followed.values().flat_map(|followed| &followed.sockets);
            sockets.map(|socket| (socket.user, socket.session())).collect()
        };
        match postgres::ended_sessions(&self.database, &open).await {
            Ok(ended) => {
                for (user, session) in ended {
                    self.close_sessions(user, |open| open == session);
                }
            }
            Err(error) => {
                tracing::warn!(error = %crate::causes(&error), "sockets of closed sessions may last until their tokens end");
            }
        }
    }

    pub(super) fn catch_up(&self, users: impl IntoIterator<Item = UserId>) {
        let followed = self.followed.borrow();
        for user in users {
            for socket in followed.get(&user).into_iter().flat_map(|followed| &followed.sockets) {
                socket.catch_up();
            }
        }
    }

    /// Notes users whose final events must be looked up in PostgreSQL.
    pub(super) fn mark_behind(&self, users: impl IntoIterator<Item = UserId>) {
        super::handle::mark_behind(&self.behind, users);
    }

    /// Users with live sockets here, with the last final event told to all of them.
    pub(super) fn told(&self) -> Vec<(UserId, i64)> {
        let followed = self.followed.borrow();
        let told = followed.iter().filter_map(|(&user, followed)| {
            let least = followed.sockets.iter().filter_map(|socket| socket.live_final()).min();
            least.map(|least| (user, least))
        });
        told.collect()
    }

    /// Once a second: forgets sockets that are gone, judges the slow, leaves users without sockets.
    pub(super) fn check_sockets(&self) {
        let now = Instant::now();
        let mut waiting = 0;
        let mut left = Vec::new();
        self.followed.borrow_mut().retain(|&user, followed| {
            followed.sockets.retain(|socket| self.sockets.get(socket.id).is_some());
            if followed.sockets.is_empty() && followed.opening == 0 {
                left.push(user);
                return false;
            }
            true
        });
        let watching = self.followed.borrow().keys().copied().collect();
        *self.watching.lock().unwrap_or_else(PoisonError::into_inner) = watching;
        // sockets that were replaced are no longer followed but may still have to be cut
        for socket in self.sockets.all() {
            let checkup = socket.check(PATIENCE, now);
            waiting += checkup.waiting;
            if checkup.judged_slow {
                self.figures.slow.increment(1);
                tracing::info!(user = %socket.user, "socket reads too slowly and is closed");
            }
            if checkup.cut {
                tracing::info!(user = %socket.user, "socket did not take its close and is cut");
            }
        }
        self.link.unfollow(left);
        #[expect(clippy::cast_precision_loss, reason = "a gauge for people to read")]
        {
            metrics::gauge!("greenroom_sockets").set(self.sockets.len() as f64);
            metrics::gauge!("greenroom_socket_queue_events").set(waiting as f64);
        }
    }
}
