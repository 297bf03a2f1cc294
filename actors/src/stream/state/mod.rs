//! The pure part: what a socket is to be sent next, whatever order live events, replays and merges come in.
//!
//! [`Queue`] holds what waits for the client, [`SocketState`] decides what may enter it, [`replay`] says what a
//! read of the history means for a position, [`relay`] what is missing before a final event may be relayed.

mod queue;
pub(super) mod relay;
pub(super) mod replay;
mod socket;
#[cfg(test)]
mod tests;

pub(crate) use queue::QueueLimits;
pub(crate) use replay::{Cursor, FinalRange, HistoryRead, Plan};
pub(crate) use socket::{Applied, Finals, Offer, Page, SocketState, Want};
