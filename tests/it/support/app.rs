//! A database, a corner of Redis, and the service on them.

use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};

use chrono::TimeDelta;
use greenroom::dev::random_text;
use greenroom::dev::servers::{PrivatePostgres, PrivateRedis};
use greenroom_actors::clock::{Clock, SystemClock};
use greenroom_actors::session::{AccessTokens, TokenSettings};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::keeper::Kept;
use super::service::{Environment, Service, run};
use super::{Client, servers};

/// What the tests of one [`TestApp`] may change before it starts.
#[derive(Default)]
pub struct Builder {
    environment: Environment,
    own_postgres: bool,
    own_redis: bool,
    may_leave_work: bool,
}

impl Builder {
    /// Sets a variable of the service, such as `GREENROOM__PIPELINE__LEASE_MS`.
    pub fn env(mut self, name: &str, value: impl ToString) -> Self {
        self.environment.insert(name.to_owned(), value.to_string());
        self
    }

    /// A PostgreSQL for this test alone, which it may stop and kill.
    pub fn own_postgres(mut self) -> Self {
        self.own_postgres = true;
        self
    }

    /// A Redis for this test alone, which it may stop, flush and kill.
    pub fn own_redis(mut self) -> Self {
        self.own_redis = true;
        self
    }

    /// This test ends amid work on purpose: unfinished tasks and their holds are no fault. The audit still runs.
    pub fn may_leave_work(mut self) -> Self {
        self.may_leave_work = true;
        self
    }

    /// Starts the service and waits until it is ready.
    pub async fn start(self) -> TestApp {
        let mut app = self.prepare().await;
        app.service.start_again().await;
        app
    }

    /// Everything but the running service.
    pub async fn prepare(self) -> TestApp {
        let name = format!("t{}", uuid::Uuid::new_v4().simple());
        let dir = servers::directory(&name);
        std::fs::create_dir_all(&dir).unwrap();
        let postgres = if self.own_postgres {
            servers::start_postgres(dir.join("postgres")).await
        } else {
            servers::shared().await.postgres.clone()
        };
        let redis = if self.own_redis {
            servers::start_redis(dir.join("redis")).await
        } else {
            servers::shared().await.redis.clone()
        };
        let database_url = servers::create_database(&postgres, &name).await;
        let redis_url = redis.with(|redis| redis.url()).await;
        let own = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut environment = Environment::from([
            own("GREENROOM__SERVER__LISTEN", "127.0.0.1:0"),
            own("GREENROOM__SERVER__METRICS_LISTEN", "127.0.0.1:0"),
            own("GREENROOM__SERVER__WORKERS", "2"),
            own("GREENROOM__DATABASE__URL", &database_url),
            own("GREENROOM__DATABASE__POOL_MIN", "2"),
            own("GREENROOM__DATABASE__POOL_MAX", "30"),
            own("GREENROOM__REDIS__URL", &redis_url),
            own("GREENROOM__REDIS__KEY_PREFIX", &format!("{name}:")),
            own("GREENROOM__AUTH__JWT_SECRET", &random_text(48)),
            own("GREENROOM__AUTH__BCRYPT_COST", "10"),
            own("GREENROOM__AUTH__REGISTER_REQUIRES_CODE", "false"),
            own("GREENROOM__SECRETS__KEY", &greenroom::dev::random_key()),
            own("GREENROOM__STORAGE__DIR", dir.join("files").to_str().unwrap()),
            own("GREENROOM__PROVIDERS__ALLOW_PRIVATE_NETWORKS", "true"),
            own("GREENROOM__LIMITS__REQUESTS_PER_MINUTE", "0"),
            own("GREENROOM__LIMITS__SIGN_IN_PER_ADDRESS_PER_MINUTE", "0"),
            own("GREENROOM__LOGS__LEVEL", "info,greenroom=debug,greenroom_actors=debug"),
        ]);
        environment.extend(self.environment);
        let service = Service::prepare(&dir, environment.clone());
        TestApp {
            service,
            environment,
            database_url,
            redis_url,
            redis_prefix: format!("{name}:"),
            may_leave_work: self.may_leave_work,
            dir,
            name,
            postgres,
            redis,
            admin: OnceCell::new(),
        }
    }
}

/// A running service with a database of its own.
pub struct TestApp {
    /// The first replica.
    pub service: Service,
    /// Its settings.
    pub environment: Environment,
    /// Its database.
    pub database_url: String,
    /// Its Redis.
    pub redis_url: String,
    /// What its Redis keys begin with.
    pub redis_prefix: String,
    /// The PostgreSQL it uses; stop or kill it only after [`Builder::own_postgres`].
    pub postgres: Kept<PrivatePostgres>,
    /// The Redis it uses; stop, flush or kill it only after [`Builder::own_redis`].
    pub redis: Kept<PrivateRedis>,
    dir: PathBuf,
    name: String,
    may_leave_work: bool,
    admin: OnceCell<Client>,
}

impl TestApp {
    /// A service with the settings tests usually want.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// A service with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// One more replica on the same database and Redis.
    pub async fn second_replica(&self) -> Service {
        Service::start(&self.dir, self.environment.clone()).await
    }

    /// One more replica, with one setting of its own.
    pub async fn second_replica_with(&self, name: &str, value: impl ToString) -> Service {
        self.another_replica(&[(name, value.to_string())]).await
    }

