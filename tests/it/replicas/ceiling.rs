//! A provider's ceiling, over replicas: never more calls under way than it allows, and hardly ever fewer while work
//! waits. A slot that is freed is handed on at once; one that were looked for would stand empty too long.

use super::cluster::{Clock, Cluster, LEASE, Wishes};
use crate::support::{Answer, Span, eventually, is_alone};
use chrono::{DateTime, Utc};
use serde_json::json;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

const TASKS: usize = 40;
const CEILING: usize = 5;
const LASTING: Duration = Duration::from_millis(500);

/// The least calls under way, on average, while work waits: what is promised on a machine that has nothing else to do
/// (`GREENROOM_TEST_ALONE=1`), and beside other tests what calls that are forgotten would not reach.
fn least() -> f64 {
    if is_alone() { 4.5 } else { 2.5 }
}

/// A busy machine may be slow at handing on, which a slot that is looked for always is.
const ROUNDS: usize = 3;

async fn cluster() -> Cluster {
    let provider = json!({"maxConcurrency": CEILING, "timeoutMs": 2_500});
    let wishes = Wishes { users: 4, own_redis: true, provider, ..Wishes::default() };
    Cluster::start(wishes, |_| Answer::json(json!({})).after(LASTING)).await
}

async fn start_tasks(cluster: &Cluster) {
    let starts = (0..TASKS).map(|number| cluster.start_task(&cluster.users[number % 4], number / 4 % 2));
    futures_util::future::join_all(starts).await;
}

/// A slot whose holder has died.
struct DeadSlot {
    from: Instant,
    until: Instant,
}

/// What a task waited for: from one moment to the next, a call that a living replica could have let go.
type Waited = (Instant, Instant);

/// Calls under way while work waits, on average; slots of the dead do not count until their deadline.
fn average(spans: &[Span], waited: &[Waited], dead: &[DeadSlot]) -> f64 {
    let is_in = |at: Instant, from: Instant, until: Instant| from <= at && at < until;
    let begin = waited.iter().map(|(from, _)| *from).min().unwrap();
    let end = waited.iter().map(|(_, until)| *until).max().unwrap();
    let (mut busy, mut room) = (0, 0);
    let mut at = begin;
    while at < end {
        if waited.iter().any(|(from, until)| is_in(at, *from, *until)) {
            busy += spans.iter().filter(|span| is_in(at, span.began, span.ended.unwrap())).count();
            room += CEILING - dead.iter().filter(|slot| is_in(at, slot.from, slot.until)).count();
        }
        at += Duration::from_millis(1);
    }
    busy as f64 / room as f64 * CEILING as f64
}

/// The most calls at once, of which a cut one goes on at the provider for as long as it lasts.
fn most_at_once(spans: &[Span]) -> usize {
    let end = |span: &Span| span.ended.unwrap().max(span.began + LASTING);
    let at_once = |at: Instant| spans.iter().filter(|span| span.began <= at && at < end(span)).count();
    spans.iter().map(|span| at_once(span.began)).max().unwrap()
}

#[actix_web::test]
async fn slots_are_handed_on_at_once_and_never_too_many() {
    let cluster = cluster().await;
    let mut averages = Vec::new();
    while averages.last().is_none_or(|average| *average < least()) {
        assert!(averages.len() < ROUNDS, "calls under way on average: {averages:?}");
        let before = cluster.fake.spans().len();
        start_tasks(&cluster).await;
        let accepted = Instant::now();
        cluster.until_all_final().await;
        let spans = cluster.fake.spans().split_off(before);
        assert_eq!(spans.len(), TASKS);
        assert!(most_at_once(&spans) <= CEILING);
        let last = spans.iter().map(|span| span.began).max().unwrap();
        averages.push(average(&spans, &[(accepted, last)], &[]));
    }
    println!("calls under way on average: {averages:?}");
    let by_each = "select count(distinct owner) from step_attempts";
    assert_eq!(cluster.app.count(by_each).await, 2, "both replicas have worked");
}

