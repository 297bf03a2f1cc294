//! JSON into minijinja's values and back, the way back bounded: a template's value may be lazy, and larger
//! than anything the template paid fuel for.

use minijinja::{Value, value::ValueKind};
use serde_json::{Map, Number, Value as Json};

/// What an item of a list or map costs beside its text.
const ITEM_BYTES: usize = 8;

/// Bytes a rendered document may still take.
pub(super) struct Budget {
    left: usize,
    depth: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        Self { left: bytes, depth: super::MAX_DEPTH }
    }

    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), String> {
        self.left = self.left.checked_sub(bytes).ok_or("the rendered document is too large")?;
        Ok(())
    }
}

/// JSON as a template value.
pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(bool) => Value::from(*bool),
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect::<Vec<Value>>().into(),
        Json::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(key, field)| (key.as_str(), from_json(field))))
        }
        Json::Number(number) => number
            .as_i64()
            .map(Value::from)
            .or_else(|| number.as_u64().map(Value::from))
            .or_else(|| number.as_f64().map(Value::from))
            .unwrap_or_default(),
    }
}

/// A template value as JSON; what is undefined is null.
pub(super) fn to_json(value: &Value, budget: &mut Budget) -> Result<Json, String> {
    budget.spend(ITEM_BYTES)?;
    match value.kind() {
        ValueKind::Undefined | ValueKind::None => Ok(Json::Null),
        ValueKind::Bool => Ok(Json::Bool(value.is_true())),
        ValueKind::Number => number(value),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default();
            budget.spend(text.len())?;
            Ok(text.into())
        }
        ValueKind::Seq | ValueKind::Iterable => nested(budget, |budget| {
            let mut items = Vec::new();
            for item in value.try_iter().map_err(|error| error.to_string())? {
                items.push(to_json(&item, budget)?);
            }
            Ok(Json::Array(items))
        }),
        ValueKind::Map => nested(budget, |budget| {
            let mut fields = Map::new();
            for key in value.try_iter().map_err(|error| error.to_string())? {
                let field = value.get_item(&key).map_err(|error| error.to_string())?;
                let key = key.as_str().map_or_else(|| key.to_string(), str::to_owned);
                budget.spend(key.len())?;
                fields.insert(key, to_json(&field, budget)?);
            }
            Ok(Json::Object(fields))
        }),
        kind => Err(format!("a {kind} is no JSON value")),
    }
}

fn nested(
    budget: &mut Budget,
    convert: impl FnOnce(&mut Budget) -> Result<Json, String>,
) -> Result<Json, String> {
    budget.depth = budget.depth.checked_sub(1).ok_or("the rendered document is nested too deep")?;
    let json = convert(budget)?;
    budget.depth += 1;
    Ok(json)
}

fn number(value: &Value) -> Result<Json, String> {
    if value.is_integer() {
        let integer = i64::try_from(value.clone())
            .map(Number::from)
            .or_else(|_| u64::try_from(value.clone()).map(Number::from))
            .map_err(|_| format!("{value} does not fit into 64 bits"))?;
        return Ok(Json::Number(integer));
    }
    f64::try_from(value.clone())
        .ok()
        .and_then(Number::from_f64)
        .map(Json::Number)
        .ok_or_else(|| format!("{value} is no JSON number"))
}
