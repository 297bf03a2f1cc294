//! Pipelines and tasks as clients and admins see them.

use crate::support::{Answer, Client, FakeProvider, TestApp};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;

fn definition(cost: Value) -> Value {
    json!({
        "name": "Small",
        "quotaCost": cost,
        "inputSchema": {
            "type": "object",
            "required": ["photo"],
            "properties": {
                "photo": { "type": "string", "format": "file-id" },
                "width": { "type": "integer", "maximum": 64 },
            },
        },
        "nodes": [
            { "id": "start", "type": "start" },
            {
                "id": "small",
                "type": "provider",
                "provider": "image",
                "input": { "op": "resize", "file": "{{ input.photo }}", "width": 16 },
            },
            { "id": "end", "type": "end", "output": { "picture": "{{ steps.small.file }}" } },
        ],
        "edges": [["start", "small"], ["small", "end"]],
    })
}

fn picture() -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(32, 24, image::Rgb([200, 30, 60]))
        .write_to(&mut bytes, image::ImageFormat::Png)
        .unwrap();
    bytes.into_inner()
}

/// A service with the `image` provider, a published pipeline of cost 2, and a user with a picture and quota.
async fn ground() -> (TestApp, String, Client, String) {
    let app = TestApp::start().await;
    app.put_provider(json!({ "id": "image", "kind": "image" })).await;
    let pipeline = app.publish_pipeline(definition(json!(2))).await;
    let user = app.register_user().await;
    app.grant(&user, 10).await;
    let photo = user.upload("image/png", picture()).await;
    (app, pipeline, user, photo)
}

#[actix_web::test]
async fn a_task_is_queued_paid_for_and_ends_with_its_files() {
    let (app, pipeline, user, photo) = ground().await;
    let body = json!({ "pipelineId": pipeline, "input": { "photo": photo } });
    let reply = user.post("/api/v1/tasks", body.clone()).await;
    assert_eq!(reply.status, 202, "{reply:#?}");
    let (task, id) = (&reply.json, reply.json["id"].as_str().unwrap());
    assert_eq!(reply.header("location"), format!("/api/v1/tasks/{id}"));
    for (member, value) in [
        ("pipelineId", json!(pipeline)),
        ("pipelineVersion", json!(1)),
        ("status", json!("queued")),
        ("progress", json!(0)),
        ("quotaCost", json!(2)),
        ("input", body["input"].clone()),
        ("output", json!(null)),
        ("error", json!(null)),
        ("files", json!([])),
        ("waiting", json!(null)),
        ("startedAt", json!(null)),
        ("finishedAt", json!(null)),
    ] {
        assert_eq!(task[member], value, "{member}");
    }
    let task = user.final_task(id).await;
    assert_eq!((&task["status"], &task["progress"]), (&json!("succeeded"), &json!(100)), "{task:#}");
    let picture = task["output"]["picture"].as_str().unwrap();
    let file = task["files"].as_array().unwrap().iter().find(|file| file["id"] == picture).unwrap();
    assert_eq!((&file["kind"], &file["taskId"]), (&json!("output"), &json!(id)));
    assert!(!user.download(picture).await.is_empty());
    let steps = task["steps"].as_array().unwrap();
    let story: Vec<_> = steps.iter().map(|step| (step["nodeId"].as_str(), step["status"].as_str())).collect();
    let done = Some("succeeded");
    assert_eq!(story, [(Some("start"), done), (Some("small"), done), (Some("end"), done)]);
    assert_eq!((&steps[1]["type"], &steps[1]["providerId"]), (&json!("provider"), &json!("image")));
    let attempts = steps[1]["attempts"].as_array().unwrap();
    assert_eq!((attempts.len(), &attempts[0]["attempt"]), (1, &json!(1)));
    assert_eq!(attempts[0]["status"], json!("succeeded"));
    let transactions = user.get("/api/v1/users/me/quota/transactions").await.expect(200);
    let transaction = &transactions["items"][0];
    assert_eq!((&transaction["taskId"], &transaction["phase"]), (&json!(id), &json!("confirmed")));
    assert_eq!(user.get("/api/v1/users/me/quota").await.expect(200)["remaining"], json!(8));
    let reply = user.post(&format!("/api/v1/tasks/{id}/cancel"), json!({})).await;
    assert_eq!((reply.status, reply.code()), (409, "TASK_FINAL"));
    let all = app.admin().await.get(&format!("/api/v1/admin/tasks?userId={}", user.id)).await.expect(200);
    assert_eq!((&all["items"][0]["id"], &all["items"][0]["userId"]), (&json!(id), &json!(user.id)));
}

