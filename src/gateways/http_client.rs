//! The one way out: an HTTP client that goes only where the guard lets it, follows no redirects, uses no
//! proxy of the environment, and reads no more than it is told.

use super::address_guard::{AddressGuard, AddressRefused, is_refusal};
use bytes::{Bytes, BytesMut};
use reqwest::{Client, Request, Response, redirect};
use std::{sync::OnceLock, time::Duration};

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections kept for each host; more are closed.
const IDLE_PER_HOST: usize = 32;

/// Why there is no answer. No variant carries an address: it may hold a secret.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// The address is not one we call. Nothing was sent.
    #[error("the address is not allowed: {0}")]
    Refused(AddressRefused),
    /// No connection came about. Nothing was sent.
    #[error("the other side cannot be reached")]
    Unreachable(#[source] reqwest::Error),
    /// The time was up. What was sent may have had its effect.
    #[error("the other side did not answer in time")]
    TimedOut,
    /// The connection broke. What was sent may have had its effect.
    #[error("the other side broke the connection")]
    Broken(#[source] reqwest::Error),
    /// The answer is longer than allowed.
    #[error("the answer has more than {limit} bytes")]
    TooLarge {
        /// The bound, bytes.
        limit: u64,
    },
}

impl From<reqwest::Error> for OutsideError {
    fn from(error: reqwest::Error) -> Self {
        let error = error.without_url();
        if is_refusal(&error) {
            Self::Refused(AddressRefused::Private)
        } else if error.is_connect() {
            Self::Unreachable(error)
        } else if error.is_timeout() {
            Self::TimedOut
        } else {
            Self::Broken(error)
        }
    }
}

/// The client. Made at its first use: reading the system's certificates is nothing to wait for at start.
pub struct OutsideClient {
    guard: AddressGuard,
    client: OnceLock<Client>,
}

impl OutsideClient {
    /// A client behind `guard`.
    #[must_use]
    pub fn new(guard: AddressGuard) -> Self {
        Self { guard, client: OnceLock::new() }
    }

    /// The guard it goes by.
    #[must_use]
    pub fn guard(&self) -> AddressGuard {
        self.guard
    }

    /// Sends a request and waits for the head of the answer; `within` covers the body too.
    ///
    /// # Errors
    /// [`OutsideError`]. A status is no error.
    pub async fn send(&self, mut request: Request, within: Duration) -> Result<Response, OutsideError> {
        // names are judged by the client's resolver, a literal address never reaches it
        self.guard.check(request.url()).map_err(OutsideError::Refused)?;
        *request.timeout_mut() = Some(within);
        Ok(self.client()?.execute(request).await?)
    }

    fn client(&self) -> Result<&Client, OutsideError> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = match self.builder().build() {
            Ok(client) => client,
            Err(error) => {
                // a machine without certificates can still reach plain HTTP inside its own network
                tracing::warn!(%error, "no certificates of the system: no HTTPS address can be called");
                self.builder().tls_certs_only([]).build()?
            }
        };
        Ok(self.client.get_or_init(|| client))
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        Client::builder()
            .user_agent(concat!("greenroom/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .dns_resolver(self.guard)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(IDLE_PER_HOST)
    }
}

/// Reads an answer's body of at most `limit` bytes (after decompression) and stops at the first beyond.
///
/// # Errors
/// [`OutsideError::TooLarge`], or what broke the connection.
pub async fn read_body(mut response: Response, limit: u64) -> Result<Bytes, OutsideError> {
    if response.content_length().is_some_and(|length| length > limit) {
        return Err(OutsideError::TooLarge { limit });
    }
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await? {
        if (body.len() + chunk.len()) as u64 > limit {
            return Err(OutsideError::TooLarge { limit });
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
