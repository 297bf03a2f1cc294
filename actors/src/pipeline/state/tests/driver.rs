//! Drives a run the way the engine does: keeps the rows its effects write, starts its calls, answers them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use serde_json::{Value as Json, json};
use uuid::Uuid;

use crate::{
    ids::{AttemptId, TaskId},
    pipeline::{
        Attempt, AttemptStatus, Step, StepStatus,
        definition::Definition,
        provider::{CallError, CallFault, CallPolicy},
        state::{Effect, Ending, Event, ProviderCall, Run, Surroundings, TaskFacts},
    },
};

pub(super) const CALL_LASTS: TimeDelta = TimeDelta::seconds(30);

pub(super) struct Driver {
    pub(super) definition: Arc<Definition>,
    pub(super) run: Run,
    pub(super) now: DateTime<Utc>,
    pub(super) random: f64,
    pub(super) max_concurrency: usize,
    pub(super) policy: CallPolicy,
    /// Providers that do not exist any more.
    pub(super) gone: BTreeSet<String>,
    input: Json,
    // the rows
    pub(super) steps: BTreeMap<String, Step>,
    pub(super) attempts: BTreeMap<(String, i32), Attempt>,
    deadline_at: Option<DateTime<Utc>>,
    pub(super) progress: i16,
    // outside
    /// Calls without an answer, in the order in which they were made.
    pub(super) open: Vec<ProviderCall>,
    pub(super) withdrawn: Vec<(String, i32)>,
    pub(super) most_open: usize,
    pub(super) ending: Option<Ending>,
}

impl Driver {
    pub(super) fn new(definition: &Json) -> Self {
        Self::with_input(definition, json!({}))
    }

    pub(super) fn with_input(definition: &Json, input: Json) -> Self {
        let definition = Arc::new(Definition::parse(definition, &|_| true).expect("a good definition"));
        let now = DateTime::from_timestamp(1_800_000_000, 123_456_789).expect("a time");
        Self {
            run: Run::new(definition.clone(), task(), input.clone(), now),
            definition,
            now,
            random: 0.0,
            max_concurrency: 5,
            policy: CallPolicy {
                max_concurrency: None,
                rate_limit: None,
                breaker: None,
                hold_when_disabled: false,
                timeout: Duration::from_secs(30),
                max_attempts: 3,
                backoff: Duration::from_millis(500),
                at_most_once: false,
                new_key_per_attempt: false,
                pure_call: false,
                polls: false,
                callback: false,
            },
            gone: BTreeSet::new(),
            input,
            steps: BTreeMap::new(),
            attempts: BTreeMap::new(),
            deadline_at: None,
            progress: 0,
            open: Vec::new(),
            withdrawn: Vec::new(),
            most_open: 0,
            ending: None,
        }
    }

    /// A driver whose run has begun.
    pub(super) fn begun(definition: &Json) -> Self {
        let mut driver = Self::new(definition);
        driver.wake();
        driver
    }

    pub(super) fn apply(&mut self, event: Event) -> Vec<Effect> {
        let policy = self.policy.clone();
        let gone = self.gone.clone();
        let policy = move |id: &str| (!gone.contains(id)).then(|| policy.clone());
        let surroundings = Surroundings {
            now: self.now,
            random: self.random,
            max_concurrency: self.max_concurrency,
            policy: &policy,
        };
        let effects = self.run.apply(event, surroundings);
        let mut rows = BTreeSet::new();
        for effect in &effects {
            self.carry_out(effect, &mut rows);
        }
        assert_eq!(self.rows(), self.run.steps(), "the rows are what the run believes");
        effects
    }

    fn carry_out(&mut self, effect: &Effect, rows: &mut BTreeSet<String>) {
        match effect {
            Effect::Started { at, deadline_at } => {
                assert_eq!(self.deadline_at, None, "a task starts once");
                assert_eq!(*deadline_at - *at, TimeDelta::from_std(self.definition.deadline).expect("fits"));
                self.deadline_at = Some(*deadline_at);
            }
            Effect::WriteStep(row) => {
                assert!(rows.insert(row.node.clone()), "one row a step");
                if let Some(before) = self.steps.insert(row.node.clone(), row.clone()) {
                    let final_before = !matches!(before.status, StepStatus::Pending | StepStatus::Running);
                    assert!(!final_before, "a final step does not change: {before:?} {row:?}");
                }
            }
            Effect::FinishAttempt { node, attempt, status, error, at } => {
                let row = self.attempts.get_mut(&(node.clone(), *attempt)).expect("the attempt has a row");
                assert_eq!(row.status, AttemptStatus::Running, "an attempt ends once");
                row.status = *status;
                row.error = error.clone();
                row.finished_at = Some(*at);
            }
            Effect::Call(call) => {
                assert_eq!(self.ending, None, "an ended run makes no call");
                let wanted = matches!(self.status(&call.node), StepStatus::Pending | StepStatus::Running);
                assert!(wanted, "a final step makes no call");
                self.open.push((**call).clone());
                self.most_open = self.most_open.max(self.open.len());
            }
            Effect::Withdraw { node, attempt } => self.withdrawn.push((node.clone(), *attempt)),
            Effect::Progress(percent) => {
                assert!(*percent > self.progress && *percent <= 100, "progress grows");
                self.progress = *percent;
            }
            Effect::Finish(ending) => {
                assert_eq!(self.ending, None, "a run ends once");
                self.ending = Some(ending.clone());
            }
        }
    }

