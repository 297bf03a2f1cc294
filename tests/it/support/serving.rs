//! How the others are served whom Greenroom calls.

use std::sync::Arc;
use std::time::Duration;

use actix_web::{App, HttpServer, Route, web};

/// Serves every path with `route` on a free port of 127.0.0.1. Answers the origin.
///
/// On a thread of its own, so that a test that blocks does not silence it. It breaks no connection by itself,
/// however slow the machine is: what a call met there is what the test made it meet.
pub async fn serve<S: Send + Sync + 'static>(
    state: Arc<S>,
    route: impl Fn() -> Route + Send + Clone + 'static,
) -> String {
    let (bound, port) = tokio::sync::oneshot::channel();
    let state = web::Data::from(state);
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let server = HttpServer::new(move || App::new().app_data(state.clone()).default_service(route()))
                .workers(1)
                .keep_alive(Duration::from_secs(3_600))
                .client_request_timeout(Duration::ZERO)
                .disable_signals()
                .bind(("127.0.0.1", 0))
                .unwrap();
            bound.send(server.addrs()[0].port()).unwrap();
            server.run().await.unwrap();
        });
    });
    format!("http://127.0.0.1:{}", port.await.unwrap())
}
