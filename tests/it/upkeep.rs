//! The timetable on a real PostgreSQL: what is due is done, by one replica, and what is not is let alone.

use crate::support::{TestApp, eventually, servers};
use greenroom::{
    gateways::object_store::LocalObjectStore,
    sealing::{CredentialSealer, MasterKeys},
};
use greenroom_actors::{
    audit::audit,
    clock::SystemClock,
    database::Database,
    ids::UserId,
    object_store::ObjectStore,
    pipeline::{EngineSettings, PipelineHandle, PipelineParts, PipelineSettings, provider::ProviderKinds},
    quota::{AuditEntry, Grant, GrantKind, QuotaHandle, QuotaSettings},
    records::{files::Files, pipelines::Pipelines, providers::Providers},
    signals::Signals,
    stream::StreamHandle,
    supervisor::{RestartPolicy, Supervisor},
    upkeep::{JobRecord, RunNow, UpkeepError, UpkeepHandle, UpkeepParts},
};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

struct Ground {
    sql: tokio_postgres::Client,
    database: Database,
    quota: QuotaHandle,
    store: Arc<dyn ObjectStore>,
    dir: PathBuf,
    upkeep: UpkeepHandle,
}

/// Tasks, of which none is started here.
fn pipeline(
    supervisor: &Supervisor,
    arbiter: &actix::ArbiterHandle,
    database: &Database,
    quota: &QuotaHandle,
    stream: StreamHandle,
    files: &Files,
) -> PipelineHandle {
    let kinds = ProviderKinds::new(Vec::new());
    let key = MasterKeys::from_base64(&greenroom::dev::random_key().into(), &[]).unwrap();
    let sealer = Arc::new(CredentialSealer::new(&key).unwrap());
    let signals = Signals::new();
    let parts = PipelineParts {
        database: database.clone(),
        quota: quota.clone(),
        stream,
        signals: signals.clone(),
        pipelines: Pipelines::new(database.clone()),
        providers: Providers::new(database.clone(), kinds.clone(), sealer, signals),
        kinds,
        files: files.clone(),
        store: Arc::clone(files.store()),
    };
    let engine = EngineSettings {
        label: "test".to_owned(),
        max_concurrency: 1,
        lease: Duration::from_secs(15),
        queue_ttl: Duration::from_secs(60),
        running_per_user: 0,
        local_calls: 1,
        inline_bytes: 1 << 20,
        drain: Duration::from_secs(5),
    };
    PipelineHandle::start(supervisor, arbiter, parts, PipelineSettings { engine, queued_total: 0 })
}

impl Ground {
    async fn start() -> Self {
        let server = &servers::shared().await.postgres;
        let name = format!("u{}", uuid::Uuid::new_v4().simple());
        let url = servers::create_database(server, &name).await;
        let database = servers::pool(&url);
        let supervisor = Supervisor::new(RestartPolicy::default());
        let (stream, _) = StreamHandle::new();
        let arbiter = actix::Arbiter::new().handle();
        let quota = QuotaHandle::start(
            &supervisor,
            std::slice::from_ref(&arbiter),
            &database,
            &stream,
            QuotaSettings::default(),
        );
        let dir = servers::directory(&name).join("files");
        let public_url = "http://127.0.0.1:1".parse().unwrap();
        let store: Arc<dyn ObjectStore> = Arc::new(
            LocalObjectStore::open(dir.clone(), public_url, &[7; 32].into(), Arc::new(SystemClock)).unwrap(),
        );
        let files = Files::new(database.clone(), Arc::clone(&store));
        let pipeline = pipeline(&supervisor, &arbiter, &database, &quota, stream, &files);
        let parts = UpkeepParts {
            database: database.clone(),
            quota: quota.clone(),
            files,
            pipeline,
            access_lifetime: Duration::from_secs(930),
        };
        let upkeep = UpkeepHandle::start(&supervisor, &arbiter, parts);
        let sql = servers::connect(&url).await;
        Self { sql, database, quota, store, dir, upkeep }
    }

    async fn run(&self, job: &str) -> Result<JobRecord, UpkeepError> {
        let audit = AuditEntry {
            actor: UserId::new(),
            action: "job.run",
            target: format!("job:{job}"),
            detail: json!({}),
            request_id: None,
        };
        self.upkeep.run_now(RunNow { job: job.to_owned(), audit }).await
    }

    async fn outcome(&self, job: &str) -> String {
        let record = self.run(job).await.unwrap();
        assert!(!record.is_running && record.last_finished_at.is_some(), "{record:?}");
        record.last_outcome.unwrap()
    }

    async fn user(&self) -> UserId {
        let user = UserId::new();
        let insert = "insert into users (id, invite_code) values ($1, $2)";
        self.sql.execute(insert, &[&user, &user.to_string()]).await.unwrap();
        user
    }

    async fn count(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }
}

