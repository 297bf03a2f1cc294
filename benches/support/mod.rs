//! What all benches stand on.

pub(crate) mod ground;
pub(crate) mod pgbench;
pub(crate) mod table;
