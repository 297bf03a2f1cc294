//! Whatever a client sends, it is told what is wrong and where, by a 4xx with a code of the list, and never by a 5xx.
//! The tables hold for every operation of the served contract, so a new route is covered from its first day.

use super::contract::{Operation, operations};
use crate::support::{Client, Reply, TestApp};
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::HashSet;

/// Asserts that the answer is a problem as the contract has them.
#[track_caller]
fn assert_problem(reply: &Reply, codes: &HashSet<String>, what: &str) {
    assert!((400..500).contains(&reply.status), "{what}: {reply:#?}");
    assert_eq!(reply.header("content-type"), "application/problem+json", "{what}");
    assert_eq!(reply.json["status"], json!(reply.status), "{what}");
    assert!(codes.contains(reply.code()), "{what}: {} is not on the list", reply.code());
    assert_eq!(reply.json["type"], json!(format!("https://greenroom.dev/errors/{}", reply.code())));
    assert_eq!(reply.json["requestId"], json!(reply.header("x-request-id")), "{what}");
    for member in ["title", "detail"] {
        assert!(reply.json[member].as_str().is_some_and(|text| !text.is_empty()), "{what}: {member}");
    }
    for error in reply.json["errors"].as_array().unwrap() {
        assert!(error["path"].as_str().unwrap().starts_with('/'), "{what}: {error}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{what}: {error}");
    }
}

fn first_path(reply: &Reply) -> &str {
    reply.json["errors"][0]["path"].as_str().unwrap_or_default()
}

async fn codes(client: &Client) -> HashSet<String> {
    let list = client.get("/api/v1/errors").await.expect(200);
    let codes = list["items"].as_array().unwrap().iter();
    codes.map(|item| item["code"].as_str().unwrap().to_owned()).collect()
}

/// Everything a walk needs.
struct Walk {
    app: TestApp,
    admin: Client,
    codes: HashSet<String>,
    operations: Vec<Operation>,
}

impl Walk {
    async fn start() -> Self {
        let app = TestApp::builder().env("GREENROOM__SERVER__BODY_LIMIT_BYTES", 65_536).start().await;
        let admin = app.admin().await;
        let (codes, operations) = (codes(&admin).await, operations(&admin).await);
        Self { app, admin, codes, operations }
    }

    async fn send(&self, operation: &Operation, content_type: Option<&str>, body: &[u8]) -> Reply {
        let path = operation.path(&uuid::Uuid::now_v7().to_string());
        let mut request = self.admin.request(operation.method.clone(), &path).body(body.to_vec());
        if let Some(content_type) = content_type {
            request = request.header("Content-Type", content_type);
        }
        self.admin.send(request).await
    }

    fn with_body(&self) -> impl Iterator<Item = &Operation> {
        self.operations.iter().filter(|operation| operation.body.is_some())
    }
}

#[actix_web::test]
async fn a_body_that_is_no_json_object_is_refused_everywhere() {
    let walk = Walk::start().await;
    let deep = "[".repeat(5000);
    let closed = format!("{{\"a\":{}1{}}}", "[".repeat(200), "]".repeat(200));
    for operation in walk.with_body() {
        for body in [
            &b"{"[..],
            b"{\"a\":1}}",
            b"{'a':1}",
            b"nonsense",
            b"{\"a\":\"\xff\xfe\"}",
            b"{\"a\":\"\\ud800\"}",
            b"{\"a\":1e999}",
            b"\xef\xbb\xbf{}",
            deep.as_bytes(),
            closed.as_bytes(),
        ] {
            let what = format!("{} {} {}", operation.method, operation.pattern, body.escape_ascii());
            let reply = walk.send(operation, Some("application/json"), body).await;
            assert_problem(&reply, &walk.codes, &what);
            assert_eq!((reply.status, reply.code()), (400, "MALFORMED_JSON"), "{what}");
            assert_eq!(first_path(&reply), "/", "{what}");
        }
        for body in ["[1]", "7", "null", "\"text\"", "true"] {
            let what = format!("{} {} {body}", operation.method, operation.pattern);
            let reply = walk.send(operation, Some("application/json"), body.as_bytes()).await;
            assert_problem(&reply, &walk.codes, &what);
            assert_eq!((reply.status, first_path(&reply)), (400, "/"), "{what}");
        }
    }
}

