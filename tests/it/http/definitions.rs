//! Every kind of fault that a pipeline definition can have, as an admin is told of it.

use crate::support::TestApp;
use serde_json::{Value, json};

fn definition() -> Value {
    json!({
        "name": "Pair",
        "quotaCost": 2,
        "inputSchema": {
            "type": "object",
            "required": ["photo"],
            "properties": { "photo": { "type": "string", "format": "file-id" } },
        },
        "nodes": [
            { "id": "start", "type": "start" },
            { "id": "fan", "type": "fork" },
            {
                "id": "front",
                "type": "provider",
                "provider": "image",
                "input": { "op": "resize", "file": "{{ input.photo }}", "width": 16 },
            },
            {
                "id": "tones",
                "type": "provider",
                "provider": "image",
                "input": { "op": "palette", "file": "{{ input.photo }}" },
            },
            { "id": "gather", "type": "join", "strategy": "ALL" },
            { "id": "end", "type": "end", "output": { "picture": "{{ steps.front.file }}" } },
        ],
        "edges": [
            ["start", "fan"], ["fan", "front"], ["fan", "tones"],
            ["front", "gather"], ["tones", "gather"], ["gather", "end"],
        ],
    })
}

/// The definition with `value` at a JSON pointer; an index one past the end appends.
fn with(pointer: &str, value: Value) -> Value {
    let mut definition = definition();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match definition.pointer_mut(parent).unwrap() {
        Value::Array(items) if key == "-" => items.push(value),
        Value::Array(items) => items[key.parse::<usize>().unwrap()] = value,
        Value::Object(fields) => drop(fields.insert(key.to_owned(), value)),
        other => panic!("{other} is no container"),
    }
    definition
}

fn without(pointer: &str) -> Value {
    let mut definition = definition();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match definition.pointer_mut(parent).unwrap() {
        Value::Array(items) => drop(items.remove(key.parse().unwrap())),
        Value::Object(fields) => drop(fields.remove(key)),
        other => panic!("{other} is no container"),
    }
    definition
}

#[actix_web::test]
async fn every_fault_of_a_definition_is_named_by_its_path_and_nothing_is_saved() {
    let app = TestApp::start().await;
    app.put_provider(json!({ "id": "image", "kind": "image" })).await;
    let admin = app.admin().await;
    let valid = admin.post("/api/v1/admin/pipelines/validate", definition()).await;
    assert_eq!(valid.status, 200, "{valid:#?}");
    let provider = |id: &str| json!({ "id": id, "type": "provider", "provider": "image" });
    for (definition, path) in [
        (json!({}), "/name"),
        (with("/name", json!("")), "/name"),
        (with("/name", json!(7)), "/name"),
        (with("/colour", json!("red")), "/colour"),
        (with("/quotaCost", json!(-1)), "/quotaCost"),
        (with("/quotaCost", json!({ "max": 3 })), "/quotaCost/charge"),
        (with("/quotaCost", json!({ "max": 3, "charge": "{{ nope }}" })), "/quotaCost/charge"),
        (with("/deadlineMs", json!(1)), "/deadlineMs"),
        (with("/requiresMembership", json!("yes")), "/requiresMembership"),
        (with("/inputSchema", json!({ "type": "no such type" })), "/inputSchema/type"),
        (with("/inputSchema", json!({ "$ref": "https://example.com/schema" })), "/inputSchema/$ref"),
        // shape
        (without("/nodes"), "/nodes"),
        (with("/nodes/-", json!({ "id": "again", "type": "start" })), "/nodes/6/type"),
        (with("/nodes/-", json!({ "id": "again", "type": "end" })), "/nodes/6/type"),
        (with("/nodes/-", provider("lost")), "/nodes/6"),
        (with("/nodes/-", provider("front")), "/nodes/6/id"),
        (with("/nodes/0", json!("start")), "/nodes/0"),
        (with("/nodes/0/type", json!("begin")), "/nodes/0/type"),
        (with("/nodes/4/strategy", json!("SOME")), "/nodes/4/strategy"),
        (without("/nodes/4/strategy"), "/nodes/4/strategy"),
        (with("/edges/-", json!(["end", "start"])), "/edges/6"),
        (with("/edges/-", json!(["front", "end"])), "/edges/6"),
        (with("/edges/-", json!(["start", "fan"])), "/edges/6"),
        (with("/edges/-", json!(["front", "nowhere"])), "/edges/6/1"),
        (with("/edges/-", json!({ "source": "front" })), "/edges/6/target"),
        (with("/edges/-", json!("start-fan")), "/edges/6"),
        (with("/edges/3", json!(["front", "end"])), "/nodes/1"),
        (with("/edges/3", json!(["front", "front"])), "/edges"),
        (without("/edges/5"), "/nodes/4"),
        // providers and templates
        (with("/nodes/2/provider", json!("nobody")), "/nodes/2/provider"),
        (with("/nodes/2/fallback", json!(["nobody"])), "/nodes/2/fallback/0"),
        (with("/nodes/2/timeoutMs", json!(0)), "/nodes/2/timeoutMs"),
        (with("/nodes/2/retry", json!({ "maxAttempts": 0 })), "/nodes/2/retry/maxAttempts"),
        (with("/nodes/2/input/file", json!("{{ input.photo")), "/nodes/2/input/file"),
        (with("/nodes/2/input/file", json!("{{ nope }}")), "/nodes/2/input/file"),
        (with("/nodes/2/input/file", json!("{{ input.photo | nope }}")), "/nodes/2/input/file"),
        (with("/nodes/2/input/file", json!("{{ steps.tones.file }}")), "/nodes/2/input/file"),
        (with("/nodes/2/input/file", json!("{{ steps.nobody.file }}")), "/nodes/2/input/file"),
        (with("/nodes/5/output", json!("{{ nope }}")), "/nodes/5/output"),
    ] {
        for address in ["/api/v1/admin/pipelines/validate", "/api/v1/admin/pipelines"] {
            let reply = admin.post(address, definition.clone()).await;
            assert_eq!((reply.status, reply.code()), (422, "DEFINITION_INVALID"), "{path}: {reply:#?}");
            let errors = reply.json["errors"].as_array().unwrap();
            assert!(errors.iter().any(|error| error["path"] == path), "{path}: {errors:#?}");
        }
    }
    // what PostgreSQL could not store is refused as for any other body
    let reply = admin.post("/api/v1/admin/pipelines", with("/name", json!("a\u{0}b"))).await;
    assert_eq!((reply.status, &reply.json["errors"][0]["path"]), (400, &json!("/name")));
    assert_eq!(admin.get("/api/v1/admin/pipelines").await.expect(200)["items"], json!([]));
}
