//! The ledger's actors on a real PostgreSQL: several replicas of them in one process.

mod api_keys;
mod faults;
mod identities;
mod settlement;
mod statements;

use crate::support::{eventually, servers};
use greenroom_actors::{
    audit::audit,
    database::Database,
    idempotency::Answer,
    ids::{OwnerId, PipelineId, TaskId, UserId},
    pipeline::{Lease, NewTask, TaskEnding, TaskStatus},
    quota::{
        Cancel, Confirm, Correct, Grant, GrantKind, Granted, QuotaError, QuotaHandle, QuotaSettings, Reserve,
        Reserved,
    },
    stream::{Published, StreamHandle},
    supervisor::{RestartPolicy, Supervisor},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Faults are armed for the whole process: a test that arms one runs while no other of these does.
static FAULTS: RwLock<()> = RwLock::const_new(());

enum Turn {
    #[expect(dead_code, reason = "held, not read")]
    Among(RwLockReadGuard<'static, ()>),
    #[expect(dead_code, reason = "held, not read")]
    Alone(RwLockWriteGuard<'static, ()>),
}

/// A database and one replica's ledger on it.
struct Ground {
    url: String,
    sql: tokio_postgres::Client,
    database: Database,
    replica: Replica,
    _turn: Turn,
}

/// The ledger's actors of one replica.
struct Replica {
    quota: QuotaHandle,
    supervisor: Supervisor,
    published: Published,
}

impl Replica {
    async fn start(database: &Database, settings: QuotaSettings) -> Self {
        let supervisor = Supervisor::new(RestartPolicy::default());
        let (stream, published) = StreamHandle::new();
        let arbiters = [actix::Arbiter::new().handle(), actix::Arbiter::new().handle()];
        let quota = QuotaHandle::start(&supervisor, &arbiters, database, &stream, settings);
        eventually("the ledger takes commands", async || supervisor.is_ready().then_some(())).await;
        Self { quota, supervisor, published }
    }

    async fn reserve(&self, task: &NewTask) -> Result<Reserved, QuotaError> {
        match self.quota.reserve(Reserve { task: task.clone(), idempotency: None }).await? {
            Answer::First(reserved) => Ok(reserved),
            Answer::Replayed(_) => panic!("there was no key"),
        }
    }

    async fn confirm(&self, task: &NewTask, charge: i64) -> Result<(i64, i64), QuotaError> {
        let ending = succeeded(None);
        let done = self.quota.confirm(Confirm { user: task.user, task: task.id, charge, ending }).await?;
        Ok((done.charged, done.released))
    }

    async fn cancel(&self, task: &NewTask) -> Result<i64, QuotaError> {
        let done = self
            .quota
            .cancel(Cancel { user: task.user, task: task.id, ending: cancelled(), audit: None })
            .await?;
        Ok(done.released)
    }

    async fn grant(&self, grant: Grant) -> Result<Granted, QuotaError> {
        match self.quota.grant(grant).await? {
            Answer::First(granted) => Ok(granted),
            Answer::Replayed(_) => panic!("there was no key"),
        }
    }
}

impl Ground {
    async fn start() -> Self {
        Self::with(QuotaSettings::default(), Turn::Among(FAULTS.read().await)).await
    }

    /// Waits until no other test of these runs, and lets none begin: for what arms faults.
    async fn alone() -> Self {
        Self::with(QuotaSettings::default(), Turn::Alone(FAULTS.write().await)).await
    }

    async fn with(settings: QuotaSettings, turn: Turn) -> Self {
        let server = &servers::shared().await.postgres;
        let url = servers::create_database(server, &format!("q{}", uuid::Uuid::new_v4().simple())).await;
        Self::on(url, settings, turn).await
    }

    async fn on(url: String, settings: QuotaSettings, turn: Turn) -> Self {
        let database = servers::pool(&url);
        let replica = Replica::start(&database, settings).await;
        Self { sql: servers::connect(&url).await, url, database, replica, _turn: turn }
    }

    /// Another replica on the same database.
    async fn second_replica(&self) -> Replica {
        Replica::start(&servers::pool(&self.url), QuotaSettings::default()).await
    }

    /// A new user with this much quota, in one grant.
    async fn user(&self, amount: i64) -> UserId {
        let user = self.poor_user().await;
        if amount > 0 {
            self.replica.grant(grant(user, amount, &user.to_string())).await.unwrap();
        }
        user
    }

    /// A new user without any quota.
    async fn poor_user(&self) -> UserId {
        let user = UserId::new();
        let insert = "insert into users (id, invite_code) values ($1, $2)";
        self.sql.execute(insert, &[&user, &user.to_string()]).await.unwrap();
        user
    }

    /// Lets `owner` run the task, as the pipeline's claim does.
    async fn claim(&self, task: TaskId) -> Lease {
        let lease = Lease { owner: OwnerId::new(), lease_no: 1 };
        let claim = "update tasks set status = 'running', owner = $2, lease_no = lease_no + 1,
            started_at = clock_timestamp() where id = $1";
        assert_eq!(self.sql.execute(claim, &[&task, &lease.owner]).await.unwrap(), 1);
        lease
    }

    /// Remaining and reserved.
    async fn counters(&self, user: UserId) -> (i64, i64) {
        let quota = self.replica.quota.quota(user).await.unwrap();
        (quota.remaining, quota.reserved)
    }

    /// The user's final events in their order: name and data.
    async fn events(&self, user: UserId) -> Vec<(String, Value)> {
        let select = "select event, data, final_no from final_events where user_id = $1 order by final_no";
        let rows = self.sql.query(select, &[&user]).await.unwrap();
        let numbers: Vec<i64> = rows.iter().map(|row| row.get(2)).collect();
        assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>());
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn expect_clean(&self) {
        let breaches = audit(&self.database).await.unwrap();
        assert!(breaches.is_empty(), "{breaches:#?}");
    }
}

fn grant(user: UserId, amount: i64, reference: &str) -> Grant {
    Grant {
        user,
        amount,
        kind: GrantKind::Gift,
        reference: reference.to_owned(),
        priority: 0,
        expires_at: None,
        reason: "a present".to_owned(),
        idempotency: None,
        audit: None,
    }
}

fn correction(user: UserId, amount: i64, reference: &str) -> Correct {
    Correct {
        user,
        amount,
        reference: reference.to_owned(),
        reason: "a mistake".to_owned(),
        idempotency: None,
        audit: None,
    }
}

fn task(user: UserId, cost: i64) -> NewTask {
    NewTask {
        id: TaskId::new(),
        user,
        pipeline: PipelineId::new(),
        pipeline_version: 1,
        priority: 0,
        queue: String::new(),
        has_fallback: false,
        quota_cost: cost,
        input: json!({ "photo": "a" }),
        api_key: None,
    }
}

fn succeeded(lease: Option<Lease>) -> TaskEnding {
    TaskEnding { status: TaskStatus::Succeeded, output: Some(json!({ "made": 1 })), error: None, lease }
}

fn cancelled() -> TaskEnding {
    TaskEnding { status: TaskStatus::Cancelled, output: None, error: None, lease: None }
}
