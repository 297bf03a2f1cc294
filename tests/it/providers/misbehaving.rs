//! Providers that hang, are away for a while, say too much, or say what nobody can use.

use super::*;
use std::sync::atomic::{AtomicBool, Ordering};

fn http(fake: &FakeProvider, more: Value) -> Value {
    let mut provider = json!({
        "id": "draw", "kind": "http", "baseUrl": fake.url, "timeoutMs": 10_000,
        "retry": {"maxAttempts": 3, "backoffMs": 20}
    });
    provider.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    provider
}

/// The same as a provider of jobs.
fn http_async(fake: &FakeProvider, more: Value) -> Value {
    let mut provider = http(fake, more);
    provider["kind"] = json!("http_async");
    provider["submit"] = json!({"id": "{{ body.job }}"});
    provider["poll"] = json!({"url": "/jobs/{{ job.id }}", "intervalMs": 100, "status": "{{ body.state }}", "done": ["succeeded"]});
    provider
}

#[actix_web::test]
async fn one_that_hangs_is_given_up() {
    let fake = FakeProvider::start(|_| Answer::json(json!({})).after(NEVER)).await;
    let ground = Ground::start(http(&fake, json!({"timeoutMs": 300}))).await;
    let task = ground.start_task().await;
    ground.expect_failed(&task, "PROVIDER_TIMEOUT").await;
    assert_eq!(fake.calls().len(), 3);
    assert_eq!(ground.app.count("select count(*) from provider_slots where attempt is not null").await, 0);
}

#[actix_web::test]
async fn one_that_must_not_be_asked_twice_is_not_asked_again_when_it_hangs() {
    let fake = FakeProvider::start(|call| match call.method.as_str() {
        "POST" => Answer::json(json!({"job": 1})),
        _ => Answer::json(json!({"state": "running"})),
    })
    .await;
    let hanging = FakeProvider::start(|_| Answer::json(json!({})).after(NEVER)).await;
    let once = json!({"timeoutMs": 500, "atMostOnce": true});
    let ground = Ground::start(http(&hanging, once.clone())).await;
    let task = ground.start_task().await;
    ground.expect_failed(&task, "OUTCOME_UNKNOWN").await;
    assert_eq!(ground.attempts(&task).await, [("unknown".into(), "PROVIDER_TIMEOUT".into(), "first".into())]);
    assert_eq!(hanging.calls().len(), 1);
    ground.app.put_provider(http_async(&fake, once)).await;
    let task = ground.start_task().await;
    ground.expect_failed(&task, "OUTCOME_UNKNOWN").await;
    assert_eq!(fake.calls().iter().filter(|call| call.method == "POST").count(), 1);
}

#[actix_web::test]
async fn one_that_is_away_for_a_while_is_waited_for() {
    let is_back = Arc::new(AtomicBool::new(false));
    let back = Arc::clone(&is_back);
    let fake = FakeProvider::start(move |_| match back.load(Ordering::SeqCst) {
        true => Answer::json(json!({"seed": 3})),
        false => Answer::status(503, json!({})),
    })
    .await;
    let provider = http(&fake, json!({"retry": {"maxAttempts": 20, "backoffMs": 300}}));
    let ground = Ground::start(provider).await;
    let task = ground.start_task().await;
    eventually("it was asked twice", async || (fake.calls().len() >= 2).then_some(())).await;
    is_back.store(true, Ordering::SeqCst);
    ground.expect_seed(&task, 3).await;
    let attempts = ground.attempts(&task).await;
    let (last, failed) = attempts.split_last().unwrap();
    assert_eq!(last.0, "succeeded");
    assert!(
        failed.iter().all(|attempt| attempt.0 == "failed" && attempt.1 == "PROVIDER_UNAVAILABLE"),
        "{attempts:?}"
    );
    assert!(fake.calls().iter().all(|call| call.key() == format!("{task}:draw")));
}

