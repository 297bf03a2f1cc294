//! The kind `http_async` against a server of the test's own.

use super::super::{
    HttpLimits,
    address_guard::AddressGuard,
    testing::{MemoryFiles, MemoryJobs, Server, answer, call, ok},
};
use super::*;
use secrecy::SecretString;
use std::time::Instant;

fn provider() -> HttpAsyncProvider {
    let limits = HttpLimits { response_bytes: 100_000, file_bytes: 10_000 };
    let exchange = Arc::new(HttpExchange::new(AddressGuard::new(true), limits));
    HttpAsyncProvider::new(exchange, Url::parse("https://greenroom.example").unwrap())
}

/// Submits to `/jobs`, asks at `/jobs/{id}`.
fn polled(server: &Server) -> Value {
    json!({
        "baseUrl": format!("{}/jobs", server.url),
        "submit": {"id": "{{ body.job_id }}"},
        "poll": {"url": "/jobs/{{ job.id }}", "intervalMs": 100, "status": "{{ body.state }}",
                 "done": ["succeeded"], "failed": ["failed"]},
        "response": {"output": {"seed": "{{ body.seed }}"}, "error": "{{ body.message }}",
                     "contentRejected": "{{ body.code == 'unsafe' }}"}
    })
}

fn called_back(server: &Server) -> Value {
    json!({
        "baseUrl": format!("{}/jobs", server.url), "callback": true,
        "request": {"body": {"notify": "{{ callback.url }}", "prompt": "{{ input.prompt }}"}},
        "response": {"output": {"seed": "{{ body.seed }}"}, "error": "{{ body.message }}"}
    })
}

fn call_of(config: Value, jobs: &Arc<MemoryJobs>) -> Call {
    let auth = json!({"type": "bearer", "token": "s3cret-token"});
    let mut call =
        call("http_async", config.clone(), Some(auth), json!({"prompt": "rain"}), MemoryFiles::default());
    call.jobs = Arc::clone(jobs) as Arc<_>;
    if config["callback"] == true {
        call.callback_token = Some(SecretString::from("t0ken-of-the-call"));
    }
    call
}

async fn end_of(call: Call) -> Result<CallOutput, CallError> {
    provider().call(call).await
}

/// What a server of jobs says to a submission, and then to questions, the last again and again.
async fn server_of_jobs(submitted: Vec<u8>, answers: Vec<Vec<u8>>) -> Server {
    Server::start(move |request, n| {
        if request.starts_with("POST ") {
            return submitted.clone();
        }
        answers.get(n.saturating_sub(1)).or(answers.last()).cloned().unwrap_or_default()
    })
    .await
}