#[actix_web::test]
async fn a_repeated_start_is_one_task_and_one_hold() {
    let (app, pipeline, user, photo) = ground().await;
    let other = app.second_replica().await;
    let body = json!({ "pipelineId": pipeline, "input": { "photo": photo } });
    let repeat = |number: usize| {
        let client = if number.is_multiple_of(2) { user.clone() } else { user.at(&other.url) };
        let body = body.clone();
        async move { client.post_with_key("/api/v1/tasks", "t-1", body).await }
    };
    let replies = join_all((0..20).map(repeat)).await;
    let accepted: Vec<_> = replies.iter().filter(|reply| reply.status == 202).collect();
    assert!(accepted.iter().all(|reply| reply.json == accepted[0].json), "{accepted:#?}");
    assert!(replies.iter().all(|reply| reply.status == 202 || reply.code() == "IDEMPOTENCY_IN_PROGRESS"));
    let again = user.post_with_key("/api/v1/tasks", "t-1", body).await;
    assert_eq!((again.status, again.header("idempotency-replayed")), (202, "true"));
    let id = again.json["id"].as_str().unwrap();
    assert_eq!(again.header("location"), format!("/api/v1/tasks/{id}"));
    let other_body = json!({ "pipelineId": pipeline, "input": { "photo": photo, "width": 3 } });
    let reply = user.post_with_key("/api/v1/tasks", "t-1", other_body).await;
    assert_eq!((reply.status, reply.code()), (422, "IDEMPOTENCY_KEY_REUSED"));
    user.final_task(id).await;
    assert_eq!(user.get("/api/v1/tasks").await.expect(200)["items"].as_array().unwrap().len(), 1);
    assert_eq!(user.get("/api/v1/users/me/quota").await.expect(200)["remaining"], json!(8));
}

#[actix_web::test]
async fn what_cannot_be_started_is_said_by_code_and_path() {
    let (app, pipeline, user, photo) = ground().await;
    let stranger = app.register_user().await;
    let foreign = stranger.upload("image/png", picture()).await;
    let members = {
        let mut definition = definition(json!(1));
        definition["requiresMembership"] = json!(true);
        app.publish_pipeline(definition).await
    };
    let dear = app.publish_pipeline(definition(json!(11))).await;
    let draft = app.admin().await.post("/api/v1/admin/pipelines", definition(json!(1))).await.expect(201);
    let input = json!({ "photo": photo });
    for (body, status, code, path) in [
        (json!({ "pipelineId": uuid::Uuid::now_v7(), "input": input }), 404, "PIPELINE_NOT_FOUND", ""),
        (json!({ "pipelineId": "nonsense", "input": input }), 404, "PIPELINE_NOT_FOUND", ""),
        (json!({ "pipelineId": draft["id"], "input": input }), 404, "PIPELINE_NOT_FOUND", ""),
        (json!({ "pipelineId": members, "input": input }), 403, "MEMBERSHIP_REQUIRED", ""),
        (json!({ "pipelineId": dear, "input": input }), 402, "QUOTA_INSUFFICIENT", ""),
        (json!({ "pipelineId": pipeline }), 400, "BAD_REQUEST", "/input"),
        (json!({ "pipelineId": pipeline, "input": {} }), 422, "INPUT_INVALID", "/input/photo"),
        (json!({ "pipelineId": pipeline, "input": 7 }), 422, "INPUT_INVALID", "/input"),
        (json!({ "pipelineId": pipeline, "input": { "photo": 7 } }), 422, "INPUT_INVALID", "/input/photo"),
        (
            json!({ "pipelineId": pipeline, "input": { "photo": foreign } }),
            422,
            "INPUT_INVALID",
            "/input/photo",
        ),
        (
            json!({ "pipelineId": pipeline, "input": { "photo": photo, "width": 65 } }),
            422,
            "INPUT_INVALID",
            "/input/width",
        ),
        (
            json!({ "pipelineId": pipeline, "input": { "photo": photo, "width": "\u{0}" } }),
            400,
            "BAD_REQUEST",
            "/input/width",
        ),
    ] {
        let reply = user.post("/api/v1/tasks", body.clone()).await;
        let said = reply.json["errors"][0]["path"].as_str().unwrap_or_default();
        assert_eq!((reply.status, reply.code(), said), (status, code, path), "{body}");
    }
    assert_eq!(user.get("/api/v1/users/me/quota").await.expect(200)["remaining"], json!(10));
    assert_eq!(user.get("/api/v1/tasks").await.expect(200)["items"], json!([]));
}

#[actix_web::test]
async fn what_belongs_to_another_is_not_there() {
    let (app, pipeline, user, photo) = ground().await;
    let stranger = app.register_user().await;
    let body = json!({ "pipelineId": pipeline, "input": { "photo": photo } });
    let id = user.post("/api/v1/tasks", body).await.expect(202)["id"].as_str().unwrap().to_owned();
    for reply in [
        stranger.get(&format!("/api/v1/tasks/{id}")).await,
        stranger.post(&format!("/api/v1/tasks/{id}/cancel"), json!({})).await,
    ] {
        assert_eq!((reply.status, reply.code()), (404, "NOT_FOUND"));
    }
    assert_eq!(stranger.get("/api/v1/tasks").await.expect(200)["items"], json!([]));
    user.final_task(&id).await;
}

