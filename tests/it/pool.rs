//! The pool of PostgreSQL connections: what clients hear when it is used up, and that it recovers by itself.

use futures_util::future::join_all;

use crate::support::{Client, Reply, TestApp, eventually};

const QUOTA: &str = "/api/v1/users/me/quota";

async fn a_hundred(user: &Client) -> Vec<Reply> {
    join_all((0..100).map(|_| user.get(QUOTA))).await
}

#[tokio::test]
async fn a_hundred_concurrent_requests_never_exhaust_it() {
    let app = TestApp::builder().env("GREENROOM__DATABASE__POOL_MAX", 10).start().await;
    let user = app.register_user().await;
    for _ in 0..5 {
        let refused: Vec<_> =
            a_hundred(&user).await.into_iter().filter(|reply| reply.status != 200).collect();
        assert!(refused.is_empty(), "{refused:#?}");
    }
}

#[tokio::test]
async fn an_exhausted_pool_is_503_with_retry_after_and_recovers() {
    let app = TestApp::builder()
        .env("GREENROOM__DATABASE__POOL_MAX", 6)
        .env("GREENROOM__DATABASE__POOL_ACQUIRE_MS", 200)
        .start()
        .await;
    let user = app.register_user().await;
    let mut sql = app.sql().await;
    let lock = sql.transaction().await.unwrap();
    lock.batch_execute("lock table users in access exclusive mode").await.unwrap();
    let waiting = tokio::spawn({
        let user = user.clone();
        async move { a_hundred(&user).await }
    });
    // from another connection: a transaction sees the activity of its first look for ever
    let watch = app.sql().await;
    eventually("every connection waits for the lock", async || {
        let query = "select count(*) >= 6 from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()";
        watch.query_one(query, &[]).await.unwrap().get::<_, bool>(0).then_some(())
    })
    .await;
    let refused = user.get(QUOTA).await;
    assert_eq!((refused.status, refused.code()), (503, "UNAVAILABLE"), "{refused:?}");
    assert!(refused.header("retry-after").parse::<u32>().unwrap() >= 1);
    lock.rollback().await.unwrap();
    let replies = waiting.await.unwrap();
    let refused = replies.iter().filter(|reply| reply.status == 503).count();
    let served = replies.iter().filter(|reply| reply.status == 200).count();
    assert_eq!(refused + served, 100, "{replies:#?}");
    assert!(served >= 6 && refused > 0, "{served} served, {refused} refused");
    // a busy machine may not serve a hundred within a fifth of a second at first
    eventually("a hundred at once are served again", async || {
        a_hundred(&user).await.iter().all(|reply| reply.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_server_that_grants_no_more_connections_is_503_too() {
    let mut app = TestApp::builder().prepare().await;
    let role = app.name().to_owned();
    app.sql()
        .await
        .batch_execute(&format!(
            "create role {role} login password 'limited' connection limit 4;
             grant all on all tables in schema public to {role}"
        ))
        .await
        .unwrap();
    let mut url = url::Url::parse(&app.database_url).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("limited")).unwrap();
    app.set_env("GREENROOM__DATABASE__URL", url.as_str());
    app.set_env("GREENROOM__DATABASE__POOL_MAX", 40);
    app.service.start_again().await;
    let user = app.register_user().await;
    let replies = a_hundred(&user).await;
    let refused: Vec<_> = replies.iter().filter(|reply| reply.status != 200).collect();
    assert!(!refused.is_empty(), "the limit was never met");
    for reply in refused {
        assert_eq!((reply.status, reply.code()), (503, "UNAVAILABLE"), "{reply:?}");
        assert!(!reply.header("retry-after").is_empty());
    }
    eventually("one at a time is served again", async || (user.get(QUOTA).await.status == 200).then_some(()))
        .await;
    app.service.kill9();
    app.sql().await.batch_execute(&format!("drop owned by {role}; drop role {role}")).await.unwrap();
}
