//! Replicas die while providers work: jobs are asked about, what is unknown is repeated with its key, or not at all.

use super::*;

#[actix_web::test]
async fn after_kill_9_a_job_is_asked_about_and_not_submitted_again() {
    let jobs = Jobs::start().await;
    let mut ground = Ground::start(jobs.polled()).await;
    let task = ground.start_task().await;
    ground.job_written(&task).await;
    ground.app.service.kill9();
    jobs.end(1, done(7));
    let asked = jobs.questions();
    ground.app.service.start_again().await;
    ground.expect_seed(&task, 7).await;
    assert!(jobs.questions() > asked);
    assert_eq!(jobs.submissions(), 1);
    assert_eq!(ground.attempts(&task).await, [("succeeded".into(), "".into(), "first".into())]);
    assert_eq!(ground.quota().await, (9 * COST, 0));
}

#[actix_web::test]
async fn a_job_of_a_provider_called_at_most_once_survives_as_well() {
    let jobs = Jobs::start().await;
    let mut provider = jobs.polled();
    provider["atMostOnce"] = json!(true);
    let mut ground = Ground::start(provider).await;
    let task = ground.start_task().await;
    ground.job_written(&task).await;
    let second = ground.app.second_replica().await;
    ground.app.service.kill9();
    jobs.end(1, done(7));
    let user = ground.user.at(&second.url);
    assert_eq!(user.final_task(&task).await["output"]["seed"], 7);
    assert_eq!(jobs.submissions(), 1);
    ground.app.service.start_again().await;
}

#[actix_web::test]
async fn a_callback_that_came_while_its_replica_was_dead_is_heard_by_the_next() {
    let jobs = Jobs::start().await;
    let mut ground = Ground::start(jobs.called_back()).await;
    let task = ground.start_task().await;
    let job = jobs.job().await;
    let second = ground.app.second_replica().await;
    ground.app.service.kill9();
    assert_eq!(job.call_back(&second, json!({"seed": 3})).await, 204);
    assert_eq!(ground.user.at(&second.url).final_task(&task).await["output"]["seed"], 3);
    assert_eq!(jobs.submissions(), 1);
    assert_eq!(ground.attempts(&task).await, [("succeeded".into(), "".into(), "first".into())]);
    ground.app.service.start_again().await;
}

#[actix_web::test]
async fn a_job_that_was_perhaps_submitted_is_repeated_with_its_key_after_its_deadline() {
    // the first submission is never answered, its repeat is refused for a while
    let fake = FakeProvider::start(|call| match (call.method.as_str(), call.number) {
        ("POST", 0) => Answer::json(json!({})).after(NEVER),
        ("POST", 1) => Answer::status(409, json!({})),
        ("POST", 2) => Answer::status(425, json!({})),
        ("POST", _) => Answer::json(json!({"job": 1})),
        _ => Answer::json(done(4)),
    })
    .await;
    let provider = json!({
        "id": "draw", "kind": "http_async", "baseUrl": format!("{}/jobs", fake.url), "timeoutMs": 4_000,
        "submit": {"id": "{{ body.job }}"}, "retry": {"maxAttempts": 3, "backoffMs": 20},
        "poll": {"url": "/jobs/{{ job.id }}", "intervalMs": 100, "status": "{{ body.state }}", "done": ["succeeded"]},
        "response": {"output": {"seed": "{{ body.seed }}"}}
    });
    let mut ground = Ground::start(provider).await;
    let task = ground.start_task().await;
    eventually("the call has left", async || (fake.calls().len() == 1).then_some(())).await;
    ground.app.service.kill9();
    ground.app.service.start_again().await;
    ground.expect_seed(&task, 4).await;
    let attempts = ground.attempts(&task).await;
    let shown: Vec<_> = attempts.iter().map(|(status, _, cause)| (status.as_str(), cause.as_str())).collect();
    assert_eq!(
        shown,
        [("unknown", "first"), ("failed", "crash"), ("failed", "retry"), ("succeeded", "retry")]
    );
    let calls = fake.calls();
    let keys: Vec<_> = calls.iter().filter(|call| call.method == "POST").map(|call| call.key()).collect();
    assert_eq!(keys, vec![format!("{task}:draw"); 4]);
    let waited = "select count(*) from step_attempts first join step_attempts second on second.attempt = 2
                  where first.attempt = 1 and second.started_at >= first.deadline_at";
    assert_eq!(ground.app.count(waited).await, 1, "not before the first deadline");
    assert_eq!(ground.quota().await, (9 * COST, 0));
}

#[actix_web::test]
async fn a_call_that_must_not_be_repeated_fails_after_kill_9() {
    for kind in ["http", "http_async"] {
        let fake = FakeProvider::start(|_| Answer::json(json!({})).after(NEVER)).await;
        let mut provider = json!({"id": "draw", "kind": kind, "baseUrl": fake.url, "atMostOnce": true});
        if kind == "http_async" {
            provider["submit"] = json!({"id": "{{ body.job }}"});
            provider["poll"] = json!({"url": "/{{ job.id }}", "status": "{{ body.state }}", "done": ["ok"]});
        }
        let mut ground = Ground::start(provider).await;
        let task = ground.start_task().await;
        eventually("the call has left", async || (fake.calls().len() == 1).then_some(())).await;
        ground.app.service.kill9();
        ground.app.service.start_again().await;
        ground.expect_failed(&task, "OUTCOME_UNKNOWN").await;
        assert_eq!(fake.calls().len(), 1);
        assert_eq!(ground.attempts(&task).await, [("unknown".into(), "".into(), "first".into())]);
    }
}

#[actix_web::test]
async fn where_only_a_callback_can_tell_it_is_waited_for_until_the_deadline() {
    let jobs = Jobs::start().await;
    let mut provider = jobs.called_back();
    provider["atMostOnce"] = json!(true);
    provider["timeoutMs"] = json!(6_000);
    let mut ground = Ground::start(provider).await;
    let told = ground.start_task().await;
    let untold = ground.start_task().await;
    let both =
        eventually("both are submitted", async || Some(jobs.jobs()).filter(|jobs| jobs.len() == 2)).await;
    ground.app.service.kill9();
    ground.app.service.start_again().await;
    let of_told = {
        let keys = jobs.state.lock().unwrap().jobs[&format!("{told}:draw")].clone();
        both.iter().find(|job| job.number == keys.number).cloned().unwrap()
    };
    assert_eq!(of_told.call_back(&ground.app.service, json!({"seed": 6})).await, 204);
    ground.expect_seed(&told, 6).await;
    let ended = ground.ended(&untold).await;
    assert_eq!(ended["error"]["code"], "OUTCOME_UNKNOWN", "{ended:#}");
    assert_eq!(ground.quota().await, (9 * COST, 0));
    assert_eq!(jobs.submissions(), 2);
    assert_eq!(ground.attempts(&untold).await[0].0, "unknown");
}

#[actix_web::test]
async fn a_replica_that_is_asked_to_end_hands_its_jobs_over_at_once() {
    let jobs = Jobs::start().await;
    let mut ground = Ground::start(jobs.polled()).await;
    let task = ground.start_task().await;
    ground.job_written(&task).await;
    let second = ground.app.second_replica().await;
    let began = std::time::Instant::now();
    assert!(ground.app.service.term().await.success());
    assert!(began.elapsed() < Duration::from_secs(10), "it did not wait for the job: {:?}", began.elapsed());
    jobs.end(1, done(2));
    assert_eq!(ground.user.at(&second.url).final_task(&task).await["output"]["seed"], 2);
    assert_eq!(jobs.submissions(), 1);
    ground.app.service.start_again().await;
}
