//! JSON schemas (draft 2020-12) for the input of a pipeline and the output of a step.
//!
//! A schema is an administrator's, what it judges is a user's or a provider's: references stay inside of the
//! schema (nothing is fetched), patterns run in linear time, sizes are bounded. `format: "file-id"` is our own
//! and says which strings of an input name files; whose they are is checked where there is SQL.
//!
//! May not know: definitions, runs, HTTP, files beyond their ids.

#[cfg(test)]
mod tests;

use jsonschema::{
    Draft, PatternOptions, ValidationError, Validator, draft202012, error::ValidationErrorKind,
};
use serde_json::Value as Json;
use uuid::Uuid;

use super::{
    Fault,
    definition::{pointer, tidy},
};

/// Largest schema, in bytes of its JSON.
pub const MAX_SCHEMA_BYTES: usize = 65_536;
/// Deepest nesting of a schema.
pub const MAX_SCHEMA_DEPTH: usize = 32;
/// Most faults reported of one document.
const MAX_FAULTS: usize = 20;
/// Most patterns in one schema, and how large each may be compiled: compiling them is what a schema costs.
const MAX_PATTERNS: usize = 100;
const MAX_PATTERN_BYTES: usize = 256 * 1024;
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";
const FILE_ID: &str = "file-id";

/// A compiled schema.
#[derive(Debug)]
pub struct Schema {
    json: Json,
    validator: Validator,
}

/// A file a document names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Where the document names it.
    pub path: String,
    /// Its id.
    pub id: Uuid,
}

impl Schema {
    /// Compiles a schema that stands at the JSON pointer `at` of what the author wrote.
    ///
    /// # Errors
    /// Every way in which it is no schema we accept.
    pub fn compile(json: &Json, at: &str) -> Result<Self, Vec<Fault>> {
        let mut faults = Vec::new();
        if !json.is_object() {
            return Err(vec![Fault::new(at, "must be an object")]);
        }
        if json.to_string().len() > MAX_SCHEMA_BYTES {
            return Err(vec![Fault::new(at, format!("a schema has at most {MAX_SCHEMA_BYTES} bytes"))]);
        }
        let mut patterns = 0;
        check_shape(json, at.to_owned(), 0, &mut patterns, &mut faults);
        if patterns > MAX_PATTERNS {
            faults.push(Fault::new(at, format!("a schema has at most {MAX_PATTERNS} patterns")));
        }
        match json.get("$schema").map(Json::as_str) {
            None | Some(Some(DIALECT)) => {}
            _ => faults.push(Fault::new(pointer(at, "$schema"), format!("must be {DIALECT}"))),
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        faults.extend(explain(draft202012::meta::validator().iter_errors(json), at));
        if !faults.is_empty() {
            return Err(faults);
        }
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            .with_pattern_options(PatternOptions::regex().size_limit(MAX_PATTERN_BYTES))
            .with_format(FILE_ID, |text: &str| Uuid::try_parse(text).is_ok())
            .should_validate_formats(true)
            .offline()
            .build(json)
            .map_err(|error| vec![fault(&error, at)])?;
        Ok(Self { json: json.clone(), validator })
    }

    /// The schema as it was written.
    pub fn json(&self) -> &Json {
        &self.json
    }

    /// Judges a document that stands at the JSON pointer `at` of what the sender wrote (`/input`).
    ///
    /// # Errors
    /// What is wrong with it, at most 20 faults. None of them repeats the document's values.
    pub fn validate(&self, document: &Json, at: &str) -> Result<(), Vec<Fault>> {
        let mut faults = Vec::new();
        refuse_nul(document, at, &mut faults);
        if faults.is_empty() && !self.validator.is_valid(document) {
            faults = explain(self.validator.iter_errors(document), at);
            if faults.is_empty() {
                faults.push(Fault::new(at, "does not fit the schema"));
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(faults) }
    }

    /// The files a valid document names, that is its strings to which `format: "file-id"` applies.
    pub fn files(&self, document: &Json, at: &str) -> Vec<NamedFile> {
        let mut files = Vec::new();
        for entry in self.validator.evaluate(document).iter_annotations() {
            let is_format = entry.schema_location.ends_with("/format");
            if !is_format || entry.annotations.value().as_str() != Some(FILE_ID) {
                continue;
            }
            let place = entry.instance_location.as_str();
            let id = document.pointer(place).and_then(Json::as_str).and_then(|id| Uuid::try_parse(id).ok());
            if let Some(id) = id {
                let file = NamedFile { path: format!("{at}{place}"), id };
                if !files.contains(&file) {
                    files.push(file);
                }
            }
        }
        files
    }
}

/// PostgreSQL's `jsonb` cannot hold NUL, so no document we are to store may.
pub(super) fn refuse_nul(json: &Json, at: &str, faults: &mut Vec<Fault>) {
    match json {
        Json::String(text) if text.contains('\0') => {
            faults.push(Fault::new(at, "must not contain a NUL character"));
        }
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                refuse_nul(item, &pointer(at, index), faults);
            }
        }
        Json::Object(fields) => {
            for (key, field) in fields {
                if key.contains('\0') {
                    faults.push(Fault::new(at, "must not contain a NUL character in a field name"));
                } else {
                    refuse_nul(field, &pointer(at, key), faults);
                }
            }
        }
        _ => {}
    }
}