#[actix_web::test]
async fn a_body_of_another_type_or_beyond_the_limit_is_refused_everywhere() {
    let walk = Walk::start().await;
    let long = format!("{{\"a\":\"{}\"}}", "a".repeat(65_536));
    for operation in walk.with_body() {
        let what = format!("{} {}", operation.method, operation.pattern);
        for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("")] {
            let reply = walk.send(operation, content_type, b"{\"a\":1}").await;
            assert_problem(&reply, &walk.codes, &what);
            assert_eq!(
                (reply.status, reply.code()),
                (415, "UNSUPPORTED_MEDIA_TYPE"),
                "{what} {content_type:?}"
            );
        }
        let reply = walk.send(operation, Some("application/json"), long.as_bytes()).await;
        assert_problem(&reply, &walk.codes, &what);
        assert_eq!((reply.status, reply.code()), (413, "BODY_TOO_LARGE"), "{what}");
    }
    // a body that does not say how long it is
    let chunks = (0..80).map(|_| Ok::<_, std::io::Error>(vec![b' '; 1024]));
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    let request = walk.admin.request(Method::PATCH, "/api/v1/users/me").body(body);
    let reply = walk.admin.send(request.header("Content-Type", "application/json")).await;
    assert_eq!((reply.status, reply.code()), (413, "BODY_TOO_LARGE"));
    // one that goes on and on
    let huge = walk.admin.request(Method::PATCH, "/api/v1/users/me").body(vec![b' '; 32 << 20]);
    let reply = walk.admin.send(huge.header("Content-Type", "application/json")).await;
    assert_eq!((reply.status, reply.code()), (413, "BODY_TOO_LARGE"), "{}", reply.text);
    let packed = walk.admin.request(Method::PATCH, "/api/v1/users/me").body("{}");
    let packed = packed.header("Content-Type", "application/json").header("Content-Encoding", "gzip");
    assert_eq!(walk.admin.send(packed).await.status, 415);
}

#[actix_web::test]
async fn a_field_that_is_unknown_or_holds_nul_is_named_everywhere() {
    let walk = Walk::start().await;
    for operation in walk.with_body() {
        let what = format!("{} {}", operation.method, operation.pattern);
        let nul = operation.body_with(json!({ "nonsense": "a\u{0}b" })).to_string();
        let reply = walk.send(operation, Some("application/json"), nul.as_bytes()).await;
        assert_problem(&reply, &walk.codes, &what);
        assert_eq!((reply.status, first_path(&reply)), (400, "/nonsense"), "{what}");
        let unknown = operation.body_with(json!({ "nonsense": 1 })).to_string();
        let reply = walk.send(operation, Some("application/json"), unknown.as_bytes()).await;
        assert_problem(&reply, &walk.codes, &what);
        let named = reply.json["errors"].as_array().unwrap().iter().any(|error| error["path"] == "/nonsense");
        assert!(named, "{what}: {reply:#?}");
    }
}

#[actix_web::test]
async fn a_field_of_the_wrong_type_is_named_everywhere() {
    let walk = Walk::start().await;
    for operation in walk.with_body() {
        for (field, schema) in operation.body.iter().flatten() {
            let types = match &schema["type"] {
                Value::String(one) => vec![one.clone()],
                Value::Array(several) => several.iter().map(|one| one.as_str().unwrap().to_owned()).collect(),
                // a choice, or anything at all
                _ => continue,
            };
            for (name, wrong) in [
                ("string", json!("\u{1F9E5}")),
                ("number", json!(-1.5)),
                ("boolean", json!(true)),
                ("object", json!({})),
                ("array", json!([[]])),
            ] {
                let allowed = |one: &String| one == name || (one == "integer" && name == "number");
                if types.iter().any(allowed) && !(name == "number" && types.contains(&"integer".to_owned())) {
                    continue;
                }
                let body = operation.body_with(json!({ field: wrong }));
                let what = format!("{} {} {body}", operation.method, operation.pattern);
                let reply = walk.send(operation, Some("application/json"), body.to_string().as_bytes()).await;
                assert_problem(&reply, &walk.codes, &what);
                let errors = reply.json["errors"].as_array().unwrap();
                let path = format!("/{field}");
                let named = errors.iter().any(|error| error["path"].as_str().unwrap().starts_with(&path));
                assert!(named, "{what}: {reply:#?}");
            }
        }
    }
}

#[actix_web::test]
async fn an_id_that_is_none_is_not_found_everywhere() {
    let walk = Walk::start().await;
    let long = "a".repeat(3000);
    for operation in walk.operations.iter().filter(|operation| operation.takes_id()) {
        for id in [
            "not-an-id",
            "0",
            "-1",
            "0198c5e4000070008000000000000000",
            "%7B0198c5e4-0000-7000-8000-000000000000%7D",
            "..",
            "..%2f..%2fetc%2fpasswd",
            "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
            "%00",
            "%ff%fe",
            "' or 1=1 --",
            "0198c5e4-0000-7000-8000-000000000000%00",
            &long,
        ] {
            let what = format!("{} {} with {id}", operation.method, operation.pattern);
            let request = walk.admin.request(operation.method.clone(), &operation.path(id));
            let request =
                if operation.body.is_some() { request.json(&json!({ "nonsense": 1 })) } else { request };
            let reply = walk.admin.send(request).await;
            assert_problem(&reply, &walk.codes, &what);
            // a name such as a provider's is looked at together with what is said of it
            if !operation.pattern.contains("/providers/") {
                assert!(matches!(reply.status, 404 | 405), "{what}: {reply:#?}");
            }
        }
    }
}

