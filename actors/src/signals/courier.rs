//! The actor that carries signals between replicas: one loop sends what has gathered, one delivers what arrives.
//! Both live and die with the actor, so a panic in either starts both anew.

use super::{Heard, Shared, Signals};
use crate::{
    redis_client::{RedisClient, RedisUnavailable},
    supervisor::{ChildSpec, Drain, Supervisor},
};
use actix::{Actor, ActorContext, ActorFutureExt, ArbiterHandle, AsyncContext, Context, Handler, WrapFuture};
use redis::{AsyncCommands, PushInfo, PushKind, Value, aio::MultiplexedConnection};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;
use uuid::Uuid;

/// The pause after a message, in which the next one gathers.
const PAUSE: Duration = Duration::from_millis(5);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// A connection that died without a word is found out by this.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long the last message may take at shutdown.
const FAREWELL: Duration = Duration::from_secs(2);

/// A message on the channel. Signals are read one by one: another release may know more kinds.
#[derive(Debug, Serialize, Deserialize)]
struct Message<S> {
    from: Uuid,
    signals: Vec<S>,
}

struct Courier {
    shared: Arc<Shared>,
    redis: RedisClient,
}

/// Connects `signals` with those of the other replicas.
pub fn start(supervisor: &Supervisor, arbiter: &ArbiterHandle, signals: &Signals, redis: RedisClient) {
    let shared = Arc::clone(&signals.shared);
    // it takes no commands
    let spec = ChildSpec { name: "signals", shard: None, capacity: 1 };
    supervisor.start(arbiter, spec, move |_| Courier { shared: Arc::clone(&shared), redis: redis.clone() });
}

impl Actor for Courier {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.spawn(send(Arc::clone(&self.shared), self.redis.clone()).into_actor(self));
        context.spawn(follow(Arc::clone(&self.shared), self.redis.clone()).into_actor(self));
    }
}

impl Handler<Drain> for Courier {
    type Result = ();

    fn handle(&mut self, _: Drain, context: &mut Self::Context) {
        // the last word is often the most welcome one: tasks were let go
        let (shared, redis) = (Arc::clone(&self.shared), self.redis.clone());
        let farewell = async move {
            drop(tokio::time::timeout(FAREWELL, publish_unsent(&shared, &redis)).await);
        };
        context.spawn(farewell.into_actor(self).map(|(), _, context| context.stop()));
    }
}

fn channel(redis: &RedisClient) -> String {
    redis.key("signals")
}

async fn send(shared: Arc<Shared>, redis: RedisClient) {
    let mut reported = false;
    loop {
        shared.has_unsent.notified().await;
        match publish_unsent(&shared, &redis).await {
            Ok(()) => reported = false,
            Err(error) if !reported => {
                tracing::warn!(error = %crate::causes(&error), "other replicas hear no signals");
                reported = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Ends when everything signalled before it has been sent, also what another call was just sending.
async fn publish_unsent(shared: &Shared, redis: &RedisClient) -> Result<(), RedisUnavailable> {
    let _sending = shared.sending.lock().await;
    let signals = shared.take_unsent();
    if signals.is_empty() {
        return Ok(());
    }
    metrics::counter!("greenroom_signals_sent_total").increment(signals.len() as u64);
    let message = Message { from: shared.process, signals: signals.into_iter().collect() };
    // keys are text and values plain, which always serialises
    let text = serde_json::to_string(&message).unwrap_or_default();
    redis.connection().publish::<_, _, ()>(channel(redis), text).await?;
    Ok(())
}

/// Runs for ever: follows the channel, and begins again when the connection ends.
async fn follow(shared: Arc<Shared>, redis: RedisClient) {
    let mut reported = false;
    loop {
        match subscribe(&redis).await {
            Ok((connection, pushes)) => {
                if reported {
                    tracing::info!("signals of other replicas are heard again");
                    reported = false;
                }
                shared.tell(Heard::Gap);
                deliver(&shared, connection, pushes).await;
                metrics::counter!("greenroom_signals_cuts_total").increment(1);
            }
            Err(error) if !reported => {
                tracing::warn!(
                    error = %crate::causes(&error),
                    "signals of other replicas are not heard"
                );
                reported = true;
            }
            Err(_) => {}
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

async fn subscribe(
    redis: &RedisClient,
) -> Result<(MultiplexedConnection, mpsc::Receiver<PushInfo>), RedisUnavailable> {
    let (mut connection, pushes) = redis.subscriber().await?;
    connection.subscribe(channel(redis)).await?;
    Ok((connection, pushes))
}

/// Delivers until the connection ends.
async fn deliver(
    shared: &Shared,
    mut connection: MultiplexedConnection,
    mut pushes: mpsc::Receiver<PushInfo>,
) {
    let mut ping = tokio::time::interval(PING_EVERY);
    loop {
        tokio::select! {
            push = pushes.recv() => match push {
                Some(PushInfo { kind: PushKind::Message, data }) => take(shared, &data),
                Some(PushInfo { kind: PushKind::Disconnection, .. }) | None => return,
                Some(_) => {}
            },
            _ = ping.tick() => {
                if redis::cmd("PING").query_async::<()>(&mut connection).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Tells what a message says: channel and text.
fn take(shared: &Shared, data: &[Value]) {
    let [_, Value::BulkString(text)] = data else { return };
    let Ok(message) = serde_json::from_slice::<Message<serde_json::Value>>(text) else {
        return tracing::warn!("a message on the channel of signals is not ours");
    };
    if message.from == shared.process {
        return;
    }
    for signal in message.signals {
        if let Ok(signal) = serde_json::from_value(signal) {
            metrics::counter!("greenroom_signals_heard_total").increment(1);
            shared.tell(Heard::Signal(signal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::Signal;
    use futures_util::{FutureExt, StreamExt};

    fn heard(shared_by: &Signals, message: &str) -> Vec<Heard> {
        let mut listener = Box::pin(shared_by.listen());
        let data = [Value::BulkString(b"signals".to_vec()), Value::BulkString(message.as_bytes().to_vec())];
        take(&shared_by.shared, &data);
        std::iter::from_fn(|| listener.next().now_or_never().flatten()).collect()
    }

    #[test]
    fn what_is_written_is_read_and_what_is_not_known_is_left_out() {
        let (here, there) = (Signals::new(), Signals::new());
        let freed = Signal::SlotsFreed { provider: "draw".to_owned() };
        let message =
            Message { from: there.shared.process, signals: vec![Signal::TasksQueued, freed.clone()] };
        let text = serde_json::to_string(&message).unwrap();
        let both = vec![Heard::Signal(Signal::TasksQueued), Heard::Signal(freed)];
        assert_eq!(heard(&here, &text), both);
        let newer = text.replace("\"tasks_queued\"", "{\"from_the_future\":1},\"tasks_queued\"");
        assert_eq!(heard(&here, &newer), both);
        assert_eq!(heard(&there, &text), [], "nobody hears himself twice");
        assert_eq!(heard(&here, "nonsense"), []);
    }
}
