//! Tasks go from one replica to another: when one sleeps for too long, when one after the other is replaced; and they
//! stay where they are when it is PostgreSQL that was away.

use super::cluster::{Cluster, LEASE, Wishes, chain, fork};
use crate::support::{Answer, Client, Cutter, Socket, eventually, wait_until};
use serde_json::{Value, json};
use std::{
    cell::Cell,
    time::{Duration, Instant},
};

#[actix_web::test]
async fn nothing_lands_of_what_a_replica_writes_that_slept_for_three_leases() {
    const TASKS: usize = 6;
    let provider = json!({"maxConcurrency": 20, "timeoutMs": 4_000});
    let definition = chain(&["one", "two"]);
    let wishes = Wishes { users: 1, provider, definition, ..Wishes::default() };
    // the first call of each node outlasts the moment in which its replica falls asleep
    let mut cluster = Cluster::start(wishes, |call| {
        let is_first = call.headers["x-attempt"] == "1" && call.json()["node"] == "one";
        Answer::json(json!({})).after(Duration::from_millis(if is_first { 1_000 } else { 20 }))
    })
    .await;
    let sleeper = cluster.owner(1).await;
    let user = cluster.users[0].clone();
    for _ in 0..TASKS {
        cluster.start_task(&user, 1).await;
    }
    let away = format!("select count(*) from step_attempts where status = 'running' and owner = '{sleeper}'");
    let asleep = eventually("calls of the sleeper are away", async || {
        let all = cluster.fake.calls().len() == TASKS;
        (all && cluster.app.count(&away).await > 0).then(Instant::now)
    })
    .await;
    cluster.replicas[1].signal("STOP");
    cluster.until_all_final().await;
    tokio::time::sleep_until((asleep + 3 * LEASE).into()).await;

    let rows = "select jsonb_build_array(
        (select jsonb_agg(to_jsonb(t) order by id) from tasks t),
        (select jsonb_agg(to_jsonb(s) order by task_id, node_id) from task_steps s),
        (select jsonb_agg(to_jsonb(a) order by id) from step_attempts a),
        (select jsonb_agg(to_jsonb(s) order by slot) from provider_slots s),
        (select jsonb_agg(to_jsonb(q) order by id) from quota_transactions q),
        (select jsonb_agg(to_jsonb(e) order by user_id, final_no) from final_events e),
        (select jsonb_agg(to_jsonb(u) order by id) from users u))";
    let sql = cluster.app.sql().await;
    let rows = async || sql.query_one(rows, &[]).await.unwrap().get::<_, Value>(0);
    let before = rows().await;
    let is_back = format!("select count(*) from replicas where owner = '{sleeper}'");
    assert_eq!(cluster.app.count(&is_back).await, 0, "it was given up");
    cluster.replicas[1].signal("CONT");
    wait_until("the sleeper has its row again", LEASE * 5, async || {
        (cluster.app.count(&is_back).await == 1).then_some(())
    })
    .await;
    let dropped = "a task was taken over or ended elsewhere";
    eventually("the sleeper has dropped its tasks", async || {
        (cluster.replicas[1].log().contains(dropped)
            && cluster.replicas[1].metric("greenroom_tasks_running", &[]).await == 0.0)
            .then_some(())
    })
    .await;
    assert_eq!(rows().await, before, "what it wrote has landed");

    // what it had in flight was unknown, and was repeated with its key when its deadline was over
    let cut = "select count(*) from step_attempts where status = 'unknown' and cause = 'first'";
    let cut = cluster.app.count(cut).await;
    assert!(cut > 0);
    let repeated =
        "select count(*) from step_attempts a join step_attempts b using (task_id, node_id, idempotency_key)
        where a.attempt = 1 and b.attempt = 2 and b.cause = 'crash' and b.started_at >= a.deadline_at
        and a.status = 'unknown' and b.status = 'succeeded'";
    assert_eq!(cluster.app.count(repeated).await, cut);
    assert_eq!(cluster.expect_effects_as_recorded().await, 0);

    // and it carries on
    assert!(cluster.replicas[0].term().await.success());
    cluster.app.service.url.clone_from(&cluster.replicas[1].url);
    let task = cluster.start_task(&user, 1).await;
    let task = user.at(&cluster.replicas[1].url).final_task(&task).await;
    assert_eq!(task["status"], "succeeded", "{task:#}");
}

