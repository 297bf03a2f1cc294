//! The quota ledger: what users may spend, what their tasks hold, and every unit that came or went.
//!
//! **Owns** `users.quota_remaining`, `quota_reserved`, `ledger_no` and `final_no`, and the tables
//! `quota_grants`, `quota_transactions`, `quota_adjustments`, `api_key_usage`. Two shards a replica, by user; each
//! gathers commands while its one flush is out and sends them together.
//!
//! **States.** A hold is born `reserved` by [`Reserve`], in the transaction that inserts its task, and ends
//! `confirmed` by [`Confirm`] or `cancelled` by [`Cancel`], in the transaction that ends the task. It has no
//! other end and no life of its own. A repeat is answered as the first was; a contradiction is refused.
//! A grant burns into holds, lower priority first, then what expires sooner, then what is older; what a hold
//! does not use goes back, from its end, to the grants it came from. A due grant counts for nothing: every
//! flush writes off those of its users first, and a part that returns to one is written off at once.
//!
//! A task that an API key asked for counts to the key's spending of the day on which it is held; what does not stay
//! charged is taken off that same day. A cap of the key is one more reason to refuse.
//!
//! **Invariants**, at every moment between transactions (`crate::audit` checks them):
//! a user's `quota_remaining` is the sum of what is left of the grants, `quota_reserved` of the open holds;
//! a grant's amount is what is left, was adjusted away, is held and was charged; a task has exactly one
//! transaction, settled when the task is final and not before; ledger numbers and final numbers have no gap;
//! each ledger row's `balance_after` is the one before it plus its amount; what an API key has spent of a day is what
//! its tasks of that day hold and were charged.
//!
//! **Across replicas** the row of the user in `users` is the lock: whoever changes any of this holds it. Lock
//! order: users by id, tasks by id, then unique keys by their values.
//!
//! **A crash**: before COMMIT, nothing was done and callers hear that the outcome is unknown. After COMMIT and
//! before the answers, all was done, and a repeat is told so. After the answers and before the events are
//! published, they are rows of `final_events`, and the stream finds the gap.
//!
//! **Limits**: 4,096 unanswered commands a shard, then [`AskError::Overloaded`](crate::ask::AskError); 512
//! commands a transaction; [`STATEMENT_ROWS`] rows a statement.

mod actor;
mod allowance;
mod commands;
mod flush;
mod handle;
mod ledger;
mod messages;
mod reads;
mod state;
mod store;

pub(crate) use flush::grant_within;
pub use handle::{QuotaHandle, QuotaSettings};
pub use messages::*;
pub use reads::{GrantRecord, Quota, STATEMENT_ROWS, Statement, StatementRow, TransactionRecord};
pub(crate) use store::prepare;
