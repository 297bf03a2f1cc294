//! Several replicas on one PostgreSQL and one Redis: equals, of which any may do anything and any may die.

mod actors;
mod bounds;
mod ceiling;
mod changes;
mod cluster;
mod deaths;
mod fairness;
mod handover;
mod signals;
mod waiting;
