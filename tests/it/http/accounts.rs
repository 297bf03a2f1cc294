//! What becomes of an account: codes, the mini-program, another phone, its end.

use crate::support::{Client, TestApp, eventually};
use serde_json::json;

#[actix_web::test]
async fn an_account_that_is_deleted_says_nothing_of_anybody_and_keeps_its_ledger() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    app.grant(&user, 7).await;
    user.patch("/api/v1/users/me", json!({ "nickname": "小明", "gender": "male" })).await.expect(200);
    let file = user.upload("image/png", b"no picture".to_vec()).await;
    let link = user.get(&format!("/api/v1/files/{file}")).await.expect(200)["downloadUrl"].clone();
    let other = user.login(&user.credentials.0, &user.credentials.1).await;
    let delete = |body| {
        let user = user.clone();
        async move { user.send(user.request(reqwest::Method::DELETE, "/api/v1/users/me").json(&body)).await }
    };
    let wrong = delete(json!({ "password": "wrong horse" })).await;
    assert_eq!((wrong.status, wrong.code()), (422, "PASSWORD_WRONG"));
    assert_eq!(wrong.json["errors"][0]["path"], json!("/password"));
    let wrong = delete(json!({ "code": "123456" })).await;
    assert_eq!((wrong.status, wrong.code()), (422, "CODE_INVALID"));
    assert_eq!(delete(json!({})).await.status, 400);

    assert_eq!(delete(json!({ "password": user.credentials.1 })).await.status, 204);
    assert_eq!(user.get("/api/v1/users/me").await.status, 401);
    for client in [&user, &other] {
        assert_eq!(client.refresh().await.code(), "REFRESH_TOKEN_INVALID");
    }
    let stranger: Client = app.client();
    assert_eq!(stranger.get(link.as_str().unwrap()).await.status, 404);
    let body = json!({ "phone": user.credentials.0, "password": user.credentials.1 });
    assert_eq!(stranger.post("/api/v1/auth/login", body).await.code(), "INVALID_CREDENTIALS");
    let row = app
        .sql()
        .await
        .query_one(
            "select phone, password_hash, nickname, avatar, gender, quota_remaining from users where id = $1",
            &[&user.id.parse::<uuid::Uuid>().unwrap()],
        )
        .await
        .unwrap();
    let texts: Vec<Option<String>> = (0..4).map(|column| row.get(column)).collect();
    assert_eq!(texts, [None, None, Some(String::new()), None]);
    assert_eq!((row.get::<_, &str>(4), row.get::<_, i64>(5)), ("unknown", 7));
    // the phone is free again, for another account
    let again = stranger.register(&user.credentials.0, "correct horse").await;
    assert_ne!(again.id, user.id);
}

#[actix_web::test]
async fn a_password_that_is_changed_meanwhile_deletes_nothing() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let mut sql = app.sql().await;
    let reset = sql.transaction().await.unwrap();
    let id: uuid::Uuid = user.id.parse().unwrap();
    reset.execute("update users set password_hash = 'another' where id = $1", &[&id]).await.unwrap();
    let deletion = user.request(reqwest::Method::DELETE, "/api/v1/users/me");
    let deletion = deletion.json(&json!({ "password": user.credentials.1 }));
    let commit = async {
        eventually("the deletion waits for the row", async || {
            let waiting = "select count(*) from pg_stat_activity
                where datname = current_database() and wait_event_type = 'Lock'";
            (app.count(waiting).await == 1).then_some(())
        })
        .await;
        reset.commit().await.unwrap();
    };
    let (reply, ()) = futures_util::join!(user.send(deletion), commit);
    assert_eq!((reply.status, reply.code()), (422, "PASSWORD_WRONG"));
    assert_eq!(app.count("select count(*) from users where deleted_at is not null").await, 0);
}
