//! What surrounds every request.

use crate::support::TestApp;
use reqwest::Method;

#[actix_web::test]
async fn browsers_of_allowed_origins_may_call_and_others_may_not() {
    let origin = "https://app.example.com";
    let app = TestApp::builder().env("GREENROOM__SERVER__CORS_ORIGINS", origin).start().await;
    let client = app.client();
    let preflight = |origin: &str| {
        client
            .request(Method::OPTIONS, "/api/v1/tasks")
            .header("Origin", origin)
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "authorization,content-type,idempotency-key")
    };
    let reply = client.send(preflight(origin)).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, origin), "{reply:#?}");
    let reply = client.send(preflight("https://evil.example.com")).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (400, ""), "{reply:#?}");
    assert_eq!(reply.header("content-type"), "application/problem+json");
    // a refusal must be readable too
    let refused = client.request(Method::GET, "/api/v1/users/me").header("Origin", origin);
    let reply = client.send(refused).await;
    assert_eq!((reply.status, reply.header("access-control-allow-origin")), (401, origin));
}

#[actix_web::test]
async fn without_configuration_no_browser_may_call() {
    let app = TestApp::start().await;
    let client = app.client();
    let request = client.request(Method::GET, "/api/v1/plans").header("Origin", "https://app.example.com");
    assert_eq!(client.send(request).await.header("access-control-allow-origin"), "");
}

#[actix_web::test]
async fn a_request_is_found_in_log_and_figures_and_its_secrets_are_not() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let request = user.request(Method::GET, "/api/v1/users/me").header("X-Request-Id", "find-me-1");
    let reply = user.send(request).await;
    assert_eq!((reply.status, reply.header("x-request-id")), (200, "find-me-1"));
    user.get("/api/v1/tasks?limit=not-a-secret-query").await;
    let log = app.service.log();
    let line = log.lines().find(|line| line.contains("find-me-1")).expect("the request's line");
    for part in ["/api/v1/users/me", "200", &user.id] {
        assert!(line.contains(part), "{line}");
    }
    let (phone, password) = &user.credentials;
    for secret in [phone.as_str(), password, user.token.as_deref().unwrap(), "not-a-secret-query"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
    let labels = [("method", "GET"), ("route", "/api/v1/users/me"), ("status", "200")];
    assert!(app.service.metric("greenroom_http_requests_total", &labels).await >= 1.0);
}

#[actix_web::test]
async fn the_contract_on_the_command_line_is_the_one_that_is_served() {
    let app = TestApp::start().await;
    let printed = app.run(&["openapi"]).await;
    let printed: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(app.client().get("/openapi.json").await.expect(200), printed);
}
