//! Live updates: what clients of the socket are promised, whatever happens to them, to replicas and to Redis.
//!
//! Events come from actors in the test's own process, which is thereby one more replica: it commits and relays
//! what the sockets of the service under test are told.

mod faults;
mod protocol;
mod resume;
mod slow;
mod snapshot;

use crate::support::{Client, Socket, TestApp, servers};
use greenroom_actors::{
    clock::{Clock, SystemClock},
    events::{Event, EventKind},
    ids::{TaskId, UserId},
    quota::{Grant, GrantKind, QuotaHandle, QuotaSettings},
    redis_client::{RedisClient, RedisSettings},
    signals::Signals,
    stream::{self, StreamHandle, StreamSettings},
    supervisor::{RestartPolicy, Supervisor},
};
use serde_json::{Value, json};
use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

/// The actors of one more replica, in this process.
struct Replica {
    quota: QuotaHandle,
    stream: StreamHandle,
    supervisor: Supervisor,
}

impl Replica {
    fn start(app: &TestApp) -> Self {
        let database = servers::pool(&app.database_url);
        let redis = RedisClient::new(&RedisSettings {
            url: app.redis_url.clone().into(),
            key_prefix: app.redis_prefix.clone(),
            connect: Duration::from_secs(1),
            response: Duration::from_secs(2),
        })
        .unwrap();
        let history = app.environment.get("GREENROOM__WS__HISTORY_EVENTS");
        let settings = StreamSettings {
            max_per_user: 0,
            queue_events: 1_000,
            history_events: history.map_or(5_000, |events| events.parse().unwrap()),
            history_age: Duration::from_secs(3_600),
        };
        let supervisor = Supervisor::new(RestartPolicy::default());
        let arbiter = || actix::Arbiter::new().handle();
        let (stream, published) = StreamHandle::new();
        let _sockets = stream::start(
            &supervisor,
            &arbiter(),
            settings,
            published,
            database.clone(),
            redis,
            &Signals::new(),
        );
        let ledger = [arbiter(), arbiter()];
        let quota = QuotaHandle::start(&supervisor, &ledger, &database, &stream, QuotaSettings::default());
        Self { quota, stream, supervisor }
    }

    /// Commits this many final events of `user`, in order.
    async fn commit(&self, user: &Client, count: usize) {
        let grants = (0..count).map(|_| {
            self.quota.grant(Grant {
                user: id(user),
                amount: 1,
                kind: GrantKind::Gift,
                reference: uuid::Uuid::new_v4().to_string(),
                priority: 0,
                expires_at: None,
                reason: "test".to_owned(),
                audit: None,
                idempotency: None,
            })
        });
        for granted in futures_util::future::join_all(grants).await {
            granted.unwrap();
        }
    }

    /// Tells of something that leaves no trace in PostgreSQL.
    fn tell(&self, user: &Client, kind: EventKind, task: Option<TaskId>, data: Value) {
        let (user, at) = (id(user), SystemClock.now());
        self.stream.publish(vec![Event { user, kind, task, data, at, final_no: None }]);
    }

    /// Tells of a step, which is never merged.
    fn tell_step(&self, user: &Client, number: usize) {
        let data = json!({"nodeId": format!("n{number}"), "status": "running", "attempt": 1});
        self.tell(user, EventKind::StepStarted, Some(TaskId::new()), data);
    }

    async fn stop(self) {
        self.supervisor.drain(Instant::now() + Duration::from_secs(10)).await;
    }
}

fn id(client: &Client) -> UserId {
    client.id.parse().unwrap()
}

/// Everything a client has been told, over all its sockets.
#[derive(Debug, Default)]
struct Told {
    finals: Vec<i64>,
    resyncs: Vec<String>,
    // positions of the present epoch
    seqs: Vec<i64>,
}

impl Told {
    fn note(&mut self, frame: &Value) {
        match frame["type"].as_str() {
            Some("event") => {
                self.finals.extend(frame["final"].as_i64());
                self.seqs.extend(frame["seq"].as_i64());
            }
            Some("resync") => {
                self.resyncs.push(frame["reason"].as_str().unwrap().to_owned());
                self.seqs.clear();
            }
            other => panic!("{other:?} in {frame}"),
        }
    }

    /// Reads until the final event of that number has come.
    async fn read_to_final(&mut self, socket: &mut Socket, last: i64) {
        while self.finals.last().is_none_or(|&seen| seen < last) {
            let Some(frame) = socket.next().await else { panic!("closed with {:?}", socket.close_code) };
            self.note(&frame);
        }
    }

    /// Reads until the server has said a new position.
    async fn read_to_resync(&mut self, socket: &mut Socket) {
        while self.resyncs.is_empty() {
            self.read(socket, 1).await;
        }
    }

    /// Reads until `count` frames have come.
    async fn read(&mut self, socket: &mut Socket, count: usize) {
        for _ in 0..count {
            let Some(frame) = socket.next().await else { panic!("closed with {:?}", socket.close_code) };
            self.note(&frame);
        }
    }

    #[track_caller]
    fn expect_finals(&self, finals: RangeInclusive<i64>) {
        assert_eq!(self.finals, finals.collect::<Vec<_>>());
    }

    #[track_caller]
    fn expect_positions(&self, seqs: RangeInclusive<i64>) {
        assert_eq!(self.seqs, seqs.collect::<Vec<_>>());
    }
}