    fn rows(&self) -> Vec<Step> {
        let unwritten = |id: &str, kind: &str| Step {
            node: id.to_owned(),
            kind: kind.to_owned(),
            status: StepStatus::Pending,
            provider: None,
            output: None,
            error: None,
            started_at: None,
            finished_at: None,
        };
        let nodes = self.definition.nodes().iter();
        let row = |id: &str, kind: &str| self.steps.get(id).cloned().unwrap_or_else(|| unwritten(id, kind));
        nodes.map(|node| row(&node.id, node.kind.name())).collect()
    }

    pub(super) fn wake(&mut self) -> Vec<Effect> {
        self.apply(Event::Woken)
    }

    pub(super) fn pass(&mut self, time: TimeDelta) -> Vec<Effect> {
        self.now += time;
        self.wake()
    }

    /// Writes the attempt's row and lets the call go.
    pub(super) fn start(&mut self, node: &str) {
        let call = self.open_call(node);
        let started_at = self.now.trunc_subsecs(6);
        let row = Attempt {
            id: AttemptId(Uuid::nil()),
            node: call.node.clone(),
            attempt: call.attempt,
            provider: call.provider,
            cause: call.cause,
            status: AttemptStatus::Running,
            error: None,
            started_at,
            deadline_at: started_at + CALL_LASTS,
            finished_at: None,
        };
        let before = self.attempts.insert((call.node.clone(), call.attempt), row);
        assert!(before.is_none(), "an attempt's number is used once");
        self.apply(Event::CallStarted { node: call.node, attempt: call.attempt });
    }

    pub(super) fn start_all(&mut self) {
        for (node, attempt) in self.open_keys() {
            if !self.attempts.contains_key(&(node.clone(), attempt)) {
                self.start(&node);
            }
        }
    }

    pub(super) fn open_keys(&self) -> Vec<(String, i32)> {
        self.open.iter().map(|call| (call.node.clone(), call.attempt)).collect()
    }

    pub(super) fn open_nodes(&self) -> Vec<&str> {
        self.open.iter().map(|call| call.node.as_str()).collect()
    }

    pub(super) fn open_call(&self, node: &str) -> ProviderCall {
        let found = self.open.iter().find(|call| call.node == node);
        found.unwrap_or_else(|| panic!("`{node}` is not called, but {:?}", self.open_nodes())).clone()
    }

    fn take_open(&mut self, node: &str) -> ProviderCall {
        let call = self.open_call(node);
        self.open.retain(|other| other.node != node);
        call
    }

    pub(super) fn answer(&mut self, node: &str, result: Result<Json, CallError>) -> Vec<Effect> {
        self.start_all();
        let ProviderCall { node, attempt, .. } = self.take_open(node);
        self.apply(Event::CallFinished { node, attempt, result })
    }

    pub(super) fn succeed(&mut self, node: &str) -> Vec<Effect> {
        self.answer(node, Ok(json!({"from": node})))
    }

    pub(super) fn reject(&mut self, node: &str) -> Vec<Effect> {
        self.answer(node, Err(CallError::permanent("PROVIDER_REJECTED", "No.")))
    }

    pub(super) fn stumble(&mut self, node: &str) -> Vec<Effect> {
        self.answer(node, Err(CallError::retryable("PROVIDER_UNAVAILABLE", "Busy.")))
    }

    pub(super) fn leave_unanswered(&mut self, node: &str) -> Vec<Effect> {
        self.answer(node, Err(unanswered()))
    }

    pub(super) fn refuse(&mut self, node: &str) -> Vec<Effect> {
        let ProviderCall { node, attempt, .. } = self.take_open(node);
        let error = CallError::retryable("PROVIDER_UNAVAILABLE", "Disabled.");
        self.apply(Event::CallRefused { node, attempt, error })
    }

    pub(super) fn drop_call(&mut self, node: &str) -> Vec<Effect> {
        let ProviderCall { node, attempt, .. } = self.take_open(node);
        self.apply(Event::CallDropped { node, attempt })
    }

    /// The replica dies; another rebuilds the run from the rows. Calls nobody had started are forgotten.
    pub(super) fn crash(&mut self) -> Vec<Effect> {
        self.open.clear();
        self.ending = None;
        self.run = self.rebuilt(&BTreeSet::new());
        self.wake()
    }

