//! Every task that does not go on says why, on whatever replica it is asked for.

use crate::support::{Answer, Client, FakeProvider, Service, Socket, TestApp, eventually};
use serde_json::{Value, json};
use std::time::Duration;

/// Two replicas, and a pipeline of one call of a provider that takes one call at a time.
struct Ground {
    app: TestApp,
    other: Service,
    fake: FakeProvider,
    pipeline: String,
}

impl Ground {
    async fn start(running_per_user: u32, answer: impl Fn() -> Answer + Send + Sync + 'static) -> Self {
        let builder = TestApp::builder().env("GREENROOM__LIMITS__RUNNING_PER_USER", running_per_user);
        let app = builder.may_leave_work().start().await;
        let other = app.second_replica().await;
        let fake = FakeProvider::start(move |_| answer()).await;
        let mut provider = fake.definition("draw");
        provider["maxConcurrency"] = json!(1);
        provider["timeoutMs"] = json!(600_000);
        provider["breaker"] = json!({"failures": 1, "openMs": 600_000});
        app.put_provider(provider).await;
        let nodes = json!([
            {"id": "start", "type": "start"},
            {"id": "draw", "type": "provider", "provider": "draw", "input": {}},
            {"id": "end", "type": "end", "output": {}}]);
        let edges = json!([["start", "draw"], ["draw", "end"]]);
        let definition = json!({"name": "Drawn", "quotaCost": 0, "nodes": nodes, "edges": edges});
        let pipeline = app.publish_pipeline(definition).await;
        Self { app, other, fake, pipeline }
    }

    /// Starts a task of `user`, at the first replica; answers its id.
    async fn task(&self, user: &Client) -> String {
        let body = json!({"pipelineId": self.pipeline, "input": {}});
        let task = user.post("/api/v1/tasks", body).await.expect(202);
        task["id"].as_str().unwrap().to_owned()
    }

    /// The same, once it was called for or taken: so the next one comes after it.
    async fn taken(&self, user: &Client) -> String {
        let task = self.task(user).await;
        eventually("the task is taken", async || {
            let taken = format!("select count(*) from tasks where id = '{task}' and owner is not null");
            (self.app.count(&taken).await == 1).then_some(())
        })
        .await;
        task
    }

    /// Waits until both replicas say this of a task, alone and in the list.
    async fn expect(&self, user: &Client, task: &str, reason: &str, position: Value) -> Value {
        let mut shown = Value::Null;
        for at in [user.clone(), user.at(&self.other.url)] {
            let what = format!("{task} waits for {reason} at {position}");
            shown = eventually(&what, async || {
                let shown = at.get(&format!("/api/v1/tasks/{task}")).await.expect(200)["waiting"].clone();
                let list = at.get("/api/v1/tasks").await.expect(200);
                let items = list["items"].as_array().unwrap();
                let listed = items.iter().find(|item| item["id"] == task).unwrap()["waiting"].clone();
                let is_it = |waiting: &Value| waiting["reason"] == reason && waiting["position"] == position;
                (is_it(&shown) && is_it(&listed)).then_some(shown)
            })
            .await;
        }
        shown
    }
}

fn never() -> Answer {
    Answer::json(json!({})).after(Duration::from_secs(3_600))
}

#[actix_web::test]
async fn the_place_of_a_task_is_how_many_start_before_it() {
    let ground = Ground::start(0, never).await;
    let one = ground.app.register_user().await;
    let two = ground.app.register_user().await;
    let running = ground.taken(&one).await;
    let next = ground.taken(&one).await;
    let ones = [ground.task(&one).await, ground.task(&one).await, ground.task(&one).await];
    let twos = [ground.task(&two).await, ground.task(&two).await];
    ground.expect(&one, &next, "provider_ceiling", json!(0)).await;
    // the turn is the second user's, and then each has one after the other
    for (task, position) in [(&twos[0], 1), (&twos[1], 3)] {
        ground.expect(&two, task, "provider_ceiling", json!(position)).await;
    }
    for (task, position) in ones.iter().zip([2, 4, 5]) {
        ground.expect(&one, task, "provider_ceiling", json!(position)).await;
    }
    for at in [one.clone(), one.at(&ground.other.url)] {
        let shown = at.get(&format!("/api/v1/tasks/{running}")).await.expect(200);
        assert_eq!(shown["waiting"], Value::Null, "its call is under way");
    }
    assert_eq!(ground.fake.calls().len(), 1);
}

#[actix_web::test]
async fn a_user_with_as_many_running_as_may_be_hears_that() {
    let ground = Ground::start(1, never).await;
    let user = ground.app.register_user().await;
    ground.taken(&user).await;
    let waiting = [ground.task(&user).await, ground.task(&user).await];
    for (position, task) in waiting.iter().enumerate() {
        ground.expect(&user, task, "user_ceiling", json!(position)).await;
    }
}