#[actix_web::test]
async fn replicas_are_replaced_one_by_one_and_nobody_notices() {
    let provider = json!({"maxConcurrency": 20, "timeoutMs": 10_000});
    let wishes = Wishes { replicas: 3, users: 3, provider, definition: fork(), ..Wishes::default() };
    let mut cluster = Cluster::start(wishes, |call| {
        Answer::json(json!({})).after(Duration::from_millis(50 + call.number as u64 % 100))
    })
    .await;
    let (balancer, pipeline, users) =
        (cluster.balancer.clone(), cluster.pipeline.clone(), cluster.users.clone());
    let is_over = Cell::new(false);
    let replace = async {
        for number in 0..3 {
            tokio::time::sleep(Duration::from_millis(700)).await;
            let ended = cluster.replicas[number].term().await;
            assert!(ended.success(), "{ended:?}");
            cluster.start_again(number).await;
        }
        tokio::time::sleep(Duration::from_millis(700)).await;
        is_over.set(true);
    };
    // a balancer that has not noticed sends a request to the replica that is gone: the client connects once more
    let ask = async |user: &Client, key: Option<String>| {
        let mut tries = 0;
        let mut silent = String::new();
        loop {
            tries += 1;
            let user = user.at(&balancer.other_than(&silent));
            let reply = match &key {
                Some(key) => {
                    let body = json!({"pipelineId": pipeline, "input": {}});
                    user.post_with_key("/api/v1/tasks", key, body).await
                }
                None => user.get("/api/v1/users/me/quota").await,
            };
            if reply.status == 0 && tries == 1 {
                silent = user.url;
                continue;
            }
            assert!(matches!(reply.status, 200 | 202), "try {tries} of a request at {}: {reply:?}", user.url);
            return tries - 1;
        }
    };
    let load = |worker: usize| {
        let (user, is_over, ask) = (&users[worker % 3], &is_over, &ask);
        async move {
            let (mut tasks, mut retries) = (0, 0);
            while !is_over.get() {
                retries += ask(user, Some(format!("{worker}-{tasks}"))).await;
                retries += ask(user, None).await;
                tasks += 1;
                tokio::time::sleep(Duration::from_millis(150)).await;
            }
            (tasks, retries)
        }
    };
    let loads = futures_util::future::join_all((0..6).map(load));
    let (worked, ()) = futures_util::join!(loads, replace);
    let (tasks, retries) = worked.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    println!("{tasks} tasks, {retries} connections made again");
    cluster.until_all_final().await;
    let succeeded = "select count(*) from tasks where status = 'succeeded'";
    assert_eq!(cluster.app.count(succeeded).await, tasks);
    let others = "select coalesce(string_agg(to_jsonb(a)::text, e'\\n'), '') from step_attempts a
         where attempt > 1 or status <> 'succeeded'";
    let others: String = cluster.app.sql().await.query_one(others, &[]).await.unwrap().get(0);
    assert_eq!(others, "", "calls were repeated");
    assert_eq!(cluster.app.count("select count(*) from step_attempts").await, 3 * tasks);
    assert_eq!(cluster.expect_effects_as_recorded().await, 0);
}

/// Two replicas with a live run each, and a line to PostgreSQL for each of them.
async fn two_with_live_runs(lines: &[Cutter], own_postgres: bool) -> Cluster {
    let provider = json!({"maxConcurrency": 20, "timeoutMs": 30_000});
    let wishes = Wishes { users: 1, provider, own_postgres, ..Wishes::default() };
    let cluster = Cluster::behind(lines, wishes, |_| Answer::json(json!({})).after(5 * LEASE)).await;
    cluster.note_takeovers().await;
    // both would take over what the other one left
    wait_until("both are well", 5 * LEASE, async || {
        let well = format!(
            "select count(*) from replicas where started_at < clock_timestamp() - interval '{} ms'",
            LEASE.as_millis()
        );
        (cluster.app.count(&well).await == 2).then_some(())
    })
    .await;
    // a replica may be quicker than the other one at taking all of them
    for number in 0.. {
        cluster.start_task(&cluster.users[0], number % 2).await;
        let calls = number + 1;
        eventually("the provider is called", async || (cluster.fake.calls().len() == calls).then_some(()))
            .await;
        let owners = "select count(distinct owner) from step_attempts where status = 'running'";
        if cluster.app.count(owners).await == 2 {
            break;
        }
        assert!(calls < 20, "one replica takes everything");
    }
    cluster
}

/// That what ran has gone on where it was.
async fn expect_nothing_stolen(cluster: &Cluster) {
    cluster.until_all_final().await;
    let stolen = cluster.app.count("select count(*) from takeovers").await;
    let again =
        cluster.app.count("select count(*) from tasks where lease_no > 1 or status <> 'succeeded'").await;
    assert_eq!((stolen, again), (0, 0), "tasks that were taken over, or ran twice");
    assert_eq!(cluster.app.count("select count(*) from burials").await, 0, "a living replica was given up");
    let repeated = "select (select count(*) from step_attempts) - (select count(*) from tasks)";
    assert_eq!(cluster.app.count(repeated).await, 0, "calls that were repeated");
    assert_eq!(cluster.expect_effects_as_recorded().await, 0);
}