    /// The replica dies; another one asks about the calls of `nodes`, so that they will be answered.
    pub(super) fn resume(&mut self, nodes: &[&str]) -> Vec<Effect> {
        self.open.retain(|call| nodes.contains(&call.node.as_str()));
        self.run = self.rebuilt(&BTreeSet::new());
        for (node, attempt) in self.open_keys() {
            assert!(self.run.resume(&node, attempt).is_some(), "{node} can be asked about");
        }
        self.wake()
    }

    /// The run is lost but its process lives on: calls that were started will be answered.
    pub(super) fn lose_run(&mut self) -> Vec<Effect> {
        self.open.retain(|call| self.attempts.contains_key(&(call.node.clone(), call.attempt)));
        self.ending = None;
        self.run = self.rebuilt(&self.open_keys().into_iter().collect());
        self.wake()
    }

    pub(super) fn rebuilt(&self, alive: &BTreeSet<(String, i32)>) -> Run {
        let policy = self.policy.clone();
        let surroundings = Surroundings {
            now: self.now,
            random: self.random,
            max_concurrency: self.max_concurrency,
            policy: &|_| Some(policy.clone()),
        };
        let facts = TaskFacts {
            task: task(),
            input: self.input.clone(),
            progress: self.progress,
            deadline_at: self.deadline_at,
        };
        let steps: Vec<Step> = self.steps.values().cloned().collect();
        let attempts: Vec<Attempt> = self.attempts.values().cloned().collect();
        Run::rebuild(self.definition.clone(), facts, &steps, &attempts, alive, surroundings)
    }

    pub(super) fn status(&self, node: &str) -> StepStatus {
        self.steps.get(node).map_or(StepStatus::Pending, |step| step.status)
    }

    /// Each node with its status, in the definition's order.
    pub(super) fn statuses(&self) -> String {
        let nodes = self.definition.nodes().iter();
        nodes
            .map(|node| format!("{}:{} ", node.id, self.status(&node.id).name()))
            .collect::<String>()
            .trim()
            .to_owned()
    }

    pub(super) fn output(&self, node: &str) -> Json {
        self.steps[node].output.clone().expect("an output")
    }

    pub(super) fn attempt_status(&self, node: &str, attempt: i32) -> AttemptStatus {
        self.attempts[&(node.to_owned(), attempt)].status
    }

    /// The failure's code and node, and the charge.
    pub(super) fn failed(&self) -> (String, Option<String>, i64) {
        match self.ending.clone().expect("an end") {
            Ending::Failed { error, charge } => (error.code, error.node_id, charge),
            Ending::Succeeded { .. } => panic!("it succeeded"),
        }
    }

    pub(super) fn succeeded(&self) -> (Json, i64) {
        match self.ending.clone().expect("an end") {
            Ending::Succeeded { output, charge, .. } => (output, charge),
            Ending::Failed { error, .. } => panic!("it failed: {error:?}"),
        }
    }
}

pub(super) fn task() -> TaskId {
    TaskId(Uuid::from_u128(7))
}

pub(super) fn unanswered() -> CallError {
    CallError { fault: CallFault::Unanswered, code: "PROVIDER_TIMEOUT", message: "Silence.".into() }
}

/// A definition of `nodes` (`a:p` for a provider, `j:ALL` for a join) and `edges` (`a>b`).
pub(super) fn pipeline(nodes: &str, edges: &str) -> Json {
    let nodes: Vec<Json> = nodes
        .split_whitespace()
        .map(|node| {
            let (id, kind) = node.split_once(':').expect("id:type");
            match kind {
                "p" => json!({"id": id, "type": "provider", "provider": "one"}),
                "ALL" | "ANY" | "FIRST" => json!({"id": id, "type": "join", "strategy": kind}),
                kind => json!({"id": id, "type": kind}),
            }
        })
        .collect();
    let edges: Vec<Json> = edges
        .split_whitespace()
        .map(|edge| {
            let (source, target) = edge.split_once('>').expect("source>target");
            json!([source, target])
        })
        .collect();
    json!({"name": "test", "quotaCost": 3, "nodes": nodes, "edges": edges})
}

/// start, `a`, end.
pub(super) fn single() -> Json {
    pipeline("start:start a:p end:end", "start>a a>end")
}

/// start, a fork into `count` branches `b0`, `b1`... of one step, a join `j`, end.
pub(super) fn fan(count: usize, strategy: &str) -> Json {
    let mut nodes = "start:start f:fork".to_owned();
    let mut edges = "start>f".to_owned();
    for branch in 0..count {
        nodes += &format!(" b{branch}:p");
        edges += &format!(" f>b{branch} b{branch}>j");
    }
    pipeline(&format!("{nodes} j:{strategy} end:end"), &format!("{edges} j>end"))
}
