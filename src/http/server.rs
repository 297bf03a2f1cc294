//! The listener and its limits.

use super::{bearer::look_up_key, configure, context::context, limits::limit, state::State};
use crate::ws;
use actix_cors::Cors;
use actix_web::{
    App, HttpServer,
    dev::Server,
    http::header,
    middleware::{Condition, from_fn},
    web,
};
use std::{io, net::TcpListener, time::Duration};

/// A client may take this long to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection may idle this long between requests; longer than the usual load balancer's minute.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// A connection that is being closed may take this long.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections of one worker; about 20 kB each when idle.
const CONNECTIONS_PER_WORKER: usize = 25_000;

/// Serves `state` on `listener` with that many worker threads (0: one for each core). A stop lets requests
/// finish for as long as `shutdown`.
///
/// # Errors
/// Where the listener cannot be used.
pub fn serve(
    listener: TcpListener,
    state: web::Data<State>,
    workers: usize,
    shutdown: Duration,
) -> io::Result<Server> {
    let server = HttpServer::new(move || {
        let origins = &state.settings.cors_origins;
        App::new()
            .app_data(state.clone())
            // inside of the look for a key, whose user's request it is, and of what a browser needs to read a refusal
            .wrap(from_fn(limit))
            .wrap(from_fn(look_up_key))
            .wrap(Condition::new(!origins.is_empty(), cors(origins)))
            .wrap(from_fn(context))
            .configure(configure)
    })
    .on_connect(ws::keep_stream)
    .client_request_timeout(HEAD_TIMEOUT)
    .keep_alive(KEEP_ALIVE)
    .client_disconnect_timeout(DISCONNECT_TIMEOUT)
    .max_connections(CONNECTIONS_PER_WORKER)
    .shutdown_timeout(shutdown.as_secs())
    .disable_signals();
    let server = if workers == 0 { server } else { server.workers(workers) };
    Ok(server.listen(listener)?.run())
}

fn cors(origins: &[String]) -> Cors {
    let cors = Cors::default()
        .allowed_methods(["GET", "POST", "PUT", "PATCH", "DELETE"])
        .allowed_headers([
            header::AUTHORIZATION,
            header::ACCEPT,
            header::ACCEPT_LANGUAGE,
            header::CONTENT_TYPE,
        ])
        .allowed_headers(["idempotency-key", "x-request-id"])
        .expose_headers([
            "x-request-id",
            "idempotency-replayed",
            "location",
            "retry-after",
            "ratelimit-limit",
            "ratelimit-remaining",
            "ratelimit-reset",
        ])
        .max_age(3600);
    origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin))
}