#[actix_web::test]
async fn a_ceiling_holds_while_redis_is_flushed_and_a_replica_dies() {
    let mut averages = Vec::new();
    while averages.last().is_none_or(|average| *average < least()) {
        assert!(averages.len() < ROUNDS, "calls under way on average: {averages:?}");
        averages.push(flushed_and_killed().await);
    }
    println!("calls under way on average: {averages:?}");
}

async fn flushed_and_killed() -> f64 {
    let mut cluster = cluster().await;
    cluster.note_takeovers().await;
    start_tasks(&cluster).await;
    let accepted = Instant::now();
    let sql = cluster.app.sql().await;
    let clock = Clock::read(&sql).await;
    let mut redis = cluster.app.redis_connection().await;
    tokio::time::sleep(LASTING).await;
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    tokio::time::sleep(LASTING / 2).await;
    let busiest = "select r.label, r.owner from step_attempts a join replicas r using (owner)
                   where a.status = 'running' group by r.owner order by count(*) desc limit 1";
    let busiest = eventually("calls are away", async || sql.query_opt(busiest, &[]).await.unwrap()).await;
    let (victim, dead): (String, uuid::Uuid) = (busiest.get(0), busiest.get(1));
    let victim: usize = victim.parse().unwrap();
    cluster.replicas[victim].kill9();
    let killed = Instant::now();
    let held = "select s.held_until from provider_slots s join step_attempts a on a.id = s.attempt
                where a.owner = $1 and a.status = 'running'";
    let held: Vec<DeadSlot> = sql
        .query(held, &[&dead])
        .await
        .unwrap()
        .iter()
        .map(|row| DeadSlot { from: killed, until: clock.here(row.get(0)) })
        .collect();
    assert!(!held.is_empty(), "the dead one was calling nobody");
    redis::cmd("FLUSHALL").exec_async(&mut redis).await.unwrap();
    cluster.until_all_final().await;

    let spans = cluster.fake.spans();
    assert!(most_at_once(&spans) <= CEILING, "{}", most_at_once(&spans));
    assert!(cluster.fake.most_in_flight() <= CEILING);
    cluster.expect_effects_as_recorded().await;
    let early = "select count(*) from step_attempts a join step_attempts b using (task_id, node_id)
                 where b.attempt = a.attempt + 1 and b.started_at < a.deadline_at";
    assert_eq!(cluster.app.count(early).await, 0, "a cut call was repeated before its deadline");

    // when the calls of each task began at the provider, in their order
    let mut begun: HashMap<String, Vec<Instant>> = HashMap::new();
    for (call, span) in cluster.fake.calls().iter().zip(&spans) {
        begun.entry(call.key().to_owned()).or_default().push(span.began);
    }
    let tasks = "select t.id || ':draw', o.at, a.deadline_at from tasks t
                 left join takeovers o on o.task = t.id
                 left join step_attempts a on a.task_id = t.id and a.status = 'unknown'";
    let mut waited: Vec<Waited> = Vec::new();
    for row in sql.query(tasks, &[]).await.unwrap() {
        let begun = &begun[&row.get::<_, String>(0)];
        let [takeover, deadline] =
            [1, 2].map(|at| row.get::<_, Option<DateTime<Utc>>>(at).map(|at| clock.here(at)));
        match (takeover, deadline) {
            // a living replica had it all the time
            (None, _) => waited.push((accepted, begun[0])),
            (Some(takeover), None) => waited.extend([(accepted, killed), (takeover, begun[0])]),
            // its call was cut: it waits for that one's deadline, which is no waiting for a slot
            (Some(takeover), Some(deadline)) => {
                let again = takeover.max(deadline);
                let last = *begun.last().unwrap();
                waited.push((accepted, begun[0].min(killed)));
                waited.push((again.min(last), last));
            }
        }
    }
    let expiry =
        "select count(*) from takeovers o join burials b on b.owner = o.dead where o.at < b.expires_at";
    assert_eq!(cluster.app.count(expiry).await, 0, "taken over before the lease of {LEASE:?} was over");
    cluster.start_again(victim).await;
    average(&spans, &waited, &held)
}
