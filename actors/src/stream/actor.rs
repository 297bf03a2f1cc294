//! The glue to actix: the hub's loops live and die with the actor, so a panic in any of them starts all anew.

use super::{
    catch_up,
    handle::{Inbox, Published, SocketsHandle},
    hub::{Hub, Shared, StreamSettings},
    link::{Link, LinkLoop},
    messages::{OpenSocket, StreamError},
    relay::RelayLoop,
    socket::{OpenedSocket, SocketId, Sockets},
};
use crate::{
    ask::Ask,
    database::Database,
    redis_client::RedisClient,
    signals::{Heard, Signal, Signals},
    supervisor::{ChildSpec, Drain, Supervisor},
};
use actix::{
    Actor, ActorContext, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, StreamHandler,
    WrapFuture,
};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use std::{rc::Rc, sync::Arc, time::Duration};
use tokio::sync::{Mutex, mpsc};

/// Sockets that may be opening at once.
const OPENING_AT_ONCE: usize = 4_096;

const CHECK_EVERY: Duration = Duration::from_secs(1);

/// How long sockets may take to say goodbye at shutdown.
const FAREWELL: Duration = Duration::from_secs(5);

/// What outlives a life of the hub.
#[derive(Clone)]
struct Lasting {
    inbox: Arc<Mutex<Inbox>>,
    wanting: Arc<Mutex<mpsc::UnboundedReceiver<SocketId>>>,
}

type AskToOpen = Ask<OpenSocket, Result<OpenedSocket, StreamError>>;

/// The hub's actor.
pub struct StreamActor {
    hub: Rc<Hub>,
    // unbounded: each ask keeps its place in the mailbox's bound until it is answered
    opening: mpsc::UnboundedSender<AskToOpen>,
    asked: Option<mpsc::UnboundedReceiver<AskToOpen>>,
    link: Option<LinkLoop>,
    lasting: Lasting,
    signals: Signals,
}

/// Starts the hub. `redis` is used for scripts; the hub makes its own connection for subscriptions.
#[must_use]
pub fn start(
    supervisor: &Supervisor,
    arbiter: &ArbiterHandle,
    settings: StreamSettings,
    published: Published,
    database: Database,
    redis: RedisClient,
    signals: &Signals,
) -> SocketsHandle {
    let signals = signals.clone();
    let (sockets, wanting) = Sockets::new();
    let lasting =
        Lasting { inbox: Arc::new(Mutex::new(published.inbox)), wanting: Arc::new(Mutex::new(wanting)) };
    let (behind, watching) = (published.behind, published.watching);
    let spec = ChildSpec { name: "stream", shard: None, capacity: OPENING_AT_ONCE };
    let (pool, registered) = (database.clone(), Arc::clone(&sockets));
    let mailbox = supervisor.start(arbiter, spec, move |_| {
        let users = sockets.all().into_iter().map(|socket| socket.user);
        let (link, link_loop) = Link::new(users);
        let shared = Shared {
            sockets: Arc::clone(&sockets),
            behind: Arc::clone(&behind),
            watching: Arc::clone(&watching),
        };
        let hub = Hub::new(settings, pool.clone(), redis.clone(), shared, link);
        let (opening, asked) = mpsc::unbounded_channel();
        StreamActor {
            hub: Rc::new(hub),
            opening,
            asked: Some(asked),
            link: Some(link_loop),
            lasting: lasting.clone(),
            signals: signals.clone(),
        }
    });
    SocketsHandle { mailbox, database, sockets: registered }
}

impl Actor for StreamActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        for socket in self.hub.sockets.all() {
            socket.adopt();
        }
        if let Some(link) = self.link.take() {
            context.spawn(link.run(Rc::clone(&self.hub)).into_actor(self));
        }
        if let Some(asked) = self.asked.take() {
            context.spawn(open_sockets(Rc::clone(&self.hub), asked).into_actor(self));
        }
        let (hub, wanting) = (Rc::clone(&self.hub), Arc::clone(&self.lasting.wanting));
        context.spawn(async move { catch_up::run(hub, wanting.lock_owned().await).await }.into_actor(self));
        let (relay, inbox) = (RelayLoop::new(Rc::clone(&self.hub)), Arc::clone(&self.lasting.inbox));
        context.spawn(async move { relay.run(inbox.lock_owned().await).await }.into_actor(self));
        context.add_stream(self.signals.listen());
        context.run_interval(CHECK_EVERY, |actor, _| actor.hub.check_sockets());
    }
}

/// Opens sockets as they are asked for, many at a time. One future for all of them: actix polls each of an
/// actor's futures whenever one of them wakes.
async fn open_sockets(hub: Rc<Hub>, mut asked: mpsc::UnboundedReceiver<AskToOpen>) {
    let mut opening = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(ask) = asked.recv() => {
                let hub = Rc::clone(&hub);
                opening.push(async move {
                    let (command, reply) = ask.into_parts();
                    reply.send(hub.open(command).await);
                });
            }
            Some(()) = opening.next(), if !opening.is_empty() => {}
        }
    }
}

impl Handler<AskToOpen> for StreamActor {
    type Result = ();

    fn handle(&mut self, ask: AskToOpen, _: &mut Self::Context) {
        // the loop ends only with the actor
        drop(self.opening.send(ask));
    }
}

impl StreamHandler<Heard> for StreamActor {
    fn handle(&mut self, heard: Heard, context: &mut Self::Context) {
        match heard {
            Heard::Signal(Signal::SessionClosed { user, session }) => {
                self.hub.close_sessions(user, |open| open == session);
            }
            Heard::Signal(Signal::SessionsClosed { user, kept }) => {
                self.hub.close_sessions(user, |open| Some(open) != kept);
            }
            Heard::Gap => {
                let hub = Rc::clone(&self.hub);
                context.spawn(async move { hub.close_ended().await }.into_actor(self));
            }
            Heard::Signal(_) => {}
        }
    }

    fn finished(&mut self, _: &mut Self::Context) {
        // signals never end
    }
}

impl Handler<Drain> for StreamActor {
    type Result = ();

    fn handle(&mut self, _: Drain, context: &mut Self::Context) {
        self.hub.drain.notify_one();
        let (hub, inbox) = (Rc::clone(&self.hub), Arc::clone(&self.lasting.inbox));
        let farewell = async move {
            // the last events go out before the sockets do
            let relay = RelayLoop::new(Rc::clone(&hub));
            let relayed = async move { relay.drain(inbox.lock_owned().await).await };
            drop(tokio::time::timeout(FAREWELL, relayed).await);
            hub.sockets.end();
            let gone = async {
                while hub.sockets.len() > 0 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            drop(tokio::time::timeout(FAREWELL, gone).await);
        };
        context.spawn(farewell.into_actor(self).map(|(), _, context| context.stop()));
    }
}
