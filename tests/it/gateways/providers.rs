//! Providers as admins write, read and try them.

use crate::support::{Answer, FakeProvider, TestApp};
use serde_json::{Value, json};

const PROVIDERS: &str = "/api/v1/admin/providers";

#[tokio::test]
async fn credentials_go_in_and_are_never_seen_again() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let provider = FakeProvider::start(|_| Answer::json(json!({"seed": 7}))).await;
    let draw = format!("{PROVIDERS}/draw");
    let mut definition = json!({
        "id": "draw", "kind": "http", "baseUrl": format!("{}/v1", provider.url), "timeoutMs": 5000,
        "request": {"headers": {"X-Task": "{{ task.id }}"}, "body": {"text": "{{ input.prompt }}"}},
        "auth": {"type": "bearer", "token": "s3cret-token"}
    });
    let saved = admin.put(&draw, definition.clone()).await.expect(200);
    assert_eq!(saved["auth"], "***");
    assert_eq!((&saved["timeoutMs"], &saved["enabled"]), (&json!(5000), &json!(true)));
    let listed = admin.get(PROVIDERS).await;
    assert!(!listed.text.contains("s3cret"), "{}", listed.text);
    let row = app
        .sql()
        .await
        .query_one("select config::text, auth_sealed from providers where id = 'draw'", &[])
        .await;
    let row = row.unwrap();
    let (config, sealed): (String, Vec<u8>) = (row.get(0), row.get(1));
    assert!(!config.contains("s3cret") && !config.contains("auth"), "{config}");
    assert!(!sealed.windows(6).any(|window| window == b"s3cret"));

    let call = async || {
        let tried =
            admin.post(&format!("{draw}/test"), json!({"input": {"prompt": "rain"}})).await.expect(200);
        (tried, provider.calls().pop().unwrap())
    };
    let (tried, seen) = call().await;
    assert_eq!((tried["output"].clone(), tried["error"].clone()), (json!({"seed": 7}), Value::Null));
    assert_eq!(tried["request"]["headers"]["authorization"], "***");
    assert_eq!(
        (&tried["request"]["body"], &tried["answer"]["status"]),
        (&json!({"text": "rain"}), &json!(200))
    );
    assert!(tried["timeMs"].is_u64() && !tried.to_string().contains("s3cret"), "{tried}");
    assert_eq!(seen.headers["authorization"], "Bearer s3cret-token");
    assert_eq!(
        (seen.method.as_str(), seen.path.as_str(), seen.json()),
        ("POST", "/v1", json!({"text": "rain"}))
    );
    assert!(!seen.key().is_empty());

    // what was read can be written back: the mask keeps the credentials, and what is only shown is ignored
    let read = admin.get(PROVIDERS).await.expect(200)["items"][0].clone();
    admin.put(&draw, read).await.expect(200);
    assert_eq!(call().await.1.headers["authorization"], "Bearer s3cret-token");
    definition["auth"] = Value::Null;
    assert_eq!(admin.put(&draw, definition).await.expect(200)["auth"], Value::Null);
    assert!(!call().await.1.headers.contains_key("authorization"));

    let log = app
        .sql()
        .await
        .query("select action, detail::text from audit_log where target = 'provider:draw' order by id", &[])
        .await
        .unwrap();
    let actions: Vec<String> = log.iter().map(|row| row.get(0)).collect();
    assert_eq!(
        actions,
        [
            "provider.save",
            "provider.test",
            "provider.save",
            "provider.test",
            "provider.save",
            "provider.test"
        ]
    );
    assert!(log.iter().all(|row| !row.get::<_, String>(1).contains("s3cret")));
    assert!(!app.service.log().contains("s3cret"));
}

