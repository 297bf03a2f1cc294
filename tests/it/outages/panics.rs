//! Every kind of actor panics in the middle of work. The faults exist only in builds with that feature, which
//! `script/test` makes.

use super::Busy;
use crate::support::{TestApp, eventually};
use serde_json::json;

async fn arm(busy: &Busy, point: &str, times: u32) {
    let reply = busy.app.client().post(&format!("/faults/{point}?times={times}"), json!({})).await;
    assert!((200..300).contains(&reply.status), "the binary under test has no faults: {reply:?}");
}

/// How often actors of that kind were started again, by the admin's page.
async fn restarts(busy: &Busy, kind: &str) -> i64 {
    let tree = busy.app.admin().await.get("/api/v1/admin/actors").await.expect(200);
    let items = tree["items"].as_array().unwrap().iter().filter(|item| item["kind"] == kind);
    items.map(|item| item["restarts"].as_i64().unwrap()).sum()
}

/// Work goes on while `point` panics three times, and the actor was started again for it.
async fn survives(point: &str, actor: &str) {
    let busy = Busy::new(TestApp::start().await, 30).await;
    arm(&busy, point, 3).await;
    let tasks = busy.start_all().await;
    busy.expect_all_done(&tasks).await;
    assert!(restarts(&busy, actor).await >= 1, "{point} was never passed");
}

#[actix_web::test]
async fn the_ledger_panics_before_its_commit() {
    survives("quota.flush.before_commit", "quota").await;
}

#[actix_web::test]
async fn the_ledger_panics_after_its_commit() {
    survives("quota.flush.after_commit", "quota").await;
}

#[actix_web::test]
async fn the_engine_panics_in_a_flush() {
    survives("pipeline.engine.flush", "pipeline").await;
}

#[actix_web::test]
async fn the_engine_panics_in_a_claim() {
    survives("pipeline.engine.claim", "pipeline").await;
}

#[actix_web::test]
async fn runs_panic_at_their_answers() {
    let busy = Busy::new(TestApp::start().await, 30).await;
    // one less than what would end a task as poisoned, if the same one met them all
    arm(&busy, "pipeline.run.answer", 2).await;
    let tasks = busy.start_all().await;
    busy.expect_all_done(&tasks).await;
    assert_eq!(restarts(&busy, "pipeline").await, 0, "a run's panic is not the engine's");
}

#[actix_web::test]
async fn the_hub_panics_while_it_relays() {
    survives("stream.relay", "stream").await;
}

#[actix_web::test]
async fn the_session_actor_panics_at_a_sign_in() {
    let busy = Busy::new(TestApp::start().await, 1).await;
    arm(&busy, "session.sign_in", 1).await;
    let (phone, password) = &busy.user.credentials;
    let body = json!({ "phone": phone, "password": password });
    eventually("sign-in works again", async || {
        let reply = busy.app.client().post("/api/v1/auth/login", body.clone()).await;
        assert!(matches!(reply.status, 200 | 503 | 504), "{reply:?}");
        (reply.status == 200).then_some(())
    })
    .await;
    assert_eq!(restarts(&busy, "session").await, 1);
}

#[actix_web::test]
async fn a_spent_budget_ends_the_process_with_a_last_word() {
    let busy = Busy::new(TestApp::builder().may_leave_work().start().await, 1).await;
    let mut app = busy.app;
    // from now on it may end at any moment
    let reply = app.client().post("/faults/pipeline.engine.claim?times=1000", json!({})).await;
    assert!((200..300).contains(&reply.status), "{reply:?}");
    busy.user.post("/api/v1/tasks", json!({ "pipelineId": busy.pipeline, "input": {} })).await;
    let status = app.service.wait().await;
    assert!(!status.success());
    let log = app.service.log();
    let last = log.trim_end().lines().last().unwrap();
    assert!(last.contains("the pipeline actor failed too often"), "{last}");
}