#[actix_web::test]
async fn grants_that_have_expired_are_written_off() {
    let ground = Ground::start().await;
    let user = ground.user().await;
    let grant = Grant {
        user,
        amount: 5,
        kind: GrantKind::Gift,
        reference: "gift".to_owned(),
        priority: 0,
        expires_at: None,
        reason: String::new(),
        idempotency: None,
        audit: None,
    };
    ground.quota.grant(grant).await.unwrap();
    ground.sql.batch_execute("update quota_grants set expires_at = clock_timestamp()").await.unwrap();
    assert_eq!(ground.outcome("expire-grants").await, "1 users' grants written off");
    assert_eq!(ground.count("select quota_remaining from users").await, 0);
    assert_eq!(ground.count("select count(*) from quota_adjustments where kind = 'expiry'").await, 1);
    assert_eq!(ground.outcome("expire-grants").await, "0 users' grants written off");
    assert_eq!(ground.count("select count(*) from audit_log where action = 'job.run'").await, 2);
    assert!(audit(&ground.database).await.unwrap().is_empty());
}

#[actix_web::test]
async fn old_keys_and_events_are_deleted_and_young_ones_stay() {
    let ground = Ground::start().await;
    let user = ground.user().await;
    let rows = "insert into idempotency_keys (user_id, key, request_hash, status, body, created_at)
            select id, n::text, '', 201, '{}', clock_timestamp() - n * interval '1 hour' from users, generate_series(1, 40) n;
        insert into final_events (user_id, final_no, event, data, at)
            select id, n, 'quota.changed', '{}', clock_timestamp() - (11 - n) * interval '1 day' from users, generate_series(1, 10) n;
        update users set final_no = 10";
    ground.sql.batch_execute(rows).await.unwrap();
    assert_eq!(ground.outcome("delete-idempotency-keys").await, "17 keys deleted");
    assert_eq!(ground.count("select count(*) from idempotency_keys").await, 23);
    assert_eq!(ground.outcome("delete-final-events").await, "4 events deleted");
    assert_eq!(ground.count("select min(final_no) from final_events").await, 5);
    assert_eq!(ground.outcome("delete-final-events").await, "0 events deleted");
    let _ = user;
    assert!(audit(&ground.database).await.unwrap().is_empty());
}

#[actix_web::test]
async fn what_is_kept_of_identity_is_kept_for_its_time_and_no_longer() {
    let ground = Ground::start().await;
    ground.user().await;
    let rows = "insert into security_log (id, user_id, event, at)
            select gen_random_uuid(), id, 'signed_in', clock_timestamp() - n * interval '1 day'
            from users, generate_series(170, 189) n;
        insert into closed_sessions (session_id, user_id, keep_until)
            select gen_random_uuid(), id, clock_timestamp() + n * interval '1 hour' from users, generate_series(-4, 5) n
            where n <> 0;
        insert into api_keys (id, user_id, name, key_hash, scopes, revoked_at, expires_at)
            select gen_random_uuid(), id, kind, sha256(kind::bytea), array['read'],
                clock_timestamp() - revoked * interval '1 day', clock_timestamp() - ended * interval '1 day'
            from users, (values ('good', null, null), ('good until', null, -200), ('revoked', 100, -200),
                ('revoked long ago', 200, -200), ('ended long ago', null, 200), ('spent long ago', 200, null))
                as keys (kind, revoked, ended);
        insert into api_key_usage (key_id, day, user_id, amount)
            select id, '2026-01-01', user_id, 0 from api_keys where name = 'spent long ago'";
    ground.sql.batch_execute(rows).await.unwrap();
    assert_eq!(ground.outcome("delete-security-log").await, "10 entries deleted");
    assert_eq!(ground.outcome("delete-closed-sessions").await, "4 closed sessions deleted");
    assert_eq!(ground.outcome("delete-api-keys").await, "2 keys deleted");
    let left =
        "select count(*) from api_keys where name in ('good', 'good until', 'revoked', 'spent long ago')";
    assert_eq!(ground.count(left).await, 4);
    for (job, said) in [
        ("delete-security-log", "0 entries deleted"),
        ("delete-closed-sessions", "0 closed sessions deleted"),
        ("delete-api-keys", "0 keys deleted"),
    ] {
        assert_eq!(ground.outcome(job).await, said);
    }
}

/// Makes every object look as if it had been written two days ago.
fn age_objects(directory: &Path) {
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.metadata().unwrap().is_dir() {
            age_objects(&entry.path());
        } else {
            let file = std::fs::File::options().write(true).open(entry.path()).unwrap();
            #[expect(clippy::disallowed_methods, reason = "the file system's clock is the machine's")]
            file.set_modified(SystemTime::now() - Duration::from_secs(2 * 86_400)).unwrap();
        }
    }
}

