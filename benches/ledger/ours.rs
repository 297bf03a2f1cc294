//! Our ledger, asked through its handle by callers that each wait for their answers.

use crate::{
    Users,
    support::ground::{Figure, Ground, user},
};
use anyhow::{Context, Result};
use futures_util::future::join_all;
use greenroom_actors::{
    ids::{PipelineId, TaskId},
    pipeline::{NewTask, TaskEnding, TaskStatus},
    quota::{Confirm, QuotaError, QuotaHandle, QuotaSettings, Reserve},
    stream::StreamHandle,
    supervisor::{RestartPolicy, Supervisor},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    time::{Duration, Instant},
};

/// Callers at once: two full batches.
const CALLERS: u64 = 1_024;
const WARM_UP: Duration = Duration::from_secs(2);

struct Ledger {
    quota: QuotaHandle,
    supervisor: Supervisor,
}

async fn start(ground: &Ground, name: &str) -> Result<Ledger> {
    let database = ground.pool(name, 4)?;
    let supervisor = Supervisor::new(RestartPolicy::default());
    let (stream, mut published) = StreamHandle::new();
    // a hub that only listens
    actix::spawn(async move {
        loop {
            published.next().await;
        }
    });
    let arbiters = [actix::Arbiter::new().handle(), actix::Arbiter::new().handle()];
    let quota = QuotaHandle::start(&supervisor, &arbiters, &database, &stream, QuotaSettings::default());
    while !supervisor.is_ready() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(Ledger { quota, supervisor })
}

fn task(number: usize) -> NewTask {
    NewTask {
        id: TaskId::new(),
        user: user(number),
        pipeline: PipelineId(uuid::Uuid::nil()),
        pipeline_version: 1,
        priority: 0,
        queue: String::new(),
        has_fallback: false,
        quota_cost: 1,
        api_key: None,
        input: json!({ "photo": "0190d0c4-0000-7000-8000-000000000000" }),
    }
}

async fn settle(quota: &QuotaHandle, task: &NewTask) -> Result<(), QuotaError> {
    let output = Some(json!({ "lookbook": "0190d0c4-0000-7000-8000-000000000001" }));
    let ending = TaskEnding { status: TaskStatus::Succeeded, output, error: None, lease: None };
    quota.confirm(Confirm { user: task.user, task: task.id, charge: 1, ending }).await.map(drop)
}

/// Tasks accepted and settled in a second.
pub(crate) async fn throughput(ground: &Ground, users: Users, length: Duration) -> Result<Figure> {
    let name = "ours";
    ground.copy(name).await?;
    let ledger = start(ground, name).await?;
    let begin = Instant::now() + WARM_UP;
    let end = begin + length;
    let before = ground.cpu()?;
    let (settled, all) = (Rc::new(Cell::new(0_u32)), Rc::new(Cell::new(0_u32)));
    let caller = |seed: u64| {
        let (quota, settled, all) = (ledger.quota.clone(), Rc::clone(&settled), Rc::clone(&all));
        async move {
            let mut random = StdRng::seed_from_u64(seed);
            while Instant::now() < end {
                let task = task(random.random_range(0..users.count()));
                quota.reserve(Reserve { task: task.clone(), idempotency: None }).await?;
                settle(&quota, &task).await?;
                all.set(all.get() + 1);
                if (begin..end).contains(&Instant::now()) {
                    settled.set(settled.get() + 1);
                }
            }
            Ok::<_, QuotaError>(())
        }
    };
    join_all((0..CALLERS).map(caller)).await.into_iter().collect::<Result<(), _>>()?;
    let figure = Figure::new(settled.get(), length, all.get(), before, ground.cpu()?);
    finish(ground, ledger, name).await?;
    Ok(figure)
}

pub(crate) struct Latency {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
}

/// How long a reservation takes when tasks arrive at this rate, whether or not earlier ones are answered.
pub(crate) async fn latency(ground: &Ground, rate: f64, length: Duration) -> Result<Latency> {
    let name = "latency";
    ground.copy(name).await?;
    let ledger = start(ground, name).await?;
    let began = Instant::now();
    let taken = Rc::new(RefCell::new(Vec::new()));
    let mut running = Vec::new();
    let mut random = StdRng::seed_from_u64(1);
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let mut sent = 0.0;
    while began.elapsed() < WARM_UP + length {
        tick.tick().await;
        let due = began.elapsed().as_secs_f64() * rate;
        while sent < due {
            sent += 1.0;
            let task = task(random.random_range(0..Users::Many.count()));
            let (quota, taken) = (ledger.quota.clone(), Rc::clone(&taken));
            running.push(actix::spawn(async move {
                let asked = Instant::now();
                quota.reserve(Reserve { task: task.clone(), idempotency: None }).await?;
                if began.elapsed() > WARM_UP {
                    taken.borrow_mut().push(asked.elapsed());
                }
                settle(&quota, &task).await
            }));
        }
    }
    for task in join_all(running).await {
        task??;
    }
    finish(ground, ledger, name).await?;
    let mut taken = taken.borrow_mut();
    taken.sort_unstable();
    let at = |percent: usize| -> Result<f64> {
        let index = (taken.len() * percent / 100).min(taken.len().saturating_sub(1));
        Ok(taken.get(index).context("nothing was measured")?.as_secs_f64() * 1_000.0)
    };
    Ok(Latency { p50_ms: at(50)?, p99_ms: at(99)? })
}

async fn finish(ground: &Ground, ledger: Ledger, name: &str) -> Result<()> {
    ledger.supervisor.drain(Instant::now() + Duration::from_secs(30)).await;
    ground.check(name).await?;
    ground.drop_copy(name).await
}
