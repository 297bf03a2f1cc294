//! The HTTP interface, from outside.

mod accounts;
mod bad_requests;
mod contract;
mod definitions;
mod identity;
mod limits;
mod platform;
mod quota;
mod routes;
mod sessions;
mod tasks;