#[actix_web::test]
async fn objects_that_no_row_names_are_removed_once_they_are_old() {
    let ground = Ground::start().await;
    ground.user().await;
    let put = async |key: &str| ground.store.put(key, "text/plain", "bytes".into()).await.unwrap();
    put("orphan/old").await;
    put("owned/old").await;
    let row = "insert into files (id, user_id, kind, name, content_type, size, object_key, completed_at)
        select gen_random_uuid(), id, 'upload', '', 'text/plain', 5, 'owned/old', clock_timestamp() from users";
    ground.sql.batch_execute(row).await.unwrap();
    age_objects(&ground.dir.join("objects"));
    put("orphan/new").await;
    assert_eq!(ground.outcome("remove-orphan-objects").await, "1 objects removed");
    let there = async |key: &str| ground.store.size(key).await.unwrap().is_some();
    assert!(!there("orphan/old").await);
    assert!(there("owned/old").await && there("orphan/new").await);
}

#[actix_web::test]
async fn uploads_that_never_came_are_removed() {
    let ground = Ground::start().await;
    ground.user().await;
    let rows = "insert into files (id, user_id, kind, name, content_type, size, object_key, created_at)
        select gen_random_uuid(), id, 'upload', '', 'text/plain', 5, n::text, clock_timestamp() - n * interval '1 day'
        from users, generate_series(0, 3) n";
    ground.sql.batch_execute(rows).await.unwrap();
    ground.outcome("remove-abandoned-uploads").await;
    assert!(
        ground
            .count("select count(*) from files where created_at < clock_timestamp() - interval '2 days'")
            .await
            == 0
    );
    assert!(ground.count("select count(*) from files").await >= 1);
}

#[actix_web::test]
async fn a_job_is_run_when_it_is_due_and_dated_anew() {
    let ground = Ground::start().await;
    eventually("the timetable is there", async || {
        (ground.upkeep.jobs().await.unwrap().len() == 11).then_some(())
    })
    .await;
    let future = "select count(*) from jobs where next_run_at > clock_timestamp()";
    assert_eq!(ground.count(future).await, 11, "nothing is due at the first start");
    let due = "update jobs set next_run_at = clock_timestamp() - interval '1 hour' where name = 'delete-final-events'";
    ground.sql.batch_execute(due).await.unwrap();
    eventually("the job has run", async || {
        let jobs = ground.upkeep.jobs().await.unwrap();
        jobs.into_iter().find(|job| job.name == "delete-final-events" && job.last_finished_at.is_some())
    })
    .await;
    assert_eq!(ground.count(future).await, 11);
}

#[actix_web::test]
async fn a_job_that_another_replica_runs_is_let_alone_until_its_claim_ends() {
    let ground = Ground::start().await;
    ground.outcome("expire-grants").await;
    let bend = "update jobs set running_by = gen_random_uuid(), running_until = clock_timestamp() + interval '1 hour'";
    ground.sql.batch_execute(bend).await.unwrap();
    assert!(matches!(ground.run("expire-grants").await, Err(UpkeepError::JobRunning)));
    let dead = "update jobs set running_until = clock_timestamp() - interval '1 second'";
    ground.sql.batch_execute(dead).await.unwrap();
    ground.outcome("expire-grants").await;
    assert!(matches!(ground.run("make-coffee").await, Err(UpkeepError::JobNotFound)));
}

#[actix_web::test]
async fn the_pool_of_invite_codes_is_filled_when_it_is_low_and_holds_none_that_somebody_has() {
    let ground = Ground::start().await;
    assert_eq!(ground.outcome("fill-invite-codes").await, "4000 codes added");
    assert_eq!(ground.outcome("fill-invite-codes").await, "0 codes added");
    let take = "with taken as (delete from invite_codes where code in (select code from invite_codes limit 3000) returning code)
        insert into users (id, phone, invite_code)
        select gen_random_uuid(), '13' || lpad(row_number() over ()::text, 9, '0'), code from taken";
    ground.sql.batch_execute(take).await.unwrap();
    ground.outcome("fill-invite-codes").await;
    assert!(ground.count("select count(*) from invite_codes").await >= 4000);
    let taken = "select count(*) from invite_codes join users on invite_code = code";
    assert_eq!(ground.count(taken).await, 0);
}

#[actix_web::test]
async fn admins_see_the_timetable_and_run_a_job() {
    let app = TestApp::start().await;
    let (admin, user) = (app.admin().await, app.register_user().await);
    assert_eq!(user.get("/api/v1/admin/jobs").await.status, 403);
    let jobs = eventually("the timetable is there", async || {
        let jobs = admin.get("/api/v1/admin/jobs").await.expect(200);
        jobs["items"].as_array().filter(|items| items.len() == 11).cloned()
    })
    .await;
    let job = jobs.iter().find(|job| job["name"] == "delete-final-events").unwrap();
    assert_eq!(job["lastOutcome"], json!(null));
    let run = admin.post("/api/v1/admin/jobs/delete-final-events/run", json!({})).await.expect(200);
    assert_eq!((&run["lastOutcome"], &run["running"]), (&json!("0 events deleted"), &json!(false)));
    let unknown = admin.post("/api/v1/admin/jobs/make-coffee/run", json!({})).await;
    assert_eq!((unknown.status, unknown.code()), (404, "NOT_FOUND"));
    let log = admin.get("/api/v1/admin/audit-log").await.expect(200);
    assert_eq!(log["items"][0]["target"], "job:delete-final-events");
}
