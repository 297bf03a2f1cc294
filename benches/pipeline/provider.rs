//! A provider that answers at once, without leaving the process.

use async_trait::async_trait;
use greenroom_actors::pipeline::{
    Fault,
    provider::{Call, CallError, CallOutput, CallPolicy, Provider},
};
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) struct Instant;

#[async_trait]
impl Provider for Instant {
    fn kind(&self) -> &'static str {
        "instant"
    }

    fn check(&self, _config: &Value, _auth: Option<&Value>) -> Result<CallPolicy, Vec<Fault>> {
        Ok(CallPolicy {
            max_concurrency: Some(crate::CEILING),
            rate_limit: None,
            breaker: None,
            hold_when_disabled: false,
            timeout: Duration::from_secs(30),
            max_attempts: 1,
            backoff: Duration::ZERO,
            at_most_once: false,
            new_key_per_attempt: false,
            pure_call: false,
            polls: false,
            callback: false,
        })
    }

    async fn call(&self, _call: Call) -> Result<CallOutput, CallError> {
        Ok(CallOutput { output: json!({"said": "done"}), files: Vec::new() })
    }
}
