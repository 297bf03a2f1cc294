//! Whose task is started next, however much somebody else has queued.

use crate::support::{Answer, Client, FakeProvider, TestApp, is_alone, wait_until};
use futures_util::{FutureExt, StreamExt, future::join_all, stream};
use serde_json::json;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Calls of the provider at once.
const CEILING: u32 = 5;
const CALL: Duration = Duration::from_millis(400);

/// When the provider was called, for whom.
type Calls = Arc<Mutex<Vec<(String, Instant)>>>;

/// A provider that writes down who calls it, and a pipeline of one call.
async fn drawn(app: &TestApp, id: &str, lasting: Duration) -> (Calls, FakeProvider, String) {
    let calls = Calls::default();
    let seen = Arc::clone(&calls);
    let fake = FakeProvider::start(move |call| {
        let who = call.json()["who"].as_str().unwrap().to_owned();
        seen.lock().unwrap().push((who, Instant::now()));
        Answer::json(json!({})).after(lasting)
    })
    .await;
    let mut provider = fake.definition(id);
    provider["maxConcurrency"] = json!(CEILING);
    app.put_provider(provider).await;
    let nodes = json!([
        {"id": "start", "type": "start"},
        {"id": "draw", "type": "provider", "provider": id, "input": {"who": "{{ input.who }}"}},
        {"id": "end", "type": "end", "output": {}}]);
    let edges = json!([["start", "draw"], ["draw", "end"]]);
    let pipeline =
        app.publish_pipeline(json!({"name": id, "quotaCost": 0, "nodes": nodes, "edges": edges})).await;
    (calls, fake, pipeline)
}

/// Starts a task; answers its id and when that was asked for.
async fn start(user: &Client, pipeline: &str, who: &str) -> (String, Instant) {
    let asked = Instant::now();
    let body = json!({"pipelineId": pipeline, "input": {"who": who}});
    let task = user.post("/api/v1/tasks", body).await.expect(202);
    (task["id"].as_str().unwrap().to_owned(), asked)
}

async fn users(app: &TestApp, count: usize) -> Vec<Client> {
    join_all((0..count).map(|_| app.register_user())).await
}

/// When each of `names` was called for, once all were.
async fn called(calls: &Calls, names: &[String]) -> HashMap<String, Instant> {
    wait_until("all were called for", Duration::from_secs(120), async || {
        let calls: HashMap<String, Instant> = calls.lock().unwrap().iter().rev().cloned().collect();
        names.iter().all(|name| calls.contains_key(name)).then_some(calls)
    })
    .await
}

fn median(mut spans: Vec<Duration>) -> Duration {
    spans.sort();
    spans[spans.len() / 2]
}

/// One user queues a thousand tasks at `first`, then twenty others one each at `second`.
async fn a_thousand_before_twenty(app: &TestApp, second: &str) {
    let (calls, _fake, pipeline) = drawn(app, "draw", CALL).await;
    let (idle_calls, _idle_fake, idle_pipeline) = drawn(app, "idle", Duration::ZERO).await;
    let greedy = app.register_user().await;
    let others: Vec<Client> = users(app, 20).await.iter().map(|user| user.at(second)).collect();

    // how long a task takes to its first call where nothing else is to be done
    let mut idle = Vec::new();
    for (number, other) in others.iter().take(5).enumerate() {
        let name = format!("idle {number}");
        let (task, asked) = start(other, &idle_pipeline, &name).await;
        other.final_task(&task).await;
        idle.push(called(&idle_calls, std::slice::from_ref(&name)).await[&name] - asked);
    }
    let idle = median(idle);

    let queue = async |number: usize| drop(start(&greedy, &pipeline, &format!("greedy {number}")).await);
    stream::iter(0..1_000).for_each_concurrent(16, queue).await;
    let names: Vec<String> = (1..=20).map(|number| format!("other {number}")).collect();
    let before = calls.lock().unwrap().len();
    assert!(before < 600, "{before} of a thousand tasks ran while they were queued");
    let mut asked = HashMap::new();
    for (user, name) in others.iter().zip(&names) {
        asked.insert(name.clone(), start(user, &pipeline, name).await.1);
    }
    let called = called(&calls, &names).await;
    // a call, as long as its slot is held on this machine
    let arrivals: Vec<Instant> = calls.lock().unwrap()[before..].iter().map(|(_, at)| *at).collect();
    let call = median(
        arrivals.windows(CEILING as usize + 1).map(|calls| *calls.last().unwrap() - calls[0]).collect(),
    );
    assert!(call < CALL * 3, "a slot is held for {call:?} by a call of {CALL:?}");

    let mut waits: Vec<(Instant, Duration)> =
        names.iter().map(|name| (called[name], called[name] - asked[name])).collect();
    waits.sort();
    for (number, (_, wait)) in (1_u32..).zip(&waits) {
        let most = idle * 2 + call * (number.div_ceil(CEILING) + 1);
        assert!(*wait <= most, "number {number} waited {wait:?}, {most:?} at most; idle {idle:?}, {waits:?}");
    }
}

