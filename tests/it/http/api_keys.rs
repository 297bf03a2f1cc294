//! Keys for programs, from outside.

use super::contract::operations;
use crate::support::{Answer, Client, FakeProvider, Socket, TestApp, eventually};
use chrono::{DateTime, TimeDelta, Utc};
use futures_util::future::join_all;
use greenroom_actors::clock::{Clock, SystemClock};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, time::Duration};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

const KEYS: &str = "/api/v1/users/me/api-keys";

/// A key as its program holds it.
struct Key {
    id: String,
    text: String,
    client: Client,
}

/// Makes a key with these scopes, and with what `more` says.
async fn make(user: &Client, scopes: &[&str], more: Value) -> Key {
    let mut body = json!({ "name": "A program", "scopes": scopes });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let made = user.post(KEYS, body).await.expect(201);
    let text = made["key"].as_str().unwrap().to_owned();
    let client = user.with_token(&text);
    Key { id: made["id"].as_str().unwrap().to_owned(), text, client }
}

async fn listed(user: &Client, id: &str) -> Option<Value> {
    let list = user.get(&format!("{KEYS}?limit=100")).await.expect(200);
    list["items"].as_array().unwrap().iter().find(|item| item["id"] == id).cloned()
}

fn members(object: &Value) -> BTreeSet<&str> {
    object.as_object().unwrap().keys().map(String::as_str).collect()
}

#[actix_web::test]
async fn a_key_is_shown_once_and_only_its_hash_is_kept() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let expires_at = "2126-01-01T00:00:00Z";
    let body = json!({
        "name": " CI ", "scopes": ["read", "tasks"], "expiresAt": expires_at, "dailyQuota": 0,
        "monthlyQuota": 1_000_000_000_000_i64,
    });
    let made = user.post(KEYS, body).await.expect(201);
    let shared = ["id", "name", "scopes", "expiresAt", "dailyQuota", "monthlyQuota", "createdAt"];
    assert_eq!(members(&made), shared.into_iter().chain(["key"]).collect());
    let text = made["key"].as_str().unwrap();
    assert!(text.starts_with("grk_") && text.len() == 47, "{text}");
    for (member, value) in [
        ("name", json!("CI")),
        ("scopes", json!(["read", "tasks"])),
        ("dailyQuota", json!(0)),
        ("monthlyQuota", json!(1_000_000_000_000_i64)),
    ] {
        assert_eq!(made[member], value, "{member}");
    }
    let told: DateTime<Utc> = made["expiresAt"].as_str().unwrap().parse().unwrap();
    assert_eq!(told, expires_at.parse::<DateTime<Utc>>().unwrap());

    let id = made["id"].as_str().unwrap();
    let item = listed(&user, id).await.unwrap();
    let only_listed = ["lastUsedAt", "usedToday", "usedThisMonth"];
    assert_eq!(members(&item), shared.into_iter().chain(only_listed).collect());
    assert_eq!(
        (&item["lastUsedAt"], &item["usedToday"], &item["usedThisMonth"]),
        (&json!(null), &json!(0), &json!(0))
    );
    for member in shared {
        assert_eq!(item[member], made[member], "{member}");
    }

    let program = user.with_token(text);
    program.get("/api/v1/tasks").await.expect(200);
    eventually("its use is noted", async || {
        listed(&user, id).await.filter(|item| item["lastUsedAt"].is_string())
    })
    .await;

    let sql = app.sql().await;
    let hash: Vec<u8> = sql.query_one("select key_hash from api_keys", &[]).await.unwrap().get(0);
    assert_eq!(hash, Sha256::digest(text).to_vec());
    let random = &text[4..];
    for table in ["api_keys", "security_log", "idempotency_keys", "audit_log"] {
        let select = format!("select count(*) from {table} t where strpos(t::text, $1) > 0");
        let found: i64 = sql.query_one(&select, &[&random]).await.unwrap().get(0);
        assert_eq!(found, 0, "{table}");
    }
    let log = user.get("/api/v1/users/me/security-log").await.expect(200);
    let entry = log["items"].as_array().unwrap().iter().find(|entry| entry["event"] == "api_key_created");
    assert_eq!(
        (&entry.unwrap()["detail"]["id"], &entry.unwrap()["detail"]["name"]),
        (&json!(id), &json!("CI"))
    );
    assert!(!app.service.log().contains(random));
}

