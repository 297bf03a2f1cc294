//! The kind `http` against a server of the test's own.

use super::super::{
    HttpLimits,
    address_guard::AddressGuard,
    testing::{MemoryFiles, Server, answer, call, ok},
};
use super::*;
use greenroom_actors::pipeline::provider::CallFault;
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

fn provider() -> HttpProvider {
    guarded_by(AddressGuard::new(true))
}

fn guarded_by(guard: AddressGuard) -> HttpProvider {
    let limits = HttpLimits { response_bytes: 100_000, file_bytes: 10_000 };
    HttpProvider::new(Arc::new(HttpExchange::new(guard, limits)))
}

async fn outcome_of(answer: Vec<u8>, response: Value) -> Result<CallOutput, CallError> {
    let server = Server::start(move |_, _| answer.clone()).await;
    let config = json!({"baseUrl": server.url, "response": response});
    provider().call(call("http", config, None, json!({"a": 1}), MemoryFiles::default())).await
}

#[tokio::test]
async fn the_input_goes_out_as_it_is_and_the_answer_comes_back_as_it_is() {
    let server = Server::start(|_, _| ok(&json!({"seed": 7}))).await;
    let call = call(
        "http",
        json!({"baseUrl": format!("{}/draw?style=ink", server.url)}),
        None,
        json!({"prompt": "雨"}),
        MemoryFiles::default(),
    );
    let key = call.idempotency_key.clone();
    let output = provider().call(call).await.unwrap();
    assert_eq!(output, CallOutput { output: json!({"seed": 7}), files: vec![] });
    let request = server.seen().remove(0);
    assert!(request.starts_with("POST /draw?style=ink HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("idempotency-key: {key}\r\n")), "{request}");
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{\"prompt\":\"雨\"}"), "{request}");
}

#[tokio::test]
async fn a_request_is_what_its_templates_say() {
    let server = Server::start(|_, _| ok(&json!({}))).await;
    let mut files = MemoryFiles::default();
    let photo = files.add(&b"\xFF\xD8picture"[..]);
    let config = json!({
        "baseUrl": server.url,
        "request": {
            "method": "PUT",
            "headers": {"X-Task": "{{ task.id }}/{{ step.id }}/{{ attempt }}", "X-None": "{{ input.nothing }}", "X-Number": "{{ input.n }}"},
            "body": {"text": "draw {{ input.prompt }}", "n": "{{ input.n }}", "link": "{{ input.photo | file_url }}",
                "inline": "data:{{ input.photo | file_base64 }}", "fixed": [true, null]}
        }
    });
    let auth = json!({"type": "header", "name": "X-Key", "value": "s3cret"});
    let call =
        call("http", config, Some(auth), json!({"prompt": "a \"coat\"", "n": 3, "photo": photo}), files);
    let task = call.task;
    provider().call(call).await.unwrap();
    let request = server.seen().remove(0);
    assert!(request.starts_with("PUT / HTTP/1.1"), "{request}");
    assert!(request.contains(&format!("x-task: {task}/draw/1\r\n")), "{request}");
    assert!(request.contains("x-number: 3\r\n") && request.contains("x-key: s3cret\r\n"), "{request}");
    assert!(!request.contains("x-none"), "a header that renders to nothing is left out: {request}");
    let body: Value = serde_json::from_str(request.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["text"], "draw a \"coat\"");
    assert_eq!(body["n"], 3);
    assert!(body["link"].as_str().unwrap().starts_with(&format!("https://files.example/{photo}?for=")));
    assert_eq!(body["inline"], "data:/9hwaWN0dXJl");
    assert_eq!(body["fixed"], json!([true, null]));
}

#[tokio::test]
async fn a_bearer_token_is_sent_and_masked_where_the_call_is_shown() {
    let server =
        Server::start(|_, _| answer("400 Bad Request", "", r#"{"message":"token s3cret-token is bad"}"#))
            .await;
    let config = json!({"baseUrl": server.url, "request": {"body": {"echo": "s3cret-token"}}, "response": {"error": "{{ body.message }}"}});
    let auth = json!({"type": "bearer", "token": "s3cret-token"});
    let (exchange, outcome) =
        provider().try_call(call("http", config, Some(auth), json!({}), MemoryFiles::default())).await;
    assert!(server.seen()[0].contains("authorization: Bearer s3cret-token\r\n"));
    let error = outcome.unwrap_err();
    assert_eq!(error.message, "the provider answered 400: token *** is bad");
    let shown = format!("{exchange:?}");
    assert!(!shown.contains("s3cret"), "{shown}");
    assert_eq!(exchange.request["headers"]["authorization"], "***");
    assert_eq!(exchange.request["body"], json!({"echo": "***"}));
    assert_eq!(exchange.answer["status"], 400);
}

#[tokio::test]
async fn each_status_means_what_the_contract_says() {
    let retryable = |after: Option<u64>| CallFault::Retryable { retry_after: after.map(Duration::from_secs) };
    for (status, headers, code, fault) in [
        ("408 Request Timeout", "", "PROVIDER_UNAVAILABLE", retryable(None)),
        ("409 Conflict", "", "PROVIDER_UNAVAILABLE", retryable(None)),
        ("425 Too Early", "", "PROVIDER_UNAVAILABLE", retryable(None)),
        ("429 Too Many Requests", "retry-after: 7\r\n", "PROVIDER_UNAVAILABLE", retryable(Some(7))),
        ("500 Internal Server Error", "", "PROVIDER_UNAVAILABLE", retryable(None)),
        ("503 Service Unavailable", "retry-after: 2\r\n", "PROVIDER_UNAVAILABLE", retryable(Some(2))),
        ("504 Gateway Timeout", "", "PROVIDER_UNAVAILABLE", CallFault::Unanswered),
        ("400 Bad Request", "", "PROVIDER_REJECTED", CallFault::Permanent),
        ("401 Unauthorized", "", "PROVIDER_REJECTED", CallFault::Permanent),
        ("404 Not Found", "", "PROVIDER_REJECTED", CallFault::Permanent),
        ("302 Found", "location: http://127.0.0.1:1/\r\n", "PROVIDER_REJECTED", CallFault::Permanent),
    ] {
        let error = outcome_of(answer(status, headers, "{}"), json!({})).await.unwrap_err();
        assert_eq!((error.code, error.fault), (code, fault), "{status}");
    }
    assert!(outcome_of(answer("201 Created", "", "{}"), json!({})).await.is_ok());
    assert_eq!(outcome_of(answer("204 No Content", "", ""), json!({})).await.unwrap().output, Value::Null);
}

#[tokio::test]
async fn a_refusal_of_the_content_counts_on_any_status() {
    let response = json!({"contentRejected": "{{ body.code == 'unsafe' }}", "error": "{{ body.message }}"});
    for status in ["200 OK", "400 Bad Request", "429 Too Many Requests", "500 Internal Server Error"] {
        let error =
            outcome_of(answer(status, "", r#"{"code":"unsafe","message":"not this"}"#), response.clone())
                .await;
        let error = error.unwrap_err();
        assert_eq!((error.code, error.fault), ("CONTENT_REJECTED", CallFault::Permanent), "{status}");
        assert_eq!(error.message, "not this");
    }
    let error =
        outcome_of(answer("500 Internal Server Error", "", "<html>"), response.clone()).await.unwrap_err();
    assert_eq!(error.code, "PROVIDER_UNAVAILABLE", "a template that does not fit says nothing");
    assert!(outcome_of(ok(&json!({"code": "fine"})), response).await.is_ok());
}

#[tokio::test]
async fn an_answer_is_read_by_its_templates() {
    let body = json!({"data": {"seed": 9, "words": ["a", "b"]}, "rest": 1});
    let response = json!({"output": {"seed": "{{ body.data.seed }}", "last": "{{ body.data.words[-1] }}", "status": "{{ status }}", "type": "{{ headers['content-type'] }}"}});
    let output = outcome_of(ok(&body), response).await.unwrap().output;
    assert_eq!(output, json!({"seed": 9, "last": "b", "status": 200, "type": "application/json"}));
    let error = outcome_of(answer("200 OK", "", "<html>busy</html>"), json!({})).await.unwrap_err();
    assert_eq!((error.code, error.fault), ("PROVIDER_REJECTED", CallFault::Permanent));
    let text =
        outcome_of(answer("200 OK", "", "plain words"), json!({"output": {"said": "{{ body }}"}})).await;
    assert_eq!(text.unwrap().output, json!({"said": "plain words"}));
}

#[tokio::test]
async fn files_come_along_by_link_and_inline() {
    let server = Server::start(|request, n| match (request.split(' ').nth(1), n) {
        (Some("/files/1.png"), 1) => answer("503 Service Unavailable", "", ""),
        (Some("/files/1.png"), _) => answer("200 OK", "content-type: text/html\r\n", "\u{89}PNG"),
        _ => {
            ok(&json!({"images": ["/files/1.png"], "inline": "data:image/png;base64,iVBORw0KGgo", "seed": 1}))
        }
    })
    .await;
    let config = json!({"baseUrl": format!("{}/v1/draw", server.url), "response": {
        "output": {"seed": "{{ body.seed }}"},
        "files": {"picture": {"url": "{{ body.images[0] }}"}, "small": {"base64": "{{ body.inline }}"}}
    }});
    let output =
        provider().call(call("http", config, None, json!({}), MemoryFiles::default())).await.unwrap();
    assert_eq!(output.output, json!({"seed": 1}));
    let files: Vec<_> = output
        .files
        .iter()
        .map(|file| (file.field.as_str(), file.name.as_str(), file.content_type.as_str(), file.bytes.len()))
        .collect();
    assert_eq!(files, [("picture", "picture.bin", "text/html", 5), ("small", "small.png", "image/png", 8)]);
    assert_eq!(server.seen().len(), 3, "a file that was not there yet is asked for again, the work is not");
    assert!(
        server.seen()[1..]
            .iter()
            .all(|request| request.starts_with("GET ") && !request.contains("idempotency-key"))
    );
}

#[tokio::test]
async fn a_file_that_cannot_be_had_fails_the_call() {
    for (body, code, fault) in [
        (json!({}), "PROVIDER_REJECTED", CallFault::Permanent),
        (json!({"url": ""}), "PROVIDER_REJECTED", CallFault::Permanent),
        (json!({"url": "ftp://files.example/a"}), "PROVIDER_REJECTED", CallFault::Permanent),
        (json!({"url": "http://127.0.0.1:1/a"}), "PROVIDER_UNAVAILABLE", CallFault::Unanswered),
    ] {
        let error = outcome_of(ok(&body), json!({"files": {"picture": {"url": "{{ body.url }}"}}}))
            .await
            .unwrap_err();
        assert_eq!((error.code, error.fault), (code, fault), "{body}");
    }
    for body in [json!({"data": "not base64!"}), json!({"data": "A".repeat(20_000)})] {
        let error = outcome_of(ok(&body), json!({"files": {"picture": {"base64": "{{ body.data }}"}}}))
            .await
            .unwrap_err();
        assert_eq!((error.code, error.fault), ("PROVIDER_REJECTED", CallFault::Permanent));
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut() {
    let long = answer("200 OK", "", &format!("\"{}\"", "a".repeat(100_001)));
    let endless =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n\"{}", "a".repeat(150_000)).into_bytes();
    for bytes in [long, endless] {
        let error = outcome_of(bytes, json!({})).await.unwrap_err();
        assert_eq!(
            (error.code, error.message.as_str()),
            ("PROVIDER_REJECTED", "the provider's answer is too large")
        );
    }
}

#[tokio::test]
async fn silence_and_broken_connections_leave_the_outcome_open() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut silent = call("http", json!({"baseUrl": url}), None, json!({}), MemoryFiles::default());
    silent.deadline = Instant::now() + Duration::from_millis(200);
    let error = provider().call(silent).await.unwrap_err();
    assert_eq!((error.code, error.fault), ("PROVIDER_TIMEOUT", CallFault::Unanswered));

    let cut = answer("200 OK", "", "{}")[..20].to_vec();
    let error = outcome_of(cut, json!({})).await.unwrap_err();
    assert_eq!((error.code, error.fault), ("PROVIDER_UNAVAILABLE", CallFault::Unanswered));

    drop(listener);
    let nobody =
        call("http", json!({"baseUrl": "http://127.0.0.1:1/"}), None, json!({}), MemoryFiles::default());
    let error = provider().call(nobody).await.unwrap_err();
    assert_eq!(
        (error.code, error.fault),
        ("PROVIDER_UNAVAILABLE", CallFault::Retryable { retry_after: None })
    );

    let mut late =
        call("http", json!({"baseUrl": "http://127.0.0.1:1/"}), None, json!({}), MemoryFiles::default());
    late.deadline = Instant::now();
    assert_eq!(provider().call(late).await.unwrap_err().code, "PROVIDER_TIMEOUT");
}

#[tokio::test]
async fn no_private_address_is_called_whoever_names_it() {
    let server = Server::start(|_, _| ok(&json!({}))).await;
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    let guarded = guarded_by(AddressGuard::new(false));
    // saved while it was allowed, or a name that leads elsewhere now: refused where the connection is made
    let named = format!("http://localhost.localdomain.invalid:{port}");
    assert!(guarded.check(&json!({"baseUrl": server.url}), None).is_err());
    assert!(guarded.check_reach(&json!({"baseUrl": format!("http://localhost:{port}")})).await.is_err());
    assert!(guarded.check(&json!({"baseUrl": named}), None).is_ok());
    for url in [server.url.clone(), format!("http://localhost:{port}")] {
        let error = guarded
            .call(call("http", json!({"baseUrl": url}), None, json!({}), MemoryFiles::default()))
            .await;
        assert_eq!(error.unwrap_err().code, "PROVIDER_REJECTED");
    }
    let request = reqwest::Request::new(reqwest::Method::GET, server.url.parse().unwrap());
    assert!(guarded.exchange.client.send(request, Duration::from_secs(1)).await.is_err());
    assert!(server.seen().is_empty());
}

#[tokio::test]
async fn a_configuration_is_compiled_once_for_its_record() {
    let provider = provider();
    let call =
        call("http", json!({"baseUrl": "http://127.0.0.1:1"}), None, json!({}), MemoryFiles::default());
    let first = provider.config(&call.provider).unwrap();
    assert!(Arc::ptr_eq(&first, &provider.config(&call.provider).unwrap()));
    let changed = Arc::new(ProviderRecord {
        config: json!({"baseUrl": "http://127.0.0.1:2"}),
        ..(*call.provider).clone()
    });
    assert_eq!(provider.config(&changed).unwrap().request.url.port(), Some(2));
}
