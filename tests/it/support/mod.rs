//! What a test needs to stand before a running Greenroom.
//!
//! ```ignore
//! let app = TestApp::start().await;
//! let user = app.register_user().await;
//! app.grant(&user, 5).await;
//! let reply = user.post("/api/v1/tasks", json!({"pipelineId": pipeline, "input": {}})).await;
//! assert_eq!(reply.status, 202, "{reply:?}");
//! ```
//!
//! Each [`TestApp`] has its own database (from a migrated template), its own prefix in Redis, and the real
//! `greenroom serve` as a child process. When it is dropped it must leave nothing behind: `greenroom audit` is
//! clean, no task runs, no quota is held. When the test fails, the service's log is printed.

mod app;
mod client;
mod cutter;
mod fake_platforms;
mod fake_provider;
mod keeper;
pub mod servers;
mod service;
mod serving;
mod socket;

pub use app::{TestApp, new_phone};
pub use client::{Client, Reply};
pub use cutter::Cutter;
pub use fake_platforms::{FakeSms, FakeWechat, Misbehaviour, SentSms};
pub use fake_provider::{Answer, Call, FakeProvider, Span};
pub use keeper::on_keeper;
pub use service::{Environment, Service, command};
pub use socket::{Position, Socket};

use std::time::{Duration, Instant};

/// How long a test waits for what must happen soon. Generous: machines under test are busy.
pub const SOON: Duration = Duration::from_secs(40);

/// Whether the machine has nothing else to do (`GREENROOM_TEST_ALONE=1`), so that times can be judged.
pub fn is_alone() -> bool {
    std::env::var_os("GREENROOM_TEST_ALONE").is_some()
}

/// Asks again and again until the answer is `Some`, at most [`SOON`].
pub async fn eventually<T>(what: &str, ask: impl AsyncFnMut() -> Option<T>) -> T {
    wait_until(what, SOON, ask).await
}

/// Asks again and again until the answer is `Some`, at most `patience`.
pub async fn wait_until<T>(what: &str, patience: Duration, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let until = Instant::now() + patience;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < until, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
