//! Providers that are asked about their jobs, and how an admin sets them up.

use super::*;

#[actix_web::test]
async fn a_task_waits_for_a_job_and_ends_with_it() {
    let jobs = Jobs::start().await;
    let ground = Ground::start(jobs.polled()).await;
    let task = ground.start_task().await;
    assert_eq!(jobs.job().await.number, 1);
    assert_eq!(ground.job_written(&task).await, "1");
    eventually("it is asked about", async || (jobs.questions() > 2).then_some(())).await;
    let held = "select count(*) from provider_slots where provider = 'draw' and attempt is not null";
    assert_eq!(ground.app.count(held).await, 1, "a job has its place until it ends");
    jobs.end(1, done(7));
    ground.expect_seed(&task, 7).await;
    assert_eq!(ground.quota().await, (9 * COST, 0));
    assert_eq!(ground.attempts(&task).await, [("succeeded".into(), "".into(), "first".into())]);
    assert_eq!(ground.app.count(held).await, 0);
    assert_eq!(jobs.submissions(), 1);
}

#[actix_web::test]
async fn a_job_that_fails_fails_its_step() {
    let jobs = Jobs::start().await;
    let ground = Ground::start(jobs.polled()).await;
    jobs.end(1, json!({"state": "failed", "message": "out of paint"}));
    let task = ground.start_task().await;
    let ended = ground.expect_failed(&task, "PROVIDER_REJECTED").await;
    assert_eq!(ended["error"]["message"], "the provider's job failed: out of paint");
    assert_eq!(jobs.submissions(), 1, "it is not tried again");
}

#[actix_web::test]
async fn a_job_that_does_not_end_in_time_is_repeated_with_its_key_and_then_given_up() {
    let jobs = Jobs::start().await;
    let mut provider = jobs.polled();
    provider["timeoutMs"] = json!(700);
    provider["retry"] = json!({"maxAttempts": 2, "backoffMs": 10});
    let ground = Ground::start(provider).await;
    let task = ground.start_task().await;
    ground.expect_failed(&task, "PROVIDER_TIMEOUT").await;
    assert_eq!((jobs.submissions(), jobs.jobs().len()), (2, 1), "the provider knew the key again");
    let attempts = ground.attempts(&task).await;
    assert_eq!(attempts.len(), 2);
    assert!(
        attempts.iter().all(|attempt| attempt.0 == "failed" && attempt.1 == "PROVIDER_TIMEOUT"),
        "{attempts:?}"
    );
}

#[actix_web::test]
async fn a_step_of_a_cancelled_task_lets_its_job_end_alone() {
    let jobs = Jobs::start().await;
    let ground = Ground::start(jobs.polled()).await;
    let task = ground.start_task().await;
    ground.job_written(&task).await;
    ground.user.post(&format!("/api/v1/tasks/{task}/cancel"), json!({})).await.expect(202);
    assert_eq!(ground.quota().await, (10 * COST, 0));
    jobs.end(1, done(7));
    eventually("its answer is written", async || {
        let ended = ground.attempts(&task).await;
        (ended == [("cancelled".into(), "".into(), "first".into())]).then_some(())
    })
    .await;
    assert_eq!(ground.ended(&task).await["status"], "cancelled");
}

#[actix_web::test]
async fn an_admin_is_told_what_is_wrong_and_where() {
    let jobs = Jobs::start().await;
    let ground = Ground::start(jobs.polled()).await;
    let admin = ground.app.admin().await;
    let with = |mut provider: Value, pointer: &str, value: Value| {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        provider.pointer_mut(parent).unwrap()[key] = value;
        provider
    };
    for (provider, path) in [
        (json!({"kind": "http_async", "baseUrl": "https://ai.example"}), "/poll"),
        (json!({"kind": "http_async", "callback": true}), "/baseUrl"),
        (json!({"kind": "http_async", "baseUrl": "https://ai.example", "callback": true}), "/request"),
        (with(jobs.polled(), "/submit/id", json!("{{ input.id }}")), "/submit/id"),
        (with(jobs.polled(), "/poll/intervalMs", json!(5)), "/poll/intervalMs"),
        (with(jobs.polled(), "/poll/done", json!([])), "/poll/done"),
        (with(jobs.polled(), "/poll/failed", json!(["succeeded"])), "/poll/failed/0"),
        (with(jobs.polled(), "/poll/url", json!("{{ callback.url }}")), "/poll/url"),
        (with(jobs.polled(), "/poll/url", json!("ftp://ai.example/{{ job.id }}")), "/poll/url"),
        (with(jobs.polled(), "/request", json!({"body": "{{ callback.url }}"})), "/request/body"),
        (with(jobs.polled(), "/response/error", json!("{{ job.id }}")), "/response/error"),
    ] {
        let refused = admin.put("/api/v1/admin/providers/draw", provider.clone()).await;
        assert_eq!((refused.status, refused.code()), (422, "VALIDATION_FAILED"), "{provider}: {refused:?}");
        assert_eq!(refused.json["errors"][0]["path"], path, "{provider}: {refused:?}");
    }
}

#[actix_web::test]
async fn an_admin_sees_a_trial_to_its_end() {
    let jobs = Jobs::start().await;
    let ground = Ground::start(jobs.polled()).await;
    let admin = ground.app.admin().await;
    jobs.end(1, done(5));
    let tried = admin.post("/api/v1/admin/providers/draw/test", json!({"input": {}})).await.expect(200);
    assert_eq!((&tried["output"], &tried["error"]), (&json!({"seed": 5}), &json!(null)), "{tried:#}");
    assert_eq!(tried["answer"]["body"], done(5));

    ground.app.put_provider(jobs.called_back()).await;
    let (tried, called_back) =
        tokio::join!(admin.post("/api/v1/admin/providers/draw/test", json!({"input": {}})), async {
            let job = eventually("a job is submitted", async || jobs.jobs().get(1).cloned()).await;
            job.call_back(&ground.app.service, json!({"seed": 6})).await
        });
    assert_eq!(called_back, 204);
    let tried = tried.expect(200);
    assert_eq!(tried["output"], json!({"seed": 6}), "{tried:#}");
    let token = jobs.jobs()[1].token().to_owned();
    assert!(!tried.to_string().contains(&token), "{tried:#}");
    assert!(!ground.app.service.log().contains(&token));
}
