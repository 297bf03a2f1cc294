//! Cuts and resumes: nothing is told twice, nothing in another order, nothing is left out without a word.

use super::*;

#[actix_web::test]
async fn a_client_cut_amid_a_thousand_events_has_every_position_once_and_in_order() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let mut socket = Socket::open(&user).await;
    let mut told = Told::default();
    let produce = async {
        for number in 0..100 {
            replica.commit(&user, 5).await;
            for step in 0..5 {
                replica.tell_step(&user, number * 5 + step);
            }
        }
    };
    let first = socket.hello["seq"].as_i64().unwrap() + 1;
    let consume = async {
        // cut after 50, 150, 250 ... frames, at once or in a frame of its own
        let mut in_frame = false;
        while told.seqs.len() < 1_000 {
            told.read(&mut socket, 50.min(1_000 - told.seqs.len())).await;
            let position = socket.position.clone();
            if in_frame {
                socket = Socket::open(&user).await;
                socket.send(position.resume()).await;
            } else {
                socket = Socket::resume(&user, &position).await;
            }
            in_frame = !in_frame;
        }
    };
    futures_util::future::join(produce, consume).await;
    told.expect_positions(first..=first + 999);
    told.expect_finals(1..=500);
    assert_eq!(told.resyncs, Vec::<String>::new());
    replica.stop().await;
}

#[actix_web::test]
async fn after_flushall_every_final_event_comes_once_and_in_order() {
    let app = TestApp::builder().own_redis().start().await;
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let (mut open, mut cut) = (Socket::open(&user).await, Socket::open(&user).await);
    let (mut told_open, mut told_cut) = (Told::default(), Told::default());
    replica.commit(&user, 20).await;
    told_open.read_to_final(&mut open, 20).await;
    told_cut.read_to_final(&mut cut, 12).await;
    let position = cut.cut();

    let mut redis = app.redis_connection().await;
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    replica.commit(&user, 20).await;
    replica.tell_step(&user, 1);
    replica.commit(&user, 20).await;

    told_open.read_to_final(&mut open, 60).await;
    told_open.expect_finals(1..=60);
    told_open.read_to_resync(&mut open).await;
    let mut resumed = Socket::resume(&user, &position).await;
    told_cut.read_to_final(&mut resumed, 60).await;
    told_cut.expect_finals(1..=60);
    told_cut.read_to_resync(&mut resumed).await;

    // and both go on from the new position
    replica.commit(&user, 1).await;
    told_open.read_to_final(&mut open, 61).await;
    told_cut.read_to_final(&mut resumed, 61).await;
    for told in [told_open, told_cut] {
        told.expect_finals(1..=61);
        assert_eq!(told.resyncs, ["epoch_changed"]);
    }
    replica.stop().await;
}

#[actix_web::test]
async fn a_history_that_does_not_reach_back_is_announced_after_the_final_events() {
    let app = TestApp::builder().env("GREENROOM__WS__HISTORY_EVENTS", 16).start().await;
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let mut socket = Socket::open(&user).await;
    let mut told = Told::default();
    replica.commit(&user, 3).await;
    told.read_to_final(&mut socket, 3).await;
    let position = socket.cut();

    // Redis trims by whole nodes of a hundred entries or so
    replica.commit(&user, 700).await;
    let mut socket = Socket::open(&user).await;
    let head = crate::support::eventually("everything is relayed", async || {
        socket = Socket::open(&user).await;
        (socket.hello["final"] == 703).then(|| socket.hello.clone())
    })
    .await;
    let mut socket = Socket::resume(&user, &position).await;
    told.read_to_final(&mut socket, 703).await;
    told.expect_finals(1..=703);
    let resync = socket.next().await.unwrap();
    assert_eq!((&resync["type"], &resync["reason"]), (&json!("resync"), &json!("history_lost")));
    for field in ["epoch", "seq", "final"] {
        assert_eq!(resync[field], head[field], "{field}");
    }
    replica.commit(&user, 1).await;
    let next = socket.next().await.unwrap();
    assert_eq!(next["seq"].as_i64(), resync["seq"].as_i64().map(|seq| seq + 1));
    assert_eq!(next["final"], 704);
    replica.stop().await;
}

#[actix_web::test]
async fn a_position_that_was_never_ours_is_answered_with_ours() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let replica = Replica::start(&app);
    let mut socket = Socket::open(&user).await;
    replica.commit(&user, 2).await;
    let mut told = Told::default();
    told.read_to_final(&mut socket, 2).await;
    let (epoch, seq) = (socket.position.epoch.clone(), socket.position.seq);
    for (query, reason) in [
        (format!("?epoch={epoch}&seq={}&final=2", seq + 9), "history_lost"),
        (format!("?epoch={epoch}&seq={seq}&final=99"), "history_lost"),
        (format!("?epoch=nonsense&seq={seq}&final=2"), "epoch_changed"),
    ] {
        let mut socket = Socket::open_with(&user, &query).await;
        let resync = socket.next().await.unwrap();
        let expected = json!({"type": "resync", "reason": reason, "epoch": epoch, "seq": seq, "final": 2});
        assert_eq!(resync, expected, "{query}");
    }
    // without a final number, by position alone
    let mut socket = Socket::open_with(&user, &format!("?epoch={epoch}&seq={}", seq - 1)).await;
    let event = socket.next().await.unwrap();
    assert_eq!((event["seq"].as_i64(), event["final"].as_i64()), (Some(seq), Some(2)));
    replica.stop().await;
}

#[actix_web::test]
async fn a_client_may_resume_at_another_replica() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let (second, replica) = (app.second_replica().await, Replica::start(&app));
    let mut socket = Socket::open(&user).await;
    let mut told = Told::default();
    replica.commit(&user, 10).await;
    told.read_to_final(&mut socket, 5).await;
    let position = socket.cut();
    replica.commit(&user, 10).await;
    let mut socket = Socket::resume(&user.at(&second.url), &position).await;
    told.read_to_final(&mut socket, 20).await;
    replica.commit(&user, 10).await;
    told.read_to_final(&mut socket, 30).await;
    told.expect_finals(1..=30);
    assert_eq!(told.resyncs, Vec::<String>::new());
    replica.stop().await;
}