#[tokio::test]
async fn what_cannot_be_used_is_refused_with_its_path() {
    let app = TestApp::builder().env("GREENROOM__PROVIDERS__ALLOW_PRIVATE_NETWORKS", false).start().await;
    let admin = app.admin().await;
    let http = |more: Value| {
        let mut body = json!({"kind": "http", "baseUrl": "https://ai.example/v1"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (body, status, path) in [
        (json!([]), 400, "/"),
        (json!({}), 400, "/kind"),
        (json!({"kind": 7}), 400, "/kind"),
        (json!({"kind": "http_sync", "baseUrl": "https://ai.example"}), 400, "/kind"),
        (json!({"kind": "http"}), 422, "/baseUrl"),
        (json!({"kind": "image", "baseUrl": "https://ai.example"}), 422, "/baseUrl"),
        (http(json!({"id": "other"})), 422, "/id"),
        (http(json!({"enabled": "yes"})), 400, "/enabled"),
        (http(json!({"colour": "red"})), 422, "/colour"),
        (http(json!({"maxConcurrency": 0})), 422, "/maxConcurrency"),
        (http(json!({"timeoutMs": 99})), 422, "/timeoutMs"),
        (http(json!({"auth": {"type": "bearer"}})), 422, "/auth/token"),
        (http(json!({"auth": "token"})), 422, "/auth"),
        (http(json!({"request": {"body": "{{ nobody.knows }}"}})), 422, "/request/body"),
        (http(json!({"response": {"files": {"a": {"url": "{{ body. }}"}}}})), 422, "/response/files/a/url"),
        (http(json!({"baseUrl": "http://127.0.0.1:9/"})), 422, "/baseUrl"),
        (http(json!({"baseUrl": "http://[::ffff:10.0.0.1]/"})), 422, "/baseUrl"),
        (http(json!({"baseUrl": "http://169.254.169.254/latest"})), 422, "/baseUrl"),
        (http(json!({"baseUrl": "http://localhost/"})), 422, "/baseUrl"),
        (http(json!({"baseUrl": "ftp://ai.example/"})), 422, "/baseUrl"),
    ] {
        let refused = admin.put(&format!("{PROVIDERS}/draw"), body.clone()).await;
        assert_eq!(refused.status, status, "{body}: {refused:?}");
        assert_eq!(refused.json["errors"][0]["path"], path, "{body}: {refused:?}");
    }
    for id in ["..", "a%2Fb", "a%00", "-a", &"a".repeat(65)] {
        assert_eq!(admin.put(&format!("{PROVIDERS}/{id}"), http(json!({}))).await.status, 404, "{id}");
    }
    assert_eq!(app.count("select count(*) from providers").await, 0);
    assert_eq!(app.count("select count(*) from audit_log where target like 'provider:%'").await, 0);
}

#[tokio::test]
async fn a_name_that_leads_inside_is_not_followed_at_the_call_either() {
    let app = TestApp::start().await;
    let provider = FakeProvider::start(|_| Answer::json(json!({}))).await;
    app.put_provider(provider.definition("inside")).await;
    // the same provider under a stricter rule: what was saved is judged again where the connection is made
    let replica = app.second_replica_with("GREENROOM__PROVIDERS__ALLOW_PRIVATE_NETWORKS", false).await;
    let admin = app.admin().await.at(&replica.url);
    let refused = admin.post(&format!("{PROVIDERS}/inside/test"), json!({})).await;
    assert_eq!(refused.status, 422, "{refused:?}");
    assert!(provider.calls().is_empty());
}

#[tokio::test]
async fn slots_follow_the_ceiling() {
    let app = TestApp::start().await;
    let slots = "select count(*) from provider_slots where provider = 'draw'";
    for (ceiling, expected) in [(json!(null), 5), (json!(8), 8), (json!(3), 3)] {
        app.put_provider(
            json!({"id": "draw", "kind": "http", "baseUrl": "https://ai.example", "maxConcurrency": ceiling}),
        )
        .await;
        assert_eq!(app.count(slots).await, expected);
    }
    // one is held: it is not taken away
    let hold = "update provider_slots set attempt = gen_random_uuid(), held_until = now() + interval '1 hour' where provider = 'draw' and slot = 2";
    app.sql().await.execute(hold, &[]).await.unwrap();
    app.put_provider(
        json!({"id": "draw", "kind": "http", "baseUrl": "https://ai.example", "maxConcurrency": 1}),
    )
    .await;
    assert_eq!(app.count(slots).await, 2);
    let free = "update provider_slots set attempt = null, held_until = null";
    app.sql().await.execute(free, &[]).await.unwrap();
    app.put_provider(json!({"id": "draw", "kind": "image"})).await;
    assert_eq!(app.count(slots).await, 0, "image is bounded by cores and has no slots");
}

#[tokio::test]
async fn providers_are_for_admins_and_support_may_look() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    app.sql()
        .await
        .execute("update users set role = 'support' where id = $1::text::uuid", &[&user.id])
        .await
        .unwrap();
    let (phone, password) = &user.credentials;
    let support = app.client().login(phone, password).await;
    let plain = app.register_user().await;
    let body = json!({"kind": "image"});
    for (person, reads, writes) in [(&app.client(), 401, 401), (&plain, 403, 403), (&support, 200, 403)] {
        assert_eq!(person.get(PROVIDERS).await.status, reads);
        assert_eq!(person.put(&format!("{PROVIDERS}/a"), body.clone()).await.status, writes);
        assert_eq!(person.delete(&format!("{PROVIDERS}/a")).await.status, writes);
        assert_eq!(person.post(&format!("{PROVIDERS}/a/test"), json!({})).await.status, writes);
    }
}

#[tokio::test]
async fn a_provider_in_use_stays() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    for id in ["main", "spare", "unused"] {
        app.put_provider(json!({"id": id, "kind": "image"})).await;
    }
    let nodes = json!({"nodes": [
        {"id": "start", "type": "start"},
        {"id": "a", "type": "provider", "provider": "main", "fallback": ["spare"], "input": {}},
        {"id": "end", "type": "end"}
    ]});
    let publish = "with p as (insert into pipelines (id, name, published_version)
                              values (gen_random_uuid(), 'Lookbook', 1) returning id)
                   insert into pipeline_versions (pipeline_id, version, definition) select id, 1, $1 from p";
    app.sql().await.execute(publish, &[&nodes]).await.unwrap();
    for id in ["main", "spare"] {
        let refused = admin.delete(&format!("{PROVIDERS}/{id}")).await;
        assert_eq!((refused.status, refused.code()), (409, "CONFLICT"), "{refused:?}");
        assert!(refused.json["detail"].as_str().unwrap().contains("Lookbook"));
    }
    assert_eq!(admin.delete(&format!("{PROVIDERS}/unused")).await.expect(200)["id"], "unused");
    assert_eq!(admin.delete(&format!("{PROVIDERS}/unused")).await.status, 404);
    app.sql().await.execute("update pipelines set published_version = null", &[]).await.unwrap();
    admin.delete(&format!("{PROVIDERS}/main")).await.expect(200);
    let left: Vec<Value> = admin.get(PROVIDERS).await.expect(200)["items"].as_array().unwrap().clone();
    assert_eq!(left.iter().map(|item| item["id"].clone()).collect::<Vec<_>>(), ["spare"]);
}

#[tokio::test]
async fn what_is_saved_on_one_replica_holds_on_the_others() {
    let app = TestApp::start().await;
    let provider = FakeProvider::start(|_| Answer::json(json!({}))).await;
    let second = app.second_replica().await;
    let elsewhere = app.admin().await.at(&second.url);
    for path in ["/first", "/second"] {
        let base = format!("{}{path}", provider.url);
        app.put_provider(json!({"id": "draw", "kind": "http", "baseUrl": base})).await;
        elsewhere.post(&format!("{PROVIDERS}/draw/test"), json!({})).await.expect(200);
        assert_eq!(provider.calls().pop().unwrap().path, path);
    }
}
