//! `greenroom migrate`.

use super::said;
use crate::support::TestApp;

/// The environment of an app, pointed at a new, empty database.
async fn empty_database(app: &mut TestApp, suffix: &str) {
    let name = format!("{}_{suffix}", app.name());
    app.sql().await.batch_execute(&format!("create database {name}")).await.unwrap();
    let url = app.database_url.replace(&format!("/{}", app.name()), &format!("/{name}"));
    app.environment.insert("GREENROOM__DATABASE__URL".to_owned(), url);
}

#[tokio::test]
async fn a_migrated_database_passes_the_check() {
    let app = TestApp::builder().prepare().await;
    let (code, text) = said(&app.run(&["migrate", "--check"]).await);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("up to date"), "{text}");
}

#[tokio::test]
async fn the_check_names_what_is_missing_and_changes_nothing() {
    let mut app = TestApp::builder().prepare().await;
    let environment = app.environment.clone();
    empty_database(&mut app, "empty").await;
    for _ in 0..2 {
        let (code, text) = said(&app.run(&["migrate", "--check"]).await);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("missing: V1__create_users"), "{text}");
    }
    let (code, text) = said(&app.run(&["migrate"]).await);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("applied: V1__create_users"), "{text}");
    let (code, text) = said(&app.run(&["migrate"]).await);
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("applied"), "{text}");
    assert_eq!(said(&app.run(&["migrate", "--check"]).await).0, 0);
    app.environment = environment;
}

#[tokio::test]
async fn replicas_that_migrate_together_migrate_once() {
    let mut app = TestApp::builder().prepare().await;
    let environment = app.environment.clone();
    empty_database(&mut app, "together").await;
    let all = futures_util::future::join_all((0..4).map(|_| app.run(&["migrate"]))).await;
    let texts: Vec<_> = all.iter().map(said).collect();
    assert!(texts.iter().all(|(code, _)| *code == 0), "{texts:?}");
    let applied = texts.iter().filter(|(_, text)| text.contains("applied: V1__create_users")).count();
    assert_eq!(applied, 1, "{texts:?}");
    app.environment = environment;
}
