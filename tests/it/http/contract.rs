//! The served contract as a table of operations, so that tests can walk over all of them.

use crate::support::Client;
use reqwest::Method;
use serde_json::{Map, Value};

/// One operation.
#[derive(Debug, Clone)]
pub struct Operation {
    /// Its method.
    pub method: Method,
    /// Its path as the contract has it, such as `/api/v1/tasks/{id}`.
    pub pattern: String,
    /// Whether it asks for a token.
    pub is_secured: bool,
    /// The scopes of API keys that it takes, of which a key needs one.
    pub scopes: Vec<String>,
    /// Whether it is an admin's.
    pub is_admins: bool,
    /// The properties of its JSON body, if it takes one.
    pub body: Option<Map<String, Value>>,
    /// Its query parameters.
    pub query: Vec<Value>,
}

impl Operation {
    /// The path with `id` in the place of every parameter.
    pub fn path(&self, id: &str) -> String {
        let parts = self.pattern.split('/').map(|part| if part.starts_with('{') { id } else { part });
        parts.collect::<Vec<_>>().join("/")
    }

    /// Whether `path` is one of its own.
    pub fn matches(&self, path: &str) -> bool {
        let same = |(own, other): (&str, &str)| own == other || own.starts_with('{');
        self.pattern.split('/').count() == path.split('/').count()
            && self.pattern.split('/').zip(path.split('/')).all(same)
    }

    /// A body of these fields, with what must be there before any of them is looked at.
    pub fn body_with(&self, fields: Value) -> Value {
        let mut body = fields;
        if self.pattern.ends_with("/providers/{id}") && body["kind"].is_null() {
            body["kind"] = "image".into();
        }
        body
    }

    /// Whether its path has a parameter.
    pub fn takes_id(&self) -> bool {
        self.pattern.contains('{')
    }
}

/// All operations below `/api`.
pub async fn operations(client: &Client) -> Vec<Operation> {
    let document = client.get("/openapi.json").await.expect(200);
    let mut operations = Vec::new();
    for (pattern, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            if !pattern.starts_with("/api/") {
                continue;
            }
            let schema = operation["requestBody"]["content"]["application/json"]["schema"].clone();
            let parameters = operation["parameters"].as_array().cloned().unwrap_or_default();
            operations.push(Operation {
                method: method.to_uppercase().parse().unwrap(),
                pattern: pattern.clone(),
                is_secured: operation["security"].is_array(),
                scopes: scopes(&operation["security"]),
                is_admins: operation["tags"].as_array().is_some_and(|tags| tags.contains(&"admin".into())),
                body: (!schema.is_null()).then(|| properties(&document, &schema)),
                query: parameters.into_iter().filter(|parameter| parameter["in"] == "query").collect(),
            });
        }
    }
    assert!(operations.len() > 20, "the contract has only {} operations", operations.len());
    operations
}

fn scopes(security: &Value) -> Vec<String> {
    let ways = security.as_array().into_iter().flatten();
    let scopes = ways.filter_map(|way| way["apiKey"].as_array()).flatten();
    scopes.map(|scope| scope.as_str().unwrap().to_owned()).collect()
}

/// The properties of a schema, through references.
fn properties(document: &Value, schema: &Value) -> Map<String, Value> {
    if let Some(reference) = schema["$ref"].as_str() {
        return properties(document, document.pointer(&reference[1..]).unwrap());
    }
    if let Some(choices) = schema["oneOf"].as_array() {
        return choices.iter().flat_map(|choice| properties(document, choice)).collect();
    }
    let own = schema["properties"].as_object().cloned().unwrap_or_default();
    let resolved = |(name, property): (String, Value)| {
        let target = property["$ref"].as_str().and_then(|reference| document.pointer(&reference[1..]));
        let property = target.cloned().unwrap_or(property);
        (name, property)
    };
    own.into_iter().map(resolved).collect()
}
