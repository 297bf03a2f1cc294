//! The walk over the definition's tree: what completes by itself, what is ready, what is over.

use std::collections::BTreeSet;

use serde_json::{Value as Json, json};

use super::{
    Effect, Ending, OUTCOME_UNKNOWN, OUTPUT_INVALID, Run, StepStatus, Surroundings, TASK_DEADLINE_EXCEEDED,
    TEMPLATE_FAILED, calls::storable,
};
use crate::pipeline::{
    Failure,
    definition::{Item, NodeKind, Sequence, Strategy},
    template::Template,
};

/// How far a sequence has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Its last node has succeeded.
    Succeeded,
    /// This node of it has failed.
    Failed(usize),
    /// Not over yet.
    Open,
}

/// What a join decides from its branches.
enum Verdict {
    Open,
    Satisfied,
    /// With the node whose failure decided.
    Lost(usize),
}

impl Run {
    /// Brings the run as far as it goes without an answer from outside.
    pub(super) fn advance(&mut self, surroundings: Surroundings<'_>, effects: &mut Vec<Effect>) {
        if self.deadline_at.is_some_and(|deadline| deadline <= self.now) {
            let error = Failure {
                code: TASK_DEADLINE_EXCEEDED.to_owned(),
                message: "The task did not finish in time.".to_owned(),
                node_id: None,
            };
            self.finish(Ending::Failed { error, charge: 0 }, effects);
            return;
        }
        let definition = self.definition.clone();
        loop {
            self.ready.clear();
            match self.walk(definition.root(), effects) {
                Flow::Succeeded => {
                    let ending = self.success(definition.root());
                    self.finish(ending, effects);
                    return;
                }
                Flow::Failed(node) => {
                    let error = self.failure_of(node);
                    let charge = self.charge_of_failure(&error);
                    self.finish(Ending::Failed { error, charge }, effects);
                    return;
                }
                Flow::Open => {
                    // A node that could not even be called has failed, which may decide more.
                    let failed = self.call_ready(surroundings, effects);
                    if !failed {
                        break;
                    }
                }
            }
        }
        self.report_progress(effects);
    }

    fn success(&self, root: &Sequence) -> Ending {
        let output = root.last().and_then(|end| self.steps[end].output.clone()).unwrap_or_default();
        let max = self.definition.quota_cost.max();
        match self.usage() {
            // the work is done and its result is there: a mistake in the arithmetic does not take it away
            Err(fault) => Ending::Succeeded { output, charge: max, charge_fault: Some(fault) },
            Ok(units) => Ending::Succeeded { output, charge: units.clamp(0, max), charge_fault: None },
        }
    }

    fn walk(&mut self, sequence: &Sequence, effects: &mut Vec<Effect>) -> Flow {
        for item in &sequence.0 {
            let flow = match item {
                Item::Node(node) => self.walk_node(*node, effects),
                Item::Fork { fork, branches, join } => self.walk_fork(*fork, branches, *join, effects),
            };
            if flow != Flow::Succeeded {
                return flow;
            }
        }
        Flow::Succeeded
    }

    /// What an earlier walk has decided about a node, if it has.
    fn decided(&self, node: usize) -> Option<Flow> {
        match self.steps[node].status() {
            StepStatus::Succeeded => Some(Flow::Succeeded),
            StepStatus::Failed => Some(Flow::Failed(node)),
            // Only within a fork that is decided, which nobody walks.
            StepStatus::Skipped | StepStatus::Cancelled => Some(Flow::Open),
            StepStatus::Pending | StepStatus::Running => None,
        }
    }

    fn walk_node(&mut self, node: usize, effects: &mut Vec<Effect>) -> Flow {
        if let Some(flow) = self.decided(node) {
            return flow;
        }
        let definition = self.definition.clone();
        match &definition.nodes()[node].kind {
            NodeKind::Start => {
                self.succeed(node, None, effects);
                Flow::Succeeded
            }
            NodeKind::End(output) => self.walk_end(node, output, effects),
            NodeKind::Provider(provider) if self.steps[node].calls.used_up(provider) => {
                let (code, message) = self.steps[node].calls.last_error();
                self.fail(node, &code, message, effects);
                Flow::Failed(node)
            }
            NodeKind::Provider(_) => {
                self.ready.push(node);
                Flow::Open
            }
            NodeKind::Fork | NodeKind::Join(_) => Flow::Open,
        }
    }

