//! Reading JSON that people wrote: the first thing that is wrong, with its path.

use greenroom_actors::pipeline::Fault;
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::{Number, Value};
use serde_path_to_error::Segment;

/// Something wrong at a JSON pointer.
pub(super) fn fault(path: impl Into<String>, message: impl Into<String>) -> Fault {
    Fault { path: path.into(), message: message.into() }
}

/// Reads a value that stands at the JSON pointer `at`.
///
/// # Errors
/// What is wrong and where. Serde stops at the first fault, so there is one.
pub(super) fn read<T: DeserializeOwned>(at: &str, value: Value) -> Result<T, Vec<Fault>> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let mut path: String = error.path().iter().filter_map(pointer_part).collect();
        let message = error.inner().to_string();
        // a missing field is named too, though it is not there
        if let Some(field) = message.strip_prefix("missing field `").and_then(|rest| rest.strip_suffix('`')) {
            path = pointer(&path, field);
        }
        vec![fault(format!("{at}{path}"), message)]
    })
}

/// A JSON pointer one step longer.
pub(super) fn pointer(parent: &str, step: &str) -> String {
    format!("{parent}/{}", step.replace('~', "~0").replace('/', "~1"))
}

fn pointer_part(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(pointer("", &index.to_string())),
        Segment::Map { key } => Some(pointer("", key)),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// A whole number from `MIN` to `MAX`. A template's arithmetic gives `256.0`: that is whole as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Whole<const MIN: u32, const MAX: u32, const DEFAULT: u32 = MIN>(pub(super) u32);

impl<const MIN: u32, const MAX: u32, const DEFAULT: u32> Default for Whole<MIN, MAX, DEFAULT> {
    fn default() -> Self {
        Self(DEFAULT)
    }
}

impl<'de, const MIN: u32, const MAX: u32, const DEFAULT: u32> Deserialize<'de> for Whole<MIN, MAX, DEFAULT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Number::deserialize(deserializer)?
            .as_f64()
            .filter(|n| n.fract() == 0.0 && (f64::from(MIN)..=f64::from(MAX)).contains(n))
            .map(|n| Self(nearest(n)))
            .ok_or_else(|| serde::de::Error::custom(format!("must be a whole number from {MIN} to {MAX}")))
    }
}

/// The nearest whole number; what lies outside its range becomes the nearer end.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast of a float saturates, which is what is asked for"
)]
pub(super) fn nearest(number: f64) -> u32 {
    number.round() as u32
}

/// The nearest byte; as [`nearest`].
pub(super) fn nearest_byte(number: f64) -> u8 {
    u8::try_from(nearest(number)).unwrap_or(u8::MAX)
}
