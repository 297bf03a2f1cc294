//! Replicas that die between commit and relay, and a Redis that goes away, comes back, or comes back older.

use super::*;
use crate::support::{eventually, wait_until};

#[actix_web::test]
async fn a_final_event_that_nobody_relayed_comes_within_seconds() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let mut socket = Socket::open(&user).await;
    // what a replica leaves that dies right after its commit
    let commit = format!(
        "with next as (update users set final_no = final_no + 1 where id = '{0}' returning final_no)
         insert into final_events (user_id, final_no, event, data)
         select '{0}', final_no, 'quota.changed', '{{\"remaining\": 1}}' from next",
        user.id
    );
    app.sql().await.batch_execute(&commit).await.unwrap();
    let mut told = Told::default();
    told.read_to_final(&mut socket, 1).await;
    told.expect_finals(1..=1);
}

#[actix_web::test]
async fn a_hub_that_panics_at_any_point_loses_nothing_and_sockets_stay_open() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let mut socket = Socket::open(&user).await;
    let mut told = Told::default();
    let mut last = 0;
    for point in ["stream.deliver", "stream.catch_up", "stream.relay"] {
        app.client().post(&format!("/faults/{point}"), json!({})).await.expect(204);
        // the hub of the service is what panics: by what comes to it, and by a grant of its own
        replica.commit(&user, 10).await;
        app.grant(&user, 1).await;
        last += 11;
        told.read_to_final(&mut socket, last).await;
    }
    told.expect_finals(1..=last);
    assert_eq!(told.resyncs, Vec::<String>::new());
    let restarts = app.service.metric("greenroom_actor_restarts_total", &[("actor", "stream")]).await;
    assert_eq!(restarts, 3.0);
    let position = socket.cut();
    let mut socket =
        eventually("it takes new sockets", async || Socket::try_open(&user, &position.query()).await.ok())
            .await;
    replica.commit(&user, 1).await;
    told.read_to_final(&mut socket, last + 1).await;
    told.expect_finals(1..=last + 1);
    replica.stop().await;
}

#[actix_web::test]
async fn while_redis_is_away_new_sockets_are_refused_and_open_ones_make_up_for_it() {
    let app = TestApp::builder().own_redis().start().await;
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let mut socket = Socket::open(&user).await;
    let mut told = Told::default();
    replica.commit(&user, 5).await;
    told.read_to_final(&mut socket, 5).await;

    app.redis.with(|redis| redis.kill()).await;
    replica.commit(&user, 5).await;
    let refused = wait_until("new sockets are refused", Duration::from_secs(20), async || {
        Socket::try_open(&user, "").await.err()
    })
    .await;
    assert_eq!(refused, 503);
    let ticket = user.post("/api/v1/ws/tickets", json!({})).await;
    assert_eq!((ticket.status, ticket.code()), (503, "UNAVAILABLE"));
    assert!(socket.next_within(Duration::from_millis(300)).await.is_err(), "the open socket stays");

    app.redis.with(|redis| redis.start_again().unwrap()).await;
    told.read_to_final(&mut socket, 10).await;
    replica.commit(&user, 5).await;
    told.read_to_final(&mut socket, 15).await;
    told.expect_finals(1..=15);
    assert_eq!(told.resyncs, ["epoch_changed"]);
    eventually("new sockets are taken again", async || Socket::try_open(&user, "").await.ok()).await;
    replica.stop().await;
}

#[actix_web::test]
async fn a_redis_that_comes_back_older_begins_a_new_epoch_and_gives_no_position_twice() {
    let app = TestApp::builder().own_redis().start().await;
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let (mut open, mut cut) = (Socket::open(&user).await, Socket::open(&user).await);
    let (mut told_open, mut told_cut) = (Told::default(), Told::default());
    replica.commit(&user, 5).await;
    told_open.read_to_final(&mut open, 5).await;
    let mut redis = app.redis_connection().await;
    redis::cmd("SAVE").exec_async(&mut redis).await.unwrap();
    replica.commit(&user, 5).await;
    told_open.read_to_final(&mut open, 10).await;
    told_cut.read_to_final(&mut cut, 10).await;
    let position = cut.cut();

    // back to the state of five events ago
    app.redis.with(|redis| redis.start_again().unwrap()).await;
    replica.commit(&user, 5).await;
    told_open.read_to_final(&mut open, 15).await;
    told_open.expect_finals(1..=15);
    told_open.read_to_resync(&mut open).await;
    assert_eq!(told_open.resyncs, ["epoch_changed"]);
    let mut resumed = Socket::resume(&user, &position).await;
    assert_ne!(resumed.hello["epoch"], position.epoch.as_str());
    told_cut.read_to_final(&mut resumed, 15).await;
    told_cut.expect_finals(1..=15);
    replica.stop().await;
}

#[actix_web::test]
async fn a_replica_that_shuts_down_says_so_and_its_clients_resume_elsewhere() {
    let mut app = TestApp::start().await;
    let user = app.register_user().await;
    let second = app.second_replica().await;
    let replica = Replica::start(&app);
    let mut socket = Socket::open(&user).await;
    let mut told = Told::default();
    replica.commit(&user, 5).await;
    told.read_to_final(&mut socket, 5).await;
    let position = socket.position.clone();
    let (ended, last) = tokio::join!(app.service.term(), socket.next());
    assert!(ended.success());
    assert_eq!((last, socket.close_code), (None, Some(1012)));
    replica.commit(&user, 5).await;
    let mut socket = Socket::resume(&user.at(&second.url), &position).await;
    told.read_to_final(&mut socket, 10).await;
    told.expect_finals(1..=10);
    replica.stop().await;
}