fn taken() -> Vec<u8> {
    answer("202 Accepted", "", r#"{"job_id": 42}"#)
}

#[tokio::test]
async fn a_job_is_submitted_once_and_asked_about_until_it_is_done() {
    let pending = ok(&json!({"state": "running"}));
    let done = ok(&json!({"state": "succeeded", "seed": 7}));
    let server = server_of_jobs(taken(), vec![pending.clone(), pending, done]).await;
    let jobs = Arc::new(MemoryJobs::default());
    let mut config = polled(&server);
    config["request"] = json!({"headers": {"X-Step": "{{ step.id }}"}});
    let call = call_of(config, &jobs);
    let key = call.idempotency_key.clone();
    assert_eq!(end_of(call).await.unwrap().output, json!({"seed": 7}));
    assert_eq!(*jobs.submitted.lock().unwrap(), ["42"]);
    let seen = server.seen();
    assert_eq!(seen.len(), 4);
    assert!(seen[0].starts_with("POST /jobs ") && seen[0].contains(&format!("idempotency-key: {key}\r\n")));
    assert!(seen[0].ends_with(r#"{"prompt":"rain"}"#), "{}", seen[0]);
    for question in &seen[1..] {
        assert!(question.starts_with("GET /jobs/42 ") && !question.contains("idempotency-key"), "{question}");
        assert!(question.contains("authorization: Bearer s3cret-token\r\n"), "{question}");
        assert!(question.contains("x-step: draw\r\n"), "{question}");
    }
}

#[tokio::test]
async fn how_a_job_ends() {
    let ends = [
        (
            ok(&json!({"state": "failed", "message": "out of paint"})),
            "PROVIDER_REJECTED",
            "the provider's job failed: out of paint",
        ),
        (ok(&json!({"state": "failed"})), "PROVIDER_REJECTED", "the provider's job failed"),
        (
            ok(&json!({"state": "failed", "code": "unsafe", "message": "not this"})),
            "CONTENT_REJECTED",
            "not this",
        ),
        (
            answer("422 Unprocessable Entity", "", r#"{"code":"unsafe"}"#),
            "CONTENT_REJECTED",
            "the provider refused the content",
        ),
        (
            answer("404 Not Found", "", r#"{"code":"unsafe"}"#),
            "CONTENT_REJECTED",
            "the provider refused the content",
        ),
        (answer("401 Unauthorized", "", "{}"), "PROVIDER_REJECTED", "the provider answered 401"),
        (ok(&json!("a".repeat(100_001))), "PROVIDER_REJECTED", "the provider's answer is too large"),
    ];
    for (end, code, message) in ends {
        let server = server_of_jobs(taken(), vec![end]).await;
        let error = end_of(call_of(polled(&server), &Arc::default())).await.unwrap_err();
        assert_eq!((error.code, error.fault, error.message.as_str()), (code, CallFault::Permanent, message));
    }
}

#[tokio::test]
async fn what_may_pass_is_asked_again() {
    let server = server_of_jobs(
        taken(),
        vec![
            answer("404 Not Found", "", "{}"),
            answer("503 Service Unavailable", "", ""),
            answer("502 Bad Gateway", "", "<html>"),
            Vec::new(), // the connection breaks
            ok(&json!("nonsense")),
            answer("200 OK", "", "<html>busy</html>"),
            answer("429 Too Many Requests", "retry-after: 0\r\n", ""),
            ok(&json!({"state": "succeeded", "seed": 1})),
        ],
    )
    .await;
    assert_eq!(end_of(call_of(polled(&server), &Arc::default())).await.unwrap().output, json!({"seed": 1}));
    assert_eq!(server.seen().iter().filter(|request| request.starts_with("POST ")).count(), 1);
}

#[tokio::test]
async fn a_provider_that_asks_for_a_pause_between_questions_gets_it() {
    let busy = answer("429 Too Many Requests", "retry-after: 1\r\n", "");
    let server = server_of_jobs(taken(), vec![busy, ok(&json!({"state": "succeeded"}))]).await;
    let began = Instant::now();
    end_of(call_of(polled(&server), &Arc::default())).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(1_100), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_job_that_does_not_end_in_time_leaves_the_outcome_open() {
    let server = server_of_jobs(taken(), vec![ok(&json!({"state": "running"}))]).await;
    let mut call = call_of(polled(&server), &Arc::default());
    call.deadline = Instant::now() + Duration::from_millis(400);
    let error = end_of(call).await.unwrap_err();
    assert_eq!((error.code, error.fault), ("PROVIDER_TIMEOUT", CallFault::Unanswered));
}

#[tokio::test]
async fn a_submission_that_is_not_taken_ends_like_any_request() {
    for (submitted, code, fault) in [
        (answer("400 Bad Request", "", "{}"), "PROVIDER_REJECTED", CallFault::Permanent),
        (answer("400 Bad Request", "", r#"{"code":"unsafe"}"#), "CONTENT_REJECTED", CallFault::Permanent),
        (
            answer("409 Conflict", "", "{}"),
            "PROVIDER_UNAVAILABLE",
            CallFault::Retryable { retry_after: None },
        ),
        (answer("504 Gateway Timeout", "", ""), "PROVIDER_UNAVAILABLE", CallFault::Unanswered),
        (ok(&json!({"job": 1})), "PROVIDER_REJECTED", CallFault::Permanent),
        (ok(&json!({"job_id": ""})), "PROVIDER_REJECTED", CallFault::Permanent),
        (ok(&json!({"job_id": "a\u{0}b"})), "PROVIDER_REJECTED", CallFault::Permanent),
        (ok(&json!({"job_id": "a".repeat(2000)})), "PROVIDER_REJECTED", CallFault::Permanent),
        (answer("200 OK", "", "garbage"), "PROVIDER_REJECTED", CallFault::Permanent),
    ] {
        let server = server_of_jobs(submitted, Vec::new()).await;
        let jobs = Arc::new(MemoryJobs::default());
        let error = end_of(call_of(polled(&server), &jobs)).await.unwrap_err();
        assert_eq!((error.code, error.fault), (code, fault));
        assert_eq!(server.seen().len(), 1);
        assert!(jobs.submitted.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_callback_brings_the_end() {
    let server = server_of_jobs(answer("202 Accepted", "", ""), Vec::new()).await;
    let jobs = Arc::new(MemoryJobs::hearing([(300, r#"{"seed": 9}"#)]));
    assert_eq!(end_of(call_of(called_back(&server), &jobs)).await.unwrap().output, json!({"seed": 9}));
    let submission = server.seen().remove(0);
    let address = "https://greenroom.example/api/v1/provider-callbacks/t0ken-of-the-call";
    assert!(submission.contains(&format!("\"notify\":\"{address}\"")), "{submission}");

    let jobs = Arc::new(MemoryJobs::hearing([(100, r#"{"message": "no paint"}"#)]));
    let error = end_of(call_of(called_back(&server), &jobs)).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        ("PROVIDER_REJECTED", "the provider's job failed: no paint")
    );

    let mut garbled = called_back(&server);
    garbled["response"] = json!({});
    let jobs = Arc::new(MemoryJobs::hearing([(100, "garbage")]));
    let error = end_of(call_of(garbled, &jobs)).await.unwrap_err();
    assert_eq!(
        (error.code, error.message.as_str()),
        ("PROVIDER_REJECTED", "the provider's answer is no JSON")
    );
}

#[tokio::test]
async fn of_a_question_and_a_callback_the_first_end_counts() {
    for (callback, answers, seed) in [
        (
            [(150, r#"{"state": "succeeded", "seed": 1}"#), (9_000, "")],
            vec![ok(&json!({"state": "running"}))],
            1,
        ),
        (
            [(50, r#"{"state": "running"}"#), (9_000, "")],
            vec![ok(&json!({"state": "succeeded", "seed": 2}))],
            2,
        ),
        ([(50, r#"garbage"#), (100, r#"{"state": "succeeded", "seed": 3}"#)], vec![Vec::new()], 3),
    ] {
        let server = server_of_jobs(taken(), answers).await;
        let mut config = polled(&server);
        config["callback"] = json!(true);
        let output = end_of(call_of(config, &Arc::new(MemoryJobs::hearing(callback)))).await.unwrap().output;
        assert_eq!(output, json!({"seed": seed}));
    }
}

#[tokio::test]
async fn where_a_submission_got_no_answer_a_callback_may_still_tell() {
    let server = server_of_jobs(Vec::new(), Vec::new()).await;
    let jobs = Arc::new(MemoryJobs::hearing([(300, r#"{"seed": 9}"#)]));
    assert_eq!(end_of(call_of(called_back(&server), &jobs)).await.unwrap().output, json!({"seed": 9}));
    let mut silent = call_of(called_back(&server), &Arc::default());
    silent.deadline = Instant::now() + Duration::from_millis(300);
    let error = end_of(silent).await.unwrap_err();
    assert_eq!((error.code, error.fault), ("PROVIDER_TIMEOUT", CallFault::Unanswered));
}

#[tokio::test]
async fn a_job_that_is_known_is_asked_about_and_not_submitted_again() {
    let server = Server::start(|_, _| ok(&json!({"state": "succeeded", "seed": 5}))).await;
    let jobs = Arc::new(MemoryJobs::default());
    let mut resumed = call_of(polled(&server), &jobs);
    resumed.submission = Submission::Done("a/7".to_owned());
    assert_eq!(end_of(resumed).await.unwrap().output, json!({"seed": 5}));
    assert!(server.seen()[0].starts_with("GET /jobs/a/7 "), "{:?}", server.seen());
    assert_eq!(server.seen().len(), 1);

    // by callback alone there is nothing to ask
    for submission in [Submission::Done("7".to_owned()), Submission::Unknown] {
        let jobs = Arc::new(MemoryJobs::hearing([(200, r#"{"seed": 6}"#)]));
        let mut resumed = call_of(called_back(&server), &jobs);
        resumed.callback_token = None;
        resumed.submission = submission;
        assert_eq!(end_of(resumed).await.unwrap().output, json!({"seed": 6}));
    }
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn credentials_do_not_follow_a_job_to_another_host() {
    let foreign = Server::start(|_, _| ok(&json!({"state": "succeeded", "seed": 1}))).await;
    let id = json!({"job_id": format!("{}/7", foreign.url)});
    let server = server_of_jobs(ok(&id), Vec::new()).await;
    let mut config = polled(&server);
    config["poll"]["url"] = json!("{{ job.id }}");
    end_of(call_of(config, &Arc::default())).await.unwrap();
    let question = foreign.seen().remove(0);
    assert!(question.starts_with("GET /7 ") && !question.contains("s3cret"), "{question}");
}

#[tokio::test]
async fn no_private_address_is_asked_about_a_job() {
    let server = Server::start(|_, _| ok(&json!({"state": "succeeded"}))).await;
    let limits = HttpLimits { response_bytes: 1000, file_bytes: 1000 };
    let exchange = Arc::new(HttpExchange::new(AddressGuard::new(false), limits));
    let guarded = HttpAsyncProvider::new(exchange, Url::parse("https://greenroom.example").unwrap());
    let mut config = polled(&server);
    config["baseUrl"] = json!("https://ai.example/jobs");
    config["poll"]["url"] = json!("{{ job.id }}");
    let mut resumed = call_of(config, &Arc::default());
    resumed.submission = Submission::Done(format!("{}/7", server.url));
    let error = guarded.call(resumed).await.unwrap_err();
    assert_eq!((error.code, error.fault), ("PROVIDER_REJECTED", CallFault::Permanent));
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_trial_shows_what_went_out_and_came_back_last_without_secrets() {
    let server = Server::start(|request, _| match request.starts_with("POST ") {
        true => ok(&json!({"job_id": 1, "echo": request})),
        false => ok(&json!({"state": "succeeded", "seed": 3})),
    })
    .await;
    let mut config = polled(&server);
    config["callback"] = json!(true);
    config["request"] = json!({"body": {"notify": "{{ callback.url }}"}});
    config["response"]["error"] = json!("{{ body.echo }}");
    let (exchange, outcome) = provider().try_call(call_of(config.clone(), &Arc::default())).await;
    assert_eq!(outcome.unwrap().output, json!({"seed": 3}));
    assert_eq!(exchange.answer["body"], json!({"state": "succeeded", "seed": 3}));
    assert_eq!(exchange.request["body"]["notify"], "https://greenroom.example/api/v1/provider-callbacks/***");
    assert!(!format!("{exchange:?}").contains("s3cret") && !format!("{exchange:?}").contains("t0ken"));

    config["submit"]["id"] = json!("{{ body.nothing }}");
    let (exchange, _) = provider().try_call(call_of(config, &Arc::default())).await;
    let shown = format!("{exchange:?}");
    assert!(shown.contains("echo") && !shown.contains("s3cret") && !shown.contains("t0ken"), "{shown}");
}

#[tokio::test]
async fn files_are_fetched_when_the_job_is_done() {
    let server = Server::start(|request, _| match request.split(' ').nth(1) {
        Some("/files/1.png") => answer("200 OK", "", "\u{89}PNG"),
        Some("/jobs") => taken(),
        _ => ok(&json!({"state": "succeeded", "seed": 1, "image": "/files/1.png"})),
    })
    .await;
    let mut config = polled(&server);
    config["response"]["files"] = json!({"picture": {"url": "{{ body.image }}"}});
    let output = end_of(call_of(config, &Arc::default())).await.unwrap();
    assert_eq!((output.files.len(), output.files[0].field.as_str()), (1, "picture"));
}
