//! What must be in no log, at the most verbose level.

use crate::support::{FakeSms, FakeWechat, Socket, TestApp, new_phone};
use serde_json::{Value, json};

#[actix_web::test]
async fn no_token_code_password_or_key_is_in_the_log_at_its_most_verbose() {
    let (sms, wechat) = (FakeSms::start().await, FakeWechat::start().await);
    let mut builder = TestApp::builder().env("GREENROOM__LOGS__LEVEL", "trace");
    for (name, value) in sms.environment().into_iter().chain(wechat.environment()) {
        builder = builder.env(name, value);
    }
    let app = builder.start().await;
    let client = app.client();
    let mut secrets: Vec<String> =
        vec!["correct horse 1".into(), "another horse 2".into(), "wrong horse 3".into()];
    let mut keep = |tokens: &Value| {
        for name in ["accessToken", "refreshToken", "ticket"] {
            secrets.extend(tokens[name].as_str().map(str::to_owned));
        }
    };

    // by phone, with everything that can go wrong
    let phone = new_phone();
    let register = json!({ "phone": phone, "password": "correct horse 1" });
    let tokens = client.post("/api/v1/auth/register", register).await.expect(201);
    keep(&tokens);
    let mut user = client.clone();
    user.credentials = (phone.clone(), "correct horse 1".to_owned());
    let user = user.with_tokens(&tokens);
    client.post("/api/v1/auth/login", json!({ "phone": phone, "password": "wrong horse 3" })).await;
    let next = user.refresh().await.expect(200);
    keep(&next);
    user.refresh().await.expect(200);
    let set = json!({ "oldPassword": "correct horse 1", "newPassword": "another horse 2" });
    assert_eq!(user.post("/api/v1/auth/set-password", set).await.status, 204);
    let ticket = user.post("/api/v1/ws/tickets", json!({})).await.expect(201);
    keep(&ticket);
    let mut stranger = client.clone();
    stranger.token = None;
    drop(Socket::open_with(&stranger, &format!("?ticket={}", ticket["ticket"].as_str().unwrap())).await);
    // a malformed body that holds one
    let torn = client
        .request(reqwest::Method::POST, "/api/v1/auth/login")
        .header("content-type", "application/json");
    client.send(torn.body(r#"{"phone":"1","password":"wrong horse 3""#)).await;
    client.post("/api/v1/auth/login", json!({ "phone": phone, "password": ["wrong horse 3"] })).await;

    // by code
    let other = new_phone();
    client.post("/api/v1/auth/send-code", json!({ "phone": other, "scene": "login" })).await.expect(202);
    let code = sms.code_of(&other).unwrap();
    let tokens = client.post("/api/v1/auth/login", json!({ "phone": other, "code": code })).await.expect(200);
    keep(&tokens);

    // by the mini-program
    wechat.user("a-code-of-wx-login", "an-openid-of-wechat");
    let tokens =
        client.post("/api/v1/auth/wechat-login", json!({ "code": "a-code-of-wx-login" })).await.expect(200);
    keep(&tokens);
    client.post("/api/v1/auth/wechat-login", json!({ "code": "a-code-of-wx-login" })).await;
    client.post("/api/v1/auth/logout", json!({ "refreshToken": tokens["refreshToken"] })).await;

    // where each can be told from chance: six digits alone are in any log
    secrets.extend(["a-code-of-wx-login".into(), "an-openid-of-wechat".into()]);
    for name in ["JWT_SECRET", "SECRETS__KEY", "WECHAT__SECRET", "SMS__SECRET_KEY"] {
        let own = app.environment.iter().filter(|(key, _)| key.ends_with(name));
        secrets.extend(own.map(|(_, value)| value.clone()));
    }
    let rows =
        app.sql().await.query("select password_hash from users where password_hash is not null", &[]).await;
    secrets.extend(rows.unwrap().iter().map(|row| row.get::<_, String>(0)));
    assert!(secrets.len() >= 18, "{}", secrets.len());
    let log = app.service.log();
    assert!(log.contains("TRACE"), "the log is as verbose as can be");
    for secret in &secrets {
        assert!(!log.contains(secret.as_str()), "{secret} is in the log");
    }
    for phone in [&phone, &other] {
        assert!(!log.contains(phone.as_str()), "a whole phone is in the log");
    }
    let shows_code = |line: &str| line.contains(&format!("\"{code}\"")) || line.contains(&format!("={code}"));
    assert!(!log.lines().any(shows_code), "a code is in the log");
}
