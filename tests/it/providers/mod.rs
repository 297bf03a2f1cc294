//! Providers as the world has them, spoken to over real HTTP: some answer later, some misbehave, some must not be
//! asked twice. Each task ends as documented, with the quota right.

mod callbacks;
mod charges;
mod crashes;
mod jobs;
mod misbehaving;

use crate::support::{Answer, Call, Client, FakeProvider, Service, TestApp, eventually};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

/// What a task of these tests holds.
const COST: i64 = 3;

/// One step that calls the provider `draw`.
fn definition(more: Value) -> Value {
    let mut step = json!({"id": "draw", "type": "provider", "provider": "draw", "input": {"prompt": "rain"}});
    step.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "name": "Draw", "quotaCost": COST,
        "nodes": [{"id": "start", "type": "start"}, step,
                  {"id": "end", "type": "end", "output": {"seed": "{{ steps.draw.seed }}"}}],
        "edges": [["start", "draw"], ["draw", "end"]]
    })
}

/// A service with a provider `draw`, and a user who may start ten tasks that call it.
struct Ground {
    app: TestApp,
    user: Client,
    pipeline: String,
}

impl Ground {
    async fn start(provider: Value) -> Self {
        Self::with(provider, definition(json!({}))).await
    }

    async fn with(provider: Value, definition: Value) -> Self {
        // a short lease, for tests in which a replica dies
        let app = TestApp::builder().env("GREENROOM__PIPELINE__LEASE_MS", 1_500).start().await;
        app.put_provider(provider).await;
        let pipeline = app.publish_pipeline(definition).await;
        let user = app.register_user().await;
        app.grant(&user, 10 * COST).await;
        Self { app, user, pipeline }
    }

    async fn start_task(&self) -> String {
        let body = json!({"pipelineId": self.pipeline, "input": {}});
        self.user.post("/api/v1/tasks", body).await.expect(202)["id"].as_str().unwrap().to_owned()
    }

    /// The user at whatever address the service has by now.
    fn user(&self) -> Client {
        self.user.at(&self.app.service.url)
    }

    async fn ended(&self, task: &str) -> Value {
        self.user().final_task(task).await
    }

    /// What the user has left and what is held.
    async fn quota(&self) -> (i64, i64) {
        let quota = self.user().get("/api/v1/users/me/quota").await.expect(200);
        (quota["remaining"].as_i64().unwrap(), quota["reserved"].as_i64().unwrap())
    }

    /// Each attempt of a task: status, code of its error, why it was made.
    async fn attempts(&self, task: &str) -> Vec<(String, String, String)> {
        let rows = "select status, coalesce(error ->> 'code', ''), cause from step_attempts
                    where task_id = $1::text::uuid order by attempt";
        let rows = self.app.sql().await.query(rows, &[&task]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }

    /// Asserts that a task failed with `code` and that its quota came back.
    async fn expect_failed(&self, task: &str, code: &str) -> Value {
        let ended = self.ended(task).await;
        assert_eq!(
            (&ended["status"], &ended["error"]["code"]),
            (&json!("failed"), &json!(code)),
            "{ended:#}"
        );
        assert_eq!(ended["error"]["nodeId"], "draw");
        assert_eq!(self.quota().await, (10 * COST, 0));
        ended
    }

    async fn expect_seed(&self, task: &str, seed: i64) {
        let ended = self.ended(task).await;
        assert_eq!(
            (&ended["status"], &ended["output"]["seed"]),
            (&json!("succeeded"), &json!(seed)),
            "{ended:#}"
        );
    }

    /// Waits until the job that a task's call has submitted is written.
    async fn job_written(&self, task: &str) -> String {
        let job = "select job_id from step_attempts where task_id = $1::text::uuid and job_id is not null";
        let sql = self.app.sql().await;
        eventually("the job is written", async || Some(sql.query_opt(job, &[&task]).await.unwrap()?.get(0)))
            .await
    }
}

/// A provider of jobs that end when the test says so. It knows idempotency keys, as good ones do: a repeat is
/// answered with the job there is, whose address for a callback is the first one it was told.
#[derive(Clone)]
struct Jobs {
    fake: FakeProvider,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By idempotency key.
    jobs: BTreeMap<String, Job>,
    /// What jobs of these numbers answer when they are asked about.
    ends: HashMap<usize, Value>,
}

#[derive(Clone)]
struct Job {
    number: usize,
    notify: String,
}

impl Jobs {
    async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let fake = FakeProvider::start(move |call| shared.lock().unwrap().answer(call)).await;
        Self { fake, state }
    }

