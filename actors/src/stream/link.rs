//! The subscription connection: follows users' channels, and says when something may have been missed.

use super::{hub::Hub, store::redis as store};
use crate::ids::UserId;
use redis::{PushInfo, PushKind, Value, aio::MultiplexedConnection};
use std::{collections::HashSet, rc::Rc, time::Duration};
use tokio::sync::{mpsc, oneshot};

/// Channels named in one command.
const CHANNELS_AT_ONCE: usize = 500;

const RECONNECT_PAUSE: Duration = Duration::from_millis(500);

/// A connection that died without a word is found out by this.
const PING_EVERY: Duration = Duration::from_secs(5);

/// Asks the link's loop to follow users.
pub(super) struct Link {
    commands: mpsc::UnboundedSender<Command>,
}

enum Command {
    Follow(UserId, oneshot::Sender<()>),
    Unfollow(Vec<UserId>),
}

/// The loop's end of a [`Link`].
pub(super) struct LinkLoop {
    commands: mpsc::UnboundedReceiver<Command>,
    followed: HashSet<UserId>,
}

impl Link {
    pub(super) fn new(followed: impl IntoIterator<Item = UserId>) -> (Self, LinkLoop) {
        // unbounded: a command stands for a socket being opened, which the hub's mailbox bounds
        let (commands, receiver) = mpsc::unbounded_channel();
        (Self { commands }, LinkLoop { commands: receiver, followed: followed.into_iter().collect() })
    }

    /// Follows `user`'s channel; `false` if Redis cannot be reached now.
    pub(super) async fn follow(&self, user: UserId) -> bool {
        let (done, followed) = oneshot::channel();
        self.commands.send(Command::Follow(user, done)).is_ok() && followed.await.is_ok()
    }

    /// Leaves users' channels.
    pub(super) fn unfollow(&self, users: Vec<UserId>) {
        if !users.is_empty() {
            // without a loop there is nothing to leave
            drop(self.commands.send(Command::Unfollow(users)));
        }
    }
}

impl LinkLoop {
    /// Runs for ever: connects, follows, delivers, and begins again when the connection ends.
    pub(super) async fn run(mut self, hub: Rc<Hub>) {
        let mut reported = false;
        loop {
            match self.connected(&hub).await {
                Ok((connection, pushes)) => {
                    if reported {
                        tracing::info!("live updates follow Redis again");
                    }
                    hub.catch_up_all();
                    self.serve(&hub, connection, pushes).await;
                    metrics::counter!("greenroom_stream_link_cuts_total").increment(1);
                    tracing::warn!("the connection that live updates come over was cut");
                    reported = true;
                }
                Err(error) => {
                    if !reported {
                        tracing::warn!(error = %crate::causes(&*error), "live updates cannot follow Redis");
                        reported = true;
                    }
                    self.refuse_waiting();
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
        }
    }

    async fn connected(
        &mut self,
        hub: &Hub,
    ) -> Result<(MultiplexedConnection, mpsc::Receiver<PushInfo>), Box<dyn std::error::Error>> {
        let (mut connection, pushes) = hub.redis.subscriber().await?;
        let users: Vec<UserId> = self.followed.iter().copied().collect();
        for users in users.chunks(CHANNELS_AT_ONCE) {
            connection.subscribe(channels(hub, users)).await?;
        }
        Ok((connection, pushes))
    }

    /// Delivers until the connection ends.
    async fn serve(
        &mut self,
        hub: &Hub,
        mut connection: MultiplexedConnection,
        mut pushes: mpsc::Receiver<PushInfo>,
    ) {
        let mut ping = tokio::time::interval(PING_EVERY);
        loop {
            let alive = tokio::select! {
                push = pushes.recv() => push.is_some_and(|push| take_push(hub, &push)),
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(hub, &mut connection, command).await.is_ok(),
                    None => return,
                },
                _ = ping.tick() => redis::cmd("PING").query_async::<()>(&mut connection).await.is_ok(),
            };
            if !alive {
                return;
            }
        }
    }

    async fn obey(
        &mut self,
        hub: &Hub,
        connection: &mut MultiplexedConnection,
        command: Command,
    ) -> redis::RedisResult<()> {
        match command {
            Command::Follow(user, done) => {
                let (mut users, mut waiting) = (vec![user], vec![done]);
                let mut other = None;
                while users.len() < CHANNELS_AT_ONCE
                    && let Ok(next) = self.commands.try_recv()
                {
                    match next {
                        Command::Follow(user, done) => {
                            users.push(user);
                            waiting.push(done);
                        }
                        Command::Unfollow(users) => {
                            other = Some(users);
                            break;
                        }
                    }
                }
                users.retain(|user| !self.followed.contains(user));
                if !users.is_empty() {
                    connection.subscribe(channels(hub, &users)).await?;
                    self.followed.extend(users);
                }
                for done in waiting {
                    // whoever asked may have given up
                    let _ = done.send(());
                }
                match other {
                    Some(users) => self.leave(hub, connection, users).await,
                    None => Ok(()),
                }
            }
            Command::Unfollow(users) => self.leave(hub, connection, users).await,
        }
    }

    async fn leave(
        &mut self,
        hub: &Hub,
        connection: &mut MultiplexedConnection,
        mut users: Vec<UserId>,
    ) -> redis::RedisResult<()> {
        users.retain(|user| !hub.followed.borrow().contains_key(user) && self.followed.remove(user));
        for users in users.chunks(CHANNELS_AT_ONCE) {
            connection.unsubscribe(channels(hub, users)).await?;
        }
        Ok(())
    }

    /// While there is no connection, whoever asks is told so at once.
    fn refuse_waiting(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            if let Command::Unfollow(users) = command {
                for user in users {
                    self.followed.remove(&user);
                }
            }
        }
    }
}

fn channels(hub: &Hub, users: &[UserId]) -> Vec<String> {
    users.iter().map(|&user| store::channel(&hub.redis, user)).collect()
}

/// Delivers a message; `false` when the connection is at its end.
fn take_push(hub: &Hub, push: &PushInfo) -> bool {
    match (&push.kind, push.data.as_slice()) {
        (PushKind::Disconnection, _) => false,
        (PushKind::Message, [channel, message]) => {
            let user = text(channel).and_then(store::user_of_channel);
            let events = text(message).and_then(store::parse_message);
            match (user, events) {
                (Some(user), Some(events)) => hub.deliver(user, &events),
                _ => tracing::warn!("a message on an events channel is not ours"),
            }
            true
        }
        _ => true,
    }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
