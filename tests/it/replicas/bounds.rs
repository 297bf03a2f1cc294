//! How many tasks may wait: of a user, and of all.

use crate::support::{Answer, Client, FakeProvider, Reply, TestApp, eventually};
use serde_json::{Value, json};
use std::time::Duration;

/// A service on which a user has one task running at a time, and a pipeline whose only call never ends.
async fn ground(limits: &[(&str, u32)]) -> (TestApp, FakeProvider, String) {
    let mut builder = TestApp::builder().env("GREENROOM__LIMITS__RUNNING_PER_USER", 1);
    for (name, most) in limits {
        builder = builder.env(&format!("GREENROOM__LIMITS__{name}"), most);
    }
    let app = builder.start().await;
    let fake = FakeProvider::start(|_| Answer::json(json!({})).after(Duration::from_secs(3_600))).await;
    app.put_provider(fake.definition("draw")).await;
    let nodes = json!([
        {"id": "start", "type": "start"},
        {"id": "draw", "type": "provider", "provider": "draw", "input": {}},
        {"id": "end", "type": "end", "output": {}}]);
    let edges = json!([["start", "draw"], ["draw", "end"]]);
    let definition = json!({"name": "Drawn", "quotaCost": 1, "nodes": nodes, "edges": edges});
    let pipeline = app.publish_pipeline(definition).await;
    (app, fake, pipeline)
}

async fn start(user: &Client, pipeline: &str) -> Reply {
    user.post("/api/v1/tasks", json!({"pipelineId": pipeline, "input": {}})).await
}

/// A user with quota, of whom one task runs; what comes next waits.
async fn busy_user(app: &TestApp, pipeline: &str) -> Client {
    let user = app.register_user().await;
    app.grant(&user, 100).await;
    let task = start(&user, pipeline).await.expect(202);
    let path = format!("/api/v1/tasks/{}", task["id"].as_str().unwrap());
    eventually("the first task runs", async || {
        (user.get(&path).await.json["status"] == "running").then_some(())
    })
    .await;
    user
}

/// Starts `count` tasks at once, half of them at each replica; answers those that were accepted and those not.
async fn burst(count: usize, user: &Client, other: &str, pipeline: &str) -> (Vec<Reply>, Vec<Reply>) {
    let at = [user.clone(), user.at(other)];
    let replies =
        futures_util::future::join_all((0..count).map(|number| start(&at[number % 2], pipeline))).await;
    replies.into_iter().partition(|reply| reply.status == 202)
}

fn expect_refusals(refused: &[Reply], status: u16, code: &str) {
    for refusal in refused {
        assert_eq!((refusal.status, refusal.code()), (status, code), "{refusal:#?}");
        assert!(refusal.header("retry-after").parse::<u64>().unwrap() > 0);
    }
}

async fn cancel_all(user: &Client) {
    loop {
        let live = user.get("/api/v1/tasks?limit=100").await.expect(200);
        let is_live = |task: &&Value| ["queued", "running"].contains(&task["status"].as_str().unwrap());
        let live: Vec<_> = live["items"].as_array().unwrap().iter().filter(is_live).cloned().collect();
        if live.is_empty() {
            return;
        }
        for task in live {
            user.post(&format!("/api/v1/tasks/{}/cancel", task["id"].as_str().unwrap()), json!({})).await;
        }
    }
}

#[actix_web::test]
async fn no_user_has_more_waiting_than_may_be_however_many_replicas_are_asked_at_once() {
    let (app, _fake, pipeline) = ground(&[("QUEUED_PER_USER", 3)]).await;
    let other = app.second_replica().await;
    let user = busy_user(&app, &pipeline).await;
    let (accepted, refused) = burst(16, &user, &other.url, &pipeline).await;
    assert_eq!(accepted.len(), 3);
    expect_refusals(&refused, 429, "QUEUE_FULL");
    let quota = user.get("/api/v1/users/me/quota").await.expect(200);
    assert_eq!((&quota["remaining"], &quota["reserved"]), (&json!(96), &json!(4)), "a refusal holds nothing");
    // who is refused does not keep others out, and room that was made is used
    let neighbour = busy_user(&app, &pipeline).await;
    let waiting = accepted[0].json["id"].as_str().unwrap();
    user.post(&format!("/api/v1/tasks/{waiting}/cancel"), json!({})).await.expect(202);
    let (accepted, refused) = burst(4, &user, &other.url, &pipeline).await;
    assert_eq!((accepted.len(), refused.len()), (1, 3));
    cancel_all(&user).await;
    cancel_all(&neighbour).await;
}

