//! `greenroom doctor`.

use super::said;
use crate::support::{FakeSms, FakeWechat, TestApp};

/// The tests' own PostgreSQL runs with `fsync = off`, which doctor rightly minds.
const EXPECTED: &str = "fsync = off";

#[tokio::test]
async fn a_sound_installation_is_told_to_be_sound() {
    let app = TestApp::builder().prepare().await;
    let (_, text) = said(&app.run(&["doctor"]).await);
    for part in [
        "ok     settings",
        "ok     PostgreSQL",
        "ok     clock",
        "ok     schema",
        "ok     Redis",
        "ok     files",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let wrong: Vec<_> = text.lines().filter(|line| line.starts_with("WRONG")).collect();
    assert!(wrong.iter().all(|line| line.contains("= off")), "{wrong:?}");
    assert!(text.contains(EXPECTED), "{text}");
    let password = url::Url::parse(&app.database_url).unwrap().password().unwrap().to_owned();
    assert!(!text.contains(&password), "a password is in {text}");
}

#[tokio::test]
async fn everything_that_is_wrong_is_named_with_its_remedy() {
    let app = TestApp::builder()
        .env("GREENROOM__REDIS__URL", "redis://127.0.0.1:1/0")
        .env("GREENROOM__STORAGE__DIR", "/proc/no/such/place")
        .env("GREENROOM__DATABASE__POOL_MAX", "9999")
        .prepare()
        .await;
    let (code, text) = said(&app.run(&["doctor"]).await);
    assert_eq!(code, 1, "{text}");
    for part in ["WRONG  Redis", "WRONG  files", "WRONG  connections"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test]
async fn accounts_with_other_platforms_are_tried_without_sending_anything() {
    let (sms, wechat) = (FakeSms::start().await, FakeWechat::start().await);
    let mut builder = TestApp::builder();
    for (name, value) in [sms.environment(), wechat.environment()].concat() {
        builder = builder.env(name, value);
    }
    let app = builder.prepare().await;
    let (_, text) = said(&app.run(&["doctor"]).await);
    for part in ["ok     gateways.wechat", "ok     gateways.sms"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(sms.sent(), []);

    let mut environment = app.environment.clone();
    environment.insert("WECHAT_SECRET".to_owned(), "0".repeat(32));
    environment.insert("GREENROOM__GATEWAYS__SMS__SECRET_KEY".to_owned(), "anotherKey".to_owned());
    let (code, text) = said(&app.run_with(&environment, &["doctor"]).await);
    assert_eq!(code, 1, "{text}");
    for part in ["WRONG  gateways.wechat", "40125", "WRONG  gateways.sms", "AuthFailure.SignatureFailure"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[tokio::test]
async fn a_schema_that_is_behind_is_noticed() {
    let app = TestApp::builder().prepare().await;
    app.sql().await.execute("delete from refinery_schema_history where version = 1", &[]).await.unwrap();
    let (code, text) = said(&app.run(&["doctor"]).await);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("greenroom migrate"), "{text}");
}

#[tokio::test]
async fn a_database_that_does_not_answer_is_noticed() {
    let app = TestApp::builder().prepare().await;
    let mut environment = app.environment.clone();
    let url = "postgres://greenroom:hidden@127.0.0.1:1/nothing".to_owned();
    environment.insert("GREENROOM__DATABASE__URL".to_owned(), url);
    let (code, text) = said(&app.run_with(&environment, &["doctor"]).await);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("no answer from 127.0.0.1:1/nothing"), "{text}");
    assert!(!text.contains("hidden"), "{text}");
}
