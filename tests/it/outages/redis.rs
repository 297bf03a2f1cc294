//! Redis goes away under load, comes back empty, and comes back with what it held an hour ago.

use super::Busy;
use crate::support::{Socket, TestApp, eventually};
use serde_json::json;

#[actix_web::test]
async fn while_redis_is_away_work_goes_on_and_nobody_signs_in() {
    let busy = Busy::new(TestApp::builder().own_redis().start().await, 40).await;
    let outage = async {
        eventually("the provider is called", async || (busy.provider.calls().len() > 5).then_some(())).await;
        busy.app.redis.with(|redis| redis.kill()).await;
        let client = busy.app.client();
        eventually("the replica is degraded", async || {
            let ready = client.get("/health/ready").await;
            (ready.status == 200 && ready.json["degraded"] == json!(["redis"])).then_some(())
        })
        .await;
        let (phone, password) = &busy.user.credentials;
        let sign_in =
            client.post("/api/v1/auth/login", json!({ "phone": phone, "password": password })).await;
        assert_eq!((sign_in.status, sign_in.code()), (503, "UNAVAILABLE"), "{sign_in:?}");
        assert_eq!(Socket::try_open(&busy.user, "").await.err(), Some(503), "new sockets are refused");
        busy.user.get("/api/v1/users/me").await.expect(200);
    };
    let (tasks, ()) = futures_util::join!(busy.start_all(), outage);
    busy.expect_all_done(&tasks).await;

    busy.app.redis.with(|redis| redis.start_again().unwrap()).await;
    let (phone, password) = &busy.user.credentials;
    eventually("sign-in works again", async || {
        let body = json!({ "phone": phone, "password": password });
        (busy.app.client().post("/api/v1/auth/login", body).await.status == 200).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn an_open_socket_hears_every_final_event_over_an_outage_of_redis() {
    let busy = Busy::new(TestApp::builder().own_redis().start().await, 20).await;
    let mut socket = Socket::open(&busy.user).await;
    let known = socket.position.last_final;
    let outage = async {
        eventually("the provider is called", async || (busy.provider.calls().len() > 5).then_some(())).await;
        busy.app.redis.with(|redis| redis.kill()).await;
        eventually("tasks end meanwhile", async || {
            let done = busy.app.count("select count(*) from tasks where status = 'succeeded'").await;
            (done >= 10).then_some(())
        })
        .await;
        busy.app.redis.with(|redis| redis.start_again().unwrap()).await;
    };
    let (tasks, ()) = futures_util::join!(busy.start_all(), outage);
    busy.expect_all_done(&tasks).await;

    let newest = busy.app.count("select max(final_no) from final_events").await;
    let frames = socket.read_until(|frame| frame["final"].as_i64() == Some(newest)).await;
    let finals: Vec<i64> = frames
        .iter()
        .filter(|frame| frame["type"] == "event")
        .filter_map(|frame| frame["final"].as_i64())
        .collect();
    assert_eq!(finals, (known + 1..=newest).collect::<Vec<_>>(), "every final event once, in order");
}
