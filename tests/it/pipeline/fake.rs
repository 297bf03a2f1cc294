//! A kind of provider that does what the test says, and remembers what it was asked.

use async_trait::async_trait;
use greenroom_actors::pipeline::{
    Fault,
    provider::{BreakerPolicy, Call, CallError, CallOutput, CallPolicy, Provider, RateLimit},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// What a call is answered, and when.
pub struct Reply {
    after: Duration,
    result: Result<CallOutput, CallError>,
}

impl Reply {
    /// Success.
    pub fn ok() -> Self {
        Self::output(json!({"said": "done"}))
    }

    /// Success with this output.
    pub fn output(output: Value) -> Self {
        Self { after: Duration::ZERO, result: Ok(CallOutput { output, files: Vec::new() }) }
    }

    /// Success with files.
    pub fn produced(output: CallOutput) -> Self {
        Self { after: Duration::ZERO, result: Ok(output) }
    }

    /// Failure.
    pub fn error(error: CallError) -> Self {
        Self { after: Duration::ZERO, result: Err(error) }
    }

    /// A failure that is not tried again.
    pub fn rejected() -> Self {
        Self::error(CallError::permanent("PROVIDER_REJECTED", "No."))
    }

    /// A failure that may be tried again.
    pub fn busy() -> Self {
        Self::error(CallError::retryable("PROVIDER_UNAVAILABLE", "Busy."))
    }

    /// Never.
    pub fn hang() -> Self {
        Self::ok().after(Duration::from_secs(86_400))
    }

    /// Not before `after`.
    pub fn after(mut self, after: Duration) -> Self {
        self.after = after;
        self
    }
}

/// A call the provider got.
#[derive(Clone, Debug)]
pub struct Seen {
    pub attempt: i32,
    pub provider: String,
    pub key: String,
    pub at: Instant,
}

type Script = dyn Fn(&Call) -> Reply + Send + Sync;

/// The kind. A provider's configuration may say `maxConcurrency` (null for the replica's cores), `timeoutMs`,
/// `maxAttempts`, `backoffMs`, `atMostOnce`, `pure`, `perSecond`, `perMinute`, `breaker` (failures and ms) and `hold`.
pub struct Fake {
    script: Mutex<Arc<Script>>,
    seen: Mutex<Vec<Seen>>,
    in_flight: AtomicUsize,
    most_in_flight: AtomicUsize,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            script: Mutex::new(Arc::new(|_| Reply::ok())),
            seen: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        }
    }
}

impl Fake {
    /// From now on answers with what `script` says.
    pub fn script(&self, script: impl Fn(&Call) -> Reply + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    /// What it was asked so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Calls it is busy with.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::SeqCst)
    }

    /// The most calls it was ever busy with at once.
    pub fn most_in_flight(&self) -> usize {
        self.most_in_flight.load(Ordering::SeqCst)
    }
}

struct InFlight<'a>(&'a Fake);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Provider for Fake {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn check(&self, config: &Value, _auth: Option<&Value>) -> Result<CallPolicy, Vec<Fault>> {
        let number = |name: &str, standard: u64| config[name].as_u64().unwrap_or(standard);
        let count = |name: &str| config[name].as_u64().map(|calls| u32::try_from(calls).unwrap());
        let ceiling = config.get("maxConcurrency").map_or(Some(5), Value::as_u64);
        Ok(CallPolicy {
            max_concurrency: ceiling.map(|calls| u32::try_from(calls).unwrap()),
            rate_limit: Some(RateLimit { per_second: count("perSecond"), per_minute: count("perMinute") })
                .filter(|limit| *limit != RateLimit::default()),
            breaker: config["breaker"].as_array().map(|breaker| BreakerPolicy {
                failures: u32::try_from(breaker[0].as_u64().unwrap()).unwrap(),
                open: Duration::from_millis(breaker[1].as_u64().unwrap()),
            }),
            hold_when_disabled: config["hold"] == true,
            timeout: Duration::from_millis(number("timeoutMs", 10_000)),
            max_attempts: u32::try_from(number("maxAttempts", 1)).unwrap(),
            backoff: Duration::from_millis(number("backoffMs", 10)),
            at_most_once: config["atMostOnce"] == true,
            new_key_per_attempt: config["newKeyPerAttempt"] == true,
            pure_call: config["pure"] == true,
            polls: config["polls"] == true,
            callback: config["callback"] == true,
        })
    }

    async fn call(&self, call: Call) -> Result<CallOutput, CallError> {
        let now = self.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let _in_flight = InFlight(self);
        self.seen.lock().unwrap().push(Seen {
            attempt: call.attempt,
            provider: call.provider.id.clone(),
            key: call.idempotency_key.clone(),
            at: Instant::now(),
        });
        let script = Arc::clone(&*self.script.lock().unwrap());
        let reply = script(&call);
        tokio::time::sleep(reply.after).await;
        reply.result
    }
}
