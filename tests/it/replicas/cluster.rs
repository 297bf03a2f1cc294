//! Several replicas on one ground, a provider that they call, and users who keep them busy.

use crate::support::{
    Answer, Call, Client, Cutter, FakeProvider, Position, Reply, Service, Socket, TestApp, wait_until,
};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

/// Short, and long enough that a busy machine does not lose it.
pub(super) const LEASE: Duration = Duration::from_secs(2);
/// How long work may take to end: calls that a death has cut wait for their deadline first.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

pub(super) struct Cluster {
    pub(super) replicas: Vec<Service>,
    pub(super) fake: FakeProvider,
    pub(super) users: Vec<Client>,
    pub(super) pipeline: String,
    pub(super) balancer: Balancer,
    /// Its own service does not run: it is the ground.
    pub(super) app: TestApp,
}

/// What a cluster is made of.
pub(super) struct Wishes {
    pub(super) replicas: usize,
    pub(super) users: usize,
    /// What the provider's definition says besides its address.
    pub(super) provider: Value,
    pub(super) definition: Value,
    pub(super) environment: Vec<(&'static str, String)>,
    pub(super) own_postgres: bool,
    pub(super) own_redis: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            replicas: 2,
            users: 2,
            provider: json!({}),
            definition: chain(&["draw"]),
            environment: Vec::new(),
            own_postgres: false,
            own_redis: false,
        }
    }
}

impl Cluster {
    pub(super) async fn start(
        wishes: Wishes,
        script: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::behind(&[], wishes, script).await
    }

    /// One whose first replicas have these lines to PostgreSQL.
    pub(super) async fn behind(
        lines: &[Cutter],
        wishes: Wishes,
        script: impl Fn(&Call) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let mut builder = TestApp::builder()
            .env("GREENROOM__PIPELINE__LEASE_MS", LEASE.as_millis())
            .env("GREENROOM__LIMITS__RUNNING_PER_USER", 0)
            // a replica that is stopped amid a transaction holds its locks no longer
            .env("GREENROOM__DATABASE__IDLE_IN_TRANSACTION_TIMEOUT_MS", 2_000);
        for (name, value) in wishes.environment {
            builder = builder.env(name, value);
        }
        if wishes.own_postgres {
            builder = builder.own_postgres();
        }
        if wishes.own_redis {
            builder = builder.own_redis();
        }
        let mut app = builder.prepare().await;
        let mut replicas = Vec::new();
        for number in 0..wishes.replicas {
            let mut own = vec![("GREENROOM__SERVER__REPLICA_ID", number.to_string())];
            if let Some(line) = lines.get(number) {
                own.push(("GREENROOM__DATABASE__URL", line.stand_before(&app.database_url).await));
            }
            replicas.push(app.another_replica(&own).await);
        }
        app.service.url.clone_from(&replicas[0].url);
        let fake = FakeProvider::start(script).await;
        let mut provider = fake.definition("draw");
        provider["request"] = json!({"headers": {"X-Attempt": "{{ attempt }}"}});
        provider.as_object_mut().unwrap().extend(wishes.provider.as_object().unwrap().clone());
        app.put_provider(provider).await;
        let pipeline = app.publish_pipeline(wishes.definition).await;
        let mut users = Vec::new();
        for _ in 0..wishes.users {
            let user = app.register_user().await;
            app.grant(&user, 1_000_000).await;
            users.push(user);
        }
        let balancer = Balancer::over(&replicas);
        Self { replicas, fake, users, pipeline, balancer, app }
    }

    /// Starts a replica again that has ended.
    pub(super) async fn start_again(&mut self, number: usize) {
        self.replicas[number].start_again().await;
        self.balancer.moved(number, &self.replicas[number].url);
    }

    /// Starts a task at a replica.
    pub(super) async fn start_task(&self, user: &Client, replica: usize) -> String {
        let body = json!({"pipelineId": self.pipeline, "input": {}});
        let task = user.at(&self.replicas[replica].url).post("/api/v1/tasks", body).await.expect(202);
        task["id"].as_str().unwrap().to_owned()
    }

    /// The owner that a replica's process is to the others.
    pub(super) async fn owner(&self, number: usize) -> uuid::Uuid {
        let newest = "select owner from replicas where label = $1 order by started_at desc limit 1";
        self.app.sql().await.query_one(newest, &[&number.to_string()]).await.unwrap().get(0)
    }

