//! Faults of documents, and the JSON pointers that say where they are.

use std::fmt;

use crate::pipeline::Fault;

impl Fault {
    /// A fault at the JSON pointer `path`, `""` for the whole document.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }
}

/// Appends one step to a JSON pointer, escaping `~` and `/` as RFC 6901 asks.
pub fn pointer(parent: &str, step: impl fmt::Display) -> String {
    let step = step.to_string().replace('~', "~0").replace('/', "~1");
    format!("{parent}/{step}")
}

/// Brings faults into the order of their paths and drops repeats.
pub(in crate::pipeline) fn tidy(faults: &mut Vec<Fault>) {
    faults.sort_by(|a, b| (&a.path, &a.message).cmp(&(&b.path, &b.message)));
    faults.dedup();
}
