//! The websocket room: `GET /api/v1/ws`, and tickets for browsers. It turns frames into calls of the stream's
//! handles and what the hub has queued into frames. It knows no SQL and no Redis, and decides nothing about
//! which events a client gets: that is the hub's.
//!
//! [`protocol`] is the frames as plain data, [`handshake`] who may open a socket and where it resumes,
//! `connection.rs` one socket's life, [`ticket`] the route that issues tickets. For authors of clients there is
//! `docs/websocket.md`.

mod allowance;
mod connection;
pub(crate) mod handshake;
pub mod protocol;
mod stream_cut;
pub(crate) mod ticket;

pub use stream_cut::keep_stream;

use greenroom_actors::stream::{SocketsHandle, Tickets};
use std::time::Duration;

/// What sockets need of the service.
#[derive(Clone)]
pub struct Live {
    /// The hub.
    pub sockets: SocketsHandle,
    /// Tickets for browsers.
    pub tickets: Tickets,
    /// Time between heartbeats.
    pub heartbeat: Duration,
}
