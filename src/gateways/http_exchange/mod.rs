//! One request and its answer: what the kinds share that call providers over HTTP.
//!
//! The request comes from templates ([`config`], [`request`]), the way out is [`OutsideClient`] (no private
//! addresses, no redirects, bounded answers), and what came back is read by templates ([`response`]). What a
//! failure means for the engine: see [`outcome`].

pub(in crate::gateways) mod auth;
pub(in crate::gateways) mod config;
pub(in crate::gateways) mod outcome;
pub(in crate::gateways) mod ready;
pub(in crate::gateways) mod request;
pub(in crate::gateways) mod response;
mod retry_after;
pub(in crate::gateways) mod shown;

use super::{
    address_guard::AddressGuard,
    checked::fault,
    http_client::{OutsideClient, read_body},
};
use greenroom_actors::pipeline::{Fault, provider::CallError};
use reqwest::Request;
use response::Answer;
use serde_json::Value;
use std::time::{Duration, Instant};
use url::Url;

/// How much a provider may say.
#[derive(Clone, Copy, Debug)]
pub struct HttpLimits {
    /// The longest answer, bytes.
    pub response_bytes: u64,
    /// The largest file fetched from a provider or sent to one in base64, bytes.
    pub file_bytes: u64,
}

/// The way to providers. One for the process, so that its connections are shared.
pub(super) struct HttpExchange {
    pub(super) client: OutsideClient,
    pub(super) limits: HttpLimits,
}

impl HttpExchange {
    /// An exchange with those that `guard` lets through.
    pub(super) fn new(guard: AddressGuard, limits: HttpLimits) -> Self {
        Self { client: OutsideClient::new(guard), limits }
    }

    /// The rule about addresses.
    pub(super) fn guard(&self) -> AddressGuard {
        self.client.guard()
    }

    /// Sends a request and reads the whole answer, all of it within `within`.
    pub(super) async fn send(&self, request: Request, within: Duration) -> Result<Answer, CallError> {
        let response = self.client.send(request, within).await.map_err(outcome::not_answered)?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = read_body(response, self.limits.response_bytes).await.map_err(outcome::not_answered)?;
        Ok(Answer::new(status, headers, &body))
    }

    /// Checks where the name in a configuration's `baseUrl` leads.
    pub(super) async fn check_base_url(&self, config: &Value) -> Result<(), Vec<Fault>> {
        let text = config["baseUrl"].as_str().unwrap_or_default();
        let url = config::base_url(text, self.guard()).map_err(|message| vec![fault("/baseUrl", message)])?;
        self.check_reach(&url, "/baseUrl").await
    }

    /// Checks where the name in `url` leads, which stands at `path` of a configuration.
    pub(super) async fn check_reach(&self, url: &Url, path: &str) -> Result<(), Vec<Fault>> {
        let refused = self.guard().check_resolved(url).await;
        refused.map_err(|refused| vec![fault(path, refused.to_string())])
    }
}

/// The time that is left, or the end of the call.
pub(super) fn left(deadline: Instant) -> Result<Duration, CallError> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| CallError::retryable("PROVIDER_TIMEOUT", "the call's time was up before it was sent"))
}
