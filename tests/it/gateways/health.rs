//! What bounds calls at the provider, how providers fare, and what becomes of tasks whose provider does not.

use crate::support::{Answer, Client, FakeProvider, TestApp, eventually};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const PROVIDERS: &str = "/api/v1/admin/providers";

/// One call of `provider`.
fn one_call(provider: &str) -> Value {
    json!({
        "name": "One call", "quotaCost": 3, "inputSchema": {"type": "object"},
        "nodes": [
            {"id": "start", "type": "start"},
            {"id": "draw", "type": "provider", "provider": provider, "input": {}},
            {"id": "end", "type": "end"}],
        "edges": [["start", "draw"], ["draw", "end"]]
    })
}

async fn start(user: &Client, pipeline: &str) -> String {
    let task = user.post("/api/v1/tasks", json!({"pipelineId": pipeline, "input": {}})).await.expect(202);
    task["id"].as_str().unwrap().to_owned()
}

/// A provider as an administrator sees it at the replica that `admin` talks to.
async fn seen(admin: &Client, id: &str) -> Value {
    let list = admin.get(PROVIDERS).await.expect(200);
    list["items"].as_array().unwrap().iter().find(|item| item["id"] == id).unwrap().clone()
}

async fn until_seen(admin: &Client, id: &str, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
    eventually(what, async || Some(seen(admin, id).await).filter(|item| is_it(item))).await
}

/// Starts `count` tasks, in turn at each of `replicas`, and waits until all have succeeded.
async fn run_tasks(user: &Client, pipeline: &str, replicas: [&str; 2], count: usize) {
    let mut tasks = Vec::new();
    for number in 0..count {
        tasks.push(start(&user.at(replicas[number % 2]), pipeline).await);
    }
    for task in tasks {
        let ended = user.final_task(&task).await;
        assert_eq!(ended["status"], "succeeded", "{ended}");
    }
}

#[tokio::test]
async fn two_replicas_keep_to_one_rate_limit_at_the_provider() {
    let app = TestApp::start().await;
    let second = app.second_replica().await;
    let calls: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = Arc::clone(&calls);
    let provider = FakeProvider::start(move |_| {
        seen.lock().unwrap().push(Instant::now());
        Answer::json(json!({}))
    })
    .await;
    let mut draw = provider.definition("draw");
    (draw["maxConcurrency"], draw["rateLimit"]) = (json!(50), json!({"perSecond": 5}));
    app.put_provider(draw).await;
    let pipeline = app.publish_pipeline(one_call("draw")).await;
    let user = app.register_user().await;
    app.grant(&user, 100).await;
    run_tasks(&user, &pipeline, [&app.service.url, &second.url], 25).await;
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 25);
    for first in &calls {
        // calls are counted when they are let go; a busy machine may take some time from there to the provider
        let within = Duration::from_millis(700);
        let calls = calls.iter().filter(|at| **at >= *first && **at - *first < within).count();
        assert!(calls <= 5, "{calls} calls in {within:?}");
    }
    assert!(calls[24] - calls[0] >= Duration::from_secs(4), "{:?}", calls[24] - calls[0]);
}

#[tokio::test]
async fn a_retry_after_pauses_the_provider_for_both_replicas_until_it_is_over() {
    let app = TestApp::start().await;
    let second = app.second_replica().await;
    let calls: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let seen = Arc::clone(&calls);
    let provider = FakeProvider::start(move |call| {
        seen.lock().unwrap().push(Instant::now());
        match call.number {
            0 => Answer::status(429, json!({})).with_header("Retry-After", 3),
            _ => Answer::json(json!({})),
        }
    })
    .await;
    let mut draw = provider.definition("draw");
    draw["maxConcurrency"] = json!(1);
    app.put_provider(draw).await;
    let pipeline = app.publish_pipeline(one_call("draw")).await;
    let admin = app.admin().await;
    let user = app.register_user().await;
    app.grant(&user, 100).await;
    let first = start(&user, &pipeline).await;
    let elsewhere = admin.at(&second.url);
    until_seen(&elsewhere, "draw", "it is paused", |item| {
        !item["pausedUntil"].is_null() && item["lastError"]["code"] == "PROVIDER_UNAVAILABLE"
    })
    .await;
    run_tasks(&user, &pipeline, [&app.service.url, &second.url], 6).await;
    let ended = user.final_task(&first).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    let calls = calls.lock().unwrap().clone();
    assert_eq!(calls.len(), 8);
    assert!(calls[1] - calls[0] >= Duration::from_secs(3), "called again after {:?}", calls[1] - calls[0]);
}

