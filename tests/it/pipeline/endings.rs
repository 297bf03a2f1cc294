//! Every way for a task to end but success: what fails, what is repeated, what is cancelled, what runs out.

use super::*;

#[actix_web::test]
async fn a_failure_in_each_node_of_a_fork_returns_the_quota_exactly_once() {
    let ground = Ground::start().await;
    ground.provider("echo", json!({})).await;
    let mut definition = fork(&["echo", "echo", "echo"], "ALL");
    let nodes = definition["nodes"].as_array_mut().unwrap();
    nodes.insert(1, json!({"id": "first", "type": "provider", "provider": "echo"}));
    nodes.push(json!({"id": "last", "type": "provider", "provider": "echo"}));
    definition["edges"] = json!([
        ["start", "first"],
        ["first", "fan"],
        ["fan", "b0"],
        ["fan", "b1"],
        ["fan", "b2"],
        ["b0", "gather"],
        ["b1", "gather"],
        ["b2", "gather"],
        ["gather", "last"],
        ["last", "end"]
    ]);
    let pipeline = ground.pipeline(definition).await;
    for failing in ["first", "b0", "b1", "b2", "last"] {
        ground.fake.script(move |call| if call.node == failing { Reply::rejected() } else { Reply::ok() });
        let user = ground.user(3).await;
        let task = ground.replica.start_task(user, pipeline).await;
        let ended = ground.ended(task).await;
        assert_eq!(ended.status, TaskStatus::Failed);
        let error = ended.error.unwrap();
        assert_eq!((error.code.as_str(), error.node_id.as_deref()), ("PROVIDER_REJECTED", Some(failing)));
        assert_eq!(ground.counters(user).await, (3, 0), "{failing}");
        assert_eq!(ground.step(task, failing).await.status, StepStatus::Failed);
        assert_eq!(ground.step(task, "end").await.status, StepStatus::Skipped);
    }
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_call_that_may_be_repeated_is_repeated_with_its_key_and_then_falls_back() {
    let ground = Ground::start().await;
    ground.provider("shaky", json!({"maxAttempts": 3, "backoffMs": 20})).await;
    ground.provider("steady", json!({"newKeyPerAttempt": true})).await;
    let mut definition = chain(&[("draw", "shaky")]);
    definition["nodes"][1]["fallback"] = json!(["steady"]);
    let pipeline = ground.pipeline(definition).await;
    ground.fake.script(|call| if call.provider.id == "shaky" { Reply::busy() } else { Reply::ok() });
    let user = ground.user(3).await;
    let task = ground.replica.start_task(user, pipeline).await;
    assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
    let seen: Vec<_> =
        ground.fake.seen().into_iter().map(|seen| (seen.provider, seen.attempt, seen.key)).collect();
    let key = format!("{task}:draw");
    let shaky = |attempt| ("shaky".to_owned(), attempt, key.clone());
    assert_eq!(seen, [shaky(1), shaky(2), shaky(3), ("steady".to_owned(), 4, format!("{key}:4"))]);
    let causes: Vec<_> = ground.attempts(task).await.iter().map(|attempt| attempt.cause.name()).collect();
    assert_eq!(causes, ["first", "retry", "retry", "fallback"]);
    assert_eq!(ground.step(task, "draw").await.provider.as_deref(), Some("steady"));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_call_that_is_not_answered_in_time_is_given_up() {
    let ground = Ground::start().await;
    ground.provider("slow", json!({"timeoutMs": 200, "maxAttempts": 2, "backoffMs": 1})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "slow")])).await;
    ground.fake.script(|_| Reply::hang());
    let user = ground.user(3).await;
    let task = ground.replica.start_task(user, pipeline).await;
    let ended = ground.ended(task).await;
    assert_eq!(ended.error.unwrap().code, "PROVIDER_TIMEOUT");
    assert_eq!(ground.fake.seen().len(), 2);
    assert_eq!(ground.counters(user).await, (3, 0));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_cancelled_task_returns_its_quota_and_its_late_answer_goes_to_the_attempt_alone() {
    let ground = Ground::start().await;
    ground.provider("slow", json!({})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "slow"), ("more", "slow")])).await;
    ground.fake.script(|_| Reply::ok().after(Duration::from_millis(600)));
    let user = ground.user(3).await;
    let task = ground.replica.start_task(user, pipeline).await;
    eventually("the call is away", async || (ground.fake.in_flight() == 1).then_some(())).await;
    let cancelled = ground.replica.cancel(task).await.unwrap();
    assert_eq!(cancelled.status, TaskStatus::Cancelled);
    assert_eq!(ground.counters(user).await, (3, 0));
    assert_eq!(ground.replica.cancel(task).await.unwrap().status, TaskStatus::Cancelled, "again is the same");
    assert_eq!(ground.step(task, "draw").await.status, StepStatus::Cancelled);
    assert_eq!(ground.fake.in_flight(), 1, "the call is not cut");
    ground.expect_clean().await;
    assert_eq!(ground.attempts(task).await[0].status.name(), "cancelled");
    assert_eq!(ground.fake.seen().len(), 1);

    ground.fake.script(|_| Reply::ok());
    let done = ground.replica.start_task(user, pipeline).await;
    ground.ended(done).await;
    let refused = ground.replica.cancel(done).await;
    assert!(matches!(refused, Err(PipelineError::TaskFinal(TaskStatus::Succeeded))), "{refused:?}");
}

