//! The pool of PostgreSQL connections and what may go wrong with it.
//!
//! Every actor and record store gets its connection here. Nothing else in this crate knows how a
//! connection is made.

use deadpool_postgres::{
    Client, Hook, HookError, Manager, ManagerConfig, Pool, PoolError, RecyclingMethod, Runtime, Transaction,
};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use tokio_postgres::{
    Socket,
    error::SqlState,
    tls::{MakeTlsConnect, TlsConnect},
};

/// How many connections there are, and how long anything may take on them.
#[derive(Clone, Debug)]
pub struct PoolSettings {
    /// `postgres://user:password@host/database`.
    pub url: SecretString,
    /// What PostgreSQL shows as `application_name`.
    pub application_name: String,
    /// Connections opened at start and kept when idle.
    pub min: usize,
    /// Connections at most.
    pub max: usize,
    /// An unused connection above `min` is closed after this long.
    pub idle: Duration,
    /// How long a request waits for a connection before it hears [`DatabaseError::Exhausted`].
    pub acquire: Duration,
    /// How long connecting may take.
    pub connect: Duration,
    /// How long one statement may run.
    pub statement_timeout: Duration,
    /// How long a statement may wait for a lock.
    pub lock_timeout: Duration,
    /// How long a transaction may be left idle before PostgreSQL ends it.
    pub idle_in_transaction_timeout: Duration,
}

/// Has the statements of the rest of a transaction find their rows by index, one by one. Flushes touch some hundred
/// rows by key, so that is right at any size of the tables. Left to itself PostgreSQL keeps the plan from when a table
/// was nearly empty, and reads all of it each time while it grows, until statistics are gathered a minute later.
/// (Planning each statement anew costs a large flush a third more.)
///
/// # Errors
/// What any statement may end with.
pub(crate) async fn plan_by_index(transaction: &Transaction<'_>) -> Result<(), DatabaseError> {
    const SETTINGS: &str = "set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off;
        set local enable_hashjoin = off; set local enable_mergejoin = off";
    Ok(transaction.batch_execute(SETTINGS).await?)
}

/// Commits, and names an outcome that nobody knows.
///
/// # Errors
/// [`DatabaseError::Unanswered`] when the connection broke, else what PostgreSQL said, and then nothing was done.
pub(crate) async fn commit(transaction: Transaction<'_>) -> Result<(), DatabaseError> {
    transaction.commit().await.map_err(|error| {
        // what PostgreSQL refused it has rolled back, but a server that ends may have committed before
        let class = error.code().and_then(|code| code.code().get(..2));
        let is_unknown = matches!(class, None | Some("08" | "57"));
        match DatabaseError::from(error) {
            DatabaseError::Unavailable(source) if is_unknown => DatabaseError::Unanswered(source),
            refused => refused,
        }
    })
}

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No connection became free in time, or PostgreSQL grants no more of them. Nothing was done.
    #[error("no database connection was free in time")]
    Exhausted,
    /// PostgreSQL is not reachable, is starting, or ended the connection.
    #[error("the database is not available")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// COMMIT got no answer: the work was done or was not.
    #[error("the database did not say whether it has committed")]
    Unanswered(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// PostgreSQL refused a statement: a defect, or a constraint that a caller must name.
    #[error("the database refused a statement")]
    Statement(#[source] tokio_postgres::Error),
    /// A statement wrote other rows than the lock before it promised, and was rolled back: a defect.
    #[error("{statement} wrote {actual} rows instead of {expected}")]
    Miscounted {
        /// What the statement does.
        statement: &'static str,
        /// Rows it should have written.
        expected: usize,
        /// Rows it wrote.
        actual: u64,
    },
}

impl DatabaseError {
    /// Whether the same work may succeed later without anybody mending anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        !matches!(self, Self::Statement(_) | Self::Miscounted { .. })
    }

    /// The name of the constraint that refused the statement, if one did.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        match self {
            Self::Statement(error) => error.as_db_error().and_then(|error| error.constraint()),
            _ => None,
        }
    }
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(code) = error.code().cloned() else {
            // no answer of the server at all: the connection broke
            return if is_client_side_defect(&error) {
                Self::Statement(error)
            } else {
                Self::Unavailable(Box::new(error))
            };
        };
        if code == SqlState::TOO_MANY_CONNECTIONS {
            Self::Exhausted
        } else if is_transient(&code) {
            Self::Unavailable(Box::new(error))
        } else {
            Self::Statement(error)
        }
    }
}