#[actix_web::test]
async fn after_an_outage_of_postgresql_every_replica_goes_on_with_what_it_had() {
    let cluster = two_with_live_runs(&[], true).await;
    cluster.app.postgres.with(|postgres| postgres.kill()).await;
    tokio::time::sleep(2 * LEASE).await;
    cluster.app.postgres.with(|postgres| postgres.start_again().unwrap()).await;
    expect_nothing_stolen(&cluster).await;
}

#[actix_web::test]
async fn when_postgresql_is_heard_again_by_one_replica_first_it_waits_for_the_others() {
    let lines = [Cutter::default(), Cutter::default()];
    let cluster = two_with_live_runs(&lines, false).await;
    // nobody is told of anything: what was sent arrives when the line is mended
    for line in &lines {
        line.held.send_replace(true);
    }
    tokio::time::sleep(2 * LEASE).await;
    lines[0].held.send_replace(false);
    tokio::time::sleep(LEASE / 2).await;
    lines[1].held.send_replace(false);
    expect_nothing_stolen(&cluster).await;
}

#[actix_web::test]
async fn a_task_is_created_on_one_run_on_another_watched_on_a_third_and_cancelled_on_a_fourth() {
    let provider = json!({"maxConcurrency": 20, "timeoutMs": 60_000});
    let environment = vec![("GREENROOM__LIMITS__RUNNING_PER_USER", "1".to_owned())];
    let wishes = Wishes { replicas: 4, users: 1, provider, environment, ..Wishes::default() };
    let never = Duration::from_secs(3_600);
    let cluster = Cluster::start(wishes, move |_| Answer::json(json!({})).after(never)).await;
    let user = &cluster.users[0];
    let runs_on = async |task: &str| {
        let label = "select r.label from tasks t join replicas r on r.owner = t.owner
                     join step_attempts a on a.task_id = t.id and a.status = 'running' where t.id = $1::text::uuid";
        let label = cluster.app.sql().await.query_opt(label, &[&task]).await.unwrap();
        label.map(|row| row.get::<_, String>(0).parse::<usize>().unwrap())
    };
    // the task of a user who has one running waits, and is run by whoever is first when that one ends
    let mut created_on = 0;
    let (task, runner) = loop {
        let first = cluster.start_task(user, (created_on + 1) % 4).await;
        let place = eventually("the first one runs", async || runs_on(&first).await).await;
        created_on = (place + 1) % 4;
        let task = cluster.start_task(user, created_on).await;
        let cancel = format!("/api/v1/tasks/{first}/cancel");
        user.at(&cluster.replicas[place].url).post(&cancel, json!({})).await.expect(202);
        let runner = eventually("the task runs", async || runs_on(&task).await).await;
        if runner != created_on {
            break (task, runner);
        }
        let cancel = format!("/api/v1/tasks/{task}/cancel");
        user.at(&cluster.replicas[runner].url).post(&cancel, json!({})).await.expect(202);
    };
    let rest: Vec<usize> = (0..4).filter(|number| ![created_on, runner].contains(number)).collect();
    let (watched_on, cancelled_on) = (&cluster.replicas[rest[0]], &cluster.replicas[rest[1]]);

    let path = format!("/api/v1/tasks/{task}");
    for replica in &cluster.replicas {
        assert_eq!(user.at(&replica.url).get(&path).await.expect(200)["status"], "running");
    }
    let mut socket = Socket::open(&user.at(&watched_on.url)).await;
    user.at(&cancelled_on.url).post(&format!("{path}/cancel"), json!({})).await.expect(202);
    let told = socket.read_until(|frame| frame["event"] == "task.finished").await;
    let told = told.last().unwrap();
    assert_eq!((&told["taskId"], &told["data"]["status"]), (&json!(task), &json!("cancelled")), "{told:#}");
    for replica in &cluster.replicas {
        assert_eq!(user.at(&replica.url).get(&path).await.expect(200)["status"], "cancelled");
    }
    // its run is gone, wherever it was
    eventually("nobody runs it", async || {
        let runs = cluster.replicas[runner].metric("greenroom_tasks_running", &[]).await;
        (runs == 0.0).then_some(())
    })
    .await;
    let quota = user.at(&cluster.replicas[created_on].url).get("/api/v1/users/me/quota").await.expect(200);
    assert_eq!((&quota["remaining"], &quota["reserved"]), (&json!(1_000_000), &json!(0)));
}