#[actix_web::test]
async fn one_whose_questions_fail_for_a_while_is_asked_again_and_the_job_is_not() {
    let fake = FakeProvider::start(|call| match (call.method.as_str(), call.number) {
        ("POST", _) => Answer::json(json!({"job": 1})),
        (_, 1) => Answer::status(503, json!({})),
        (_, 2) => Answer::status(404, json!({})),
        (_, 3) => Answer::bytes("text/html", b"<html>busy</html>".to_vec()),
        (_, 4) => Answer::status(500, json!({"state": "succeeded"})),
        _ => Answer::json(json!({"state": "succeeded", "seed": 1})),
    })
    .await;
    let ground = Ground::start(http_async(&fake, json!({}))).await;
    let task = ground.start_task().await;
    ground.expect_seed(&task, 1).await;
    assert_eq!(ground.attempts(&task).await.len(), 1);
    assert_eq!(fake.calls().len(), 6);
}

#[actix_web::test]
async fn one_that_says_too_much_is_cut_off() {
    let much = || Answer::bytes("application/json", vec![b' '; 100 << 20]);
    let fake = FakeProvider::start(move |call| match call.path.as_str() {
        "/submit" => Answer::json(json!({"job": 1})),
        _ => much(),
    })
    .await;
    let base = |path: &str| json!({"baseUrl": format!("{}{path}", fake.url)});
    let ground = Ground::start(http(&fake, json!({}))).await;
    for provider in [http(&fake, json!({})), http_async(&fake, json!({})), http_async(&fake, base("/submit"))]
    {
        ground.app.put_provider(provider).await;
        let task = ground.start_task().await;
        let ended = ground.expect_failed(&task, "PROVIDER_REJECTED").await;
        assert_eq!(ended["error"]["message"], "the provider's answer is too large");
        assert_eq!(ground.attempts(&task).await.len(), 1, "it is not asked again");
    }
    let status = std::fs::read_to_string(format!("/proc/{}/status", ground.app.service.pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak < 150_000, "it was not read whole: {peak} kB");
}

#[actix_web::test]
async fn one_whose_output_is_too_large_fails_its_step() {
    let fake = FakeProvider::start(|_| Answer::json(json!({"text": "a".repeat(2 << 20)}))).await;
    let ground = Ground::start(http(&fake, json!({}))).await;
    let task = ground.start_task().await;
    ground.expect_failed(&task, "OUTPUT_INVALID").await;
    assert_eq!(fake.calls().len(), 1);
}

#[actix_web::test]
async fn one_that_answers_garbage_is_refused() {
    for body in [&b"<html>busy</html>"[..], b"\xff\xfe\x00", b"{\"seed\":", b"[1,2"] {
        let body = body.to_vec();
        let fake = FakeProvider::start(move |_| Answer::bytes("application/json", body.clone())).await;
        let ground = Ground::start(http(&fake, json!({}))).await;
        let task = ground.start_task().await;
        ground.expect_failed(&task, "PROVIDER_REJECTED").await;
        ground.app.put_provider(http_async(&fake, json!({}))).await;
        let task = ground.start_task().await;
        ground.expect_failed(&task, "PROVIDER_REJECTED").await;
        assert_eq!(fake.calls().len(), 2);
    }
}

#[actix_web::test]
async fn what_does_not_fit_the_nodes_schema_is_no_output() {
    let fake = FakeProvider::start(|call| match call.number {
        0 => Answer::json(json!({"seed": "seven"})),
        1 => Answer::json(json!({})),
        _ => Answer::json(json!({"seed": 7})),
    })
    .await;
    let schema = json!({"type": "object", "required": ["seed"], "properties": {"seed": {"type": "integer"}}});
    let node = json!({"outputSchema": schema, "fallback": ["spare"]});
    let app_provider = http(&fake, json!({}));
    let ground = {
        let app = TestApp::start().await;
        let mut spare = app_provider.clone();
        spare["id"] = json!("spare");
        app.put_provider(app_provider).await;
        app.put_provider(spare).await;
        let pipeline = app.publish_pipeline(definition(node)).await;
        let user = app.register_user().await;
        app.grant(&user, 10 * COST).await;
        Ground { app, user, pipeline }
    };
    for _ in 0..2 {
        let task = ground.start_task().await;
        let ended = ground.expect_failed(&task, "OUTPUT_INVALID").await;
        assert!(ended["error"]["message"].as_str().unwrap().contains("seed"), "{ended:#}");
        assert_eq!(
            ground.attempts(&task).await,
            [("failed".into(), "OUTPUT_INVALID".into(), "first".into())]
        );
    }
    let task = ground.start_task().await;
    ground.expect_seed(&task, 7).await;
}
