use serde_json::{Value as Json, json};

use super::*;

const FILE: &str = "0192f0c1-2d3e-7000-8000-000000000001";
const OTHER: &str = "0192f0c1-2d3e-7000-8000-000000000002";

fn schema(json: &Json) -> Schema {
    Schema::compile(json, "/inputSchema").expect("a good schema")
}

fn refused(json: &Json) -> Vec<(String, String)> {
    pairs(Schema::compile(json, "/inputSchema").expect_err("must be refused"))
}

fn pairs(faults: Vec<Fault>) -> Vec<(String, String)> {
    faults.into_iter().map(|fault| (fault.path, fault.message)).collect()
}

fn photo_schema() -> Schema {
    schema(&json!({
        "type": "object", "required": ["photo"], "additionalProperties": false,
        "properties": {
            "photo": {"type": "string", "format": "file-id"},
            "others": {"type": "array", "items": {"$ref": "#/$defs/file"}},
            "note": {"type": "string", "maxLength": 5},
            "mark": {"anyOf": [{"type": "string", "const": "none"}, {"type": "string", "format": "file-id"}]},
        },
        "$defs": {"file": {"type": "string", "format": "file-id"}},
    }))
}

#[test]
fn a_fitting_input_passes() {
    let input = json!({"photo": FILE, "others": [OTHER], "note": "short", "mark": "none"});
    assert_eq!(photo_schema().validate(&input, "/input"), Ok(()));
}

#[test]
fn every_fault_has_its_path_and_no_value() {
    let input = json!({"others": ["secret text", 3], "note": "too long", "extra": 1, "more": 2});
    let faults = pairs(photo_schema().validate(&input, "/input").expect_err("must be refused"));
    let paths: Vec<&str> = faults.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        paths,
        ["/input/extra", "/input/more", "/input/note", "/input/others/0", "/input/others/1", "/input/photo"]
    );
    assert_eq!(faults[0].1, "unknown field");
    assert_eq!(faults[5].1, "is missing");
    assert!(
        faults.iter().all(|(_, message)| !message.contains("secret text") && !message.contains("too long"))
    );
}

#[test]
fn a_wrong_root_is_reported_at_the_root() {
    let faults = pairs(photo_schema().validate(&json!([1]), "/input").expect_err("must be refused"));
    assert_eq!(faults[0].0, "/input");
}

#[test]
fn nul_is_refused_wherever_it_hides() {
    let any = schema(&json!({}));
    for (input, path) in
        [(json!("a\0"), "/input"), (json!({"a": ["\0"]}), "/input/a/0"), (json!({"a\0b": 1}), "/input")]
    {
        let faults = pairs(any.validate(&input, "/input").expect_err("must be refused"));
        assert_eq!(faults[0].0, path, "{input}");
    }
}

#[test]
fn faults_of_one_input_are_bounded() {
    let numbers = schema(&json!({"type": "array", "items": {"type": "number"}}));
    let faults = numbers.validate(&json!(vec!["x"; 1000]), "/input").expect_err("must be refused");
    assert_eq!(faults.len(), 20);
}

#[test]
fn files_are_found_through_every_way_into_the_schema() {
    let input = json!({"photo": FILE, "others": [OTHER, FILE], "mark": OTHER});
    let mut files: Vec<(String, String)> = photo_schema()
        .files(&input, "/input")
        .into_iter()
        .map(|file| (file.path, file.id.to_string()))
        .collect();
    files.sort();
    let expected = [
        ("/input/mark", OTHER),
        ("/input/others/0", OTHER),
        ("/input/others/1", FILE),
        ("/input/photo", FILE),
    ];
    assert_eq!(files, expected.map(|(path, id)| (path.to_owned(), id.to_owned())));
    let without = json!({"photo": FILE, "mark": "none"});
    assert_eq!(photo_schema().files(&without, "/input").len(), 1);
}

#[test]
fn a_property_called_format_is_no_format() {
    let named =
        schema(&json!({"properties": {"format": {"default": "file-id"}, "x": {"enum": ["file-id", FILE]}}}));
    assert_eq!(named.files(&json!({"format": FILE, "x": FILE}), "/input"), []);
}