#[actix_web::test]
async fn nobody_waits_behind_the_thousand_tasks_of_another() {
    let builder = TestApp::builder().env("GREENROOM__LIMITS__RUNNING_PER_USER", 0);
    let app = builder.may_leave_work().start().await;
    let here = app.service.url.clone();
    a_thousand_before_twenty(&app, &here).await;
}

#[actix_web::test]
async fn nobody_waits_behind_the_thousand_tasks_that_another_has_queued_at_another_replica() {
    let builder = TestApp::builder().env("GREENROOM__LIMITS__RUNNING_PER_USER", 0);
    let app = builder.may_leave_work().start().await;
    let second = app.second_replica().await;
    a_thousand_before_twenty(&app, &second.url).await;
}

/// Makes `user` a member of no particular plan.
async fn join(app: &TestApp, user: &Client) {
    let join = "update users set membership_expires_at = now() + interval '1 day' where id = $1::text::uuid";
    assert_eq!(app.sql().await.execute(join, &[&user.id]).await.unwrap(), 1);
}

#[actix_web::test]
async fn members_go_first_and_guests_do_not_starve() {
    let builder = TestApp::builder().env("GREENROOM__LIMITS__RUNNING_PER_USER", 0);
    let app = builder.start().await;
    let (calls, fake, pipeline) = drawn(&app, "draw", Duration::from_millis(100)).await;
    let users = users(&app, 2).await;
    let (guest, member) = (&users[0], &users[1]);
    join(&app, member).await;
    // one call at a time, and none until all are queued
    let mut provider = fake.definition("draw");
    provider["maxConcurrency"] = json!(1);
    provider["enabled"] = json!(false);
    provider["whenDisabled"] = json!("hold");
    app.put_provider(provider.clone()).await;
    for number in 0..12 {
        start(guest, &pipeline, &format!("guest {number}")).await;
    }
    for number in 0..12 {
        start(member, &pipeline, &format!("member {number}")).await;
    }
    provider["enabled"] = json!(true);
    app.put_provider(provider).await;
    for client in [guest, member] {
        wait_until("all have ended", Duration::from_secs(60), async || {
            let done = client.get("/api/v1/tasks?status=succeeded&limit=100").await.expect(200);
            (done["items"].as_array().map(Vec::len) == Some(12)).then_some(())
        })
        .await;
    }
    let order: Vec<String> = calls.lock().unwrap().iter().map(|(who, _)| who.clone()).collect();
    let expected = (0..4).flat_map(|round| {
        let members = (3 * round..3 * round + 3).map(|number| format!("member {number}"));
        members.chain([format!("guest {round}")])
    });
    let expected: Vec<String> = expected.chain((4..12).map(|number| format!("guest {number}"))).collect();
    // one is taken while the one before it is called: on a busy machine these two may change places
    for (place, who) in expected.iter().enumerate() {
        let came = order.iter().position(|it| it == who).unwrap();
        assert!(came.abs_diff(place) <= 1, "{who}: {order:?}");
    }
    assert_eq!(order.len(), expected.len());
}

