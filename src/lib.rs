//! Greenroom: the backend of AI-task products. Each room below says in its own words what it may not know.
//!
//! | room | knows | never |
//! |---|---|---|
//! | [`cli`] | the commands, one file each | rules |
//! | [`app`] | everything: builds pools, gateways, actors and listeners, and ends them in order | rules |
//! | [`config`] | files and variables | what settings are for |
//! | [`http`] | REST resources; turns requests into messages and replies into responses | SQL, Redis, gateways |
//! | [`ws`] | socket frames; turns them into calls of the stream's handles and what is queued into frames | SQL, Redis, gateways |
//! | [`dev`] | private servers, demo data | anything production imports |
//! | [`gateways`] | the outside world: AI providers, the store of files, short messages, the mini-program's platform | SQL, routes |
//! | [`migrations`], [`sealing`], [`telemetry`] | the schema; secrets at rest; the log | |
//! | `greenroom_actors` | the rules: state machines, messages, the SQL and Redis of what each actor owns | HTTP, configuration files, a concrete gateway |
//!
//! Imports go one way: `main → cli → app → {http, ws, gateways, config, actors}`, `http, ws → actors` (handles and
//! messages), `gateways → actors` (traits and ids). The crate boundary enforces it for `actors`, and
//! `tests/it/import_walls.rs` for the rest.

pub mod app;
pub mod cli;
pub mod config;
pub mod dev;
pub mod gateways;
pub mod http;
pub mod migrations;
pub mod sealing;
pub mod telemetry;
pub mod ws;
