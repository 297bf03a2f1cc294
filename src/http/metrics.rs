//! Figures for Prometheus, on a listener of their own.

use actix_web::{App, HttpResponse, HttpServer, dev::Server, get, web};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use std::{io, net::TcpListener, time::Duration};

/// Buckets of everything measured in seconds: from a cached read to a provider's slowest answer.
const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];
/// Buckets of how many commands shared a commit.
const BATCHES: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The figures of this process.
#[derive(Clone)]
pub struct Metrics(PrometheusHandle);

impl Metrics {
    /// Starts to collect what the process reports from now on; once a process.
    ///
    /// # Errors
    /// Where something collects already.
    pub fn install() -> Result<Self, BuildError> {
        use metrics_exporter_prometheus::Matcher::Suffix;
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(Suffix("_seconds".to_owned()), SECONDS)?
            .set_buckets_for_metric(Suffix("_batch_size".to_owned()), BATCHES)?
            .install_recorder()?;
        Ok(Self(handle))
    }

    /// Folds what was recorded into the figures; to be called every few seconds, so that memory stays bounded
    /// where nobody scrapes.
    pub fn fold(&self) {
        self.0.run_upkeep();
    }

    /// Serves `/metrics` on `listener`, on one thread.
    ///
    /// # Errors
    /// Where the listener cannot be used.
    pub fn serve(&self, listener: TcpListener) -> io::Result<Server> {
        let metrics = web::Data::new(self.clone());
        let server = HttpServer::new(move || App::new().app_data(metrics.clone()).service(get_metrics))
            .workers(1)
            .max_connections(64)
            .client_request_timeout(Duration::from_secs(5))
            .disable_signals()
            .shutdown_timeout(1)
            .listen(listener)?;
        Ok(server.run())
    }
}

#[get("/metrics")]
async fn get_metrics(metrics: web::Data<Metrics>) -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; version=0.0.4; charset=utf-8").body(metrics.0.render())
}
