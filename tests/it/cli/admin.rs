//! `greenroom admin create`.

use serde_json::json;

use super::said;
use crate::support::{TestApp, new_phone};

#[tokio::test]
async fn the_first_admin_is_made_here_and_may_do_everything() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    let me = admin.get("/api/v1/users/me").await.expect(200);
    assert_eq!(me["role"], "admin");
    admin.get("/api/v1/admin/actors").await.expect(200);
    let log = app.service.log();
    assert!(!log.contains(&admin.credentials.1), "the password is in the log");
}

#[tokio::test]
async fn what_cannot_be_made_is_refused_with_a_reason() {
    let app = TestApp::start().await;
    let taken = app.admin().await.credentials.0;
    for (phone, password, reason) in [
        (taken.as_str(), "long enough 1", "account already"),
        ("12345", "long enough 1", "11 digits"),
        (&new_phone(), "short", "8 to 64"),
    ] {
        let mut environment = app.environment.clone();
        environment.insert("GREENROOM_ADMIN_PASSWORD".to_owned(), password.to_owned());
        let (code, text) = said(&app.run_with(&environment, &["admin", "create", "--phone", phone]).await);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(reason), "{reason} is not in {text}");
    }
    // and without a terminal there is nobody to ask
    let (code, text) = said(&app.run(&["admin", "create", "--phone", &new_phone()]).await);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("GREENROOM_ADMIN_PASSWORD"), "{text}");
    let nobody = app.client().post("/api/v1/auth/login", json!({ "phone": "12345", "password": "x" })).await;
    assert!((400..500).contains(&nobody.status), "{nobody:?}");
}