#[actix_web::test]
async fn replicas_take_no_more_than_the_provider_can_serve() {
    let app = TestApp::builder().env("GREENROOM__LIMITS__RUNNING_PER_USER", 0).start().await;
    let others = [app.second_replica().await, app.second_replica().await];
    let (calls, _fake, pipeline) = drawn(&app, "draw", Duration::from_millis(100)).await;
    let user = app.register_user().await;
    let at = [user.clone(), user.at(&others[0].url), user.at(&others[1].url)];
    let sql = app.sql().await;
    let queued = join_all((0..120).map(|number| start(&at[number % 3], &pipeline, "one"))).map(drop);
    let watch = async {
        let mut most = 0_i64;
        while calls.lock().unwrap().len() < 120 {
            // one snapshot: what is taken and has made no call yet, and the slots that wait for it
            let taken = "select (select count(*) from tasks where status = 'queued' and owner is not null)
                 - (select count(*) from provider_slots where provider = 'draw' and attempt is null)";
            most = most.max(sql.query_one(taken, &[]).await.unwrap().get(0));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        most
    };
    let ((), most) = tokio::join!(queued, tokio::time::timeout(Duration::from_secs(60), watch));
    let most = most.expect("all are called for");
    assert!(most <= i64::from(CEILING), "{most} tasks more than could leave were taken");
    wait_until("all have ended", Duration::from_secs(20), async || {
        let left = "select count(*) from tasks where status <> 'succeeded'";
        (app.count(left).await == 0).then_some(())
    })
    .await;
}

#[actix_web::test]
async fn a_free_slot_goes_to_who_waits_longest_on_whatever_replica() {
    let app = TestApp::builder().env("GREENROOM__LIMITS__RUNNING_PER_USER", 0).start().await;
    let other = app.second_replica().await;
    let (_, wide, _) = drawn(&app, "wide", Duration::ZERO).await;
    let (_, narrow, _) = drawn(&app, "narrow", Duration::from_millis(150)).await;
    let mut provider = narrow.definition("narrow");
    provider["maxConcurrency"] = json!(1);
    app.put_provider(provider).await;
    let mut provider = wide.definition("wide");
    provider["maxConcurrency"] = json!(50);
    app.put_provider(provider).await;
    // all are let through the first step, and then wait where they are
    let step =
        |id: &str| json!({"id": id, "type": "provider", "provider": id, "input": {"who": "{{ input.who }}"}});
    let nodes = json!([
        {"id": "start", "type": "start"}, step("wide"), step("narrow"), {"id": "end", "type": "end", "output": {}}]);
    let edges = json!([["start", "wide"], ["wide", "narrow"], ["narrow", "end"]]);
    let definition = json!({"name": "Two steps", "quotaCost": 0, "nodes": nodes, "edges": edges});
    let pipeline = app.publish_pipeline(definition).await;
    let user = app.register_user().await;
    let at = [user.clone(), user.at(&other.url)];
    for number in 0..24 {
        start(&at[number % 2], &pipeline, "one").await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
    wait_until("all have ended", Duration::from_secs(60), async || {
        (app.count("select count(*) from tasks where status = 'succeeded'").await == 24).then_some(())
    })
    .await;
    let replicas = "select count(distinct owner) from step_attempts where provider_id = 'narrow'";
    assert_eq!(app.count(replicas).await, 2, "both replicas have called");
    // milliseconds since when each waited, in the order in which they left
    let order = "select (extract(epoch from w.finished_at) * 1000)::bigint from step_attempts n
        join step_attempts w on w.task_id = n.task_id and w.provider_id = 'wide'
        where n.provider_id = 'narrow' order by n.started_at";
    let since: Vec<i64> =
        app.sql().await.query(order, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    // replicas know of each other's calls what was last written: beside other tests that may be old
    let most = if is_alone() { 600 } else { 2_000 };
    for (number, later) in since.iter().enumerate() {
        let overtaken = since[number..].iter().map(|earlier| later - earlier).max().unwrap();
        assert!(overtaken < most, "a call overtook one that had waited for {overtaken} ms more: {since:?}");
    }
}