#[actix_web::test]
async fn a_plan_may_say_how_many_of_a_members_tasks_wait() {
    let (app, _fake, pipeline) = ground(&[("QUEUED_PER_USER", 2)]).await;
    let other = app.second_replica().await;
    let plan = json!({"name": "Wide", "priceFen": 1, "quota": 1, "durationDays": 30, "queuedPerUser": 5});
    let plan = app.admin().await.post("/api/v1/admin/plans", plan).await.expect(201);
    assert_eq!(plan["queuedPerUser"], 5);
    let user = busy_user(&app, &pipeline).await;
    let join = format!(
        "update users set membership_plan_id = '{}', membership_expires_at = now() + interval '1 day' where id = '{}'",
        plan["id"].as_str().unwrap(),
        user.id
    );
    app.sql().await.batch_execute(&join).await.unwrap();
    let (accepted, refused) = burst(10, &user, &other.url, &pipeline).await;
    assert_eq!(accepted.len(), 5);
    expect_refusals(&refused, 429, "QUEUE_FULL");
    let wrong = json!({"name": "Odd", "priceFen": 1, "quota": 1, "durationDays": 30, "queuedPerUser": -1});
    let wrong = app.admin().await.post("/api/v1/admin/plans", wrong).await;
    assert_eq!((wrong.status, &wrong.json["errors"][0]["path"]), (422, &json!("/queuedPerUser")));
    cancel_all(&user).await;
}

#[actix_web::test]
async fn when_as_many_tasks_wait_as_may_the_service_says_that_it_is_overloaded() {
    let (app, _fake, pipeline) = ground(&[("QUEUED_TOTAL", 4), ("QUEUED_PER_USER", 0)]).await;
    let users = [busy_user(&app, &pipeline).await, busy_user(&app, &pipeline).await];
    // what the first two have started is known not to wait any more
    eventually("room for four is counted", async || {
        (app.service.metric("greenroom_tasks_queued", &[]).await == 0.0).then_some(())
    })
    .await;
    let bursts = users.iter().map(|user| burst(6, user, &app.service.url, &pipeline));
    let (accepted, refused): (Vec<_>, Vec<_>) =
        futures_util::future::join_all(bursts).await.into_iter().unzip();
    let accepted = accepted.iter().map(Vec::len).sum::<usize>();
    assert!((1..=4).contains(&accepted), "{accepted} tasks were accepted");
    expect_refusals(&refused.concat(), 503, "OVERLOADED");
    // tasks that were accepted while they were counted may have been counted twice; never are there too many
    eventually("four wait", async || {
        let replies = [start(&users[0], &pipeline).await, start(&users[1], &pipeline).await];
        let waiting = "select count(*) from tasks where status = 'queued' and owner is null";
        let waiting = app.count(waiting).await;
        assert!(waiting <= 4, "{waiting} tasks wait");
        (waiting == 4 && replies.iter().all(|reply| reply.status == 503)).then_some(())
    })
    .await;
    // the others find it out by themselves
    let other = app.second_replica().await;
    let elsewhere = users[0].at(&other.url);
    eventually("the other replica has counted", async || {
        (other.metric("greenroom_tasks_queued", &[]).await == 4.0).then_some(())
    })
    .await;
    expect_refusals(&[start(&elsewhere, &pipeline).await], 503, "OVERLOADED");
    for user in &users {
        cancel_all(user).await;
    }
    // and there is room again
    let task = eventually("a task is accepted again", async || {
        Some(start(&elsewhere, &pipeline).await).filter(|reply| reply.status == 202)
    })
    .await;
    assert_eq!(task.json["status"], "queued");
    cancel_all(&users[0]).await;
}
