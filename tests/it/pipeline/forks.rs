//! Branches side by side, and the ceilings that bound them.

use super::*;
use crate::support::{Answer, FakeProvider, TestApp};
use greenroom_actors::events::EventKind;
use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
};

/// What a provider sees of a fork of 50 that the service `app` runs.
async fn most_at_once(app: TestApp) -> usize {
    let fake = FakeProvider::start(|_| Answer::json(json!({})).after(Duration::from_millis(20))).await;
    let mut wide = fake.definition("wide");
    wide["maxConcurrency"] = json!(100);
    app.put_provider(wide).await;
    let pipeline = app.publish_pipeline(fork(&["wide"; 50], "ALL")).await;
    let user = app.register_user().await;
    app.grant(&user, 3).await;
    let task = user.post("/api/v1/tasks", json!({"pipelineId": pipeline, "input": {}})).await.expect(202);
    let ended = user.final_task(task["id"].as_str().unwrap()).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert_eq!(fake.calls().len(), 50);
    fake.most_in_flight()
}

#[actix_web::test]
async fn a_fork_of_50_never_has_more_than_5_calls_in_flight() {
    assert_eq!(most_at_once(TestApp::start().await).await, 5);
}

#[actix_web::test]
async fn max_pipeline_concurrency_says_how_many_calls_of_a_task_are_in_flight() {
    assert_eq!(most_at_once(TestApp::builder().env("MAX_PIPELINE_CONCURRENCY", 3).start().await).await, 3);
}

#[actix_web::test]
async fn a_providers_ceiling_holds_over_all_tasks_and_replicas() {
    let ground = Ground::start().await;
    let second = ground.second_replica(&Wishes::default());
    ground.provider("narrow", json!({"maxConcurrency": 3, "timeoutMs": 20_000})).await;
    let pipeline = ground.pipeline(fork(&["narrow"; 4], "ALL")).await;
    ground.fake.script(|_| Reply::ok().after(Duration::from_millis(15)));
    let user = ground.user(300).await;
    let mut tasks = Vec::new();
    for number in 0..20 {
        let replica = if number % 2 == 0 { &ground.replica } else { &second };
        tasks.push(replica.start_task(user, pipeline).await);
    }
    for task in tasks {
        assert_eq!(ground.ended(task).await.status, TaskStatus::Succeeded);
    }
    assert_eq!(ground.fake.most_in_flight(), 3);
    assert_eq!(ground.fake.seen().len(), 80);
    assert_eq!(ground.counters(user).await, (240, 0));
    ground.expect_clean().await;
    second.stop().await;
}

#[actix_web::test]
async fn the_first_success_ends_a_first_join_and_the_others_keep_their_slots_until_they_answer() {
    let ground = Ground::start().await;
    ground.provider("wide", json!({})).await;
    let pipeline = ground.pipeline(fork(&["wide"; 3], "FIRST")).await;
    ground.fake.script(|call| match call.node.as_str() {
        "b1" => Reply::ok(),
        _ => Reply::ok().after(Duration::from_millis(700)),
    });
    let user = ground.user(3).await;
    let task = ground.replica.start_task(user, pipeline).await;
    let ended = ground.ended(task).await;
    assert_eq!(ended.output.unwrap()["joined"]["first"], "b1");
    assert_eq!(ground.fake.in_flight(), 2, "the calls are not cut");
    let held = "select count(*) from provider_slots where attempt is not null";
    assert_eq!(ground.count(held).await, 2);
    for other in ["b0", "b2"] {
        assert_eq!(ground.step(task, other).await.status, StepStatus::Cancelled);
    }
    ground.expect_clean().await;
    let statuses: Vec<_> = ground.attempts(task).await.iter().map(|attempt| attempt.status.name()).collect();
    assert_eq!(statuses, ["cancelled", "succeeded", "cancelled"]);
}

