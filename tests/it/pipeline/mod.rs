//! The pipeline's engine on a real PostgreSQL: several replicas of it in one process, and providers that do what
//! the test says.

mod ceilings;
mod endings;
mod fake;
mod faults;
mod forks;
mod kills;
mod replicas;
mod runs;

use crate::support::{eventually, servers};
use fake::{Fake, Reply};
use greenroom::{
    gateways::object_store::LocalObjectStore,
    sealing::{CredentialSealer, MasterKeys},
};
use greenroom_actors::{
    audit::audit,
    clock::SystemClock,
    database::Database,
    idempotency::Answer,
    ids::{PipelineId, TaskId, UserId},
    object_store::ObjectStore,
    pipeline::{
        Attempt, CancelTask, EngineSettings, PipelineError, PipelineHandle, PipelineParts, PipelineSettings,
        StartTask, Step, StepStatus, Task, TaskStatus,
        provider::{Provider, ProviderKinds},
    },
    quota::{AuditEntry, Grant, GrantKind, QuotaHandle, QuotaSettings},
    records::{
        files::Files,
        pipelines::{AuditBy, Pipelines},
        providers::{AuthChange, Providers, SaveProvider},
    },
    redis_client::{RedisClient, RedisSettings},
    signals::{self, Signals},
    stream::{Published, StreamHandle},
    supervisor::{RestartPolicy, Supervisor},
};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Faults are armed for the whole process: a test that arms one runs while no other of these does.
static FAULTS: RwLock<()> = RwLock::const_new(());

enum Turn {
    #[expect(dead_code, reason = "held, not read")]
    Among(RwLockReadGuard<'static, ()>),
    #[expect(dead_code, reason = "held, not read")]
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A database, a fake kind of provider, and one replica on them.
struct Ground {
    url: String,
    sql: tokio_postgres::Client,
    database: Database,
    redis: RedisSettings,
    fake: Arc<Fake>,
    dir: PathBuf,
    replica: Replica,
    _turn: Turn,
}

/// The engine and the ledger of one replica.
struct Replica {
    pipeline: PipelineHandle,
    quota: QuotaHandle,
    pipelines: Pipelines,
    providers: Providers,
    supervisor: Supervisor,
    published: Published,
    engine: actix::Arbiter,
}

/// What tests may set otherwise.
#[derive(Clone)]
struct Wishes {
    max_concurrency: usize,
    lease: Duration,
    queue_ttl: Duration,
    running_per_user: u32,
    queued_per_user: u32,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            max_concurrency: 5,
            lease: Duration::from_secs(15),
            queue_ttl: Duration::from_secs(600),
            running_per_user: 0,
            queued_per_user: 0,
        }
    }
}

impl Replica {
    fn start(
        database: &Database,
        redis: &RedisSettings,
        fake: &Arc<Fake>,
        dir: &std::path::Path,
        wishes: &Wishes,
    ) -> Self {
        let supervisor = Supervisor::new(RestartPolicy::default());
        let (stream, published) = StreamHandle::new();
        let engine = actix::Arbiter::new();
        let signals = Signals::new();
        signals::start(&supervisor, &engine.handle(), &signals, RedisClient::new(redis).unwrap());
        let arbiters = [actix::Arbiter::new().handle(), actix::Arbiter::new().handle()];
        let quota_settings =
            QuotaSettings { queued_per_user: wishes.queued_per_user, ..QuotaSettings::default() };
        let quota = QuotaHandle::start(&supervisor, &arbiters, database, &stream, quota_settings);
        let kinds = ProviderKinds::new(vec![Arc::clone(fake) as Arc<dyn Provider>]);
        let key = MasterKeys::from_base64(&greenroom::dev::random_key().into(), &[]).unwrap();
        let sealer = Arc::new(CredentialSealer::new(&key).unwrap());
        let providers = Providers::new(database.clone(), kinds.clone(), sealer, signals.clone());
        let url = "http://127.0.0.1:1".parse().unwrap();
        let clock = Arc::new(SystemClock);
        let store: Arc<dyn ObjectStore> =
            Arc::new(LocalObjectStore::open(dir.to_owned(), url, &[7; 32].into(), clock).unwrap());
        let pipelines = Pipelines::new(database.clone());
        let parts = PipelineParts {
            database: database.clone(),
            quota: quota.clone(),
            stream,
            signals,
            pipelines: pipelines.clone(),
            providers: providers.clone(),
            kinds,
            files: Files::new(database.clone(), Arc::clone(&store)),
            store,
        };
        let settings = PipelineSettings {
            engine: EngineSettings {
                label: "test".to_owned(),
                max_concurrency: wishes.max_concurrency,
                lease: wishes.lease,
                queue_ttl: wishes.queue_ttl,
                running_per_user: wishes.running_per_user,
                local_calls: 4,
                inline_bytes: 1 << 20,
                drain: Duration::from_secs(5),
            },
            queued_total: 0,
        };
        let pipeline = PipelineHandle::start(&supervisor, &engine.handle(), parts, settings);
        Self { pipeline, quota, pipelines, providers, supervisor, published, engine }
    }