    /// One more replica, with settings of its own.
    pub async fn another_replica(&self, own: &[(&str, String)]) -> Service {
        let mut environment = self.environment.clone();
        environment.extend(own.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        Service::start(&self.dir, environment).await
    }

    /// Sets a variable of the first replica, for its next start.
    pub fn set_env(&mut self, name: &str, value: impl ToString) {
        self.service.set_env(name, value);
    }

    /// Somebody without a token.
    pub fn client(&self) -> Client {
        self.service.client()
    }

    /// A new user, signed in.
    pub async fn register_user(&self) -> Client {
        self.client().register(&new_phone(), &random_text(16)).await
    }

    /// The same person with the token that they would have been given so many seconds ago, to last for `lifetime_s`.
    pub fn with_aged_token(&self, user: &Client, age_s: i64, lifetime_s: u32) -> Client {
        let tokens = AccessTokens::new(&TokenSettings {
            secret: self.environment["GREENROOM__AUTH__JWT_SECRET"].clone().into(),
            previous: Vec::new(),
            issuer: "greenroom".to_owned(),
            audience: "greenroom".to_owned(),
            lifetime_s,
        });
        let claims = tokens.verify(user.token.as_ref().unwrap()).unwrap();
        let issued_at = SystemClock.now() - TimeDelta::seconds(age_s);
        let aged = tokens.issue(claims.user, claims.role, claims.session, issued_at).unwrap();
        let mut user = user.clone();
        user.token = Some(aged.token.expose_secret().to_owned());
        user
    }

    /// The admin, made by the command line at the first call.
    pub async fn admin(&self) -> Client {
        let admin = self.admin.get_or_init(async || {
            let (phone, password) = (new_phone(), random_text(16));
            let mut environment = self.environment.clone();
            environment.insert("GREENROOM_ADMIN_PASSWORD".to_owned(), password.clone());
            let made = run(&self.dir, &environment, &["admin", "create", "--phone", &phone]).await;
            assert!(made.status.success(), "{made:?}");
            self.client().login(&phone, &password).await
        });
        // the service may have been started again since, on another port
        admin.await.at(&self.service.url)
    }

    /// Gives quota to a user.
    pub async fn grant(&self, user: &Client, amount: i64) {
        let path = format!("/api/v1/admin/users/{}/grants", user.id);
        let body = json!({ "amount": amount, "reason": "test" });
        self.admin().await.post_with_key(&path, &random_text(16), body).await.expect(201);
    }

    /// Saves and publishes a pipeline; answers its id.
    pub async fn publish_pipeline(&self, definition: Value) -> String {
        let admin = self.admin().await;
        let made = admin.post("/api/v1/admin/pipelines", definition).await.expect(201);
        let id = made["id"].as_str().unwrap().to_owned();
        admin.post(&format!("/api/v1/admin/pipelines/{id}/publish"), json!({})).await.expect(200);
        id
    }

    /// Saves a provider.
    pub async fn put_provider(&self, provider: Value) {
        let path = format!("/api/v1/admin/providers/{}", provider["id"].as_str().unwrap());
        self.admin().await.put(&path, provider).await.expect(200);
    }

    /// A connection to the database, for looking and for bending rows.
    pub async fn sql(&self) -> tokio_postgres::Client {
        servers::connect(&self.database_url).await
    }

    /// One number from the database.
    pub async fn count(&self, query: &str) -> i64 {
        self.sql().await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// A connection to Redis.
    pub async fn redis_connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.redis_url.as_str()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    /// Runs a command of the binary with this service's settings.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(&self.environment, arguments).await
    }

    /// Runs a command of the binary with other settings.
    pub async fn run_with(&self, environment: &Environment, arguments: &[&str]) -> Output {
        run(&self.dir, environment, arguments).await
    }

    /// The name of its database.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What must be true of every service at the end of its test.
    async fn assert_nothing_left(&self) {
        let audit = self.run(&["audit"]).await;
        let said = String::from_utf8_lossy(&audit.stdout).into_owned();
        assert!(audit.status.success(), "greenroom audit: {said}{}", String::from_utf8_lossy(&audit.stderr));
        if !self.may_leave_work {
            let unfinished = "select count(*) from tasks where status in ('queued', 'running')";
            assert_eq!(self.count(unfinished).await, 0, "unfinished tasks are left");
            let held = "select count(*) from quota_transactions where phase = 'reserved'";
            assert_eq!(self.count(held).await, 0, "quota is still held");
        }
    }

    async fn remove(&self) {
        let url = self.postgres.with(|postgres| postgres.url("postgres")).await;
        let drop = format!("drop database if exists {} with (force)", self.name);
        let _ = servers::connect(&url).await.batch_execute(&drop).await;
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.service.kill9();
        if std::thread::panicking() {
            return;
        }
        // the test's own runtime is busy dropping us
        let look = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                self.assert_nothing_left().await;
                self.remove().await;
            });
        };
        let outcome = std::thread::scope(|scope| scope.spawn(look).join());
        if let Err(panic) = outcome {
            eprintln!("---- the service's log ----\n{}", self.service.log());
            std::panic::resume_unwind(panic);
        }
    }
}

/// A phone number no other test of this process uses.
pub fn new_phone() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("139{:08}", NEXT.fetch_add(1, Ordering::Relaxed))
}