    /// Waits until every task is final.
    pub(super) async fn until_all_final(&self) {
        let open = "select count(*) from tasks where status in ('queued', 'running')";
        wait_until("every task is final", PATIENCE, async || (self.app.count(open).await == 0).then_some(()))
            .await;
        let running = "select count(*) from step_attempts where status = 'running'";
        wait_until("every call has ended", PATIENCE, async || {
            (self.app.count(running).await == 0).then_some(())
        })
        .await;
    }

    /// What the provider has done is what is recorded: each call it saw is an attempt, under that attempt's key, and
    /// only attempts whose outcome is unknown, or that say themselves that they were not sent (a busy machine did not
    /// come to it), may never have reached it. Answers how many are unknown.
    pub(super) async fn expect_effects_as_recorded(&self) -> usize {
        let mut seen: Vec<(String, String)> = self
            .fake
            .calls()
            .iter()
            .map(|call| (call.key().to_owned(), call.headers.get("x-attempt").cloned().unwrap_or_default()))
            .collect();
        seen.sort();
        let rows = "select idempotency_key, attempt::text, status, task_id || ':' || node_id, error::text from step_attempts";
        let rows = self.app.sql().await.query(rows, &[]).await.unwrap();
        let mut unheard = 0;
        for row in &rows {
            let (key, number, status): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            assert_eq!(key, row.get::<_, String>(3));
            match seen.binary_search(&(key.clone(), number.clone())) {
                Ok(at) => drop(seen.remove(at)),
                Err(_) if status == "unknown" => unheard += 1,
                Err(_) => {
                    let error: Option<String> = row.get(4);
                    let is_not_sent = error.as_ref().is_some_and(|error| error.contains("could not be sent"));
                    assert!(
                        status == "failed" && is_not_sent,
                        "attempt {number} of {key} is {status} ({error:?}) and was never made"
                    );
                }
            }
        }
        assert_eq!(seen, [], "calls without an attempt, or more than one of an attempt");
        unheard
    }

    /// Has PostgreSQL note whose row of `replicas` was removed when (`burials`), and which task was taken over from
    /// whom when (`takeovers`).
    pub(super) async fn note_takeovers(&self) {
        let notes = "
            create table burials (owner uuid primary key, expires_at timestamptz, at timestamptz);
            create table takeovers (task uuid, dead uuid, at timestamptz);
            create function note_burial() returns trigger language plpgsql as $$ begin
                insert into burials values (old.owner, old.expires_at, clock_timestamp()) on conflict do nothing;
                return null; end $$;
            create function note_takeover() returns trigger language plpgsql as $$ begin
                insert into takeovers values (new.id, old.owner, clock_timestamp()); return null; end $$;
            create trigger burials after delete on replicas for each row execute function note_burial();
            create trigger takeovers after update on tasks for each row
                when (old.owner is not null and new.owner is not null and new.owner <> old.owner)
                execute function note_takeover()";
        self.app.sql().await.batch_execute(notes).await.unwrap();
    }
}

/// Knows where the replicas are, and not whether they live.
#[derive(Clone)]
pub(super) struct Balancer {
    urls: Rc<RefCell<Vec<String>>>,
    next: Rc<Cell<usize>>,
}

impl Balancer {
    fn over(replicas: &[Service]) -> Self {
        let urls = replicas.iter().map(|replica| replica.url.clone()).collect();
        Self { urls: Rc::new(RefCell::new(urls)), next: Rc::default() }
    }

    fn moved(&self, number: usize, url: &str) {
        url.clone_into(&mut self.urls.borrow_mut()[number]);
    }

    /// The next replica in turn.
    pub(super) fn url(&self) -> String {
        self.other_than("")
    }

    /// The next replica in turn, after one that did not answer.
    pub(super) fn other_than(&self, silent: &str) -> String {
        let urls = self.urls.borrow();
        loop {
            self.next.set(self.next.get() + 1);
            let next = &urls[self.next.get() % urls.len()];
            if next != silent {
                return next.clone();
            }
        }
    }

