//! Greenroom from outside: HTTP, websockets and the command line, against the real binary and real servers.
//!
//! One binary holds all of these tests, so that the servers start once. `support/` is how they look at the
//! service; every other folder is a part of its behaviour.
#![cfg(test)]
#![expect(
    unreachable_pub,
    reason = "nothing is reachable from outside a test binary; pub says what other files use"
)]

mod cli;
mod gateways;
mod http;
mod import_walls;
mod limits;
mod outages;
mod pipeline;
mod pool;
mod providers;
mod quota;
mod replicas;
mod support;
mod upkeep;
mod ws;
