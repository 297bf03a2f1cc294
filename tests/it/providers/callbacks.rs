//! Providers that call back: on any replica, twice, late, with a wrong token, too much.

use super::*;
use reqwest::Method;

#[actix_web::test]
async fn a_callback_ends_its_step_and_a_repeat_changes_nothing() {
    let jobs = Jobs::start().await;
    let ground = Ground::start(jobs.called_back()).await;
    let task = ground.start_task().await;
    let job = jobs.job().await;
    assert_eq!(job.notify, format!("{}/api/v1/provider-callbacks/{}", ground.app.service.url, job.token()));
    assert_eq!(job.call_back(&ground.app.service, json!({"seed": 1})).await, 204);
    assert_eq!(job.call_back(&ground.app.service, json!({"seed": 2})).await, 204);
    ground.expect_seed(&task, 1).await;
    // late: the task is over
    assert_eq!(job.call_back(&ground.app.service, json!({"seed": 3})).await, 204);
    ground.expect_seed(&task, 1).await;
    assert_eq!(ground.quota().await, (9 * COST, 0));
    assert_eq!(ground.attempts(&task).await, [("succeeded".into(), "".into(), "first".into())]);
    assert!(!ground.app.service.log().contains(job.token()), "an address is a secret");
    let hash = "select count(*) from provider_callbacks where position($1::bytea in token_hash) > 0";
    let found: i64 = ground.app.sql().await.query_one(hash, &[&job.token().as_bytes()]).await.unwrap().get(0);
    assert_eq!(found, 0, "and is not kept");
}

#[actix_web::test]
async fn callbacks_at_once_count_once() {
    let jobs = Jobs::start().await;
    let ground = Ground::start(jobs.called_back()).await;
    let task = ground.start_task().await;
    let job = jobs.job().await;
    let calls = (0..20).map(|seed| job.call_back(&ground.app.service, json!({ "seed": seed })));
    assert_eq!(futures_util::future::join_all(calls).await, [204; 20]);
    let ended = ground.ended(&task).await;
    assert_eq!(ended["status"], "succeeded");
    let kept: Vec<u8> =
        ground.app.sql().await.query_one("select body from provider_callbacks", &[]).await.unwrap().get(0);
    assert_eq!(serde_json::from_slice::<Value>(&kept).unwrap()["seed"], ended["output"]["seed"]);
}

#[actix_web::test]
async fn only_the_address_that_was_named_is_one() {
    let jobs = Jobs::start().await;
    let ground = Ground::start(jobs.called_back()).await;
    let task = ground.start_task().await;
    let job = jobs.job().await;
    let stranger = ground.app.client();
    let other = greenroom::dev::random_text(43);
    for token in [other.as_str(), "", "a", "..", "%00", &job.token()[1..], &format!("{}A", job.token())] {
        assert_eq!(call_back(&stranger, token, json!({"seed": 9})).await, 404, "{token}");
    }
    let address = format!("/api/v1/provider-callbacks/{}", job.token());
    assert_eq!(stranger.get(&address).await.status, 405);
    let long = stranger.request(Method::POST, &address).body(vec![b'1'; 1_048_577]);
    let refused = stranger.send(long).await;
    assert_eq!((refused.status, refused.code()), (413, "BODY_TOO_LARGE"));
    assert_eq!(
        job.call_back(&ground.app.service, json!({"seed": 4})).await,
        204,
        "nothing of that used it up"
    );
    ground.expect_seed(&task, 4).await;
}