    /// Starts a task, at one replica after the other until it is accepted. Answers its id, and what came before.
    pub(super) async fn start_task(&self, user: &Client, pipeline: &str, key: &str) -> (String, Vec<Reply>) {
        let body = json!({"pipelineId": pipeline, "input": {}});
        let mut refused = Vec::new();
        loop {
            let reply = user.at(&self.url()).post_with_key("/api/v1/tasks", key, body.clone()).await;
            if reply.status == 202 {
                return (reply.json["id"].as_str().unwrap().to_owned(), refused);
            }
            refused.push(reply);
            assert!(refused.len() < 200, "no replica takes the task: {:?}", refused.last());
            if refused.len() > 1 {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// A user's socket, at one replica after the other, and everything that it was told.
pub(super) struct Watcher {
    user: Client,
    balancer: Balancer,
    socket: Socket,
    /// Where the user's events stood at first.
    from: Position,
    /// How far they were told, without a hole.
    seq: i64,
    pub(super) finals: Vec<i64>,
    pub(super) finished: Vec<String>,
    /// Replicas that were lost.
    pub(super) cuts: usize,
}

impl Watcher {
    pub(super) async fn open(user: &Client, balancer: &Balancer) -> Self {
        let socket = Socket::open(&user.at(&balancer.url())).await;
        let from = socket.position.clone();
        let (user, balancer, seq) = (user.clone(), balancer.clone(), from.seq);
        Self { user, balancer, socket, from, seq, finals: Vec::new(), finished: Vec::new(), cuts: 0 }
    }

    /// Reads what comes within a moment; goes to another replica when this one is lost.
    pub(super) async fn read(&mut self) {
        match self.socket.next_within(Duration::from_millis(50)).await {
            Ok(Some(frame)) => self.note(&frame),
            Ok(None) => {
                self.cuts += 1;
                let position = self.socket.position.clone();
                self.socket = wait_until("a replica takes the socket", PATIENCE, async || {
                    Socket::try_resume(&self.user.at(&self.balancer.url()), &position).await.ok()
                })
                .await;
            }
            Err(_) => {}
        }
    }

    fn note(&mut self, frame: &Value) {
        assert_eq!((&frame["type"], &frame["epoch"]), (&json!("event"), &json!(self.from.epoch)), "{frame}");
        let (seq, before) = (frame["seq"].as_i64().unwrap(), self.seq);
        // progress that was merged stands for more than one
        let first = frame["fromSeq"].as_i64().unwrap_or(seq);
        assert_eq!(first, before + 1, "position {before} is followed by {frame}");
        self.seq = seq;
        self.finals.extend(frame["final"].as_i64());
        if frame["event"] == "task.finished" {
            self.finished.push(frame["taskId"].as_str().unwrap().to_owned());
        }
    }

    /// Asserts that it was told every final event there is, once and in order.
    pub(super) async fn expect_all_told(&mut self, app: &TestApp) {
        let last = app.count(&format!("select final_no from users where id = '{}'", self.user.id)).await;
        let until = Instant::now() + PATIENCE;
        while self.finals.last().is_none_or(|told| *told < last) {
            assert!(Instant::now() < until, "told up to {:?} of {last}", self.finals.last());
            self.read().await;
        }
        assert_eq!(self.finals, (self.from.last_final + 1..=last).collect::<Vec<_>>());
    }
}

/// PostgreSQL's clock beside ours.
pub(super) struct Clock {
    here: Instant,
    there: DateTime<Utc>,
}

impl Clock {
    pub(super) async fn read(sql: &tokio_postgres::Client) -> Self {
        let there = sql.query_one("select clock_timestamp()", &[]).await.unwrap().get(0);
        Self { here: Instant::now(), there }
    }

    /// When our clock showed what PostgreSQL's did.
    pub(super) fn here(&self, there: DateTime<Utc>) -> Instant {
        match (there - self.there).to_std() {
            Ok(later) => self.here + later,
            Err(_) => self.here - (self.there - there).to_std().unwrap(),
        }
    }
}

/// A pipeline of provider nodes that follow each other.
pub(super) fn chain(nodes: &[&str]) -> Value {
    let mut all = vec![json!({"id": "start", "type": "start"})];
    let mut edges = Vec::new();
    let mut before = "start";
    for node in nodes {
        all.push(json!({"id": node, "type": "provider", "provider": "draw", "input": {"node": node}}));
        edges.push(json!([before, node]));
        before = node;
    }
    all.push(json!({"id": "end", "type": "end", "output": {}}));
    edges.push(json!([before, "end"]));
    json!({"name": "Chain", "quotaCost": 1, "nodes": all, "edges": edges})
}

/// Two branches and a step behind them.
pub(super) fn fork() -> Value {
    let call = |id: &str| json!({"id": id, "type": "provider", "provider": "draw", "input": {"node": id}});
    json!({
        "name": "Fork", "quotaCost": 1,
        "nodes": [
            {"id": "start", "type": "start"}, {"id": "fan", "type": "fork"}, call("left"), call("right"),
            {"id": "gather", "type": "join", "strategy": "ALL"}, call("last"),
            {"id": "end", "type": "end", "output": {}}],
        "edges": [["start", "fan"], ["fan", "left"], ["fan", "right"], ["left", "gather"], ["right", "gather"],
                  ["gather", "last"], ["last", "end"]]
    })
}