    async fn try_start(
        &self,
        user: UserId,
        pipeline: PipelineId,
        input: Value,
    ) -> Result<Task, PipelineError> {
        match self
            .pipeline
            .start_task(StartTask {
                task: TaskId::new(),
                user,
                pipeline,
                input,
                api_key: None,
                idempotency: None,
            })
            .await?
        {
            Answer::First(task) => Ok(task),
            Answer::Replayed(_) => panic!("there was no key"),
        }
    }

    async fn start_task(&self, user: UserId, pipeline: PipelineId) -> TaskId {
        self.try_start(user, pipeline, json!({})).await.unwrap().id
    }

    async fn cancel(&self, task: TaskId) -> Result<Task, PipelineError> {
        self.pipeline.cancel_task(CancelTask { task, user: None, audit: None }).await
    }

    /// Ends the engine, its runs and its calls where they stand, as the death of their process would.
    fn kill(&self) {
        self.engine.stop();
    }

    async fn stop(&self) {
        self.supervisor.drain(Instant::now() + Duration::from_secs(20)).await;
    }
}

impl Ground {
    async fn start() -> Self {
        Self::with(Wishes::default()).await
    }

    async fn with(wishes: Wishes) -> Self {
        Self::on(wishes, Turn::Among(FAULTS.read().await)).await
    }

    /// Waits until no other test of these runs, and lets none begin: for what arms faults.
    async fn alone(wishes: Wishes) -> Self {
        Self::on(wishes, Turn::Alone(FAULTS.write().await)).await
    }

    async fn on(wishes: Wishes, turn: Turn) -> Self {
        // what the engine has to say is printed with a test that fails
        let logs = tracing_subscriber::fmt().with_max_level(tracing::Level::INFO).with_test_writer();
        drop(logs.try_init());
        let server = &servers::shared().await.postgres;
        let name = format!("p{}", uuid::Uuid::new_v4().simple());
        let url = servers::create_database(server, &name).await;
        let database = servers::pool(&url);
        let fake = Arc::new(Fake::default());
        let dir = servers::directory(&name).join("files");
        let redis = RedisSettings {
            url: servers::shared().await.redis.with(|redis| redis.url()).await.into(),
            key_prefix: format!("{name}:"),
            connect: Duration::from_secs(5),
            response: Duration::from_secs(5),
        };
        let replica = Replica::start(&database, &redis, &fake, &dir, &wishes);
        Self { sql: servers::connect(&url).await, url, database, redis, fake, dir, replica, _turn: turn }
    }

    /// Another replica on the same database, with the same providers.
    fn second_replica(&self, wishes: &Wishes) -> Replica {
        Replica::start(&servers::pool(&self.url), &self.redis, &self.fake, &self.dir, wishes)
    }

    /// Saves a provider of the fake kind; see [`Fake`] for what its configuration may say.
    async fn provider(&self, id: &str, config: Value) {
        let save = SaveProvider {
            id: id.to_owned(),
            kind: "fake".to_owned(),
            config,
            auth: AuthChange::Remove,
            enabled: true,
        };
        self.replica.providers.save(&save, audit_entry()).await.unwrap();
    }

    /// Saves and publishes a pipeline.
    async fn pipeline(&self, definition: Value) -> PipelineId {
        let by = AuditBy { actor: UserId::new(), request_id: None };
        let created = self.replica.pipelines.create(&definition, by.clone()).await.unwrap();
        self.replica.pipelines.publish(created.pipeline, None, by).await.unwrap();
        created.pipeline
    }