#[actix_web::test]
async fn a_repeat_makes_no_second_key_and_cannot_show_the_first() {
    let app = TestApp::start().await;
    let (user, other) = (app.register_user().await, app.second_replica().await);
    let body = json!({ "name": "a", "scopes": ["read"] });
    let tries = (0..8).map(|number| {
        let client = if number % 2 == 0 { user.clone() } else { user.at(&other.url) };
        let body = body.clone();
        async move { client.post_with_key(KEYS, "once", body).await }
    });
    let replies = join_all(tries).await;
    let (made, refused): (Vec<_>, Vec<_>) = replies.into_iter().partition(|reply| reply.status == 201);
    assert_eq!(made.len(), 1);
    for reply in refused {
        assert_eq!((reply.status, reply.code()), (409, "CONFLICT"), "{reply:#?}");
        assert!(reply.json["detail"].as_str().unwrap().contains(made[0].json["id"].as_str().unwrap()));
    }
    assert_eq!(user.get(KEYS).await.expect(200)["items"].as_array().unwrap().len(), 1);
    // another's key of the same name is another key
    app.register_user().await.post_with_key(KEYS, "once", body).await.expect(201);
}

/// What a key with one scope may ask for, as the contract's page has it.
const ALLOWED: [(&str, &[&str]); 3] = [
    ("tasks", &["POST /tasks", "POST /tasks/{id}/cancel"]),
    (
        "files",
        &[
            "POST /files",
            "POST /files/{id}/complete",
            "GET /files/{id}",
            "GET /files/{id}/content",
            "DELETE /files/{id}",
        ],
    ),
    (
        "read",
        &[
            "GET /tasks",
            "GET /tasks/{id}",
            "GET /files/{id}",
            "GET /files/{id}/content",
            "GET /pipelines",
            "GET /pipelines/{id}",
            "GET /users/me/quota",
            "GET /users/me/quota/transactions",
            "GET /users/me/quota/grants",
            "GET /users/me/quota/statement",
            "GET /ws",
            "POST /ws/tickets",
        ],
    ),
];

#[actix_web::test]
async fn a_key_is_for_its_scopes_and_nothing_else() {
    let app = TestApp::start().await;
    // an admin's, and so that of somebody who may do everything
    let admin = app.admin().await;
    let operations = operations(&admin).await;
    let nobody = admin.with_token(&format!("grk_{}", "A".repeat(43)));
    for (scope, allowed) in ALLOWED {
        let key = make(&admin, &[scope], json!({})).await;
        let mut found = BTreeSet::new();
        for operation in &operations {
            let name = format!("{} {}", operation.method, operation.pattern.trim_start_matches("/api/v1"));
            let ask = async |client: &Client| {
                let path = operation.path(&uuid::Uuid::now_v7().to_string());
                let request = client.request(operation.method.clone(), &path);
                let has_body = operation.body.is_some();
                client.send(if has_body { request.json(&json!({})) } else { request }).await
            };
            let reply = ask(&key.client).await;
            let is_refused = (reply.status, reply.code()) == (403, "SCOPE_MISSING");
            if operation.is_secured {
                let is_documented = operation.scopes.iter().any(|one| one == scope);
                assert_eq!(is_refused, !is_documented, "{scope} at {name}: {reply:#?}");
                assert_eq!(ask(&nobody).await.status, 401, "{name}");
                if is_documented {
                    assert!(
                        reply.status != 401 && reply.status != 403 && reply.status < 500,
                        "{name}: {reply:#?}"
                    );
                    found.insert(name);
                } else {
                    assert!(reply.header("www-authenticate").contains("insufficient_scope"), "{reply:#?}");
                }
            } else {
                assert!(!is_refused, "{name} is for everybody");
            }
        }
        assert_eq!(found, allowed.iter().map(|name| (*name).to_owned()).collect(), "{scope}");
    }
    let all = make(&admin, &["tasks", "files", "read"], json!({})).await;
    for path in ["/api/v1/users/me", KEYS, "/api/v1/auth/sessions", "/api/v1/admin/users"] {
        assert_eq!(all.client.get(path).await.code(), "SCOPE_MISSING", "{path}");
    }
}

