//! PostgreSQL and the actors fail at the worst moments, and every command is still done once or not at all.

use super::*;
use crate::support::Cutter;
use greenroom_actors::{ask::AskError, database::DatabaseError, faults};
use std::{sync::atomic::Ordering, time::Instant};

#[actix_web::test]
async fn a_command_that_the_database_cannot_take_fails_alone() {
    let ground = Ground::start().await;
    let user = ground.user(1_000).await;
    let tasks: Vec<NewTask> = (0..100)
        .map(|n| {
            // JSON knows the character NUL, PostgreSQL's does not
            let input = if n == 37 { json!({ "prompt": "\u{0}" }) } else { json!({}) };
            NewTask { input, ..task(user, 1) }
        })
        .collect();
    let answers = futures_util::future::join_all(tasks.iter().map(|task| ground.replica.reserve(task))).await;
    for (n, answer) in answers.into_iter().enumerate() {
        match answer {
            Ok(_) => assert_ne!(n, 37),
            Err(QuotaError::Database(error)) => {
                assert_eq!(n, 37, "{error}");
                assert!(matches!(*error, DatabaseError::Statement(_)));
            }
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(ground.counters(user).await, (901, 99));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_commit_without_an_answer_is_done_once() {
    let ground = Ground::start().await;
    let cutter = Cutter::default();
    let database = servers::pool(&cutter.stand_before(&ground.url).await);
    let shaky = Replica::start(&database, QuotaSettings::default()).await;
    let user = ground.user(1_000).await;
    for round in 0..6 {
        let line = if round % 2 == 0 { &cutter.after } else { &cutter.before };
        let tasks: Vec<NewTask> = (0..10).map(|_| task(user, 3)).collect();
        line.store(1, Ordering::SeqCst);
        let reserved = futures_util::future::join_all(tasks.iter().map(|task| shaky.reserve(task))).await;
        assert!(reserved.iter().all(Result::is_ok), "{reserved:?}");
        line.store(1, Ordering::SeqCst);
        let confirmed = futures_util::future::join_all(tasks.iter().map(|task| shaky.confirm(task, 2))).await;
        assert!(confirmed.into_iter().all(|answer| answer.unwrap() == (2, 1)));
        line.store(1, Ordering::SeqCst);
        let reference = format!("round {round}");
        let granted = shaky.grant(grant(user, 7, &reference)).await.unwrap();
        assert_eq!(granted, shaky.grant(grant(user, 7, &reference)).await.unwrap());
        assert_eq!(line.load(Ordering::SeqCst), 0, "the line was cut");
    }
    assert_eq!(ground.counters(user).await, (1_000 - 6 * 10 * 2 + 6 * 7, 0));
    let behind = shaky.published.is_behind(user);
    assert!(behind, "events of a commit without an answer must be looked up");
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_key_is_answered_as_the_first_time_by_the_run_that_finds_its_own_work() {
    let ground = Ground::start().await;
    let cutter = Cutter::default();
    let database = servers::pool(&cutter.stand_before(&ground.url).await);
    let shaky = Replica::start(&database, QuotaSettings::default()).await;
    let user = ground.user(10).await;
    let reserve = |task: NewTask| Reserve {
        task,
        idempotency: Some(greenroom_actors::idempotency::Idempotent {
            user,
            key: "k".to_owned(),
            request_hash: [1; 32],
            status: 202,
            render: |task| json!({ "id": task.id }),
        }),
    };
    cutter.after.store(1, Ordering::SeqCst);
    let first = shaky.quota.reserve(reserve(task(user, 1))).await.unwrap();
    assert!(matches!(first, Answer::First(_)), "{first:?}");
    let second = shaky.quota.reserve(reserve(task(user, 1))).await.unwrap();
    assert!(matches!(second, Answer::Replayed(_)), "{second:?}");
    assert_eq!(ground.counters(user).await, (9, 1));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn without_postgresql_the_answer_is_quick_and_it_works_again_by_itself() {
    let server =
        servers::start_postgres(servers::directory(&format!("q{}", uuid::Uuid::new_v4().simple()))).await;
    let url = servers::create_database(&server, "ledger").await;
    let ground = Ground::on(url, QuotaSettings::default(), Turn::Among(FAULTS.read().await)).await;
    let user = ground.user(10).await;
    let held = task(user, 4);
    ground.replica.reserve(&held).await.unwrap();
    server.with(|server| server.stop()).await;
    let began = Instant::now();
    let refused = ground.replica.reserve(&task(user, 1)).await.unwrap_err();
    assert!(matches!(&refused, QuotaError::Database(error) if error.is_transient()), "{refused}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    server.with(|server| server.start_again().unwrap()).await;
    eventually("the ledger works again", async || ground.replica.confirm(&held, 4).await.ok()).await;
    assert_eq!(ground.counters(user).await, (6, 0));
    ground.expect_clean().await;
    server.with(|server| server.kill()).await;
}

#[actix_web::test]
async fn a_panic_before_or_after_the_commit_loses_and_doubles_nothing() {
    let ground = Ground::alone().await;
    let user = ground.user(100).await;
    for (round, (point, done)) in
        [("quota.flush.before_commit", false), ("quota.flush.after_commit", true)].into_iter().enumerate()
    {
        let new = task(user, 10);
        faults::arm(point, 1);
        let lost = ground.replica.reserve(&new).await.unwrap_err();
        assert!(matches!(lost, QuotaError::Ask(AskError::OutcomeUnknown("quota"))), "{lost}");
        let held = i64::from(done) * 10;
        let before = 10 * round as i64;
        assert_eq!(ground.counters(user).await, (100 - before - held, before + held));
        // the address works again, and the same command is done once
        eventually("the actor lives again", async || ground.replica.reserve(&new).await.ok()).await;
        assert_eq!(ground.counters(user).await, (90 - before, 10 + before));
    }
    let restarts: u64 = ground.replica.supervisor.snapshot().iter().map(|vitals| vitals.restarts).sum();
    assert_eq!(restarts, 2);
    ground.expect_clean().await;
}

#[actix_web::test]
async fn what_is_pending_at_shutdown_is_answered_first() {
    let ground = Ground::start().await;
    let user = ground.user(2_000).await;
    let tasks: Vec<NewTask> = (0..1_500).map(|_| task(user, 1)).collect();
    let asked = futures_util::future::join_all(tasks.iter().map(|task| ground.replica.reserve(task)));
    let drain = async {
        // after the commands were handed over
        tokio::task::yield_now().await;
        ground.replica.supervisor.drain(Instant::now() + Duration::from_secs(20)).await;
    };
    let (answers, ()) = tokio::join!(asked, drain);
    assert!(answers.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(ground.counters(user).await, (500, 1_500));
    let refused = ground.replica.reserve(&task(user, 1)).await.unwrap_err();
    assert!(matches!(refused, QuotaError::Ask(AskError::Down("quota"))), "{refused}");
}