#[tokio::test]
async fn an_administrator_sees_at_every_replica_how_a_provider_fares_at_all_of_them() {
    let app = TestApp::builder().env("GREENROOM__SERVER__REPLICA_ID", "one").start().await;
    let second = app.second_replica_with("GREENROOM__SERVER__REPLICA_ID", "two").await;
    let provider = FakeProvider::start(|call| match (call.path.as_str(), call.number) {
        ("/dead", _) => Answer::status(500, json!({})),
        (_, 0) => Answer::status(400, json!({})),
        _ => Answer::json(json!({})).after(Duration::from_millis(2_500)),
    })
    .await;
    let mut draw = provider.definition("draw");
    draw["maxConcurrency"] = json!(2);
    app.put_provider(draw).await;
    let pipeline = app.publish_pipeline(one_call("draw")).await;
    let admins = [app.admin().await, app.admin().await.at(&second.url)];
    let item = seen(&admins[0], "draw").await;
    assert_eq!((&item["inFlight"], &item["waiting"]), (&json!(0), &json!(0)));
    assert_eq!((&item["errorRate"], &item["lastError"]), (&Value::Null, &Value::Null));
    // a replica has told of it or not yet
    let idle = |at: &Value| at["waiting"] == 0 && at["breaker"] == "closed";
    assert!(item["replicas"].as_array().unwrap().iter().all(idle), "{item}");
    assert_eq!(item["breaker"], json!({"state": "closed"}));

    let user = app.register_user().await;
    app.grant(&user, 100).await;
    assert_eq!(user.final_task(&start(&user, &pipeline).await).await["status"], "failed");
    let mut tasks = Vec::new();
    for number in 0..6 {
        let at = if number % 2 == 0 { &app.service.url } else { &second.url };
        tasks.push(start(&user.at(at), &pipeline).await);
    }
    for admin in &admins {
        let item = until_seen(admin, "draw", "two are called and four wait", |item| {
            (item["inFlight"].as_i64(), item["waiting"].as_i64()) == (Some(2), Some(4))
                && item["errorRate"] == 1.0
        })
        .await;
        assert_eq!(
            (&item["errorRate"], &item["lastError"]["code"]),
            (&json!(1.0), &json!("PROVIDER_REJECTED"))
        );
        let labels: BTreeSet<&str> =
            item["replicas"].as_array().unwrap().iter().map(|at| at["replica"].as_str().unwrap()).collect();
        assert!(!labels.is_empty() && labels.is_subset(&BTreeSet::from(["one", "two"])), "{item}");
    }
    for task in tasks {
        assert_eq!(user.final_task(&task).await["status"], "succeeded");
    }
    let item = until_seen(&admins[1], "draw", "all have ended", |item| {
        item["errorRate"].as_f64().is_some_and(|rate| (rate - 1.0 / 7.0).abs() < 0.001)
    })
    .await;
    assert_eq!((&item["inFlight"], &item["waiting"]), (&json!(0), &json!(0)));

    let mut dead = provider.definition("dead");
    dead["breaker"] = json!({"failures": 1, "openMs": 60_000});
    dead["retry"] = json!({"maxAttempts": 1});
    app.put_provider(dead).await;
    let pipeline = app.publish_pipeline(one_call("dead")).await;
    assert_eq!(
        user.final_task(&start(&user, &pipeline).await).await["error"]["code"],
        "PROVIDER_UNAVAILABLE"
    );
    for admin in &admins {
        let item =
            until_seen(admin, "dead", "its breaker is open", |item| item["breaker"]["state"] == "open").await;
        assert_eq!(item["breaker"], json!({"failures": 1, "openMs": 60_000, "state": "open"}));
        let replicas = item["replicas"].as_array().unwrap();
        assert!(replicas.iter().any(|replica| replica["openUntil"].is_string()), "{item}");
    }
    // what was read can be written back
    for id in ["dead", "draw"] {
        let config = format!("select config::text from providers where id = '{id}'");
        let config = async || app.sql().await.query_one(&config, &[]).await.unwrap().get::<_, String>(0);
        let before = config().await;
        admins[0].put(&format!("{PROVIDERS}/{id}"), seen(&admins[0], id).await).await.expect(200);
        assert_eq!(config().await, before);
    }
}

