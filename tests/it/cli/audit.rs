//! `greenroom audit`.

use serde_json::Value;

use super::said;
use crate::support::TestApp;

#[tokio::test]
async fn a_row_bent_by_hand_is_named() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    app.grant(&user, 10).await;
    let (code, text) = said(&app.run(&["audit"]).await);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("clean"), "{text}");

    let sql = app.sql().await;
    let bend = |by: &str| {
        format!("update users set quota_remaining = quota_remaining {by} where id = '{}'", user.id)
    };
    sql.batch_execute(&bend("+ 1")).await.unwrap();
    let (code, text) = said(&app.run(&["audit"]).await);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(&user.id), "{text}");

    let output = app.run(&["audit", "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["clean"], false);
    assert!(told["breaches"].as_array().unwrap().iter().any(|breach| breach["check"].is_string()), "{told}");

    sql.batch_execute(&bend("- 1")).await.unwrap();
    assert_eq!(said(&app.run(&["audit"]).await).0, 0);
}
