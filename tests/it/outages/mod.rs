//! The plug is pulled: actors panic, PostgreSQL and Redis go away and come back, the process is killed.
//!
//! Each test keeps a service busy meanwhile and looks at two things: what clients are told while something is
//! away, and that afterwards every task is final and the audit clean (the [`TestApp`] checks that when dropped).

mod panics;
mod postgres;
mod redis;

use crate::support::{Answer, Client, FakeProvider, TestApp};
use serde_json::{Value, json};
use std::time::Duration;

/// A service with a pipeline of four calls at once, 50 ms each, and a user who can pay for `tasks` of them.
struct Busy {
    app: TestApp,
    provider: FakeProvider,
    user: Client,
    pipeline: String,
    tasks: i64,
}

impl Busy {
    async fn new(app: TestApp, tasks: i64) -> Self {
        let provider =
            FakeProvider::start(|_| Answer::json(json!({})).after(Duration::from_millis(50))).await;
        app.put_provider(json!({
            "id": "ai", "kind": "http", "baseUrl": provider.url, "maxConcurrency": 20, "timeoutMs": 5_000,
        }))
        .await;
        let pipeline = app.publish_pipeline(fork_of_four()).await;
        let user = app.register_user().await;
        app.grant(&user, tasks).await;
        Self { app, provider, user, pipeline, tasks }
    }

    /// Asks for all tasks, each under its own key, until each is accepted. Answers their ids.
    async fn start_all(&self) -> Vec<String> {
        let asks = (0..self.tasks).map(|number| async move {
            let body = json!({ "pipelineId": self.pipeline, "input": {} });
            crate::support::eventually("the task is accepted", async || {
                let key = format!("task {number}");
                let reply = self.user.post_with_key("/api/v1/tasks", &key, body.clone()).await;
                assert!(
                    matches!(reply.status, 0 | 202 | 409 | 503 | 504),
                    "while something is away a client is told to come back, and nothing else: {reply:?}"
                );
                (reply.status == 202).then(|| reply.json["id"].as_str().unwrap().to_owned())
            })
            .await
        });
        futures_util::future::join_all(asks).await
    }

    /// Every task succeeded, was paid for once, and the provider was called as often as the attempts say.
    async fn expect_all_done(&self, tasks: &[String]) {
        for task in tasks {
            let ended = self.user.final_task(task).await;
            assert_eq!(ended["status"], "succeeded", "{ended:#}");
        }
        let quota = self.user.get("/api/v1/users/me/quota").await.expect(200);
        assert_eq!((quota["remaining"].as_i64(), quota["reserved"].as_i64()), (Some(0), Some(0)));
        let attempts = self.app.count("select count(*) from step_attempts").await;
        assert!(i64::try_from(self.provider.calls().len()).unwrap() <= attempts, "a call without an attempt");
    }
}

fn fork_of_four() -> Value {
    let call = |id: &str| json!({ "id": id, "type": "provider", "provider": "ai" });
    let branches = ["a", "b", "c", "d"];
    let mut nodes = vec![json!({ "id": "start", "type": "start" }), json!({ "id": "fan", "type": "fork" })];
    nodes.extend(branches.map(call));
    nodes.push(json!({ "id": "gather", "type": "join", "strategy": "ALL" }));
    nodes.push(json!({ "id": "end", "type": "end", "output": {} }));
    let mut edges = vec![json!(["start", "fan"]), json!(["gather", "end"])];
    for branch in branches {
        edges.push(json!(["fan", branch]));
        edges.push(json!([branch, "gather"]));
    }
    json!({ "name": "Busy", "quotaCost": 1, "inputSchema": { "type": "object" }, "nodes": nodes, "edges": edges })
}