    /// The provider, which is asked about its jobs.
    fn polled(&self) -> Value {
        json!({
            "id": "draw", "kind": "http_async", "baseUrl": format!("{}/jobs", self.fake.url),
            "submit": {"id": "{{ body.job }}"},
            "poll": {"url": format!("{}/jobs/{{{{ job.id }}}}", self.fake.url), "intervalMs": 100,
                     "status": "{{ body.state }}", "done": ["succeeded"], "failed": ["failed"]},
            "response": {"output": {"seed": "{{ body.seed }}"}, "error": "{{ body.message }}"},
            "timeoutMs": 60_000, "retry": {"maxAttempts": 3, "backoffMs": 50}
        })
    }

    /// The provider, which calls back.
    fn called_back(&self) -> Value {
        json!({
            "id": "draw", "kind": "http_async", "baseUrl": format!("{}/jobs", self.fake.url), "callback": true,
            "request": {"body": {"prompt": "{{ input.prompt }}", "notify": "{{ callback.url }}"}},
            "response": {"output": {"seed": "{{ body.seed }}"}, "error": "{{ body.message }}"},
            "timeoutMs": 60_000, "retry": {"maxAttempts": 3, "backoffMs": 50}
        })
    }

    /// Ends a job, for those who ask.
    fn end(&self, number: usize, answer: Value) {
        self.state.lock().unwrap().ends.insert(number, answer);
    }

    fn jobs(&self) -> Vec<Job> {
        let mut jobs: Vec<Job> = self.state.lock().unwrap().jobs.values().cloned().collect();
        jobs.sort_by_key(|job| job.number);
        jobs
    }

    /// Requests for a job, repeats too.
    fn submissions(&self) -> usize {
        self.fake.calls().iter().filter(|call| call.method == "POST").count()
    }

    fn questions(&self) -> usize {
        self.fake.calls().iter().filter(|call| call.method == "GET").count()
    }

    /// Waits for the only job there is.
    async fn job(&self) -> Job {
        eventually("a job is submitted", async || self.jobs().first().cloned()).await
    }
}

impl Job {
    /// The last part of the address it was told.
    fn token(&self) -> &str {
        self.notify.rsplit('/').next().unwrap()
    }

    /// Calls back at `service`, wherever the address led at first.
    async fn call_back(&self, service: &Service, body: Value) -> u16 {
        call_back(&service.client(), self.token(), body).await
    }
}

async fn call_back(client: &Client, token: &str, body: Value) -> u16 {
    client.post(&format!("/api/v1/provider-callbacks/{token}"), body).await.status
}

impl State {
    fn answer(&mut self, call: &Call) -> Answer {
        if call.method == "POST" {
            let number = self.jobs.len() + 1;
            let notify = call.json()["notify"].as_str().unwrap_or_default().to_owned();
            let job = self.jobs.entry(call.key().to_owned()).or_insert(Job { number, notify });
            return Answer::status(202, json!({"job": job.number}));
        }
        let number: usize = call.path.rsplit('/').next().unwrap().parse().unwrap();
        Answer::json(self.ends.get(&number).cloned().unwrap_or(json!({"state": "running"})))
    }
}

fn done(seed: i64) -> Value {
    json!({"state": "succeeded", "seed": seed})
}

/// Not in a test's lifetime.
const NEVER: Duration = Duration::from_secs(3_600);
