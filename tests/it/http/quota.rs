//! What users and admins see of the ledger, and keys that make a command safe to repeat.

use crate::support::TestApp;
use futures_util::future::join_all;
use serde_json::{Value, json};

#[actix_web::test]
async fn grants_and_corrections_are_seen_everywhere_and_add_up() {
    let app = TestApp::start().await;
    let (admin, user) = (app.admin().await, app.register_user().await);
    let path = format!("/api/v1/admin/users/{}/grants", user.id);
    let granted = admin.post(&path, json!({ "amount": 10, "reason": "welcome" })).await.expect(201);
    assert_eq!((&granted["amount"], &granted["reason"]), (&json!(10), &json!("welcome")));
    assert_eq!(granted["quotaRemaining"], json!(10));
    let corrected = admin.post(&path, json!({ "amount": -4, "reason": "too much" })).await.expect(201);
    assert_eq!((&corrected["amount"], &corrected["quotaRemaining"]), (&json!(-4), &json!(6)));
    let reply = admin.post(&path, json!({ "amount": -7, "reason": "far too much" })).await;
    assert_eq!((reply.status, reply.code()), (409, "QUOTA_INSUFFICIENT"));

    let quota = user.get("/api/v1/users/me/quota").await.expect(200);
    assert_eq!(quota, json!({ "remaining": 6, "reserved": 0, "membershipExpiresAt": null }));
    assert_eq!(user.get("/api/v1/users/me").await.expect(200)["quotaRemaining"], json!(6));
    let grants = user.get("/api/v1/users/me/quota/grants").await.expect(200);
    assert_eq!((&grants["items"][0]["amount"], &grants["items"][0]["remaining"]), (&json!(10), &json!(6)));
    assert_eq!(grants["items"][0]["kind"], json!("manual"));

    let statement = user.get("/api/v1/users/me/quota/statement").await.expect(200);
    assert_eq!((&statement["opening"], &statement["closing"]), (&json!(0), &json!(6)));
    let rows: Vec<_> = statement["rows"].as_array().unwrap().iter().map(|row| &row["amount"]).collect();
    assert_eq!(rows, [&json!(10), &json!(-4)]);
    let request = user.request(reqwest::Method::GET, "/api/v1/users/me/quota/statement");
    let csv = user.send(request.header("Accept", "text/csv")).await;
    assert!(csv.header("content-type").starts_with("text/csv"), "{csv:?}");
    let lines: Vec<_> = csv.text.lines().collect();
    assert_eq!(lines[0], "at,kind,amount,balance,taskId,orderId,reason");
    assert!(lines[1].ends_with(",grant,10,10,,,welcome"), "{csv:?}");
    assert_eq!(lines.len(), 3);
}

#[actix_web::test]
async fn a_repeat_with_the_same_key_is_answered_the_same_and_does_nothing() {
    let app = TestApp::start().await;
    let (admin, user) = (app.admin().await, app.register_user().await);
    let path = format!("/api/v1/admin/users/{}/grants", user.id);
    let body = json!({ "amount": 3, "reason": "once" });
    let first = admin.post_with_key(&path, "k-1", body.clone()).await;
    assert_eq!((first.status, first.header("idempotency-replayed")), (201, ""));
    for _ in 0..3 {
        // the order of fields does not make it another request
        let again = admin.post_with_key(&path, "k-1", json!({ "reason": "once", "amount": 3 })).await;
        assert_eq!((again.status, again.header("idempotency-replayed")), (201, "true"));
        assert_eq!(again.json, first.json);
    }
    let other = admin.post_with_key(&path, "k-1", json!({ "amount": 4, "reason": "once" })).await;
    assert_eq!((other.status, other.code()), (422, "IDEMPOTENCY_KEY_REUSED"));
    assert_eq!(user.get("/api/v1/users/me/quota").await.expect(200)["remaining"], json!(3));
}

#[actix_web::test]
async fn many_repeats_at_once_over_two_replicas_give_once() {
    let app = TestApp::start().await;
    let (admin, user) = (app.admin().await, app.register_user().await);
    let other = app.second_replica().await;
    let path = format!("/api/v1/admin/users/{}/grants", user.id);
    let repeat = |number: usize| {
        let client = if number.is_multiple_of(2) { admin.clone() } else { admin.at(&other.url) };
        let path = path.clone();
        async move { client.post_with_key(&path, "k-2", json!({ "amount": 5, "reason": "once" })).await }
    };
    let replies = join_all((0..40).map(repeat)).await;
    let done: Vec<&Value> =
        replies.iter().filter(|reply| reply.status == 201).map(|reply| &reply.json).collect();
    assert!(!done.is_empty() && done.iter().all(|body| *body == done[0]), "{replies:?}");
    for reply in replies.iter().filter(|reply| reply.status != 201) {
        assert_eq!((reply.status, reply.code()), (409, "IDEMPOTENCY_IN_PROGRESS"));
        assert_ne!(reply.header("retry-after"), "");
    }
    assert_eq!(user.get("/api/v1/users/me/quota").await.expect(200)["remaining"], json!(5));
}

#[actix_web::test]
async fn a_list_is_read_page_by_page_without_gap_or_repeat() {
    let app = TestApp::start().await;
    let (admin, user) = (app.admin().await, app.register_user().await);
    let path = format!("/api/v1/admin/users/{}/grants", user.id);
    for number in 1..=7 {
        admin.post(&path, json!({ "amount": number, "reason": "page" })).await.expect(201);
    }
    let (mut amounts, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let after = cursor.map(|cursor| format!("&cursor={cursor}")).unwrap_or_default();
        let page = user.get(&format!("/api/v1/users/me/quota/grants?limit=3{after}")).await.expect(200);
        amounts.extend(page["items"].as_array().unwrap().iter().map(|item| item["amount"].as_i64().unwrap()));
        cursor = page["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(amounts, [7, 6, 5, 4, 3, 2, 1]);
}