#[actix_web::test]
async fn a_query_that_does_not_fit_is_named_everywhere() {
    let walk = Walk::start().await;
    for operation in walk.operations.iter().filter(|operation| !operation.query.is_empty()) {
        let mut bad = vec![("nonsense", "nonsense=1".to_owned())];
        for parameter in &operation.query {
            let name = parameter["name"].as_str().unwrap();
            let values: &[&str] = match name {
                "limit" => &["0", "101", "-1", "1.5", "ten", "", "99999999999999999999", "%00"],
                "cursor" => &["nonsense", "%00", "%ff", "AAAAAAAA", "..%2f", ""],
                "from" | "to" => &["yesterday", "2026-99-99", "+262142-01-01T00:00:00Z", "%00"],
                "query" => &["%00", "%ff"],
                _ => &["nonsense", "%00", "%ff", ""],
            };
            bad.extend(values.iter().map(|value| (name, format!("{name}={value}"))));
            bad.push((name, format!("{name}=1&{name}=2")));
        }
        for (name, query) in bad {
            let what = format!("{} {}?{query}", operation.method, operation.pattern);
            let path = format!("{}?{query}", operation.path(&uuid::Uuid::now_v7().to_string()));
            let reply = walk.admin.send(walk.admin.request(operation.method.clone(), &path)).await;
            assert_problem(&reply, &walk.codes, &what);
            // before its query is looked at, a websocket's handshake must be one
            if !operation.pattern.ends_with("/ws") {
                assert_eq!((reply.status, first_path(&reply)), (400, format!("/{name}").as_str()), "{what}");
            }
        }
    }
}

#[actix_web::test]
async fn a_wrong_method_is_told_the_right_ones_everywhere() {
    let walk = Walk::start().await;
    let id = uuid::Uuid::now_v7().to_string();
    let paths: HashSet<String> = walk.operations.iter().map(|operation| operation.path(&id)).collect();
    for path in paths {
        let of_path = walk.operations.iter().filter(|operation| operation.matches(&path));
        let methods: HashSet<&str> = of_path.map(|operation| operation.method.as_str()).collect();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "FROBNICATE"] {
            if methods.contains(method) {
                continue;
            }
            let what = format!("{method} {path}");
            let request = walk.admin.request(Method::from_bytes(method.as_bytes()).unwrap(), &path);
            let reply = walk.admin.send(request).await;
            assert_problem(&reply, &walk.codes, &what);
            assert_eq!((reply.status, reply.code()), (405, "METHOD_NOT_ALLOWED"), "{what}");
            let allow: HashSet<&str> = reply.header("allow").split(", ").collect();
            assert_eq!(methods, allow, "{what}");
        }
    }
}

#[actix_web::test]
async fn a_key_that_is_none_is_refused_before_anything_is_done() {
    let walk = Walk::start().await;
    let user = walk.app.register_user().await;
    let long = "k".repeat(129);
    for path in [format!("/api/v1/admin/users/{}/grants", user.id), "/api/v1/tasks".to_owned()] {
        for key in ["", " ", "\u{e9}", &long] {
            let request = walk.admin.request(Method::POST, &path).header("Idempotency-Key", key.as_bytes());
            let reply = walk.admin.send(request.json(&json!({ "amount": 1, "reason": "r" }))).await;
            assert_problem(&reply, &walk.codes, key);
            assert_eq!((reply.status, first_path(&reply)), (400, "/Idempotency-Key"), "{key:?} at {path}");
        }
    }
}

#[actix_web::test]
async fn everybody_gets_where_the_contract_lets_them_and_nowhere_else() {
    let walk = Walk::start().await;
    let (stranger, user) = (walk.app.client(), walk.app.register_user().await);
    for operation in &walk.operations {
        let what = format!("{} {}", operation.method, operation.pattern);
        // an id and a body that are wrong as well: who asks is looked at first
        let ask = |client: &Client| {
            let request = client.request(operation.method.clone(), &operation.path("not-an-id")).body("{");
            let client = client.clone();
            async move { client.send(request).await }
        };
        let reply = ask(&stranger).await;
        assert!(reply.status < 500, "{what}: {reply:#?}");
        assert_eq!(reply.status == 401, operation.is_secured, "{what} as a stranger: {reply:#?}");
        if operation.is_secured {
            assert_problem(&reply, &walk.codes, &what);
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{what}");
        }
        let reply = ask(&user).await;
        assert!(reply.status < 500, "{what}: {reply:#?}");
        assert_eq!(reply.status == 403, operation.is_admins, "{what} as a user: {reply:#?}");
        let reply = ask(&walk.admin).await;
        assert!(!matches!(reply.status, 401 | 403 | 500..), "{what} as an admin: {reply:#?}");
    }
}

#[actix_web::test]
async fn what_a_client_sent_is_not_sent_back_whole() {
    let app = TestApp::start().await;
    let long = "長".repeat(20_000);
    for body in [json!({ "phone": "13800138000", "scene": long }), json!({ (long.clone()): 1 })] {
        let reply = app.client().post("/api/v1/auth/send-code", body).await;
        assert_eq!((reply.status, reply.code()), (400, "BAD_REQUEST"));
        let error = &reply.json["errors"][0];
        assert!(error.to_string().chars().count() < 1_500, "{}", error.to_string().len());
    }
}