#[actix_web::test]
async fn a_pause_that_the_provider_asked_for_is_the_reason_everywhere() {
    let ground = Ground::start(0, || Answer::status(429, json!({})).with_header("Retry-After", 600)).await;
    let user = ground.app.register_user().await;
    let first = ground.task(&user).await;
    eventually("the pause is written", async || {
        let paused = "select count(*) from providers where paused_until > clock_timestamp()";
        (ground.app.count(paused).await == 1).then_some(())
    })
    .await;
    let shown = ground.expect(&user, &first, "backoff", Value::Null).await;
    assert!((1..=600_000).contains(&shown["etaMs"].as_i64().unwrap()), "{shown}");
    // what comes now waits for the same, also what nobody has taken
    let next = [ground.taken(&user).await, ground.task(&user).await, ground.task(&user).await];
    for task in &next[1..] {
        let shown = eventually("the last waits for the pause", async || {
            let shown = user.at(&ground.other.url).get(&format!("/api/v1/tasks/{task}")).await.expect(200);
            Some(shown["waiting"].clone()).filter(|waiting| waiting["reason"] == "backoff")
        })
        .await;
        assert!((1..=600_000).contains(&shown["etaMs"].as_i64().unwrap()), "{shown}");
    }
    assert_eq!(ground.fake.calls().len(), 1);
}

#[actix_web::test]
async fn open_sockets_hear_what_queued_tasks_wait_for_and_not_too_often() {
    let ground = Ground::start(0, never).await;
    let user = ground.app.register_user().await;
    let somebody = ground.app.register_user().await;
    ground.taken(&somebody).await;
    ground.taken(&somebody).await;
    let ahead = ground.task(&user).await;
    let task = ground.task(&user).await;
    // one socket at each replica: one of them tells
    let mut socket = Socket::open(&user.at(&ground.other.url)).await;
    let _other = Socket::open(&user).await;
    let is_it = |frame: &Value, position: i64| {
        frame["event"] == "task.waiting" && frame["taskId"] == task && frame["data"]["position"] == position
    };
    let mut heard = socket.read_until(|frame| is_it(frame, 2)).await;
    assert_eq!(heard.last().unwrap()["data"]["reason"], "provider_ceiling");
    user.post(&format!("/api/v1/tasks/{ahead}/cancel"), json!({})).await.expect(202);
    heard.extend(socket.read_until(|frame| is_it(frame, 1)).await);
    let told = heard.iter().filter(|frame| frame["event"] == "task.waiting" && frame["taskId"] == task);
    let times: Vec<chrono::DateTime<chrono::Utc>> =
        told.map(|frame| frame["at"].as_str().unwrap().parse().unwrap()).collect();
    assert!(times.len() >= 2);
    for pair in times.windows(2) {
        assert!(pair[1] - pair[0] >= chrono::TimeDelta::milliseconds(4_500), "told too often: {times:?}");
    }
    socket.send(json!({"type": "snapshot"})).await;
    let frames = socket.read_until(|frame| frame["type"] == "snapshot").await;
    let shown = frames.last().unwrap()["tasks"].as_array().unwrap();
    let shown = shown.iter().find(|shown| shown["id"] == task).unwrap();
    assert_eq!(shown["waiting"]["reason"], "provider_ceiling");
    // the one before it may have been taken meanwhile
    assert!((0..=1).contains(&shown["waiting"]["position"].as_i64().unwrap()), "{shown}");
}

#[actix_web::test]
async fn who_waits_hears_a_guess_once_calls_have_ended() {
    let ground = Ground::start(0, || Answer::json(json!({})).after(Duration::from_millis(500))).await;
    let user = ground.app.register_user().await;
    let task = ground.task(&user).await;
    user.final_task(&task).await;
    for _ in 0..40 {
        ground.task(&user).await;
    }
    let last = ground.task(&user).await;
    // one of them may have seen no call end
    for at in [user.clone(), user.at(&ground.other.url)] {
        let shown = eventually("there is a guess", async || {
            let shown = at.get(&format!("/api/v1/tasks/{last}")).await.expect(200)["waiting"].clone();
            shown["etaMs"].is_i64().then_some(shown)
        })
        .await;
        let (position, eta) = (shown["position"].as_i64().unwrap(), shown["etaMs"].as_i64().unwrap());
        // calls of half a second and what a busy machine adds, one at a time
        assert!(((position + 1) * 500..(position + 1) * 5_000).contains(&eta), "{shown}");
    }
}
