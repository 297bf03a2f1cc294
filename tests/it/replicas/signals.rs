//! Hints between replicas arrive at once, and a listener knows when it may have missed some.

use crate::support::{SOON, servers};
use futures_util::{Stream, StreamExt};
use greenroom_actors::{
    ids::TaskId,
    redis_client::{RedisClient, RedisSettings},
    signals::{self, Heard, Signal, Signals},
    supervisor::{RestartPolicy, Supervisor},
};
use std::{pin::Pin, time::Duration};

type Listener = Pin<Box<dyn Stream<Item = Heard>>>;

/// Signals of one process, and somebody who listens to them.
fn process(redis: &RedisSettings) -> (Signals, Listener, Supervisor) {
    let supervisor = Supervisor::new(RestartPolicy::default());
    let signals = Signals::new();
    let listener = Box::pin(signals.listen());
    let redis = RedisClient::new(redis).unwrap();
    signals::start(&supervisor, &actix::Arbiter::new().handle(), &signals, redis);
    (signals, listener, supervisor)
}

async fn hear(listener: &mut Listener, wanted: &Heard) {
    let hear = async { while listener.next().await.as_ref() != Some(wanted) {} };
    tokio::time::timeout(SOON, hear).await.unwrap_or_else(|_| panic!("{wanted:?} was not heard"));
}

fn task_cancelled() -> Signal {
    Signal::TaskCancelled { task: TaskId::new() }
}

#[actix_web::test]
async fn a_signal_reaches_the_other_processes_of_its_installation_and_a_cut_is_told() {
    let dir = servers::directory(&format!("signals-{}", uuid::Uuid::new_v4().simple()));
    let redis = servers::start_redis(dir).await;
    let settings = |prefix: &str, url: String| RedisSettings {
        url: url.into(),
        key_prefix: prefix.to_owned(),
        connect: Duration::from_secs(5),
        response: Duration::from_secs(5),
    };
    let url = redis.with(|redis| redis.url()).await;
    let (here, mut heard_here, _) = process(&settings("a:", url.clone()));
    let (_, mut heard_there, _) = process(&settings("a:", url.clone()));
    let (elsewhere, mut heard_elsewhere, _) = process(&settings("b:", url));
    // connected: until then anything may have been missed
    for listener in [&mut heard_here, &mut heard_there, &mut heard_elsewhere] {
        hear(listener, &Heard::Gap).await;
    }
    let first = Heard::Signal(task_cancelled());
    let Heard::Signal(signal) = first.clone() else { unreachable!() };
    here.send(signal);
    hear(&mut heard_here, &first).await;
    hear(&mut heard_there, &first).await;
    let own = task_cancelled();
    elsewhere.send(own.clone());
    assert_eq!(
        heard_elsewhere.next().await,
        Some(Heard::Signal(own)),
        "another installation hears nothing of it"
    );

    redis.with(|redis| redis.kill()).await;
    let lost = task_cancelled();
    here.send(lost.clone());
    hear(&mut heard_here, &Heard::Signal(lost)).await;
    redis.with(|redis| redis.start_again().unwrap()).await;
    hear(&mut heard_there, &Heard::Gap).await;
    hear(&mut heard_here, &Heard::Gap).await;
    // the way out may find out only now that its connection is cut, and what it tries then is lost
    let last = task_cancelled();
    let again = async {
        loop {
            here.send(last.clone());
            let heard = tokio::time::timeout(Duration::from_millis(200), heard_there.next()).await;
            if heard.is_ok_and(|heard| heard == Some(Heard::Signal(last.clone()))) {
                break;
            }
        }
    };
    tokio::time::timeout(SOON, again).await.expect("signals are heard again");
}

#[actix_web::test]
async fn the_last_signal_of_a_process_that_ends_is_sent() {
    let url = servers::shared().await.redis.with(|redis| redis.url()).await;
    let settings = RedisSettings {
        url: url.into(),
        key_prefix: format!("{}:", uuid::Uuid::new_v4().simple()),
        connect: Duration::from_secs(5),
        response: Duration::from_secs(5),
    };
    let (_here, mut heard, _) = process(&settings);
    hear(&mut heard, &Heard::Gap).await;
    let (there, _, supervisor) = process(&settings);
    there.send(Signal::TasksReleased);
    supervisor.drain(std::time::Instant::now() + SOON).await;
    hear(&mut heard, &Heard::Signal(Signal::TasksReleased)).await;
}
