//! A private PostgreSQL and a private Redis as child processes, for `greenroom dev` and the tests.
//!
//! They never run as root, never touch the system's own services, listen on 127.0.0.1 only and ask for a
//! password. They die with the process that started them, also when that is killed with -9 (see `process.rs`),
//! and a later start finds the data again. What they may not know: anything of Greenroom's tables or keys.

mod place;
mod postgres;
mod process;
mod redis;
#[cfg(test)]
mod tests;

pub use place::{Place, private_directory, write_private};
pub use postgres::PrivatePostgres;
pub use process::{is_alive, send_signal};
pub use redis::PrivateRedis;

/// How much a crash of the machine may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// What the servers promise by default.
    Default,
    /// Nothing: no file is ever forced to disk. For tests only.
    Relaxed,
}
