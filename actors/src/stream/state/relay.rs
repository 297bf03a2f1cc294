//! What is missing before a user's events may be relayed.

use super::replay::FinalRange;

/// One event on its way to Redis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The durable number of a final event.
    pub(crate) final_no: Option<i64>,
    /// What Redis keeps of it.
    pub(crate) text: String,
}

/// What the relay script did with a batch of one user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Events of the batch that are dealt with: relayed, or relayed before.
    pub(crate) taken: usize,
    /// The newest final event relayed; `None` in an epoch that has had none.
    pub(crate) final_no: Option<i64>,
}

/// The finals that must be relayed before the rest of `batch`; `None` if all of it is dealt with.
pub(crate) fn missing(batch: &[Line], standing: Standing) -> Option<FinalRange> {
    let next = batch.get(standing.taken)?.final_no?;
    Some(FinalRange { after: standing.final_no?, upto: next - 1 })
}

/// Puts `found`, the finals that were missing, before what is left of `batch`. Says too whether the first of
/// them may follow any number: those between are older than PostgreSQL keeps them.
pub(crate) fn fill(batch: Vec<Line>, standing: Standing, found: Vec<Line>) -> (Vec<Line>, bool) {
    let mut lines = found;
    lines.extend(batch.into_iter().skip(standing.taken));
    let next = lines.iter().find_map(|line| line.final_no);
    let jumps = next.zip(standing.final_no).is_some_and(|(next, last)| next > last + 1);
    (lines, jumps)
}