    fn walk_end(&mut self, node: usize, output: &Template, effects: &mut Vec<Effect>) -> Flow {
        let rendered = self.render(output).and_then(|rendered| rendered.resolve(&[]));
        let (code, message) = match rendered {
            Err(error) => (TEMPLATE_FAILED, error.to_string()),
            Ok(output) => match storable(&output) {
                Err(message) => (OUTPUT_INVALID, message),
                Ok(()) => {
                    self.succeed(node, Some(output), effects);
                    return Flow::Succeeded;
                }
            },
        };
        self.fail(node, code, message, effects);
        Flow::Failed(node)
    }

    fn walk_fork(
        &mut self,
        fork: usize,
        branches: &[Sequence],
        join: usize,
        effects: &mut Vec<Effect>,
    ) -> Flow {
        if let Some(flow) = self.decided(join) {
            return flow;
        }
        if self.decided(fork).is_none() {
            self.succeed(fork, None, effects);
        }
        let ready_before = self.ready.len();
        let flows: Vec<Flow> = branches.iter().map(|branch| self.walk(branch, effects)).collect();
        let verdict = match self.node(join).kind {
            NodeKind::Join(strategy) => self.verdict(strategy, &flows),
            _ => Verdict::Open,
        };
        match verdict {
            Verdict::Open => Flow::Open,
            Verdict::Satisfied => {
                self.stop_branches(branches, ready_before, effects);
                let output = self.join_output(branches);
                self.succeed(join, Some(output), effects);
                Flow::Succeeded
            }
            Verdict::Lost(node) => {
                self.stop_branches(branches, ready_before, effects);
                let failure = self.failure_of(node);
                self.fail_with(join, failure, effects);
                Flow::Failed(join)
            }
        }
    }

    fn verdict(&self, strategy: Strategy, flows: &[Flow]) -> Verdict {
        let first_failed = flows
            .iter()
            .filter_map(|flow| match flow {
                Flow::Failed(node) => Some(*node),
                Flow::Succeeded | Flow::Open => None,
            })
            .min_by_key(|&node| self.steps[node].finished_at);
        let succeeded = flows.contains(&Flow::Succeeded);
        let open = flows.contains(&Flow::Open);
        match (strategy, first_failed) {
            (Strategy::All, Some(node)) => Verdict::Lost(node),
            (Strategy::First, _) if succeeded => Verdict::Satisfied,
            _ if open => Verdict::Open,
            (_, Some(node)) if !succeeded => Verdict::Lost(node),
            _ => Verdict::Satisfied,
        }
    }

    /// The winner is the branch that succeeded first; of several at one time the first written.
    fn join_output(&self, branches: &[Sequence]) -> Json {
        let lasts: Vec<usize> = branches.iter().filter_map(Sequence::last).collect();
        let succeeded = |node: usize| self.steps[node].status() == StepStatus::Succeeded;
        let first =
            lasts.iter().filter(|&&node| succeeded(node)).min_by_key(|&&node| self.steps[node].finished_at);
        let results: serde_json::Map<String, Json> = lasts
            .iter()
            .map(|&node| (self.node(node).id.clone(), self.steps[node].output.clone().unwrap_or_default()))
            .collect();
        json!({"first": first.map(|&node| &self.node(node).id), "results": results})
    }

    fn failure_of(&self, node: usize) -> Failure {
        self.steps[node].error.clone().unwrap_or_else(|| Failure {
            code: OUTCOME_UNKNOWN.to_owned(),
            message: "The step failed.".to_owned(),
            node_id: Some(self.node(node).id.clone()),
        })
    }

    fn stop_branches(&mut self, branches: &[Sequence], ready_before: usize, effects: &mut Vec<Effect>) {
        let mut nodes = BTreeSet::new();
        for branch in branches {
            branch.for_each(&mut |node| {
                nodes.insert(node);
            });
        }
        self.stop(&nodes, effects);
        self.ready.truncate(ready_before);
    }

    /// Ends what of `nodes` is not over: what was reached is cancelled, the rest is skipped.
    pub(super) fn stop(&mut self, nodes: &BTreeSet<usize>, effects: &mut Vec<Effect>) {
        for &node in nodes {
            let status = match self.steps[node].status() {
                StepStatus::Running => StepStatus::Cancelled,
                StepStatus::Pending if self.ready.contains(&node) => StepStatus::Cancelled,
                StepStatus::Pending => StepStatus::Skipped,
                _ => continue,
            };
            self.end_step(node, status, effects);
        }
    }
}