#[actix_web::test]
async fn one_failed_branch_fails_an_all_join_and_what_had_not_left_never_does() {
    let ground = Ground::with(Wishes { max_concurrency: 2, ..Wishes::default() }).await;
    ground.provider("wide", json!({})).await;
    let pipeline = ground.pipeline(fork(&["wide"; 10], "ALL")).await;
    ground.fake.script(|call| match call.node.as_str() {
        "b0" => Reply::rejected().after(Duration::from_millis(100)),
        _ => Reply::ok().after(Duration::from_millis(400)),
    });
    let user = ground.user(3).await;
    let task = ground.replica.start_task(user, pipeline).await;
    assert_eq!(ground.ended(task).await.status, TaskStatus::Failed);
    ground.expect_clean().await;
    assert_eq!(ground.fake.seen().len(), 2);
    assert_eq!(ground.counters(user).await, (3, 0));
}

#[actix_web::test]
async fn a_task_that_waits_for_its_provider_says_so() {
    let mut ground = Ground::start().await;
    ground.provider("narrow", json!({"maxConcurrency": 1, "timeoutMs": 60_000})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "narrow")])).await;
    ground.fake.script(|_| Reply::hang());
    let user = ground.user(9).await;
    ground.replica.published.watch(user);
    let mut tasks = Vec::new();
    for _ in 0..3 {
        tasks.push(ground.replica.try_start(user, pipeline, json!({})).await.unwrap());
        eventually("the call is away", async || (ground.fake.in_flight() == 1).then_some(())).await;
    }
    // positions are counted anew once a second
    let waiting = eventually("the others wait one behind the other", async || {
        let waiting = ground.replica.pipeline.waiting(&tasks).await.unwrap();
        let mut places: Vec<_> = waiting.values().map(|waiting| waiting.position).collect();
        places.sort();
        (places == [Some(0), Some(1)]).then_some(waiting)
    })
    .await;
    assert!(!waiting.contains_key(&tasks[0].id), "the first has its call away");
    assert!(waiting.values().all(|waiting| waiting.reason.name() == "provider_ceiling"));
    let mut told = HashMap::new();
    while !tasks[1..].iter().all(|task| told.contains_key(&task.id)) {
        let events = ground.replica.published.next().await;
        let waits = events.into_iter().filter(|event| event.kind == EventKind::TaskWaiting);
        told.extend(waits.map(|event| (event.task.unwrap(), event.data)));
    }
    assert!(told.values().all(|told| told["reason"] == "provider_ceiling"), "{told:?}");
    for task in tasks {
        ground.replica.cancel(task.id).await.unwrap();
    }
}

#[actix_web::test]
async fn users_take_turns_however_much_one_of_them_has_queued() {
    let ground = Ground::with(Wishes { running_per_user: 2, ..Wishes::default() }).await;
    ground.provider("narrow", json!({"maxConcurrency": 2})).await;
    let pipeline = ground.pipeline(chain(&[("draw", "narrow")])).await;
    // while tasks are still being queued, the first ones take their time
    let queued = Arc::new(AtomicBool::new(false));
    let pace = Arc::clone(&queued);
    ground.fake.script(move |_| {
        Reply::ok().after(Duration::from_millis(if pace.load(Ordering::SeqCst) { 30 } else { 3_000 }))
    });
    let (greedy, modest) = (ground.user(300).await, ground.user(3).await);
    let mut tasks = Vec::new();
    for _ in 0..30 {
        tasks.push(ground.replica.start_task(greedy, pipeline).await);
    }
    let modest_task = ground.replica.start_task(modest, pipeline).await;
    queued.store(true, Ordering::SeqCst);
    ground.ended(modest_task).await;
    let finished = "select count(*) from tasks where status = 'succeeded'";
    assert!(ground.count(finished).await < 15, "the modest user's task waited behind the greedy user's");
    for task in tasks {
        ground.ended(task).await;
    }
    ground.expect_clean().await;
}
