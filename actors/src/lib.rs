//! The rules of Greenroom. This crate knows state machines, messages, and the SQL and Redis of what each actor
//! owns; it never knows HTTP, configuration files or a concrete gateway.
//!
//! | actor | owns | accepts | calls | after a failure |
//! |---|---|---|---|---|
//! | `quota` (shards by user) | `users.quota_*`, `quota_*` tables, `api_key_usage` | `Reserve`, `Confirm`, `Cancel`, `Grant`, `Correct`, `ExpireDue` | stream | fresh, from PostgreSQL |
//! | `pipeline` (engine; a run per task) | `tasks`, `task_steps`, `step_attempts`, `replicas`, `provider_slots` | `StartTask`, `CancelTask`, `TakeCallback` | quota, stream | engine claims again; a run is rebuilt from its rows |
//! | `session` | identity columns of `users` | `Register`, `SignIn` | stream | fresh |
//! | `signals` | nothing: hints between replicas, over Redis | none | none | fresh |
//! | `stream` (hub) | sockets' queues, Redis history | `Publish`, `Subscribe`, `Resume` | none | sockets register again |
//! | `upkeep` | the timetable `jobs` | `RunNow` | all | fresh |
//!
//! Who may ask whom is a DAG: upkeep → all; pipeline → quota, stream; session → quota, stream; quota → stream.
//! Everybody may send and hear signals.
//! An actor uses another's handle and messages, never its state or store. The exceptions: the quota
//! actor's flush calls the set-based functions of `pipeline::store`, because a task's row and its hold are
//! written, and settled, in one transaction; and a registration calls `quota::grant_within`, because an account and
//! the gifts for it are made in one.
//!
//! With several replicas there are several copies of each actor. An actor orders and batches the work of its
//! replica; what is right across replicas is decided by SQL: row locks, unique keys, fencing numbers.

pub mod ask;
pub mod audit;
mod causes;
pub mod clock;
pub mod database;
pub mod events;
pub mod faults;
pub mod health;
pub mod idempotency;
pub mod ids;
pub mod inspection;
pub mod limits;
pub mod object_store;
pub mod pipeline;
pub mod quota;
pub mod records;
pub mod redis_client;
pub mod sealer;
pub mod session;
pub mod signals;
pub mod stream;
pub mod supervisor;
pub mod upkeep;

pub use causes::causes;
