//! The SQL of the pipeline's tables, one function a statement.
//!
//! Lock order: tasks, providers, rates, slots, steps (a caller that also locks users or grants does so first). Nothing here opens
//! or commits a transaction of its own, except where a function takes `&mut Client`.

mod claim;
mod columns;
mod figures;
mod flush;
mod jobs;
mod queue;
mod rates;
mod read;
mod replicas;
mod start;
mod waits;

pub(super) use claim::{
    Claimed, claim_expired, claim_orphans, claim_own, claim_queued, claim_released, claim_strays,
    close_overdue, count_queued, own_tasks, queues, stall,
};
pub use figures::{BreakerState, LastError, ProviderFigures, ReplicaFigures};
pub(super) use figures::{
    Elsewhere, FiguresRow, figures_elsewhere, forget_figures, provider_figures, write_figures,
};
pub(super) use flush::{
    AttemptEnd, AttemptStart, FileRow, SlotWish, TaskTouch, end_attempts, fence, insert_attempts,
    insert_files, known_attempts, mark_outputs, prepare_flush, slot_deadlines, take_slots, touch_tasks,
    upsert_steps,
};
pub(super) use jobs::{Resumable, keep_job, resumable};
pub(super) use queue::{OwnPlace, Queue, own_places, queued_to_tell, read_queues};
pub(super) use rates::{LockedRates, lock_rates, pause_providers, pauses, save_rates};
pub use read::{Overview, TaskFilter, Waiting, WaitingReason};
pub(super) use read::{attempts, overview, steps, task, tasks, waiting_elsewhere};
pub use replicas::ReplicaReport;
pub(super) use replicas::{bury_expired, clock, next_expiry, register, release, renew, reports};
pub(super) use start::{foreign_files, start_facts};
pub(super) use waits::{TaskWait, Waits, waits_elsewhere, write_task_waits, write_waits};
