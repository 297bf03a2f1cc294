//! The real service, killed amid work: everything becomes final, nothing is done that is not recorded.

use crate::support::{Answer, Client, FakeProvider, Service, TestApp, wait_until};
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use std::{collections::HashMap, time::Duration};

/// Long: machines under test are busy, and calls cut by a death wait for their deadline.
const PATIENCE: Duration = Duration::from_secs(100);
const TASKS: usize = 200;

/// Two branches and a step behind them.
fn definition() -> Value {
    let call = |id: &str| json!({"id": id, "type": "provider", "provider": "draw", "input": {"node": id}});
    json!({
        "name": "Killed", "quotaCost": 2,
        "nodes": [
            {"id": "start", "type": "start"}, {"id": "fan", "type": "fork"}, call("left"), call("right"),
            {"id": "gather", "type": "join", "strategy": "ALL"}, call("last"),
            {"id": "end", "type": "end", "output": {"seen": "{{ steps.last.seen }}"}}],
        "edges": [["start", "fan"], ["fan", "left"], ["fan", "right"], ["left", "gather"], ["right", "gather"],
                  ["gather", "last"], ["last", "end"]]
    })
}

struct Ground {
    app: TestApp,
    fake: FakeProvider,
    users: Vec<Client>,
    pipeline: String,
}

async fn ground() -> Ground {
    let app = TestApp::builder()
        .env("GREENROOM__PIPELINE__LEASE_MS", 1_500)
        .env("GREENROOM__LIMITS__RUNNING_PER_USER", 0)
        .start()
        .await;
    let fake = FakeProvider::start(|call| {
        Answer::json(json!({"seen": call.number})).after(Duration::from_millis(30 + call.number as u64 % 50))
    })
    .await;
    let mut provider = fake.definition("draw");
    provider["maxConcurrency"] = json!(20);
    provider["timeoutMs"] = json!(3_000);
    provider["retry"] = json!({"maxAttempts": 5, "backoffMs": 50});
    app.put_provider(provider).await;
    let pipeline = app.publish_pipeline(definition()).await;
    let mut users = Vec::new();
    for _ in 0..4 {
        let user = app.register_user().await;
        app.grant(&user, 1_000).await;
        users.push(user);
    }
    Ground { app, fake, users, pipeline }
}

impl Ground {
    async fn start_tasks(&self) {
        let starts = (0..TASKS).map(|number| {
            let user = &self.users[number % self.users.len()];
            let body = json!({"pipelineId": self.pipeline, "input": {}});
            async move { user.post("/api/v1/tasks", body).await.expect(202) }
        });
        stream::iter(starts).buffer_unordered(16).collect::<Vec<_>>().await;
    }

    async fn finished(&self) -> i64 {
        self.app.count("select count(*) from tasks where status not in ('queued', 'running')").await
    }

    async fn until_finished(&self, count: i64) {
        wait_until(&format!("{count} tasks are final"), PATIENCE, async || {
            (self.finished().await >= count).then_some(())
        })
        .await;
    }

    /// Every task succeeded and cost what it should; every call that reached the provider is an attempt.
    async fn expect_all_right(&self) {
        self.until_finished(TASKS as i64).await;
        let succeeded = self.app.count("select count(*) from tasks where status = 'succeeded'").await;
        assert_eq!(succeeded, TASKS as i64);
        let charged = self.app.count("select sum(charged)::bigint from quota_transactions").await;
        assert_eq!(charged, 2 * TASKS as i64);
        let mut calls: HashMap<String, i64> = HashMap::new();
        for call in self.fake.calls() {
            *calls.entry(call.key().to_owned()).or_default() += 1;
        }
        let sql = self.app.sql().await;
        let rows = "select idempotency_key, count(*) from step_attempts group by idempotency_key";
        let attempts: HashMap<String, i64> =
            sql.query(rows, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect();
        for (key, calls) in calls {
            let attempts = attempts.get(&key).copied().unwrap_or(0);
            assert!(calls <= attempts, "{key}: {calls} calls, {attempts} attempts");
        }
        assert!(self.fake.most_in_flight() <= 20, "{}", self.fake.most_in_flight());
    }
}

#[actix_web::test]
async fn after_kill_9_amid_200_running_tasks_all_become_final_and_nothing_is_done_twice() {
    let mut ground = ground().await;
    ground.start_tasks().await;
    for finished in [20, 80] {
        ground.until_finished(finished).await;
        ground.app.service.kill9();
        assert!(ground.finished().await < TASKS as i64, "it was killed too late to prove anything");
        ground.app.service.start_again().await;
    }
    ground.expect_all_right().await;
    let cut = ground.app.count("select count(*) from step_attempts where status = 'unknown'").await;
    assert!(cut > 0, "no call was cut");
}

#[actix_web::test]
async fn a_replica_takes_over_what_another_one_that_was_killed_had() {
    let ground = ground().await;
    let mut second = ground.app.second_replica().await;
    ground.start_tasks().await;
    ground.until_finished(30).await;
    second.kill9();
    ground.expect_all_right().await;
}

#[actix_web::test]
async fn a_replica_that_is_asked_to_end_cuts_no_call_and_leaves_its_tasks_to_others() {
    let ground = ground().await;
    let mut second: Service = ground.app.second_replica().await;
    ground.start_tasks().await;
    ground.until_finished(30).await;
    let ended = second.term().await;
    assert!(ended.success(), "{ended:?}");
    assert_eq!(ground.app.count("select count(*) from replicas").await, 1);
    ground.expect_all_right().await;
    let cut = ground.app.count("select count(*) from step_attempts where status = 'unknown'").await;
    assert_eq!(cut, 0);
    assert_eq!(ground.fake.calls().len(), 3 * TASKS);
}