#[actix_web::test]
async fn a_pipeline_is_drafted_versioned_published_and_withdrawn() {
    let app = TestApp::start().await;
    app.put_provider(json!({ "id": "image", "kind": "image" })).await;
    let (admin, user) = (app.admin().await, app.register_user().await);
    let definition_1 = definition(json!(1));
    assert_eq!(
        admin.post("/api/v1/admin/pipelines/validate", definition_1.clone()).await.expect(200),
        json!({ "valid": true })
    );
    assert_eq!(admin.get("/api/v1/admin/pipelines").await.expect(200)["items"], json!([]));
    let made = admin.post("/api/v1/admin/pipelines", definition_1.clone()).await.expect(201);
    assert_eq!((&made["version"], &made["status"]), (&json!(1), &json!("draft")));
    let path = format!("/api/v1/admin/pipelines/{}", made["id"].as_str().unwrap());
    let open = format!("/api/v1/pipelines/{}", made["id"].as_str().unwrap());
    assert_eq!(user.get(&open).await.code(), "PIPELINE_NOT_FOUND");
    let next = admin.post(&format!("{path}/versions"), definition(json!(5))).await.expect(201);
    assert_eq!((&next["id"], &next["version"]), (&made["id"], &json!(2)));
    let published = admin.post(&format!("{path}/publish"), json!({ "version": 1 })).await.expect(200);
    assert_eq!((&published["status"], &published["publishedVersion"]), (&json!("published"), &json!(1)));
    let shown = user.get(&open).await.expect(200);
    for (member, value) in [
        ("id", made["id"].clone()),
        ("name", json!("Small")),
        ("description", json!("")),
        ("quotaCost", json!(1)),
        ("version", json!(1)),
        ("inputSchema", definition_1["inputSchema"].clone()),
    ] {
        assert_eq!(shown[member], value, "{member}");
    }
    assert_eq!(user.get("/api/v1/pipelines").await.expect(200)["items"], json!([shown]));
    let wrong = admin.post(&format!("{path}/publish"), json!({ "version": 3 })).await;
    assert_eq!((wrong.status, &wrong.json["errors"][0]["path"]), (422, &json!("/version")));
    admin.send(admin.request(reqwest::Method::POST, &format!("{path}/publish"))).await.expect(200);
    assert_eq!(user.get(&open).await.expect(200)["version"], json!(2), "the newest where none is named");
    admin.post(&format!("{path}/unpublish"), json!({})).await.expect(200);
    assert_eq!(user.get(&open).await.status, 404);
    let detail = admin.get(&path).await.expect(200);
    assert_eq!((&detail["status"], &detail["definition"]["quotaCost"]), (&json!("draft"), &json!(5)));
    let log = admin.get("/api/v1/admin/audit-log").await.expect(200);
    let actions: Vec<_> = log["items"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    assert_eq!(actions[0], "pipeline.unpublish");
}

#[actix_web::test]
async fn an_admins_cancel_is_in_the_audit_log_once_however_often_it_is_asked_for() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let fake = FakeProvider::start(|_| Answer::json(json!({})).after(Duration::from_secs(2))).await;
    app.put_provider(fake.definition("slow")).await;
    let pipeline = app
        .publish_pipeline(json!({
            "name": "Slow", "quotaCost": 1,
            "nodes": [{"id": "start", "type": "start"},
                      {"id": "call", "type": "provider", "provider": "slow", "input": {}},
                      {"id": "end", "type": "end"}],
            "edges": [["start", "call"], ["call", "end"]]
        }))
        .await;
    let user = app.register_user().await;
    app.grant(&user, 1).await;
    let task = user.post("/api/v1/tasks", json!({"pipelineId": pipeline, "input": {}})).await.expect(202);
    let id = task["id"].as_str().unwrap();
    for _ in 0..2 {
        let cancelled = admin.post(&format!("/api/v1/admin/tasks/{id}/cancel"), json!({})).await.expect(202);
        assert_eq!(cancelled["status"], "cancelled");
    }
    let log = admin.get("/api/v1/admin/audit-log").await.expect(200);
    let entries = log["items"].as_array().unwrap().iter().filter(|entry| entry["action"] == "task.cancel");
    let entries: Vec<_> = entries.collect();
    assert_eq!(entries.len(), 1, "{log}");
    assert_eq!(entries[0]["target"], format!("task:{id}"));
    assert_eq!(entries[0]["detail"]["userId"], user.id);
}