#[actix_web::test]
async fn a_callback_may_say_that_the_job_failed_or_say_nonsense() {
    let jobs = Jobs::start().await;
    let mut provider = jobs.called_back();
    provider["response"] = json!({"error": "{{ body.message }}", "contentRejected": "{{ body.unsafe }}"});
    let ground = Ground::start(provider).await;
    let ends: [(&[u8], &str, &str); 4] = [
        (br#"{"message": "out of paint"}"#, "PROVIDER_REJECTED", "the provider's job failed: out of paint"),
        (br#"{"unsafe": true}"#, "CONTENT_REJECTED", "the provider refused the content"),
        (b"\xff\x00 garbage", "PROVIDER_REJECTED", "the provider's answer is no JSON"),
        (br#"{"text": "\u0000"}"#, "OUTPUT_INVALID", "The output is not as it should be"),
    ];
    for (number, (body, code, message)) in ends.into_iter().enumerate() {
        let task = ground.start_task().await;
        let job = eventually("a job is submitted", async || jobs.jobs().get(number).cloned()).await;
        let request =
            ground.app.client().request(Method::POST, &format!("/api/v1/provider-callbacks/{}", job.token()));
        assert_eq!(ground.app.client().send(request.body(body)).await.status, 204);
        let ended = ground.expect_failed(&task, code).await;
        assert!(ended["error"]["message"].as_str().unwrap().starts_with(message), "{ended:#}");
    }
}

#[actix_web::test]
async fn a_callback_that_says_nothing_of_an_end_leaves_the_job_to_be_asked_about() {
    let jobs = Jobs::start().await;
    let mut provider = jobs.polled();
    provider["callback"] = json!(true);
    provider["request"] = json!({"body": {"notify": "{{ callback.url }}"}});
    let ground = Ground::start(provider).await;
    let first = ground.start_task().await;
    let job = jobs.job().await;
    assert_eq!(job.call_back(&ground.app.service, json!({"state": "running"})).await, 204);
    jobs.end(1, done(1));
    ground.expect_seed(&first, 1).await;
    // the callback comes first
    let second = ground.start_task().await;
    let job = eventually("a job is submitted", async || jobs.jobs().get(1).cloned()).await;
    assert_eq!(job.call_back(&ground.app.service, done(2)).await, 204);
    ground.expect_seed(&second, 2).await;
}

#[actix_web::test]
async fn a_callback_may_come_to_another_replica_than_the_one_that_waits() {
    let jobs = Jobs::start().await;
    let ground = Ground::start(jobs.called_back()).await;
    let task = ground.start_task().await;
    let job = jobs.job().await;
    // it starts after the call has left, so it is not the one that waits
    let other = ground.app.second_replica().await;
    assert_eq!(job.call_back(&other, json!({"seed": 8})).await, 204);
    assert_eq!(job.call_back(&ground.app.service, json!({"seed": 9})).await, 204);
    ground.expect_seed(&task, 8).await;
    assert_eq!(ground.attempts(&task).await.len(), 1);
}

#[actix_web::test]
async fn a_callback_to_the_first_address_counts_for_the_repeat_of_its_call() {
    let jobs = Jobs::start().await;
    let mut provider = jobs.called_back();
    provider["timeoutMs"] = json!(700);
    provider["retry"] = json!({"maxAttempts": 20, "backoffMs": 0});
    let ground = Ground::start(provider).await;
    let task = ground.start_task().await;
    // the provider knows the key again: its one job knows the first address only
    eventually("the call is repeated", async || (jobs.submissions() > 1).then_some(())).await;
    let job = jobs.job().await;
    assert_eq!(job.call_back(&ground.app.service, json!({"seed": 5})).await, 204);
    ground.expect_seed(&task, 5).await;
    let attempts = ground.attempts(&task).await;
    assert!(attempts.len() > 1 && attempts[0].0 == "failed" && attempts.last().unwrap().0 == "succeeded");
}

#[actix_web::test]
async fn old_addresses_are_forgotten() {
    let jobs = Jobs::start().await;
    let ground = Ground::start(jobs.called_back()).await;
    let task = ground.start_task().await;
    let job = jobs.job().await;
    assert_eq!(job.call_back(&ground.app.service, json!({"seed": 1})).await, 204);
    ground.expect_seed(&task, 1).await;
    let admin = ground.app.admin().await;
    let sweep =
        async || admin.post("/api/v1/admin/jobs/delete-provider-callbacks/run", json!({})).await.expect(200);
    assert_eq!(sweep().await["lastOutcome"], "0 callbacks deleted");
    let age = "update provider_callbacks set expires_at = clock_timestamp() - interval '1 second'";
    ground.app.sql().await.execute(age, &[]).await.unwrap();
    assert_eq!(sweep().await["lastOutcome"], "1 callbacks deleted");
    assert_eq!(job.call_back(&ground.app.service, json!({"seed": 2})).await, 404);
}
