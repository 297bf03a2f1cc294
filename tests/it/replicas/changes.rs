//! What an administrator changes on one replica holds on all of them within a second.

use crate::support::{Answer, Client, FakeProvider, TestApp};
use serde_json::{Value, json};
use std::time::Duration;

/// How long a change may take to be seen everywhere.
const SECOND: Duration = Duration::from_secs(1);

fn definition(name: &str) -> Value {
    json!({
        "name": name, "quotaCost": 0,
        "nodes": [
            {"id": "start", "type": "start"},
            {"id": "draw", "type": "provider", "provider": "draw", "input": {"node": "draw"}},
            {"id": "end", "type": "end", "output": {}}],
        "edges": [["start", "draw"], ["draw", "end"]]
    })
}

async fn run(users: &[Client], pipeline: &str) {
    let body = json!({"pipelineId": pipeline, "input": {}});
    for user in users {
        let task = user.post("/api/v1/tasks", body.clone()).await.expect(202);
        let task = user.final_task(task["id"].as_str().unwrap()).await;
        assert_eq!(task["status"], "succeeded", "{task:#}");
    }
}

#[actix_web::test]
async fn a_provider_is_called_as_it_was_last_saved_on_any_replica() {
    let app = TestApp::start().await;
    let others = [app.second_replica().await, app.second_replica().await];
    let fake = FakeProvider::start(|_| Answer::json(json!({}))).await;
    let mut provider = fake.definition("draw");
    app.put_provider(provider.clone()).await;
    let pipeline = app.publish_pipeline(definition("Drawn")).await;
    let user = app.register_user().await;
    let everywhere = [user.clone(), user.at(&others[0].url), user.at(&others[1].url)];
    run(&everywhere, &pipeline).await;
    for number in 0..4 {
        let admin = app.admin().await.at(&others[number % 2].url);
        provider["baseUrl"] = json!(format!("{}/moved-{number}", fake.url));
        admin.put("/api/v1/admin/providers/draw", provider.clone()).await.expect(200);
        tokio::time::sleep(SECOND).await;
        let before = fake.calls().len();
        run(&everywhere, &pipeline).await;
        for call in &fake.calls()[before..] {
            assert_eq!(call.path, format!("/moved-{number}"));
        }
    }
}

#[actix_web::test]
async fn a_pipeline_or_a_plan_that_is_changed_on_one_replica_is_changed_on_all() {
    let app = TestApp::start().await;
    let other = app.second_replica().await;
    let fake = FakeProvider::start(|_| Answer::json(json!({}))).await;
    app.put_provider(fake.definition("draw")).await;
    let pipeline = app.publish_pipeline(definition("First")).await;
    let user = app.register_user().await;
    let (admin, there) = (app.admin().await, user.at(&other.url));
    run(&[user.clone(), there.clone()], &pipeline).await;

    let path = format!("/api/v1/admin/pipelines/{pipeline}");
    admin.post(&format!("{path}/versions"), definition("Second")).await.expect(201);
    admin.post(&format!("{path}/publish"), json!({})).await.expect(200);
    let shown = there.get(&format!("/api/v1/pipelines/{pipeline}")).await.expect(200);
    assert_eq!((&shown["name"], &shown["version"]), (&json!("Second"), &json!(2)));
    let body = json!({"pipelineId": pipeline, "input": {}});
    let task = there.post("/api/v1/tasks", body.clone()).await.expect(202);
    assert_eq!(task["pipelineVersion"], 2);
    there.final_task(task["id"].as_str().unwrap()).await;
    admin.at(&other.url).post(&format!("{path}/unpublish"), json!({})).await.expect(200);
    assert_eq!(user.post("/api/v1/tasks", body).await.code(), "PIPELINE_NOT_FOUND");

    let plan = json!({"name": "Month", "priceFen": 100, "quota": 5, "durationDays": 30});
    let plan = admin.post("/api/v1/admin/plans", plan).await.expect(201);
    let listed = async |client: &Client| client.get("/api/v1/plans").await.expect(200)["items"].clone();
    assert_eq!(listed(&there).await[0]["name"], "Month");
    let path = format!("/api/v1/admin/plans/{}", plan["id"].as_str().unwrap());
    admin.at(&other.url).patch(&path, json!({"retired": true})).await.expect(200);
    assert_eq!(listed(&user).await, json!([]));
}