#[test]
fn known_formats_are_enforced() {
    let schema = schema(&json!({"properties": {"at": {"format": "date-time"}}}));
    assert!(schema.validate(&json!({"at": "yesterday"}), "/input").is_err());
    assert!(schema.validate(&json!({"at": "2026-11-24T07:00:00Z"}), "/input").is_ok());
}

#[test]
fn a_schema_that_is_none_is_refused_with_its_path() {
    let mut deep = json!({});
    for _ in 0..20 {
        deep = json!({"properties": {"a": deep}});
    }
    let cases = [
        (json!("x"), "/inputSchema", "must be an object"),
        (json!({"type": "strnig"}), "/inputSchema/type", ""),
        (json!({"properties": {"a": {"minimum": "1"}}}), "/inputSchema/properties/a/minimum", ""),
        (json!({"$ref": "https://example.com/s.json"}), "/inputSchema/$ref", "a reference must stay inside"),
        (
            json!({"items": [1, {"$ref": "file:///etc/passwd"}]}),
            "/inputSchema/items/1/$ref",
            "a reference must",
        ),
        (json!({"$ref": "other.json#/a"}), "/inputSchema/$ref", "a reference must stay inside"),
        (json!({"$id": "https://x/", "$ref": "#"}), "/inputSchema/$id", "`$id` is not allowed"),
        (
            json!({"$schema": "http://json-schema.org/draft-07/schema#"}),
            "/inputSchema/$schema",
            "must be https",
        ),
        (json!({"$ref": "#/$defs/none"}), "/inputSchema", ""),
        (
            json!({"allOf": vec![json!({"pattern": "a"}); 101]}),
            "/inputSchema",
            "a schema has at most 100 patterns",
        ),
        (json!({"pattern": "("}), "/inputSchema/pattern", ""),
        (
            deep,
            &("/inputSchema".to_owned() + &"/properties/a".repeat(16) + "/properties"),
            "nested deeper than 32",
        ),
        (
            json!({"description": "x".repeat(MAX_SCHEMA_BYTES)}),
            "/inputSchema",
            "a schema has at most 65536 bytes",
        ),
    ];
    for (json, path, message) in cases {
        let faults = refused(&json);
        let shown: String = json.to_string().chars().take(80).collect();
        assert!(faults.iter().any(|(p, m)| p == path && m.starts_with(message)), "{shown}: {faults:?}");
    }
}

#[test]
fn a_pattern_cannot_be_made_to_run_for_ever() {
    // Backtracking engines take exponential time for this one.
    let schema = schema(&json!({"pattern": "^(a+)+$"}));
    assert!(schema.validate(&json!(format!("{}!", "a".repeat(50_000))), "/input").is_err());
    // Only backtracking could do these; they are refused when saving.
    assert_eq!(refused(&json!({"pattern": "(?=a)b"})).len(), 1);
    assert_eq!(refused(&json!({"pattern": "(?:a{1000}){1000}"})).len(), 1);
}

#[test]
fn references_in_a_circle_end() {
    let circles = [
        json!({"$ref": "#"}),
        json!({"allOf": [{"$ref": "#"}]}),
        json!({"anyOf": [{"$ref": "#"}, {"type": "null"}]}),
        json!({"not": {"$ref": "#"}}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}),
        json!({"if": {"$ref": "#"}, "then": {"$ref": "#"}, "else": {"$ref": "#"}}),
    ];
    for circle in circles {
        // What it says of a document is of no interest; that it says something is.
        if let Ok(schema) = Schema::compile(&circle, "/inputSchema") {
            let _ = schema.validate(&json!({"a": 1}), "/input");
            assert_eq!(schema.files(&json!({"a": 1}), "/input"), []);
        }
    }
    let tree = schema(&json!({"required": ["name"], "properties": {"child": {"$ref": "#"}}}));
    assert!(tree.validate(&json!({"name": 1, "child": {"name": 2}}), "/input").is_ok());
    let faults = tree.validate(&json!({"name": 1, "child": {}}), "/input").expect_err("must be refused");
    assert_eq!(faults[0].path, "/input/child/name");
}
