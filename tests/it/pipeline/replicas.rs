//! Several replicas, and what happens to the tasks of one that goes away.

use super::*;

/// Short for a test, and long enough that a busy machine does not lose it.
fn short_lease() -> Wishes {
    Wishes { lease: Duration::from_secs(2), ..Wishes::default() }
}

#[actix_web::test]
async fn a_replica_that_is_shut_down_lets_its_tasks_go_at_once() {
    let ground = Ground::start().await;
    ground.provider("narrow", json!({"maxConcurrency": 2})).await;
    let pipeline = ground.pipeline(chain(&[("one", "narrow"), ("two", "narrow")])).await;
    ground.fake.script(|_| Reply::ok().after(Duration::from_millis(100)));
    let user = ground.user(300).await;
    let mut tasks = Vec::new();
    for _ in 0..10 {
        tasks.push(ground.replica.start_task(user, pipeline).await);
    }
    eventually("calls are away", async || (ground.fake.in_flight() == 2).then_some(())).await;
    ground.replica.stop().await;
    assert_eq!(ground.count("select count(*) from replicas").await, 0);
    assert_eq!(
        ground
            .count("select count(*) from tasks where owner is not null and status in ('queued', 'running')")
            .await,
        0
    );
    let running = "select count(*) from step_attempts where status = 'running'";
    assert_eq!(ground.count(running).await, 0, "calls that were away were waited for");

    let second = ground.second_replica(&Wishes::default());
    for task in tasks {
        assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
    }
    assert_eq!(ground.fake.seen().len(), 20, "no call was made twice");
    ground.expect_clean().await;
    second.stop().await;
}

/// A task whose replica dies in the middle of its first call, and the replica that takes it over.
async fn orphaned_amid_a_call(provider: Value) -> (Ground, Replica, UserId, TaskId) {
    let ground = Ground::with(short_lease()).await;
    ground.provider("draw", provider).await;
    let pipeline = ground.pipeline(chain(&[("draw", "draw")])).await;
    ground.fake.script(|_| Reply::hang());
    let user = ground.user(3).await;
    let task = ground.replica.start_task(user, pipeline).await;
    eventually("the call is away", async || (ground.fake.in_flight() == 1).then_some(())).await;
    ground.fake.script(|_| Reply::ok());
    ground.replica.kill();
    let second = ground.second_replica(&short_lease());
    (ground, second, user, task)
}

#[actix_web::test]
async fn an_orphans_call_is_repeated_with_its_key_once_its_deadline_is_over() {
    let (ground, second, user, task) = orphaned_amid_a_call(json!({"timeoutMs": 4_000})).await;
    let ended = ground.ended(task).await;
    assert_eq!(ended.status, TaskStatus::Succeeded, "{ended:?}");
    let attempts = ground.attempts(task).await;
    let told: Vec<_> = attempts.iter().map(|a| (a.attempt, a.cause.name(), a.status.name())).collect();
    assert_eq!(told, [(1, "first", "unknown"), (2, "crash", "succeeded")]);
    assert!(attempts[1].started_at >= attempts[0].deadline_at, "both calls could have run at once");
    let keys: Vec<_> = ground.fake.seen().into_iter().map(|seen| seen.key).collect();
    assert_eq!(keys, [format!("{task}:draw"), format!("{task}:draw")]);
    assert_eq!(ground.counters(user).await, (0, 0));
    ground.expect_clean().await;
    second.stop().await;
}

#[actix_web::test]
async fn an_orphans_call_is_never_repeated_where_the_provider_is_called_at_most_once() {
    let provider = json!({"timeoutMs": 4_000, "atMostOnce": true, "maxAttempts": 3});
    let (ground, second, user, task) = orphaned_amid_a_call(provider).await;
    let ended = ground.ended(task).await;
    assert_eq!(ended.error.unwrap().code, "OUTCOME_UNKNOWN");
    assert_eq!(ground.fake.seen().len(), 1);
    assert_eq!(ground.counters(user).await, (3, 0));
    ground.expect_clean().await;
    second.stop().await;
}

#[actix_web::test]
async fn a_pure_call_of_an_orphan_is_repeated_at_once() {
    let provider = json!({"timeoutMs": 60_000, "pure": true, "maxConcurrency": null});
    let (ground, second, _, task) = orphaned_amid_a_call(provider).await;
    let ended = ground.ended(task).await;
    assert_eq!(ended.status, TaskStatus::Succeeded);
    assert_eq!(ground.attempts(task).await[0].status.name(), "unknown");
    ground.expect_clean().await;
    second.stop().await;
}

