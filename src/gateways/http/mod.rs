//! The provider kind `http`: one request, one answer.
//!
//! Without `request` the step's input is the JSON body of a POST; without `response` the whole JSON answer
//! is the step's output. Every call carries its idempotency key, and all of it, files included, is within the
//! deadline.

mod config;
#[cfg(test)]
mod tests;

use super::http_exchange::{
    HttpExchange, left, outcome, ready::ReadyConfigs, request, request::Renderer, response::Reader,
    shown::Shown,
};
use async_trait::async_trait;
use config::HttpConfig;
use greenroom_actors::pipeline::{
    Fault,
    provider::{Call, CallError, CallOutput, CallPolicy, Exchange, Provider, ProviderRecord},
};
use serde_json::Value;
use std::sync::Arc;

/// Calls providers that answer at once. One for the process.
pub struct HttpProvider {
    exchange: Arc<HttpExchange>,
    configs: ReadyConfigs<HttpConfig>,
}

impl HttpProvider {
    /// A provider that calls by way of `exchange`.
    pub(super) fn new(exchange: Arc<HttpExchange>) -> Self {
        Self { exchange, configs: ReadyConfigs::default() }
    }

    fn compile(&self, config: &Value, auth: Option<&Value>) -> Result<HttpConfig, Vec<Fault>> {
        HttpConfig::compile(config, auth, self.exchange.guard())
    }

    fn config(&self, record: &Arc<ProviderRecord>) -> Result<Arc<HttpConfig>, CallError> {
        self.configs.of(record, |config, auth| self.compile(config, auth))
    }

    /// Does the call; notes what went out and came back where somebody wants to see it.
    async fn perform(
        &self,
        call: &Call,
        mut exchange: Option<&mut Exchange>,
    ) -> Result<CallOutput, CallError> {
        let config = self.config(&call.provider)?;
        let context = request::context(call);
        let renderer = Renderer {
            config: &config.request,
            auth: config.auth.as_ref(),
            call,
            context: &context,
            file_limit: self.exchange.limits.file_bytes,
        };
        let outgoing = renderer.work().await?;
        let shown = Shown::new(config.auth.as_ref(), None);
        if let Some(exchange) = &mut exchange {
            exchange.request = outgoing.shown(&shown);
        }
        let answer = self.exchange.send(outgoing.request, left(call.deadline)?).await?;
        if let Some(exchange) = &mut exchange {
            exchange.answer = answer.shown(&shown);
        }
        let reader = Reader {
            config: &config.response,
            shown: &shown,
            exchange: &self.exchange,
            base: &config.request.url,
            deadline: call.deadline,
        };
        reader.accepted(&answer)?;
        reader.output(&answer).await
    }

    /// As [`Self::perform`]. Every part is bounded by the deadline already; this is for what waits on our side.
    async fn perform_in_time(
        &self,
        call: &Call,
        exchange: Option<&mut Exchange>,
    ) -> Result<CallOutput, CallError> {
        let outcome = tokio::time::timeout_at(call.deadline.into(), self.perform(call, exchange)).await;
        outcome.unwrap_or_else(|_| Err(outcome::timed_out()))
    }
}

#[async_trait]
impl Provider for HttpProvider {
    fn kind(&self) -> &'static str {
        "http"
    }

    fn check(&self, config: &Value, auth: Option<&Value>) -> Result<CallPolicy, Vec<Fault>> {
        self.compile(config, auth).map(|config| config.policy)
    }

    async fn check_reach(&self, config: &Value) -> Result<(), Vec<Fault>> {
        self.exchange.check_base_url(config).await
    }

    async fn call(&self, call: Call) -> Result<CallOutput, CallError> {
        self.perform_in_time(&call, None).await
    }

    async fn try_call(&self, call: Call) -> (Exchange, Result<CallOutput, CallError>) {
        let mut exchange = Exchange::default();
        let outcome = self.perform_in_time(&call, Some(&mut exchange)).await;
        (exchange, outcome)
    }
}
