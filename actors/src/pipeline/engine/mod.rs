//! The engine: the actor that runs this replica's share of the tasks.
//!
//! **Duties.** It keeps the replica's row alive, claims tasks, starts a [`run`] for each, writes what the runs want
//! written (what gathered while one flush was out goes into the next, one transaction for all), lets calls go when
//! there is a slot for them, and has finished tasks settled by the quota actor.
//!
//! **Owns** `tasks` (but for their insertion and their end, which belong to the ledger's flush), `task_steps`,
//! `step_attempts`, `provider_slots` and `provider_rates` of calls that it lets go, the pauses of `providers`, its row of
//! `replicas` and its rows of `provider_figures`.
//!
//! **A task's life here.** *Claimed*: owner and `lease_no` are ours. *Running*: its run's actor takes events in and
//! hands effects over. *Panicked*: its run failed; once what it had handed over is written, a stall is counted and
//! a fresh run is rebuilt from the rows. *Settling*: its last rows are written and the quota actor is asked, until
//! it answers. *Lost*: a fence said that somebody else has it, or ended it; it is dropped.
//!
//! **A call's life here.** *Waiting* in [`admission`], first come first served by provider, before its provider's
//! [`gate`]; *written* `running` with its slot in a flush; *away* in [`calls`]; *answered*, until the flush that writes its end.
//!
//! **Invariants.** Nothing is written of a task without its lease (but the ends of calls that were made). No call
//! leaves before its attempt is written, nor after its deadline, nor while the replica's lease is not sure. Events
//! are told after the commit of what they tell.
//!
//! **What a crash leaves.** Before a flush: nothing of it happened. After its commit: attempts `running` whose calls
//! may or may not have left; whoever claims the task repeats them as their provider allows, or asks about the jobs they
//! had submitted ([`jobs`]). After a call's answer
//! and before its flush: the same, the answer is lost with the process (an engine or a run that only panicked hears
//! it again from [`calls`]). After the last step and before the settling: the next claim finds the steps done and
//! settles. Files that were stored without their row are orphans, removed by upkeep.
//!
//! **May not know:** HTTP, how a provider is called, how quota is kept.

mod actor;
mod admission;
mod breaker;
mod calls;
mod claims;
mod clock;
mod figures;
mod files;
mod flush;
mod gate;
mod health;
mod jobs;
mod lease;
mod providers;
mod retry_budget;
mod run;
mod runs;
mod settle;
mod tools;
mod waiting;
mod work;

pub(super) use actor::{Engine, GetWaiting};
pub use tools::EngineSettings;
pub(super) use tools::{Parts, Tools};