#[actix_web::test]
async fn a_task_that_runs_past_its_deadline_fails() {
    let ground = Ground::start().await;
    ground.provider("slow", json!({"timeoutMs": 3000})).await;
    let mut definition = chain(&[("draw", "slow")]);
    definition["deadlineMs"] = json!(1_000);
    let pipeline = ground.pipeline(definition).await;
    ground.fake.script(|_| Reply::hang());
    let user = ground.user(3).await;
    let task = ground.replica.start_task(user, pipeline).await;
    let ended = ground.ended(task).await;
    assert_eq!(ended.error.unwrap().code, "TASK_DEADLINE_EXCEEDED");
    let ran = ended.finished_at.unwrap() - ended.started_at.unwrap();
    assert!(ran.num_milliseconds() >= 1_000, "{ran}");
    assert_eq!(ground.counters(user).await, (3, 0));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_task_that_waits_for_too_long_fails() {
    let wishes = Wishes { queue_ttl: Duration::from_millis(700), running_per_user: 2, ..Wishes::default() };
    let ground = Ground::with(wishes).await;
    ground.provider("slow", json!({"maxConcurrency": 1, "timeoutMs": 5000})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "slow")])).await;
    ground.fake.script(|_| Reply::ok().after(Duration::from_millis(2_500)));
    let user = ground.user(9).await;
    let runs = ground.replica.start_task(user, pipeline).await;
    eventually("the first runs", async || (ground.fake.in_flight() == 1).then_some(())).await;
    // one is claimed and waits for the provider's only slot, one is not even claimed
    let claimed = ground.replica.start_task(user, pipeline).await;
    let queued = ground.replica.start_task(user, pipeline).await;
    for task in [claimed, queued] {
        let ended = ground.ended(task).await;
        assert_eq!(ended.error.unwrap().code, "TASK_QUEUE_TIMEOUT");
        assert_eq!(ended.started_at, None);
    }
    assert_eq!(ground.ended(runs).await.status, TaskStatus::Succeeded);
    assert_eq!(ground.counters(user).await, (6, 0));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_usage_charge_is_what_was_used_and_the_rest_returns() {
    let ground = Ground::start().await;
    ground.provider("draw", json!({})).await;
    let mut definition = chain(&[("draw", "draw")]);
    definition["quotaCost"] = json!({"max": 10, "charge": "{{ steps.draw.said | length }}"});
    let pipeline = ground.pipeline(definition).await;
    ground.fake.script(|_| Reply::output(json!({"said": ["a", "b"]})));
    let user = ground.user(10).await;
    let task = ground.replica.start_task(user, pipeline).await;
    ground.ended(task).await;
    assert_eq!(ground.counters(user).await, (8, 0));
    ground.expect_clean().await;
}