#[actix_web::test]
async fn a_revoked_key_stops_at_once_on_every_replica_and_its_sockets_end() {
    let app = TestApp::start().await;
    let (user, other) = (app.register_user().await, app.second_replica().await);
    let key = make(&user, &["read"], json!({})).await;
    let there = key.client.at(&other.url);
    there.get("/api/v1/tasks").await.expect(200);
    let mut socket = Socket::open(&there).await;
    let ticket = there.post("/api/v1/ws/tickets", json!({})).await.expect(201);
    let query = format!("?ticket={}", ticket["ticket"].as_str().unwrap());
    let path = format!("{KEYS}/{}", key.id);
    let stranger = app.register_user().await;
    assert_eq!(stranger.delete(&path).await.code(), "NOT_FOUND");
    assert_eq!(user.delete(&format!("{KEYS}/{}", uuid::Uuid::now_v7())).await.status, 404);
    there.get("/api/v1/tasks").await.expect(200);

    for _ in 0..2 {
        user.delete(&path).await.expect(204);
        for client in [&there, &key.client] {
            let reply = client.get("/api/v1/tasks").await;
            assert_eq!((reply.status, reply.code()), (401, "UNAUTHENTICATED"));
            assert!(reply.header("www-authenticate").contains("invalid_token"));
            // also where no key may go
            assert_eq!(client.get("/api/v1/users/me").await.status, 401);
        }
    }
    while socket.next().await.is_some() {}
    assert_eq!(socket.close_code, Some(4001));
    assert_eq!(
        Socket::try_open(&app.client().at(&other.url), &query).await.err(),
        Some(401),
        "nor by a ticket"
    );
    assert_eq!(listed(&user, &key.id).await, None);
    let log = user.get("/api/v1/users/me/security-log").await.expect(200);
    let revoked = log["items"].as_array().unwrap().iter().filter(|entry| entry["event"] == "api_key_revoked");
    assert_eq!(revoked.count(), 1);
}

#[actix_web::test]
async fn a_key_ends_when_it_was_to_end_and_with_its_user() {
    let app = TestApp::start().await;
    let (user, admin, sql) = (app.register_user().await, app.admin().await, app.sql().await);
    let soon = SystemClock.now() + TimeDelta::hours(1);
    let key = make(&user, &["read"], json!({ "expiresAt": soon })).await;
    let socket = Socket::open(&key.client).await;
    let until: DateTime<Utc> = socket.hello["sessionExpiresAt"].as_str().unwrap().parse().unwrap();
    assert!((until - soon).abs() < TimeDelta::seconds(1), "{until} {soon}");
    let past = "update api_keys set expires_at = clock_timestamp()";
    sql.batch_execute(past).await.unwrap();
    assert_eq!(key.client.get("/api/v1/tasks").await.code(), "UNAUTHENTICATED");
    assert!(listed(&user, &key.id).await.is_some(), "it is shown until it is revoked");

    let key = make(&user, &["read"], json!({})).await;
    let path = format!("/api/v1/admin/users/{}", user.id);
    admin.patch(&path, json!({ "banned": true })).await.expect(200);
    let reply = key.client.get("/api/v1/tasks").await;
    assert_eq!((reply.status, reply.code()), (403, "USER_BANNED"));
    admin.patch(&path, json!({ "banned": false })).await.expect(200);
    key.client.get("/api/v1/tasks").await.expect(200);
    sql.batch_execute("update users set deleted_at = clock_timestamp() where role = 'user'").await.unwrap();
    assert_eq!(key.client.get("/api/v1/tasks").await.status, 401);
}

#[actix_web::test]
async fn what_makes_no_key_is_said_by_path() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    for (body, status, path) in [
        (json!({ "scopes": ["read"] }), 400, "/name"),
        (json!({ "name": "a", "scopes": ["admin"] }), 400, "/scopes/0"),
        (json!({ "name": "a", "scopes": ["read"], "expiresAt": 7 }), 400, "/expiresAt"),
        (json!({ "name": "a", "scopes": ["read"], "key": "grk_mine" }), 400, "/key"),
        (json!({ "name": "a\tb", "scopes": ["read"] }), 422, "/name"),
        (json!({ "name": "a", "scopes": [] }), 422, "/scopes"),
        (json!({ "name": "a", "scopes": ["read", "read"] }), 422, "/scopes/1"),
        (json!({ "name": "a", "scopes": ["read"], "expiresAt": "2026-01-01T00:00:00Z" }), 422, "/expiresAt"),
        (json!({ "name": "a", "scopes": ["read"], "dailyQuota": -1 }), 422, "/dailyQuota"),
        (
            json!({ "name": "a", "scopes": ["read"], "monthlyQuota": 1_000_000_000_001_i64 }),
            422,
            "/monthlyQuota",
        ),
    ] {
        let reply = user.post(KEYS, body.clone()).await;
        let said = reply.json["errors"][0]["path"].as_str().unwrap_or_default();
        assert_eq!((reply.status, said), (status, path), "{body}");
    }
    assert_eq!(user.get(KEYS).await.expect(200)["items"], json!([]));
}

