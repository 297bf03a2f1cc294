//! Supervision: what fails is made anew, what keeps failing ends the process with a clear last word.
//!
//! actix's own `Supervisor` does not survive a panic (the address is dead for ever) and keeps the old struct
//! otherwise. Ours owns a factory, runs each life of the actor under `catch_unwind`, publishes the new address
//! to the [`Mailbox`](crate::ask::Mailbox) that callers hold, pauses longer after each failure, and gives up
//! when the restart budget is spent. One for one: a failure touches no neighbour.
//!
//! A fresh actor reads what it needs from PostgreSQL; commands that were in the old one's mailbox are dropped,
//! and their callers hear [`OutcomeUnknown`](crate::ask::AskError::OutcomeUnknown).

mod actor;
mod state;
#[cfg(test)]
mod tests;
mod vitals;

pub use actor::{ChildSpec, Drain, Escalation, Isolated, Supervisor, run_isolated};
pub use state::{Decision, RestartBudget, RestartPolicy};
pub use vitals::{Condition, Vitals, VitalsSnapshot};