#[actix_web::test]
async fn a_task_that_dies_with_three_replicas_is_ended() {
    let ground = Ground::with(short_lease()).await;
    ground.provider("draw", json!({"timeoutMs": 60_000, "pure": true})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "draw")])).await;
    ground.fake.script(|_| Reply::hang());
    let user = ground.user(3).await;
    let task = ground.replica.start_task(user, pipeline).await;
    let away = async |calls| {
        eventually("the call is away", async || (ground.fake.seen().len() == calls).then_some(())).await;
    };
    away(1).await;
    ground.replica.kill();
    for death in 2..=3 {
        let next = ground.second_replica(&short_lease());
        away(death).await;
        next.kill();
    }
    let last = ground.second_replica(&short_lease());
    let ended = ground.ended(task).await;
    assert_eq!(ended.error.unwrap().code, "TASK_POISONED");
    assert_eq!(ground.counters(user).await, (3, 0));
    last.stop().await;
}

#[actix_web::test]
async fn a_replica_that_was_given_up_writes_nothing_more_of_its_tasks() {
    let ground = Ground::start().await;
    ground.provider("draw", json!({"timeoutMs": 5_000})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "draw")])).await;
    ground.fake.script(|_| Reply::ok().after(Duration::from_millis(500)));
    let user = ground.user(3).await;
    let task = ground.replica.start_task(user, pipeline).await;
    eventually("the call is away", async || (ground.fake.in_flight() == 1).then_some(())).await;
    // somebody else, who is alive, has it now
    let other = "insert into replicas (owner, label, expires_at)
        values ('00000000-0000-0000-0000-000000000001', 'other', clock_timestamp() + interval '1 hour')";
    ground.sql.batch_execute(other).await.unwrap();
    let bend = "update tasks set owner = '00000000-0000-0000-0000-000000000001', lease_no = lease_no + 1";
    ground.sql.batch_execute(bend).await.unwrap();
    eventually("the answer is written", async || {
        let attempts = ground.attempts(task).await;
        (attempts[0].status.name() != "running").then_some(())
    })
    .await;
    assert_eq!(ground.count("select count(*) from provider_slots where attempt is not null").await, 0);
    assert_eq!(ground.task(task).await.status, TaskStatus::Running);
    assert_eq!(
        ground.step(task, "draw").await.status,
        StepStatus::Running,
        "the step is the other's to write"
    );
    assert_eq!(ground.counters(user).await, (0, 3));
}

#[actix_web::test]
async fn a_task_that_is_ours_without_our_knowing_is_taken_up() {
    let ground = Ground::with(Wishes { running_per_user: 1, ..Wishes::default() }).await;
    ground.provider("draw", json!({})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "draw")])).await;
    ground.fake.script(|_| Reply::hang());
    let user = ground.user(6).await;
    let first = ground.replica.start_task(user, pipeline).await;
    eventually("the call is away", async || (ground.fake.in_flight() == 1).then_some(())).await;
    ground.fake.script(|_| Reply::ok());
    let second = ground.replica.start_task(user, pipeline).await;
    // as if a claim of the second had been committed and its answer lost
    let bend = "update tasks set lease_no = 1, owner = (select owner from replicas) where id = $1";
    assert_eq!(ground.sql.execute(bend, &[&second]).await.unwrap(), 1);
    assert_eq!(ground.ended(second).await.status, TaskStatus::Succeeded);
    ground.replica.cancel(first).await.unwrap();
}

#[actix_web::test]
async fn any_replica_cancels_a_task_of_any_other() {
    let ground = Ground::start().await;
    ground.provider("draw", json!({"timeoutMs": 1_000})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "draw"), ("more", "draw")])).await;
    ground.fake.script(|_| Reply::ok().after(Duration::from_millis(500)));
    let user = ground.user(3).await;
    let task = ground.replica.start_task(user, pipeline).await;
    eventually("the call is away", async || (ground.fake.in_flight() == 1).then_some(())).await;
    let second = ground.second_replica(&Wishes::default());
    assert_eq!(second.cancel(task).await.unwrap().status, TaskStatus::Cancelled);
    assert_eq!(ground.counters(user).await, (3, 0));
    ground.expect_clean().await;
    assert_eq!(ground.fake.seen().len(), 1);
    second.stop().await;
}

#[actix_web::test]
async fn work_is_shared_and_every_task_ends_once() {
    let ground = Ground::start().await;
    let second = ground.second_replica(&Wishes::default());
    ground.provider("wide", json!({"maxConcurrency": 50})).await;
    let pipeline = ground.pipeline(fork(&["wide"; 3], "ALL")).await;
    let users = [ground.user(300).await, ground.user(300).await, ground.user(300).await];
    let mut tasks = Vec::new();
    for number in 0..90 {
        let replica = if number % 2 == 0 { &ground.replica } else { &second };
        tasks.push(replica.start_task(users[number % 3], pipeline).await);
    }
    for task in tasks {
        assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
    }
    for user in users {
        assert_eq!(ground.counters(user).await, (210, 0));
    }
    assert_eq!(ground.fake.seen().len(), 270);
    ground.expect_clean().await;
    second.stop().await;
}