#[tokio::test]
async fn while_a_provider_answers_503_tasks_fail_soon_or_wait_for_its_breaker() {
    let app = TestApp::start().await;
    let is_well = Arc::new(AtomicBool::new(false));
    let well = Arc::clone(&is_well);
    let provider = FakeProvider::start(move |_| {
        if well.load(Ordering::SeqCst) { Answer::json(json!({})) } else { Answer::status(503, json!({})) }
    })
    .await;
    let mut plain = provider.definition("plain");
    plain["retry"] = json!({"maxAttempts": 3, "backoffMs": 50});
    app.put_provider(plain).await;
    let mut guarded = provider.definition("guarded");
    guarded["retry"] = json!({"maxAttempts": 20, "backoffMs": 50});
    guarded["breaker"] = json!({"failures": 3, "openMs": 500});
    app.put_provider(guarded).await;
    let (plain, guarded) =
        (app.publish_pipeline(one_call("plain")).await, app.publish_pipeline(one_call("guarded")).await);
    let user = app.register_user().await;
    app.grant(&user, 100).await;
    let began = Instant::now();
    let (mut fail, mut wait) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        fail.push(start(&user, &plain).await);
        wait.push(start(&user, &guarded).await);
    }
    for task in fail {
        let ended = user.final_task(&task).await;
        assert_eq!(
            (&ended["status"], &ended["error"]["code"]),
            (&json!("failed"), &json!("PROVIDER_UNAVAILABLE"))
        );
        let attempts = ended["steps"][1]["attempts"].as_array().unwrap();
        let causes: Vec<_> = attempts.iter().map(|attempt| attempt["cause"].as_str().unwrap()).collect();
        assert_eq!(causes, ["first", "retry", "retry"]);
        assert!(
            attempts
                .iter()
                .all(|attempt| attempt["startedAt"].is_string() && attempt["finishedAt"].is_string())
        );
    }
    eventually("a task waits for the breaker", async || {
        let task = user.get(&format!("/api/v1/tasks/{}", wait[4])).await.expect(200);
        let waiting = &task["waiting"];
        (waiting["reason"] == "breaker_open" && waiting["position"].is_i64()).then_some(())
    })
    .await;
    let outage = Duration::from_millis(2_500);
    tokio::time::sleep(outage.saturating_sub(began.elapsed())).await;
    let lasted = began.elapsed();
    is_well.store(true, Ordering::SeqCst);
    let called = provider.calls().iter().filter(|call| call.path == "/guarded").count();
    // five at once, then a probe each half second
    let most = 5 + usize::try_from(lasted.as_millis() / 500).unwrap() + 1;
    assert!((4..=most).contains(&called), "{called} calls in {lasted:?}");
    for task in wait {
        assert_eq!(user.final_task(&task).await["status"], "succeeded");
    }
    let quota = user.get("/api/v1/users/me/quota").await.expect(200);
    assert_eq!((&quota["remaining"], &quota["reserved"]), (&json!(100 - 5 * 3), &json!(0)));
}