#[actix_web::test]
async fn twenty_keys_of_a_user_work_at_one_time() {
    let app = TestApp::start().await;
    let (user, other) = (app.register_user().await, app.second_replica().await);
    let tries = (0..26).map(|number| {
        let client = if number % 2 == 0 { user.clone() } else { user.at(&other.url) };
        async move { client.post(KEYS, json!({ "name": "a", "scopes": ["read"] })).await }
    });
    let replies = join_all(tries).await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 20);
    assert!(replies.iter().all(|reply| reply.status == 201 || reply.code() == "CONFLICT"), "{replies:#?}");
    let page = user.get(&format!("{KEYS}?limit=15")).await.expect(200);
    let cursor = page["nextCursor"].as_str().unwrap();
    let rest = user.get(&format!("{KEYS}?limit=15&cursor={cursor}")).await.expect(200);
    assert_eq!((rest["items"].as_array().unwrap().len(), &rest["nextCursor"]), (5, &json!(null)));
    // neither one that is revoked counts nor one that has ended
    user.delete(&format!("{KEYS}/{}", page["items"][0]["id"].as_str().unwrap())).await.expect(204);
    make(&user, &["read"], json!({})).await;
    let ended = "update api_keys set expires_at = clock_timestamp() where id = $1::text::uuid";
    app.sql().await.execute(ended, &[&page["items"][1]["id"].as_str().unwrap()]).await.unwrap();
    make(&user, &["read"], json!({})).await;
    assert_eq!(user.post(KEYS, json!({ "name": "a", "scopes": ["read"] })).await.code(), "CONFLICT");
    make(&app.register_user().await, &["read"], json!({})).await;
}

/// A pipeline of cost 2 whose one call takes so long that a test can cancel it.
async fn slow_pipeline(app: &TestApp) -> String {
    let provider = FakeProvider::start(|_| Answer::json(json!({})).after(Duration::from_secs(20))).await;
    app.put_provider(json!({ "id": "slow", "kind": "http", "baseUrl": provider.url })).await;
    app.publish_pipeline(json!({
        "name": "Slow",
        "quotaCost": 2,
        "inputSchema": { "type": "object" },
        "nodes": [
            { "id": "start", "type": "start" },
            { "id": "call", "type": "provider", "provider": "slow", "input": {} },
            { "id": "end", "type": "end", "output": {} },
        ],
        "edges": [["start", "call"], ["call", "end"]],
    }))
    .await
}

#[actix_web::test]
async fn a_cap_is_exact_under_fifty_starts_at_once_and_a_cancel_gives_back() {
    let app = TestApp::start().await;
    let (user, other) = (app.register_user().await, app.second_replica().await);
    let pipeline = slow_pipeline(&app).await;
    app.grant(&user, 1_000).await;
    let body = json!({ "pipelineId": pipeline, "input": {} });
    let mut tasks = Vec::new();
    for (cap, period) in [("dailyQuota", "usedToday"), ("monthlyQuota", "usedThisMonth")] {
        let key = make(&user, &["tasks"], json!({ cap: 11 })).await;
        let start = |number: usize| {
            let client =
                if number.is_multiple_of(2) { key.client.clone() } else { key.client.at(&other.url) };
            let body = body.clone();
            async move { client.post("/api/v1/tasks", body).await }
        };
        let replies = join_all((0..50).map(start)).await;
        let (accepted, refused): (Vec<_>, Vec<_>) =
            replies.into_iter().partition(|reply| reply.status == 202);
        assert_eq!(accepted.len(), 5, "{cap}");
        for reply in refused {
            assert_eq!((reply.status, reply.code()), (402, "API_KEY_LIMIT"), "{reply:#?}");
        }
        assert_eq!(listed(&user, &key.id).await.unwrap()[period], json!(10));
        // the cap is the key's and not the user's
        let own = user.post("/api/v1/tasks", body.clone()).await.expect(202);
        tasks.push(own["id"].as_str().unwrap().to_owned());

        let first = accepted[0].json["id"].as_str().unwrap();
        for client in [key.client.at(&other.url), key.client.clone()] {
            client.post(&format!("/api/v1/tasks/{first}/cancel"), json!({})).await.expect(202);
        }
        assert_eq!(listed(&user, &key.id).await.unwrap()[period], json!(8));
        let again = key.client.post_with_key("/api/v1/tasks", cap, body.clone()).await.expect(202);
        assert_eq!(key.client.post("/api/v1/tasks", body.clone()).await.code(), "API_KEY_LIMIT");
        // what was answered is answered again, cap or not
        let repeat = key.client.post_with_key("/api/v1/tasks", cap, body.clone()).await;
        assert_eq!((repeat.header("idempotency-replayed"), &repeat.json["id"]), ("true", &again["id"]));
        tasks.extend(accepted[1..].iter().map(|reply| reply.json["id"].as_str().unwrap().to_owned()));
        tasks.push(again["id"].as_str().unwrap().to_owned());
    }
    for task in tasks {
        user.post(&format!("/api/v1/tasks/{task}/cancel"), json!({})).await.expect(202);
    }
    let keys = user.get(KEYS).await.expect(200);
    assert!(keys["items"].as_array().unwrap().iter().all(|key| key["usedThisMonth"] == 0), "{keys:#}");
}

