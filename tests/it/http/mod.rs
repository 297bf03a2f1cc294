//! The HTTP interface, from outside.

mod api_keys;
mod bad_requests;
mod contract;
mod definitions;
mod identity;
mod limits;
mod platform;
mod quota;
mod sessions;
mod tasks;
