//! Pipeline definitions: what an administrator writes, checked whole and turned into what a run needs.
//!
//! A definition is nodes and edges. It is accepted only when every run of it is sure to end: one `start`, one
//! `end`, no cycle, every `fork` closed by its own `join` and properly nested, every template compiled and
//! reading only what can be there before it. [`Definition::parse`] reports all faults at once, each with the
//! JSON pointer of its place.
//!
//! May not know: runs, SQL, HTTP, providers beyond their ids.

mod fault;
mod graph;
mod parse;
mod reader;
#[cfg(test)]
mod tests;

pub use fault::pointer;
pub(super) use fault::tidy;
pub use graph::{Item, Sequence};

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Fault, schema::Schema, template::Template};

/// Most nodes of one definition.
pub const MAX_NODES: usize = 200;
/// Largest definition, in bytes of its JSON.
pub const MAX_DEFINITION_BYTES: usize = 256 * 1024;
/// Most that one task may cost.
pub const MAX_QUOTA_COST: i64 = 1_000_000;
/// How long a task may run when the definition does not say.
pub const DEFAULT_DEADLINE: Duration = Duration::from_secs(900);

/// A checked pipeline definition.
#[derive(Debug)]
pub struct Definition {
    /// 1 to 100 characters.
    pub name: String,
    /// Up to 2,000 characters, often empty.
    pub description: String,
    /// What a task of this pipeline reserves and is charged.
    pub quota_cost: QuotaCost,
    /// Whether a task that fails because a provider refused its content costs the maximum.
    pub charge_on_content_rejected: bool,
    /// Whether only members may start it.
    pub requires_membership: bool,
    /// From the first admitted step to the end.
    pub deadline: Duration,
    /// What a task's input must look like.
    pub input_schema: Schema,
    nodes: Vec<Node>,
    root: Sequence,
}

/// What a task costs.
#[derive(Debug)]
pub enum QuotaCost {
    /// Always the same, 0 to [`MAX_QUOTA_COST`].
    Fixed(i64),
    /// At most `max` is reserved, what `charge` gives is charged.
    Usage {
        /// 0 to [`MAX_QUOTA_COST`].
        max: i64,
        /// One expression, evaluated when the task has succeeded.
        charge: Template,
    },
}

impl QuotaCost {
    /// What is reserved when a task starts.
    pub fn max(&self) -> i64 {
        match self {
            Self::Fixed(cost) => *cost,
            Self::Usage { max, .. } => *max,
        }
    }
}

/// One step of a pipeline.
#[derive(Debug)]
pub struct Node {
    /// Unique in its definition: 1 to 64 letters, digits, `_` and `-`.
    pub id: String,
    /// What it does.
    pub kind: NodeKind,
}

/// What a node does.
#[derive(Debug)]
pub enum NodeKind {
    /// Where every run begins.
    Start,
    /// Calls a provider.
    Provider(Box<ProviderNode>),
    /// Starts all its branches at once.
    Fork,
    /// Ends its fork's branches.
    Join(Strategy),
    /// Ends the task with this output.
    End(Template),
}

impl NodeKind {
    /// The kind as definitions, tables and the API spell it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Provider(_) => "provider",
            Self::Fork => "fork",
            Self::Join(_) => "join",
            Self::End(_) => "end",
        }
    }
}

/// When a join is satisfied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strategy {
    /// Every branch has succeeded. Fails as soon as one has failed.
    All,
    /// Every branch has finished, at least one with success.
    Any,
    /// One branch has succeeded; the others are cancelled.
    First,
}

/// A call to a provider.
#[derive(Debug)]
pub struct ProviderNode {
    /// The provider asked first.
    pub provider: String,
    /// Providers asked in this order when the attempts of the one before are used up.
    pub fallback: Vec<String>,
    /// What the provider is given.
    pub input: Template,
    /// 100 ms to 1 h; the provider's own when none.
    pub timeout: Option<Duration>,
    /// The provider's own when none.
    pub retry: Option<RetryPolicy>,
    /// What the output must look like.
    pub output_schema: Option<Schema>,
}

impl ProviderNode {
    /// The provider and its fallbacks, in the order in which they are asked.
    pub fn providers(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.provider).chain(&self.fallback).map(String::as_str)
    }
}

/// How often and how soon a failed call is repeated, before the next provider is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RetryPolicy {
    /// 1 to 20 calls of one provider.
    pub max_attempts: u32,
    /// Wait before the second call, in milliseconds; doubled each time.
    pub backoff_ms: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { max_attempts: 3, backoff_ms: 500 }
    }
}

impl Definition {
    /// Checks a definition and compiles its templates and schemas.
    ///
    /// `provider_exists` answers for a provider's id. A stored version was checked when it was saved and is
    /// loaded with `|_| true`: a provider that has been deleted since is the run's affair.
    ///
    /// # Errors
    /// All faults, sorted by path.
    pub fn parse(json: &Json, provider_exists: &dyn Fn(&str) -> bool) -> Result<Self, Vec<Fault>> {
        parse::definition(json, provider_exists).map_err(|mut faults| {
            tidy(&mut faults);
            faults
        })
    }

    /// The nodes in the order in which they were written.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// How the nodes follow each other, from `start` to `end`.
    pub fn root(&self) -> &Sequence {
        &self.root
    }

    /// The nodes that make a run's first calls, in the order of their branches.
    pub fn first_calls(&self) -> Vec<&ProviderNode> {
        let mut calls = Vec::new();
        self.add_first_calls(&self.root, &mut calls);
        calls
    }

    fn add_first_calls<'a>(&'a self, sequence: &Sequence, calls: &mut Vec<&'a ProviderNode>) {
        for item in &sequence.0 {
            match item {
                Item::Node(node) => {
                    if let Some(NodeKind::Provider(node)) = self.nodes.get(*node).map(|node| &node.kind) {
                        return calls.push(node);
                    }
                }
                Item::Fork { branches, .. } => {
                    return branches.iter().for_each(|branch| self.add_first_calls(branch, calls));
                }
            }
        }
    }

    /// The place of a node in [`Definition::nodes`].
    pub fn position(&self, id: &str) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::All => "ALL",
            Self::Any => "ANY",
            Self::First => "FIRST",
        })
    }
}
