//! Reads the fields of a JSON object and collects every fault, instead of stopping at the first as serde does.

use std::ops::RangeInclusive;

use serde_json::{Map, Value as Json};

use super::fault::pointer;
use crate::pipeline::Fault;

/// One object being read.
pub(super) struct Reader<'a> {
    fields: &'a Map<String, Json>,
    path: String,
    known: Vec<&'static str>,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
    /// Reads `json`, or says that it is no object.
    pub(super) fn new(json: &'a Json, path: String, faults: &mut Vec<Fault>) -> Option<Self> {
        match json {
            Json::Object(fields) => Some(Self { fields, path, known: Vec::new(), faults: Vec::new() }),
            _ => {
                faults.push(Fault::new(path, "must be an object"));
                None
            }
        }
    }

    /// Ends reading: fields nobody asked for are faults.
    pub(super) fn finish(mut self, faults: &mut Vec<Fault>) {
        for key in self.fields.keys().filter(|key| !self.known.contains(&key.as_str())) {
            self.faults.push(Fault::new(pointer(&self.path, key), "unknown field"));
        }
        faults.append(&mut self.faults);
    }

    /// The pointer of a field.
    pub(super) fn at(&self, name: &str) -> String {
        pointer(&self.path, name)
    }

    /// Adds a fault of a field.
    pub(super) fn fault(&mut self, name: &str, message: impl Into<String>) {
        self.faults.push(Fault::new(self.at(name), message));
    }

    /// Where nested readers and compilers put what they find.
    pub(super) fn faults(&mut self) -> &mut Vec<Fault> {
        &mut self.faults
    }

    /// A field that may be left out or null.
    pub(super) fn optional(&mut self, name: &'static str) -> Option<&'a Json> {
        self.known.push(name);
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A field that must be there.
    pub(super) fn required(&mut self, name: &'static str) -> Option<&'a Json> {
        let value = self.optional(name);
        if value.is_none() {
            self.fault(name, "is missing");
        }
        value
    }

    /// A string of so many characters.
    pub(super) fn string(
        &mut self,
        name: &'static str,
        value: Option<&'a Json>,
        characters: RangeInclusive<usize>,
    ) -> Option<&'a str> {
        let Some(text) = value?.as_str() else {
            self.fault(name, "must be a string");
            return None;
        };
        if !characters.contains(&text.chars().count()) {
            let (least, most) = characters.into_inner();
            self.fault(name, format!("must have {least} to {most} characters"));
            return None;
        }
        Some(text)
    }

    /// A whole number in a range.
    pub(super) fn integer(
        &mut self,
        name: &'static str,
        value: Option<&Json>,
        range: RangeInclusive<i64>,
    ) -> Option<i64> {
        let value = value?;
        match value.as_i64().filter(|number| range.contains(number)) {
            Some(number) => Some(number),
            None => {
                let (least, most) = range.into_inner();
                self.fault(name, format!("must be a whole number from {least} to {most}"));
                None
            }
        }
    }

    /// A boolean, false when left out.
    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        match self.optional(name) {
            None => false,
            Some(Json::Bool(flag)) => *flag,
            Some(_) => {
                self.fault(name, "must be true or false");
                false
            }
        }
    }

    /// A list.
    pub(super) fn list(&mut self, name: &'static str, value: Option<&'a Json>) -> &'a [Json] {
        match value {
            None => &[],
            Some(Json::Array(items)) => items,
            Some(_) => {
                self.fault(name, "must be a list");
                &[]
            }
        }
    }
}
