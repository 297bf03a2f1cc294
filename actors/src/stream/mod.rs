//! Live updates: the hub of this replica, which relays what happened to Redis and from there to its sockets.
//!
//! **Duties.** [`StreamHandle::publish`] takes events after their COMMIT. The relay loop gives each a position
//! `(epoch, seq)` in its user's history in Redis and publishes it there, final events strictly in the order of
//! their numbers; what it lacks for that it reads from `final_events`. The link loop follows the channels of
//! users who have sockets here and hands what comes to their sockets. The catch-up loop reads the history, and
//! finals from PostgreSQL, for sockets that missed something or resume.
//!
//! **Owns** the sockets' queues, and in Redis (with the installation's prefix) for each user
//! `events:{user}:position` (a hash: epoch, run_id, seq, final), `events:{user}:history` (a stream with the ids
//! `<seq>-0`) and the channel `events:{user}`. It reads `final_events` and `users.final_no`, and writes no table.
//!
//! **A socket** is live, or replays, or resyncs:
//! - live: events are offered as they are published. One that does not directly follow the last makes it replay.
//! - replaying: pages of the history are read as its queue drains; live events wait in the history. It is live
//!   again when a page reached the end and nothing came meanwhile.
//! - resyncing: the history does not lead to where the client stands. Finals come from PostgreSQL without a
//!   position, then the new position; then it is live.
//!
//! What does not fit a socket's queue comes from the history as the queue drains, so a burst is no fault. But a
//! socket that then takes nothing for five seconds, or one that takes nothing for a minute at all, is too slow: its
//! queue is dropped and it is closed. The connection is cut when it does not take even that for 30 seconds. One
//! that takes little is left alone: pages cost no memory, and it resyncs when the history has moved on.
//!
//! **Invariants.** On a socket final events ascend, each once, none missing while PostgreSQL keeps them;
//! positions ascend within an epoch, each once; a position that cannot be sent is announced by a resync. The
//! epoch changes when the keys are lost or another Redis (or the same after a restart) holds them, so no position
//! is given out twice.
//!
//! **Crashes.** Between COMMIT and relay: every few seconds what live sockets were told is compared with
//! `users.final_no`, and what is missing is relayed by any replica that follows the user. Redis away: events are
//! dropped, users with final ones are marked and made up for from PostgreSQL; sockets stay open and catch up.
//! The hub panics: a fresh one finds the sockets in [`Sockets`](socket::Sockets), follows their users and makes
//! all catch up. Redis answered but the answer was lost: relaying again passes over finals that were taken, and
//! a repeated progress event gets a new position, which is harmless.

mod actor;
mod catch_up;
mod handle;
mod hub;
mod link;
mod messages;
mod relay;
mod socket;
mod state;
mod store;
mod ticket;

pub use actor::{StreamActor, start};
pub use handle::{Published, SocketsHandle, StreamHandle};
pub use hub::StreamSettings;
pub use messages::{
    CloseCause, Cut, Epoch, EventClass, OpenSocket, Outgoing, Position, ResumeFrom, ResyncReason,
    StreamError, StreamEvent,
};
pub use socket::{OpenedSocket, Outbox};
pub use ticket::{TicketError, Tickets};
