//! The stream's Redis and SQL: one function a script or statement, each for a batch of users.

pub(super) mod postgres;
pub(super) mod redis;