/// What must hold before a schema is compiled: its depth is bounded, its references stay inside, its patterns
/// are counted.
fn check_shape(json: &Json, at: String, depth: usize, patterns: &mut usize, faults: &mut Vec<Fault>) {
    if depth > MAX_SCHEMA_DEPTH {
        faults.push(Fault::new(at, format!("nested deeper than {MAX_SCHEMA_DEPTH}")));
        return;
    }
    match json {
        Json::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check_shape(item, pointer(&at, index), depth + 1, patterns, faults);
            }
        }
        Json::Object(fields) => {
            for (key, field) in fields {
                let place = pointer(&at, key);
                match (key.as_str(), field) {
                    ("$ref" | "$dynamicRef", Json::String(target)) if !target.starts_with('#') => {
                        faults
                            .push(Fault::new(place, "a reference must stay inside of the schema (`#/...`)"));
                        continue;
                    }
                    // They would give other names to what references mean. As names of properties they hold schemas.
                    ("$id" | "$anchor" | "$dynamicAnchor", Json::String(_)) | ("$vocabulary", _) => {
                        faults.push(Fault::new(place, format!("`{key}` is not allowed")));
                        continue;
                    }
                    ("pattern", Json::String(_)) => *patterns += 1,
                    ("patternProperties", Json::Object(named)) => *patterns += named.len(),
                    _ => {}
                }
                check_shape(field, place, depth + 1, patterns, faults);
            }
        }
        _ => {}
    }
}

fn explain<'a>(errors: impl Iterator<Item = ValidationError<'a>>, at: &str) -> Vec<Fault> {
    let mut faults: Vec<Fault> =
        errors.take(MAX_FAULTS).flat_map(|error| unexpected(&error, at)).take(MAX_FAULTS).collect();
    tidy(&mut faults);
    faults
}

/// One fault for each field that must not be there, so that its path names it.
fn unexpected(error: &ValidationError<'_>, at: &str) -> Vec<Fault> {
    match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected }
        | ValidationErrorKind::UnevaluatedProperties { unexpected } => {
            let place = format!("{at}{}", error.instance_path());
            unexpected.iter().map(|name| Fault::new(pointer(&place, name), "unknown field")).collect()
        }
        _ => vec![fault(error, at)],
    }
}

fn fault(error: &ValidationError<'_>, at: &str) -> Fault {
    let place = format!("{at}{}", error.instance_path());
    match error.kind() {
        ValidationErrorKind::Required { property } => {
            Fault::new(pointer(&place, property.as_str().unwrap_or_default()), "is missing")
        }
        _ => Fault::new(place, error.masked().to_string()),
    }
}
