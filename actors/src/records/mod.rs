//! Tables that need no serialising and so no actor: plain store functions, one file a table.

pub mod api_keys;
pub mod audit_log;
pub mod callbacks;
pub mod files;
pub mod pipelines;
pub mod plans;
pub mod providers;
pub mod security_log;
pub mod timeline;
pub mod users;
