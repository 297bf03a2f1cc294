//! The pipeline: durable, bounded and watched runs of steps that call providers.
//!
//! - [`definition`], [`template`] and [`schema`]: what an administrator writes, checked and compiled. Pure.
//! - [`state`]: one run as a state machine, events in and effects out. Pure.
//! - [`engine`]: the actor that claims tasks, drives their runs, writes what they want and lets calls go.
//! - [`PipelineHandle`]: how everybody else starts, cancels and reads tasks.
//! - [`provider`]: the trait that those implement who do the calls.
//!
//! A task is `queued` from the transaction that reserved its quota, `running` from the one that let its first call
//! go, and `succeeded`, `failed` or `cancelled` from the one that settled its quota. [`engine`] tells what a crash
//! at each step leaves; `store` holds the SQL.

pub mod definition;
mod engine;
mod handle;
mod messages;
mod places;
pub mod provider;
mod queued_count;
mod rates;
pub mod schema;
pub mod state;
mod store;
pub(crate) mod task_rows;
pub mod template;
mod turns;

pub use engine::EngineSettings;
pub use handle::{PipelineHandle, PipelineParts, PipelineSettings};
pub use messages::*;
pub use store::{
    BreakerState, LastError, Overview, ProviderFigures, ReplicaFigures, ReplicaReport, TaskFilter, Waiting,
    WaitingReason,
};
