//! Our engine and ledger, asked through their handles, with as many tasks under way as keep them busy.

use crate::{
    provider,
    support::ground::{Figure, Ground, MANY, SEEDED, user},
};
use anyhow::{Context, Result};
use greenroom::{
    gateways::object_store::LocalObjectStore,
    sealing::{CredentialSealer, MasterKeys},
};
use greenroom_actors::{
    clock::SystemClock,
    database::Database,
    events::EventKind,
    ids::{PipelineId, TaskId, UserId},
    object_store::ObjectStore,
    pipeline::{
        EngineSettings, PipelineHandle, PipelineParts, PipelineSettings, StartTask, provider::ProviderKinds,
    },
    quota::{AuditEntry, QuotaHandle, QuotaSettings},
    records::{
        files::Files,
        pipelines::{AuditBy, Pipelines},
        providers::{AuthChange, Providers, SaveProvider},
    },
    redis_client::{RedisClient, RedisSettings},
    signals::{self, Signals},
    stream::StreamHandle,
    supervisor::{RestartPolicy, Supervisor},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{
    cell::Cell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// Tasks under way at once, over all replicas.
const TASKS: usize = 1_000;
/// Who start them, at each replica.
const CALLERS: u64 = 64;
const WARM_UP: Duration = Duration::from_secs(2);
/// Connections of a replica, at most.
const POOL: usize = 16;

fn kinds() -> ProviderKinds {
    ProviderKinds::new(vec![Arc::new(provider::Instant)])
}

fn providers(database: &Database, signals: &Signals) -> Result<Providers> {
    let key = MasterKeys::from_base64(&greenroom::dev::random_key().into(), &[])?;
    let sealer = Arc::new(CredentialSealer::new(&key)?);
    Ok(Providers::new(database.clone(), kinds(), sealer, signals.clone()))
}

/// Saves the provider and the pipeline that all tasks run.
pub(crate) async fn seed(ground: &Ground) -> Result<PipelineId> {
    let branches = ["a", "b", "c", "d", "e"];
    let mut nodes = vec![json!({"id": "start", "type": "start"}), json!({"id": "fan", "type": "fork"})];
    let mut edges = vec![json!(["start", "fan"])];
    for id in branches {
        nodes.push(json!({"id": id, "type": "provider", "provider": "draw", "input": {"node": id}}));
        edges.extend([json!(["fan", id]), json!([id, "gather"])]);
    }
    nodes.push(json!({"id": "gather", "type": "join", "strategy": "ALL"}));
    nodes.push(json!({"id": "end", "type": "end", "output": {"said": "{{ steps.a.said }}"}}));
    edges.push(json!(["gather", "end"]));
    let definition = json!({"name": "Fork", "quotaCost": 1, "nodes": nodes, "edges": edges});

    let database = ground.pool(SEEDED, 2)?;
    let admin = UserId::new();
    let save = SaveProvider {
        id: "draw".to_owned(),
        kind: "instant".to_owned(),
        config: json!({}),
        auth: AuthChange::Remove,
        enabled: true,
    };
    let entry = AuditEntry {
        actor: admin,
        action: "provider.save",
        target: "draw".to_owned(),
        detail: json!({}),
        request_id: None,
    };
    providers(&database, &Signals::new())?.save(&save, entry).await?;
    let by = AuditBy { actor: admin, request_id: None };
    let pipelines = Pipelines::new(database.clone());
    let created = pipelines.create(&definition, by.clone()).await?;
    pipelines.publish(created.pipeline, None, by).await?;
    database.close();
    Ok(created.pipeline)
}

struct Replica {
    pipeline: PipelineHandle,
    supervisor: Supervisor,
}

/// What became of tasks so far.
struct Progress {
    may_start: Semaphore,
    window: (Instant, Instant),
    within: Cell<u32>,
    all: Cell<u32>,
}

impl Progress {
    fn finished(&self, tasks: u32) {
        self.all.set(self.all.get() + tasks);
        if (self.window.0..self.window.1).contains(&Instant::now()) {
            self.within.set(self.within.get() + tasks);
        }
        self.may_start.add_permits(tasks as usize);
    }
}

impl Replica {
    async fn start(ground: &Ground, name: &str, redis: &str, progress: &Rc<Progress>) -> Result<Self> {
        let database = ground.pool(name, POOL)?;
        let supervisor = Supervisor::new(RestartPolicy::default());
        let (stream, mut published) = StreamHandle::new();
        // a hub that only counts
        let progress = Rc::clone(progress);
        actix::spawn(async move {
            loop {
                let events = published.next().await;
                let finished = events.iter().filter(|event| event.kind == EventKind::TaskFinished).count();
                progress.finished(u32::try_from(finished).unwrap_or(0));
            }
        });
        let arbiters = [actix::Arbiter::new().handle(), actix::Arbiter::new().handle()];
        let settings = RedisSettings {
            url: redis.to_owned().into(),
            key_prefix: format!("{name}:"),
            connect: Duration::from_secs(5),
            response: Duration::from_secs(5),
        };
        let signals = Signals::new();
        signals::start(&supervisor, &arbiters[1], &signals, RedisClient::new(&settings)?);
        let quota = QuotaHandle::start(&supervisor, &arbiters, &database, &stream, QuotaSettings::default());
        let dir = std::env::temp_dir();
        let url = "http://127.0.0.1:1".parse()?;
        // no call has files
        let store: Arc<dyn ObjectStore> =
            Arc::new(LocalObjectStore::open(dir, url, &[7; 32].into(), Arc::new(SystemClock))?);
        let parts = PipelineParts {
            database: database.clone(),
            quota,
            stream,
            providers: providers(&database, &signals)?,
            signals,
            pipelines: Pipelines::new(database.clone()),
            kinds: kinds(),
            files: Files::new(database, Arc::clone(&store)),
            store,
        };
        let engine = EngineSettings {
            label: "bench".to_owned(),
            max_concurrency: 5,
            lease: Duration::from_secs(15),
            queue_ttl: Duration::from_secs(600),
            running_per_user: 20,
            local_calls: 2,
            inline_bytes: 0,
            drain: Duration::from_secs(5),
        };
        let settings = PipelineSettings { engine, queued_total: 0 };
        let pipeline = PipelineHandle::start(&supervisor, &arbiters[1], parts, settings);
        while !supervisor.is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(Self { pipeline, supervisor })
    }
}

/// Starts tasks of anybody's as long as there is room for more.
async fn work(pipeline: PipelineHandle, id: PipelineId, seed: u64, progress: Rc<Progress>) -> Result<u32> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut started = 0;
    while Instant::now() < progress.window.1 {
        progress.may_start.acquire().await?.forget();
        let user = user(random.random_range(0..MANY));
        let input = json!({"photo": "0190d0c4-0000-7000-8000-000000000000"});
        let start =
            StartTask { task: TaskId::new(), user, pipeline: id, input, api_key: None, idempotency: None };
        pipeline.start_task(start).await?;
        started += 1;
    }
    Ok(started)
}

/// Tasks accepted, run and settled in a second by so many replicas.
pub(crate) async fn throughput(
    ground: &Ground,
    redis: &str,
    pipeline: PipelineId,
    replicas: usize,
    length: Duration,
) -> Result<Figure> {
    let name = format!("ours_{replicas}");
    ground.copy(&name).await?;
    let begin = Instant::now() + WARM_UP;
    let progress = Rc::new(Progress {
        may_start: Semaphore::new(TASKS),
        window: (begin, begin + length),
        within: Cell::new(0),
        all: Cell::new(0),
    });
    let mut cluster = Vec::new();
    for _ in 0..replicas {
        cluster.push(Replica::start(ground, &name, redis, &progress).await?);
    }
    let before = ground.cpu()?;
    let workers = cluster.iter().flat_map(|replica| {
        (0..CALLERS).map(|seed| work(replica.pipeline.clone(), pipeline, seed, Rc::clone(&progress)))
    });
    let started = futures_util::future::try_join_all(workers).await?.into_iter().sum::<u32>();
    let patience = Instant::now() + Duration::from_secs(60);
    while progress.all.get() < started {
        (Instant::now() < patience).then_some(()).context("tasks do not end")?;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let figure = Figure::new(progress.within.get(), length, started, before, ground.cpu()?);
    for replica in cluster {
        replica.supervisor.drain(Instant::now() + Duration::from_secs(30)).await;
    }
    ground.check(&name).await?;
    ground.drop_copy(&name).await?;
    Ok(figure)
}