    /// A new user with this much quota.
    async fn user(&self, amount: i64) -> UserId {
        let user = UserId::new();
        let insert = "insert into users (id, invite_code) values ($1, $2)";
        self.sql.execute(insert, &[&user, &user.to_string()]).await.unwrap();
        let grant = Grant {
            user,
            amount,
            kind: GrantKind::Gift,
            reference: user.to_string(),
            priority: 0,
            expires_at: None,
            reason: "a present".to_owned(),
            idempotency: None,
            audit: None,
        };
        self.replica.quota.grant(grant).await.unwrap();
        user
    }

    /// Remaining and reserved.
    async fn counters(&self, user: UserId) -> (i64, i64) {
        let counters = "select quota_remaining, quota_reserved from users where id = $1";
        let row = self.sql.query_one(counters, &[&user]).await.unwrap();
        (row.get(0), row.get(1))
    }

    async fn task(&self, task: TaskId) -> Task {
        // connections that the engine of a replica which was killed has opened end with it
        eventually("the task is read", async || self.replica.pipeline.task(None, task).await.ok()).await
    }

    /// The task once it is final.
    async fn ended(&self, task: TaskId) -> Task {
        eventually("the task is final", async || {
            Some(self.task(task).await).filter(|task| task.status.is_final())
        })
        .await
    }

    async fn steps(&self, task: TaskId) -> Vec<Step> {
        self.replica.pipeline.steps(&self.task(task).await).await.unwrap()
    }

    async fn step(&self, task: TaskId, node: &str) -> Step {
        self.steps(task).await.into_iter().find(|step| step.node == node).unwrap()
    }

    async fn attempts(&self, task: TaskId) -> Vec<Attempt> {
        self.replica.pipeline.attempts(task).await.unwrap()
    }

    async fn count(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }

    /// What must be true at the end of every test: nothing runs, nothing is held, every call that was made is
    /// an attempt that has ended, and the audit has nothing to say.
    async fn expect_clean(&self) {
        eventually("all calls have ended", async || {
            let running = "select count(*) from step_attempts where status = 'running'";
            (self.count(running).await == 0).then_some(())
        })
        .await;
        let open = "select count(*) from tasks where status in ('queued', 'running')";
        assert_eq!(self.count(open).await, 0, "tasks are left");
        let held = "select count(*) from provider_slots where attempt is not null";
        assert_eq!(self.count(held).await, 0, "slots are held");
        let breaches = audit(&self.database).await.unwrap();
        assert!(breaches.is_empty(), "{breaches:#?}");
    }
}

fn audit_entry() -> AuditEntry {
    AuditEntry {
        actor: UserId::new(),
        action: "provider.save",
        target: "provider".to_owned(),
        detail: json!({}),
        request_id: None,
    }
}

/// A pipeline whose provider nodes follow each other: `(node, provider)`.
fn chain(nodes: &[(&str, &str)]) -> Value {
    let mut all = vec![json!({"id": "start", "type": "start"})];
    let mut edges = Vec::new();
    let mut before = "start";
    for (node, provider) in nodes {
        all.push(json!({"id": node, "type": "provider", "provider": provider, "input": {"node": node}}));
        edges.push(json!([before, node]));
        before = node;
    }
    let output = format!("{{{{ steps.{before}.said }}}}");
    all.push(json!({"id": "end", "type": "end", "output": {"said": output}}));
    edges.push(json!([before, "end"]));
    json!({"name": "Chain", "quotaCost": 3, "nodes": all, "edges": edges})
}

/// A pipeline of one fork: a branch of one node, named `b0` and on, for each provider.
fn fork(providers: &[&str], strategy: &str) -> Value {
    let mut nodes = vec![json!({"id": "start", "type": "start"}), json!({"id": "fan", "type": "fork"})];
    let mut edges = vec![json!(["start", "fan"])];
    for (number, provider) in providers.iter().enumerate() {
        let id = format!("b{number}");
        nodes.push(json!({"id": id, "type": "provider", "provider": provider, "input": {"node": id}}));
        edges.push(json!(["fan", id]));
        edges.push(json!([id, "gather"]));
    }
    nodes.push(json!({"id": "gather", "type": "join", "strategy": strategy}));
    nodes.push(json!({"id": "end", "type": "end", "output": {"joined": "{{ steps.gather }}"}}));
    edges.push(json!(["gather", "end"]));
    json!({"name": "Fork", "quotaCost": 3, "nodes": nodes, "edges": edges})
}
