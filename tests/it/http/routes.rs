//! Every route of the served contract, and who may call it.

use super::contract::{Operation, operations};
use crate::support::{Client, Reply, TestApp};
use futures_util::future::join_all;
use serde_json::json;
use std::collections::BTreeSet;

/// Routes that need no token: ways in, lists for everybody, and where platforms and providers call.
const PUBLIC: [&str; 9] = [
    "POST /api/v1/auth/send-code",
    "POST /api/v1/auth/register",
    "POST /api/v1/auth/login",
    "POST /api/v1/auth/wechat-login",
    "POST /api/v1/auth/refresh",
    "POST /api/v1/auth/reset-password",
    "GET /api/v1/plans",
    "GET /api/v1/errors",
    "POST /api/v1/provider-callbacks/{token}",
];
/// Public, and yet 401 where it is told neither a token nor a session.
const LOGOUT: &str = "POST /api/v1/auth/logout";

fn name(operation: &Operation) -> String {
    format!("{} {}", operation.method, operation.pattern)
}

/// Calls an operation with an id that is nobody's and a body that fits nothing: whoever may not call it must not learn
/// even that. Only for [`LOGOUT`] the body decides who calls.
async fn call(client: &Client, operation: &Operation) -> Reply {
    let path = operation.path("0198c5e4-0000-7000-8000-000000000000");
    let body = if name(operation) == LOGOUT { json!({}) } else { json!({ "nonsense": true }) };
    client.send(client.request(operation.method.clone(), &path).json(&body)).await
}

#[actix_web::test]
async fn what_is_public_is_on_the_list_and_everything_else_wants_a_token() {
    let app = TestApp::start().await;
    let operations = operations(&app.client()).await;
    let is_open = |operation: &&Operation| !operation.is_secured && name(operation) != LOGOUT;
    let open: BTreeSet<String> = operations.iter().filter(is_open).map(name).collect();
    assert_eq!(open, PUBLIC.map(str::to_owned).into());
    for operation in &operations {
        let reply = call(&app.client(), operation).await;
        let is_public = PUBLIC.contains(&name(operation).as_str());
        assert_eq!(
            reply.status == 401 && reply.code() == "UNAUTHENTICATED",
            !is_public,
            "{}: {reply:?}",
            name(operation)
        );
        if !is_public {
            assert!(reply.header("www-authenticate").starts_with("Bearer"), "{}", name(operation));
        }
    }
}

#[actix_web::test]
async fn a_token_that_has_ended_or_is_not_ours_opens_nothing() {
    let app = TestApp::start().await;
    let other = TestApp::start().await;
    let user = app.register_user().await;
    let ended = app.with_aged_token(&user, 960, 900);
    // signed with another secret, for the same kind of service
    let mut foreign = other.admin().await;
    foreign.url = app.client().url;
    for operation in operations(&app.client()).await.iter().filter(|operation| operation.is_secured) {
        for client in [&ended, &foreign] {
            let reply = call(client, operation).await;
            assert_eq!((reply.status, reply.code()), (401, "UNAUTHENTICATED"), "{}", name(operation));
        }
    }
}

#[actix_web::test]
async fn a_user_is_no_admin_and_support_only_reads() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let admin = app.admin().await;
    let path = format!("/api/v1/admin/users/{}", user.id);
    admin.patch(&path, json!({ "role": "support" })).await.expect(200);
    let support = user.with_tokens(&user.refresh().await.expect(200));
    let mut admins = 0;
    for operation in operations(&app.client()).await.iter().filter(|operation| operation.is_secured) {
        let name = name(operation);
        assert_eq!(operation.is_admins, name.contains("/admin/"), "{name}");
        // a user's own: not forbidden, whatever else is wrong with the request
        let as_user = call(&user, operation).await;
        assert_eq!(as_user.status == 403, operation.is_admins, "{name}: {as_user:?}");
        if operation.is_admins {
            admins += 1;
            let reads = operation.method == "GET";
            let as_support = call(&support, operation).await;
            assert_eq!(as_support.status == 403, !reads, "{name}: {as_support:?}");
            assert_ne!(call(&admin, operation).await.status, 403, "{name}");
        }
    }
    assert!(admins > 20, "{admins}");
}

#[actix_web::test]
async fn a_thousand_requests_of_an_admin_ask_postgresql_nothing_about_them() {
    let app = TestApp::start().await;
    let admin = app.admin().await;
    const REQUESTS: usize = 1_000;
    let transactions = async |path: &str| {
        let mut replica = app.second_replica().await;
        let client = admin.at(&replica.url);
        let before = committed(&app).await;
        for _ in 0..REQUESTS / 50 {
            for reply in join_all((0..50).map(|_| client.get(path))).await {
                reply.expect(200);
            }
        }
        // connections that end have counted all they did
        replica.term().await;
        committed(&app).await - before
    };
    // this answers out of the process's memory, so that whatever is counted has looked at who asks
    let of_admin = transactions("/api/v1/admin/actors").await;
    assert!(of_admin < REQUESTS / 2, "{of_admin}: more than replicas do by themselves");
    let of_profile = transactions("/api/v1/users/me").await;
    assert!(of_profile >= REQUESTS, "{of_profile}: what is counted are requests");
}

/// Transactions of the test's database.
async fn committed(app: &TestApp) -> usize {
    let sql = "select xact_commit from pg_stat_database where datname = current_database()";
    usize::try_from(app.count(sql).await).unwrap()
}

#[actix_web::test]
async fn who_may_not_call_hears_it_without_postgresql_and_redis() {
    let app = TestApp::builder().own_postgres().own_redis().start().await;
    let user = app.register_user().await;
    let ended = app.with_aged_token(&user, 960, 900);
    let operations = operations(&app.client()).await;
    app.postgres.with(|postgres| postgres.kill()).await;
    app.redis.with(|redis| redis.stop()).await;
    for operation in operations.iter().filter(|operation| operation.is_secured) {
        let name = name(operation);
        assert_eq!(call(&ended, operation).await.status, 401, "{name}");
        if operation.is_admins {
            assert_eq!(call(&user, operation).await.status, 403, "{name}");
        }
    }
    app.redis.with(|redis| redis.start_again().unwrap()).await;
    app.postgres.with(|postgres| postgres.start_again().unwrap()).await;
}
