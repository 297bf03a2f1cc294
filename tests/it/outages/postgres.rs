//! PostgreSQL goes away under load and comes back.

use super::Busy;
use crate::support::{Cutter, TestApp, eventually};
use serde_json::json;
use std::sync::atomic::Ordering;

#[actix_web::test]
async fn while_postgresql_is_away_clients_hear_503_and_afterwards_all_is_right() {
    let busy = Busy::new(TestApp::builder().own_postgres().start().await, 40).await;
    let outage = async {
        // amid the load: some tasks run, some are being accepted
        eventually("the provider is called", async || (busy.provider.calls().len() > 5).then_some(())).await;
        busy.app.postgres.with(|postgres| postgres.kill()).await;
        let client = busy.app.client();
        eventually("the replica is unready", async || {
            let ready = client.get("/health/ready").await;
            (ready.status == 503).then(|| assert_eq!(ready.json["missing"][0], "postgresql"))
        })
        .await;
        assert_eq!(client.get("/health/live").await.status, 200);
        let refused = busy.user.get("/api/v1/users/me/quota").await;
        assert_eq!((refused.status, refused.code()), (503, "UNAVAILABLE"), "{refused:?}");
        assert!(!refused.header("retry-after").is_empty());
        busy.app.postgres.with(|postgres| postgres.start_again().unwrap()).await;
        eventually("the replica is ready", async || {
            (client.get("/health/ready").await.status == 200).then_some(())
        })
        .await;
    };
    let (tasks, ()) = futures_util::join!(busy.start_all(), outage);
    busy.expect_all_done(&tasks).await;
}

#[actix_web::test]
async fn a_hundred_requests_at_once_do_not_exhaust_the_pool() {
    let app = TestApp::builder().env("GREENROOM__DATABASE__POOL_MAX", 10).start().await;
    let user = app.register_user().await;
    let asks = (0..100).map(|_| user.get("/api/v1/users/me"));
    for reply in futures_util::future::join_all(asks).await {
        assert_eq!(reply.status, 200, "{reply:?}");
    }
}

#[actix_web::test]
async fn an_admin_hears_that_the_outcome_is_unknown_when_a_commit_gets_no_answer() {
    let app = TestApp::start().await;
    let cutter = Cutter::default();
    let line = cutter.stand_before(&app.database_url).await;
    let shaky = app.second_replica_with("GREENROOM__DATABASE__URL", line).await;
    let admin = app.admin().await.at(&shaky.url);
    let plan = json!({"name": "Month", "priceFen": 990, "quota": 10, "durationDays": 30});
    for line in [&cutter.after, &cutter.before] {
        // the replica's own COMMITs may take the cut instead
        eventually("the answer is lost", async || {
            line.store(1, Ordering::SeqCst);
            let reply = admin.post("/api/v1/admin/plans", plan.clone()).await;
            assert!([201, 504].contains(&reply.status), "{reply:?}");
            (reply.status == 504).then(|| assert_eq!(reply.code(), "OUTCOME_UNKNOWN"))
        })
        .await;
    }
}
