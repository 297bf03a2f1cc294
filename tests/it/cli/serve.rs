//! `greenroom serve`: what it prints, and how it ends.

use serde_json::Value;

use crate::support::{TestApp, eventually};

#[tokio::test]
async fn it_ends_in_order_when_it_is_told_to() {
    for signal in ["TERM", "INT"] {
        let mut app = TestApp::start().await;
        app.register_user().await;
        app.service.signal(signal);
        let status = app.service.wait().await;
        assert!(status.success(), "{status:?}: {}", app.service.log());
        app.service.start_again().await;
    }
}

#[tokio::test]
async fn no_log_line_holds_a_secret_even_at_the_loudest() {
    let app = TestApp::builder().env("GREENROOM__LOGS__LEVEL", "trace").start().await;
    let user = app.register_user().await;
    let again = app.client().login(&user.credentials.0, &user.credentials.1).await;
    again.get("/api/v1/users/me").await.expect(200);
    let hash: String = {
        let sql = app.sql().await;
        let query = format!("select password_hash from users where id = '{}'", user.id);
        sql.query_one(&query, &[]).await.unwrap().get(0)
    };
    let log = eventually("the last request is in the log", async || {
        Some(app.service.log()).filter(|log| log.contains("/api/v1/users/me"))
    })
    .await;
    let password_of = |url: &str| url::Url::parse(url).unwrap().password().unwrap().to_owned();
    for (what, secret) in [
        ("the user's password", user.credentials.1.clone()),
        ("its hash", hash),
        ("an access token", again.token.clone().unwrap()),
        ("the key of tokens", app.environment["GREENROOM__AUTH__JWT_SECRET"].clone()),
        ("the key of secrets", app.environment["GREENROOM__SECRETS__KEY"].clone()),
        ("PostgreSQL's password", password_of(&app.database_url)),
        ("Redis' password", password_of(&app.redis_url)),
    ] {
        assert!(!log.contains(&secret), "{what} is in the log");
    }
}

#[tokio::test]
async fn logs_for_machines_are_an_object_a_line() {
    let app = TestApp::builder().env("GREENROOM__LOGS__FORMAT", "json").start().await;
    app.register_user().await;
    let log = app.service.log();
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains(" on http://")).collect();
    assert!(!lines.is_empty());
    for line in lines {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(object["level"].is_string() && object["timestamp"].is_string(), "{line}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let app = TestApp::start().await;
    let taken = app.service.url.trim_start_matches("http://").to_owned();
    let mut environment = app.environment.clone();
    environment.insert("GREENROOM__SERVER__LISTEN".to_owned(), taken.clone());
    let (code, text) = super::said(&app.run_with(&environment, &["serve"]).await);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("server.listen") && text.contains(&taken), "{text}");
}

#[tokio::test]
async fn pools_larger_than_what_postgresql_grants_are_warned_of() {
    let app = TestApp::builder().env("GREENROOM__DATABASE__POOL_MAX", 9999).start().await;
    let granted = "select current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint";
    let granted = app.count(granted).await;
    eventually("the warning is in the log", async || {
        app.service.log().contains(&format!("PostgreSQL grants {granted}")).then_some(())
    })
    .await;
}
