//! The outside world: the providers of pipelines, the store of files, short messages and the mini-program's
//! platform. Implements traits of `greenroom_actors`; knows no SQL and no routes.
//!
//! A new provider kind is one new file or folder here and one line in [`provider_kinds`].

pub mod address_guard;
pub mod http;
pub mod http_async;
pub mod http_client;
pub mod image;
pub mod object_store;
pub mod sms;
pub mod tencent;
pub mod wechat_login;

mod checked;
mod http_exchange;
mod log_sms;
mod platform_words;
mod provider_settings;
#[cfg(test)]
mod testing;

pub use http_exchange::HttpLimits;
pub use log_sms::LogSms;

use address_guard::AddressGuard;
use greenroom_actors::pipeline::provider::{Provider, ProviderKinds};
use http::HttpProvider;
use http_async::HttpAsyncProvider;
use http_exchange::HttpExchange;
use image::ImageProvider;
use std::{sync::Arc, thread};
use url::Url;

/// The provider kinds of this build. Providers call back at the origin `public_url`.
#[must_use]
pub fn provider_kinds(guard: AddressGuard, limits: HttpLimits, public_url: Url) -> ProviderKinds {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let exchange = Arc::new(HttpExchange::new(guard, limits));
    let kinds: Vec<Arc<dyn Provider>> = vec![
        Arc::new(ImageProvider::new(cores)),
        Arc::new(HttpProvider::new(Arc::clone(&exchange))),
        Arc::new(HttpAsyncProvider::new(exchange, public_url)),
    ];
    ProviderKinds::new(kinds)
}
