//! Upkeep: what must be done from time to time, by whichever replica is free.
//!
//! **Duties.** The timetable: quota that has expired is written off, what is too old is deleted, files that belong
//! to nobody are removed. And on every replica, every 30 s, a line and gauges about the pool.
//!
//! **Owns** the table `jobs`: a row for each job says when it is next due and, while it runs, who runs it and until
//! when that claim holds.
//!
//! **States of a job**: *waiting* until `next_run_at`; *running* from the claim (`running_by`, `running_until`) to the
//! release, which dates the next run. A claim that was not released in time counts as none.
//!
//! **Invariants.** One replica at a time runs a job, and it stops before its claim ends. Every job may be run again,
//! also beside itself: it deletes what is due or asks actors whose commands are idempotent. Each works in batches
//! and ends after a bounded number of them; the next run goes on.
//!
//! **A crash** leaves the claim, which ends by itself after [`state::CLAIM`]; what the job had done is done.

mod actor;
mod erasure;
mod handle;
mod jobs;
mod messages;
mod state;
mod store;

pub use handle::UpkeepHandle;
pub use jobs::UpkeepParts;
pub use messages::*;