impl From<PoolError> for DatabaseError {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Timeout(deadpool_postgres::TimeoutType::Wait) => Self::Exhausted,
            PoolError::Backend(error) => error.into(),
            PoolError::PostCreateHook(HookError::Backend(error)) => error.into(),
            other => Self::Unavailable(Box::new(other)),
        }
    }
}

/// A parameter or column of the wrong type never reached the server; tokio-postgres gives such errors no code.
fn is_client_side_defect(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    !error.is_closed() && (text.contains("serializing parameter") || text.contains("deserializing column"))
}

fn is_transient(code: &SqlState) -> bool {
    // 08: connection, 25: a standby that takes no writes, 40: deadlock or serialisation, 53: resources,
    // 55P03: lock timeout, 57: shutdown or cancelled, 58: the system below it, XX: itself, such as a broken index
    let class = code.code().get(..2).unwrap_or_default();
    matches!(class, "08" | "25" | "40" | "53" | "57" | "58" | "XX") || *code == SqlState::LOCK_NOT_AVAILABLE
}

/// The pool's figures at one moment.
#[derive(Clone, Copy, Debug)]
pub struct PoolStatus {
    /// Connections in use.
    pub used: usize,
    /// Connections open and free.
    pub free: usize,
    /// Requests that wait for one.
    pub pending: usize,
}

/// The pool. Clones share it.
#[derive(Clone)]
pub struct Database {
    pool: Pool,
    min: usize,
    idle: Duration,
}

impl Database {
    /// Makes the pool; opens no connection yet.
    ///
    /// # Errors
    /// [`DatabaseError::Unavailable`] when the URL cannot be understood. The URL is never part of the error.
    pub fn new<T>(settings: &PoolSettings, tls: T) -> Result<Self, DatabaseError>
    where
        T: MakeTlsConnect<Socket> + Clone + Sync + Send + 'static,
        T::Stream: Sync + Send,
        T::TlsConnect: Sync + Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        let mut config: tokio_postgres::Config = settings.url.expose_secret().parse()?;
        config
            .application_name(&settings.application_name)
            .connect_timeout(settings.connect)
            .keepalives_idle(Duration::from_secs(30))
            .options(format!(
                "-c statement_timeout={} -c lock_timeout={} -c idle_in_transaction_session_timeout={}",
                settings.statement_timeout.as_millis(),
                settings.lock_timeout.as_millis(),
                settings.idle_in_transaction_timeout.as_millis(),
            ));
        let manager =
            Manager::from_config(config, tls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(settings.max)
            .runtime(Runtime::Tokio1)
            .wait_timeout(Some(settings.acquire))
            .create_timeout(Some(settings.acquire))
            .recycle_timeout(Some(settings.acquire))
            .post_create(Hook::async_fn(|client, _| {
                Box::pin(async move {
                    client.simple_query("select 1").await.map(drop).map_err(HookError::Backend)
                })
            }))
            .build()
            .map_err(|error| DatabaseError::Unavailable(Box::new(error)))?;
        Ok(Self { pool, min: settings.min, idle: settings.idle })
    }

    /// Opens the pool's minimum of connections at once.
    ///
    /// # Errors
    /// When PostgreSQL does not grant them.
    pub async fn warm(&self) -> Result<(), DatabaseError> {
        futures_util::future::try_join_all((0..self.min).map(|_| self.client())).await.map(drop)
    }

    /// A connection, returned to the pool when dropped.
    ///
    /// # Errors
    /// [`DatabaseError::Exhausted`] or [`DatabaseError::Unavailable`].
    pub async fn client(&self) -> Result<Client, DatabaseError> {
        Ok(self.pool.get().await?)
    }

    /// Closes connections that nobody used for the idle time, down to the minimum.
    pub fn close_idle(&self) {
        let mut left = self.pool.status().size;
        self.pool.retain(|_, metrics| {
            let keep = left <= self.min || metrics.last_used() < self.idle;
            if !keep {
                left -= 1;
            }
            keep
        });
    }

    /// The pool's figures now.
    #[must_use]
    pub fn status(&self) -> PoolStatus {
        let status = self.pool.status();
        PoolStatus {
            used: status.size.saturating_sub(status.available),
            free: status.available,
            pending: status.waiting,
        }
    }

    /// Closes all connections; callers who wait hear [`DatabaseError::Unavailable`].
    pub fn close(&self) {
        self.pool.close();
    }
}
