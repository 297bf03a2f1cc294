//! The engine and its runs panic in the middle of work: nothing is lost, nothing is done twice.

use super::*;
use crate::support::Cutter;
use greenroom_actors::faults;
use std::sync::atomic::Ordering;

async fn work(ground: &Ground) -> (UserId, Vec<TaskId>) {
    // longer than a flush may be cut again and again
    ground.provider("wide", json!({"timeoutMs": 15_000, "maxAttempts": 1})).await;
    let pipeline = ground.pipeline(fork(&["wide"; 4], "ALL")).await;
    ground.fake.script(|_| Reply::ok().after(Duration::from_millis(50)));
    let user = ground.user(300).await;
    let mut tasks = Vec::new();
    for _ in 0..20 {
        tasks.push(ground.replica.start_task(user, pipeline).await);
    }
    (user, tasks)
}

/// All tasks are right, and what the provider was asked is what the attempts say.
async fn expect_all_right(ground: &Ground, user: UserId, tasks: Vec<TaskId>) {
    let count = i64::try_from(tasks.len()).unwrap();
    for task in tasks {
        let ended = ground.ended(task).await;
        assert_eq!(ended.status, TaskStatus::Succeeded, "{ended:?} {:#?}", ground.attempts(task).await);
    }
    assert_eq!(ground.counters(user).await, (300 - 3 * count, 0));
    ground.expect_clean().await;
    let attempts = ground.count("select count(*) from step_attempts").await;
    assert!(i64::try_from(ground.fake.seen().len()).unwrap() <= attempts);
}

#[actix_web::test]
async fn an_engine_that_panics_before_a_flush_goes_on() {
    let ground = Ground::alone(Wishes::default()).await;
    let (user, tasks) = work(&ground).await;
    for _ in 0..3 {
        faults::arm("pipeline.engine.flush", 1);
        tokio::time::sleep(Duration::from_millis(60)).await;
    }
    expect_all_right(&ground, user, tasks).await;
    let restarts: u64 = ground.replica.supervisor.snapshot().iter().map(|vitals| vitals.restarts).sum();
    assert!(restarts >= 1, "no fault was met");
    // what was away when the engine fell was not asked for again: its answer was heard
    assert_eq!(ground.fake.seen().len(), 80);
}

#[actix_web::test]
async fn an_engine_that_panics_at_a_claim_goes_on() {
    let ground = Ground::alone(Wishes::default()).await;
    faults::arm("pipeline.engine.claim", 2);
    let (user, tasks) = work(&ground).await;
    expect_all_right(&ground, user, tasks).await;
}

#[actix_web::test]
async fn a_run_that_panics_at_an_answer_hears_it_again() {
    let ground = Ground::alone(Wishes::default()).await;
    let (user, tasks) = work(&ground).await;
    // one by one, with steps that finish in between: three in a row might hit one task, which would be ended for it
    let succeeded = "select count(*) from step_attempts where status = 'succeeded'";
    for _ in 0..5 {
        let before = ground.count(succeeded).await;
        faults::arm("pipeline.run.answer", 1);
        eventually("steps finish", async || (ground.count(succeeded).await >= before + 8).then_some(()))
            .await;
    }
    expect_all_right(&ground, user, tasks).await;
    assert_eq!(ground.fake.seen().len(), 80, "no call was made twice");
    let restarts: u64 = ground.replica.supervisor.snapshot().iter().map(|vitals| vitals.restarts).sum();
    assert_eq!(restarts, 0, "a run's panic is not the engine's");
}

#[actix_web::test]
async fn a_task_whose_run_always_panics_is_ended() {
    let ground = Ground::alone(Wishes::default()).await;
    ground.provider("echo", json!({})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "echo")])).await;
    let user = ground.user(3).await;
    faults::arm("pipeline.run.answer", 1_000);
    let task = ground.replica.start_task(user, pipeline).await;
    let ended = ground.ended(task).await;
    faults::arm("pipeline.run.answer", 0);
    assert_eq!(ended.error.unwrap().code, "TASK_POISONED");
    assert_eq!(ground.counters(user).await, (3, 0));
    assert_eq!(ground.fake.seen().len(), 1);
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_flush_whose_commit_gets_no_answer_lets_each_call_go_once() {
    let ground = Ground::start().await;
    ground.replica.stop().await;
    let cutter = Cutter::default();
    let database = servers::pool(&cutter.stand_before(&ground.url).await);
    let shaky = Replica::start(&database, &ground.redis, &ground.fake, &ground.dir, &Wishes::default());
    let ground = Ground { replica: shaky, ..ground };
    let (user, tasks) = work(&ground).await;
    let running = "select count(*) from tasks where status in ('queued', 'running')";
    let mut cut = 0;
    while ground.count(running).await > 0 && cut < 8 {
        let line = if cut % 2 == 0 { &cutter.after } else { &cutter.before };
        line.store(1, Ordering::SeqCst);
        // the tasks may all have ended meanwhile, and then nothing is committed any more
        eventually("the line is cut", async || {
            let is_cut = line.load(Ordering::SeqCst) == 0 || ground.count(running).await == 0;
            is_cut.then_some(())
        })
        .await;
        cut += 1;
    }
    assert!(cut >= 4, "the tasks were done too soon to prove anything: {cut}");
    expect_all_right(&ground, user, tasks).await;
    assert_eq!(ground.fake.seen().len(), 80, "no call was made twice");
}