#[actix_web::test]
async fn what_is_free_is_counted_to_no_key() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let key = make(&user, &["tasks"], json!({ "dailyQuota": 0 })).await;
    let nodes = json!([{ "id": "start", "type": "start" }, { "id": "end", "type": "end", "output": {} }]);
    let free = json!({ "name": "Free", "quotaCost": 0, "nodes": nodes, "edges": [["start", "end"]] });
    let pipeline = app.publish_pipeline(free).await;
    let task =
        key.client.post("/api/v1/tasks", json!({ "pipelineId": pipeline, "input": {} })).await.expect(202);
    user.final_task(task["id"].as_str().unwrap()).await;
    // the ledger names no key that spent nothing: the job that deletes old ones may delete it
    assert_eq!(app.count("select count(*) from quota_transactions where api_key_id is not null").await, 0);
    assert_eq!(app.count("select count(*) from quota_transactions").await, 1);
}

#[actix_web::test]
async fn a_socket_opens_by_header_subprotocol_or_ticket_and_lasts_a_day() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let (key, blind) =
        (make(&user, &["read"], json!({})).await, make(&user, &["tasks", "files"], json!({})).await);
    assert_eq!(Socket::try_open(&blind.client, "").await.err(), Some(403));
    let mut socket = Socket::open(&key.client).await;
    let until: DateTime<Utc> = socket.hello["sessionExpiresAt"].as_str().unwrap().parse().unwrap();
    let day = SystemClock.now() + TimeDelta::hours(24);
    assert!((until - day).abs() < TimeDelta::minutes(2), "{until}");
    // an access token of the same user goes on with it
    socket.send(json!({ "type": "auth", "accessToken": user.token })).await;
    socket.read_until(|frame| frame["type"] == "auth.ok").await;
    socket.send(json!({ "type": "auth", "accessToken": key.text })).await;
    socket.read_until(|frame| frame["code"] == "UNAUTHENTICATED").await;

    let ticket = key.client.post("/api/v1/ws/tickets", json!({})).await.expect(201);
    let mut by_ticket =
        Socket::open_with(&app.client(), &format!("?ticket={}", ticket["ticket"].as_str().unwrap())).await;
    let by_protocol = async |text: &str| {
        let url = format!("{}/api/v1/ws", app.service.url.replacen("http", "ws", 1));
        let mut request = url.into_client_request().unwrap();
        let protocols = format!("greenroom.v1, bearer.{text}");
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocols.parse().unwrap());
        tokio_tungstenite::connect_async(request).await
    };
    by_protocol(&key.text).await.unwrap();
    assert!(by_protocol(&blind.text).await.is_err());

    user.delete(&format!("{KEYS}/{}", key.id)).await.expect(204);
    while by_ticket.next().await.is_some() {}
    assert_eq!(by_ticket.close_code, Some(4001));
    assert!(by_protocol(&key.text).await.is_err());
}

#[actix_web::test]
async fn requests_of_a_key_count_for_its_user() {
    let app = TestApp::builder().env("GREENROOM__LIMITS__REQUESTS_PER_MINUTE", 100).start().await;
    let user = app.register_user().await;
    let key = make(&user, &["read"], json!({})).await;
    let left = |reply: &crate::support::Reply| reply.header("ratelimit-remaining").parse::<i64>().unwrap();
    let before = left(&user.get("/api/v1/users/me").await);
    for path in ["/api/v1/tasks", "/api/v1/users/me", "/api/v1/pipelines"] {
        let reply = key.client.get(path).await;
        assert!([200, 403].contains(&reply.status), "{reply:#?}");
    }
    let after = left(&user.get("/api/v1/users/me").await);
    // a bucket of 100 a minute fills by one in 0.6 s
    assert!((before - 4..before).contains(&after), "{before} {after}");
    let wrong = user.with_token(&format!("grk_{}", "A".repeat(43)));
    let request = wrong.request(Method::GET, "/api/v1/tasks");
    assert_eq!(wrong.send(request).await.status, 401);
}
