//! The HTTP interface, from outside.

mod accounts;
mod api_keys;
mod bad_requests;
mod codes;
mod contract;
mod definitions;
mod identity;
mod limits;
mod platform;
mod quota;
mod routes;
mod secrets;
mod sessions;
mod tasks;
