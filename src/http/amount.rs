//! Units of quota as clients write them.

use serde::{Deserialize, Deserializer};
use serde_json::Number;

/// A whole number of units. One that fits no `i64` is as far out of range as can be, and not of another type.
#[derive(Clone, Copy, Debug)]
pub(super) struct Amount(pub(super) i64);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Number::deserialize(deserializer)?;
        let is_whole = number.as_f64().is_some_and(|number| number.fract() == 0.0);
        match number.as_i64() {
            Some(amount) => Ok(Self(amount)),
            None if is_whole => Ok(Self(i64::MAX)),
            None => Err(serde::de::Error::custom("须为整数 (a whole number is expected)")),
        }
    }
}
