//! One of three replicas is killed under load, again and again: no task is lost, nothing is done that is not
//! recorded, and no client misses anything.

use super::cluster::{Cluster, LEASE, Watcher, Wishes, fork};
use crate::support::{Answer, is_alone, wait_until};
use futures_util::future::join_all;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{
    cell::{Cell, RefCell},
    time::Duration,
};

const DEATHS: usize = 10;
/// Tasks of a user that are under way at once.
const AT_ONCE: usize = 6;
/// How long after the end of a dead replica's lease its tasks may be left alone, seconds: what is promised, and what a
/// machine with other tests to run may make of it.
fn soon() -> f64 {
    if is_alone() { 1.0 } else { 10.0 }
}

/// The seed of this run; `GREENROOM_TEST_SEED` repeats another one.
fn seed() -> u64 {
    let given = std::env::var("GREENROOM_TEST_SEED").ok();
    given.map_or_else(rand::random, |seed| seed.parse().expect("GREENROOM_TEST_SEED is a number"))
}

#[actix_web::test]
async fn ten_deaths_at_random_moments_lose_nothing_and_repeat_nothing() {
    let seed = seed();
    println!("GREENROOM_TEST_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let provider = json!({
        "maxConcurrency": 20, "timeoutMs": 2_000, "retry": {"maxAttempts": 10, "backoffMs": 50},
    });
    let wishes = Wishes { replicas: 3, users: 3, provider, definition: fork(), ..Wishes::default() };
    let mut cluster = Cluster::start(wishes, |call| {
        Answer::json(json!({})).after(Duration::from_millis(50 + call.number as u64 * 37 % 200))
    })
    .await;
    cluster.note_takeovers().await;
    let (balancer, pipeline) = (cluster.balancer.clone(), cluster.pipeline.clone());
    let mut watchers = Vec::new();
    for user in &cluster.users {
        watchers.push(Watcher::open(user, &balancer).await);
    }
    let (is_over, finished) = (Cell::new(false), RefCell::new(vec![0; cluster.users.len()]));
    let users = cluster.users.clone();

    let work = |number: usize| {
        let (user, balancer, pipeline) = (&users[number], &balancer, &pipeline);
        let (is_over, finished) = (&is_over, &finished);
        async move {
            let mut accepted = 0;
            while !is_over.get() {
                if accepted - finished.borrow()[number] < AT_ONCE {
                    balancer.start_task(user, pipeline, &format!("task {accepted}")).await;
                    accepted += 1;
                } else {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            accepted
        }
    };
    let watch = |(number, mut watcher): (usize, Watcher)| {
        let (is_over, finished) = (&is_over, &finished);
        async move {
            while !is_over.get() {
                watcher.read().await;
                finished.borrow_mut()[number] = watcher.finished.len();
            }
            watcher
        }
    };
    let kill = async {
        let sql = cluster.app.sql().await;
        // whoever is to take over must live, and have been well for one lease
        let mut dead: Vec<uuid::Uuid> = Vec::new();
        let well = format!(
            "select count(*) from replicas where owner <> all($1) and expires_at > clock_timestamp()
             and steady_since < clock_timestamp() - interval '{} ms'",
            LEASE.as_millis()
        );
        for _ in 0..DEATHS {
            wait_until("two replicas are well", 10 * LEASE, async || {
                (sql.query_one(&well, &[&dead]).await.unwrap().get::<_, i64>(0) >= 2).then_some(())
            })
            .await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..1_000))).await;
            let number = random.random_range(0..3);
            let owner = "select owner from replicas where label = $1 order by started_at desc limit 1";
            dead.push(sql.query_one(owner, &[&number.to_string()]).await.unwrap().get(0));
            cluster.replicas[number].kill9();
            cluster.start_again(number).await;
        }
        tokio::time::sleep(LEASE).await;
        is_over.set(true);
    };
    let works = join_all((0..users.len()).map(work));
    let watches = join_all(watchers.into_iter().enumerate().map(watch));
    let (accepted, mut watchers, ()) = futures_util::join!(works, watches, kill);

    cluster.until_all_final().await;
    let accepted: usize = accepted.iter().sum();
    let tasks = "select count(*) from tasks";
    assert_eq!(
        cluster.app.count(tasks).await,
        accepted as i64,
        "an accepted task is missing, or was made twice"
    );
    // a task that died with three replicas in a row is ended for good
    let failed = "select count(*) from tasks where status <> 'succeeded'
                  and not (status = 'failed' and error ->> 'code' = 'TASK_POISONED')";
    assert_eq!(cluster.app.count(failed).await, 0);
    let unheard = cluster.expect_effects_as_recorded().await;
    for watcher in &mut watchers {
        watcher.expect_all_told(&cluster.app).await;
    }
    let cuts: usize = watchers.iter().map(|watcher| watcher.cuts).sum();
    assert!(cuts > 0, "no client lost its replica");

    let sql = cluster.app.sql().await;
    let late = "select count(*), coalesce(min(late), 0), coalesce(percentile_cont(0.5) within group (order by late), 0),
                       coalesce(max(late), 0)
                from (select extract(epoch from o.at - b.expires_at)::float8 as late
                      from takeovers o join burials b on b.owner = o.dead) as taken";
    let row = sql.query_one(late, &[]).await.unwrap();
    let (taken, least, median, most): (i64, f64, f64, f64) = (row.get(0), row.get(1), row.get(2), row.get(3));
    println!(
        "{accepted} tasks, {taken} taken over {least:.3} to {most:.3} s (median {median:.3}) after the lease, \
         {cuts} sockets lost, {unheard} calls cut before they were heard"
    );
    assert!(taken > 0, "the dead had no tasks");
    assert_eq!(
        cluster.app.count("select count(*) from takeovers").await,
        taken,
        "taken from one who was not given up"
    );
    assert!(least >= 0.0, "taken over {least} s before the lease was over");
    assert!(most <= soon(), "median {median} s, at most {most} s");
}
