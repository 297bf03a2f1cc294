//! What holds for every pipeline and every course of events.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash, Hasher},
};

use chrono::TimeDelta;
use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::driver::{Driver, unanswered};
use crate::pipeline::{
    AttemptStatus, Step, StepStatus,
    provider::CallError,
    state::{Ending, Event},
};

/// A piece of a pipeline.
#[derive(Debug, Clone)]
enum Piece {
    Step,
    Fork(&'static str, Vec<Vec<Piece>>),
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let piece = Just(Piece::Step).prop_recursive(3, 24, 4, |inner| {
        let branch = prop::collection::vec(inner, 1..3);
        let branches = prop::collection::vec(branch, 1..4);
        (prop::sample::select(vec!["ALL", "ANY", "FIRST"]), branches)
            .prop_map(|(strategy, branches)| Piece::Fork(strategy, branches))
    });
    prop::collection::vec(piece, 1..4)
}

/// Pieces as a definition; every join shows in the output.
fn definition(pieces: &[Piece]) -> Json {
    let mut nodes = vec![json!({"id": "start", "type": "start"})];
    let mut edges = Vec::new();
    let last = lay(pieces, "start".to_owned(), &mut nodes, &mut edges);
    edges.push(json!([last, "end"]));
    nodes.push(json!({"id": "end", "type": "end"}));
    json!({"name": "random", "quotaCost": 1, "deadlineMs": 86_400_000, "nodes": nodes, "edges": edges})
}

fn lay(pieces: &[Piece], mut last: String, nodes: &mut Vec<Json>, edges: &mut Vec<Json>) -> String {
    for piece in pieces {
        let number = nodes.len();
        match piece {
            Piece::Step => {
                let id = format!("s{number}");
                nodes.push(json!({"id": id, "type": "provider", "provider": "one", "fallback": ["two"],
                                  "retry": {"maxAttempts": 2, "backoffMs": 100}}));
                edges.push(json!([last, id]));
                last = id;
            }
            Piece::Fork(strategy, branches) => {
                let (fork, join) = (format!("f{number}"), format!("j{number}"));
                nodes.push(json!({"id": fork, "type": "fork"}));
                edges.push(json!([last, fork]));
                let ends: Vec<String> =
                    branches.iter().map(|branch| lay(branch, fork.clone(), nodes, edges)).collect();
                nodes.push(json!({"id": join, "type": "join", "strategy": strategy}));
                edges.extend(ends.iter().map(|end| json!([end, join])));
                last = join;
            }
        }
    }
    last
}

fn chance(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

/// What the provider says to the `nth` answered call of a node: always the same for one seed.
fn answer(seed: u64, node: &str, nth: usize) -> Result<Json, CallError> {
    match chance((seed, node, nth)) % 10 {
        0..=5 => Ok(json!({"by": node, "nth": nth})),
        6 => Err(CallError::permanent("PROVIDER_REJECTED", "No.")),
        7 => Err(unanswered()),
        _ => Err(CallError::retryable("PROVIDER_UNAVAILABLE", "Busy.")),
    }
}

/// Answers so far of a node: crashes are none.
fn answered(driver: &Driver, node: &str) -> usize {
    driver
        .attempts
        .values()
        .filter(|attempt| attempt.node == node && attempt.status == AttemptStatus::Failed)
        .count()
}

/// One move of the world: answers the call that is next by chance, or lets time pass. False when nothing is left.
fn step(driver: &mut Driver, seed: u64) -> bool {
    driver.start_all();
    let next = driver
        .open
        .iter()
        .filter(|call| driver.status(&call.node) == StepStatus::Running)
        .map(|call| call.node.clone())
        .min_by_key(|node| chance((seed, node)));
    match next {
        Some(node) => {
            let result = answer(seed, &node, answered(driver, &node));
            driver.answer(&node, result);
        }
        None if driver.ending.is_some() => return false,
        None => {
            let at = driver.run.wake_at().expect("an unfinished run waits for a call or for a time");
            assert!(at > driver.now, "what is due waits for nothing");
            driver.now = at;
            driver.wake();
        }
    }
    true
}

/// All that a run ends with, but for times and attempts.
fn summary(driver: &Driver) -> (Option<Ending>, Vec<Step>) {
    let timeless = |step: &Step| Step { started_at: None, finished_at: None, ..step.clone() };
    (driver.ending.clone(), driver.steps.values().map(timeless).collect())
}

fn moves() -> usize {
    5_000
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_run_ends_within_its_places(pieces in pieces(), seed: u64, max_concurrency in 1_usize..6) {
        let mut driver = Driver::new(&definition(&pieces));
        driver.max_concurrency = max_concurrency;
        driver.random = (seed % 100) as f64 / 100.0;
        driver.wake();
        let mut left = moves();
        while step(&mut driver, seed) {
            // Cancelled calls come back some time later.
            let cancelled = driver.open.iter().find(|call| driver.status(&call.node) == StepStatus::Cancelled);
            let returns = chance((seed, left)).is_multiple_of(3) || driver.open.len() == max_concurrency;
            if let Some(node) = cancelled.filter(|_| returns).map(|call| call.node.clone()) {
                driver.answer(&node, Ok(json!("late")));
            }
            left -= 1;
            prop_assert!(left > 0, "the run does not end");
        }
        prop_assert!(driver.most_open <= max_concurrency, "{} at once", driver.most_open);
        prop_assert!(driver.run.steps().iter().all(|step| !matches!(step.status, StepStatus::Pending | StepStatus::Running)));
        for node in driver.open_keys().into_iter().map(|(node, _)| node) {
            driver.answer(&node, Ok(json!("late")));
        }
        prop_assert!(!driver.run.awaits_answers());
        prop_assert!(driver.attempts.values().all(|attempt| attempt.status != AttemptStatus::Running));
        for step in driver.steps.values().filter(|step| step.kind == "provider") {
            let succeeded = driver.attempts.values().filter(|attempt| {
                attempt.node == step.node && attempt.status == AttemptStatus::Succeeded
            }).count();
            prop_assert_eq!(succeeded, usize::from(step.status == StepStatus::Succeeded), "{:?}", step);
        }
    }

    #[test]
    fn hearing_everything_twice_changes_nothing(pieces in pieces(), seed: u64) {
        let mut driver = Driver::begun(&definition(&pieces));
        let mut left = moves();
        loop {
            let before = driver.open_keys();
            if !step(&mut driver, seed) {
                break;
            }
            let after: BTreeSet<_> = driver.open_keys().into_iter().collect();
            for (node, attempt) in before.into_iter().filter(|key| !after.contains(key)) {
                for event in [
                    Event::CallFinished { node: node.clone(), attempt, result: Ok(json!("again")) },
                    Event::CallFinished { node: node.clone(), attempt, result: Err(CallError::permanent("X", "x")) },
                    Event::CallStarted { node: node.clone(), attempt },
                    Event::CallDropped { node, attempt },
                    Event::Woken,
                ] {
                    prop_assert_eq!(driver.apply(event), []);
                }
            }
            left -= 1;
            prop_assert!(left > 0, "the run does not end");
        }
    }

    #[test]
    fn a_rebuilt_run_stands_where_the_live_one_stood(pieces in pieces(), seed: u64, max_concurrency in 1_usize..6) {
        let mut driver = Driver::new(&definition(&pieces));
        driver.max_concurrency = max_concurrency;
        driver.wake();
        let mut left = moves();
        loop {
            // Calls the run has just asked for have no row yet; a crash forgets them with their numbers.
            driver.start_all();
            let (rebuilt, live) = (driver.rebuilt(&BTreeSet::new()), &driver.run);
            prop_assert_eq!(rebuilt.steps(), live.steps());
            for (place, (rebuilt, live)) in rebuilt.steps.iter().zip(&live.steps).enumerate() {
                if live.is_final() {
                    continue;
                }
                let calling = driver.run.in_flight.range((place, 0)..=(place, i32::MAX)).next().is_some();
                prop_assert_eq!(rebuilt.calls.attempts, live.calls.attempts);
                prop_assert_eq!(rebuilt.calls.provider, live.calls.provider);
                prop_assert_eq!(rebuilt.calls.failures, live.calls.failures);
                if !calling {
                    prop_assert_eq!(rebuilt.calls.not_before, live.calls.not_before);
                    prop_assert_eq!(rebuilt.calls.cause, live.calls.cause);
                }
            }
            prop_assert_eq!(rebuilt.in_flight.len(), driver.run.in_flight.len());
            if !step(&mut driver, seed) {
                break;
            }
            left -= 1;
            prop_assert!(left > 0, "the run does not end");
        }
    }

    #[test]
    fn crashes_do_not_change_how_a_run_ends(pieces in pieces(), seed: u64, every in 1_u64..6) {
        let mut calm = Driver::new(&definition(&pieces));
        let mut shaken = Driver::new(&definition(&pieces));
        for driver in [&mut calm, &mut shaken] {
            driver.policy.pure_call = true;
            // With few places, whose turn it is depends on when cancelled calls come back.
            driver.max_concurrency = 1_000;
            driver.wake();
        }
        let mut left = moves();
        while step(&mut calm, seed) {}
        while step(&mut shaken, seed) {
            if shaken.ending.is_none() && chance((seed, left)).is_multiple_of(every) {
                shaken.start_all();
                if left.is_multiple_of(2) { shaken.crash() } else { shaken.lose_run() };
            }
            left -= 1;
            prop_assert!(left > 0, "the run does not end");
        }
        prop_assert_eq!(summary(&calm), summary(&shaken));
    }

    #[test]
    fn joins_decide_as_the_model_says(pieces in pieces(), seed: u64) {
        let mut driver = Driver::new(&definition(&pieces));
        driver.max_concurrency = 1_000;
        driver.wake();
        let begin = driver.now;
        // Each call lasts its own time and then succeeds or is rejected.
        let mut due: BTreeMap<(i64, String), bool> = BTreeMap::new();
        let mut known = BTreeSet::new();
        while driver.ending.is_none() {
            for node in driver.open_nodes().into_iter().map(str::to_owned).collect::<Vec<_>>() {
                if known.insert(node.clone()) {
                    let (lasts, succeeds) = fate(seed, &node);
                    let at = (driver.now - begin).num_microseconds().expect("fits") + lasts;
                    due.insert((at, node), succeeds);
                }
            }
            let ((at, node), succeeds) = due.pop_first().expect("an unfinished run has calls");
            driver.now = begin + TimeDelta::microseconds(at);
            if succeeds { driver.succeed(&node) } else { driver.reject(&node) };
        }
        let mut model = Model { seed, nodes: 1, winners: BTreeMap::new() };
        let (_, end) = model.sequence(&pieces, 0);
        match (&driver.ending, end) {
            (Some(Ending::Succeeded { .. }), Ok(_)) => {}
            (Some(Ending::Failed { error, .. }), Err(node)) => {
                prop_assert_eq!(error.node_id.clone(), Some(node));
            }
            other => prop_assert!(false, "{other:?}"),
        }
        for step in driver.steps.values().filter(|step| step.kind == "join" && step.status == StepStatus::Succeeded) {
            let first = step.output.as_ref().expect("an output")["first"].as_str().expect("a winner");
            prop_assert_eq!(Some(first), model.winners.get(&step.node).map(String::as_str));
        }
    }
}

/// How long a node's call lasts, in microseconds, and whether it succeeds.
fn fate(seed: u64, node: &str) -> (i64, bool) {
    let chance = chance((seed, node));
    let lasts = 1_000_000 + chance % 100_000_000;
    (i64::try_from(lasts).expect("fits"), !(chance / 100_000_000).is_multiple_of(3))
}

/// Joins by arithmetic: when each sequence would end if nobody stopped it, and with which node.
struct Model {
    seed: u64,
    nodes: usize,
    winners: BTreeMap<String, String>,
}

impl Model {
    /// The time of the end, and the last node's id or the id of the node that failed.
    fn sequence(&mut self, pieces: &[Piece], begin: i64) -> (i64, Result<String, String>) {
        let (mut at, mut end) = (begin, Ok(String::new()));
        for piece in pieces {
            // Pieces behind a failure are numbered all the same.
            let (piece_at, piece_end) = self.piece(piece, at);
            if end.is_ok() {
                (at, end) = (piece_at, piece_end);
            }
        }
        (at, end)
    }

    fn piece(&mut self, piece: &Piece, begin: i64) -> (i64, Result<String, String>) {
        let number = self.nodes;
        self.nodes += 1;
        let Piece::Fork(strategy, branches) = piece else {
            let id = format!("s{number}");
            let (lasts, succeeds) = fate(self.seed, &id);
            return (begin + lasts, if succeeds { Ok(id) } else { Err(id) });
        };
        let ends: Vec<_> = branches.iter().map(|branch| self.sequence(branch, begin)).collect();
        let join = format!("j{number}");
        self.nodes += 1;
        let first_success = ends.iter().filter(|(_, end)| end.is_ok()).min();
        let first_failure = ends.iter().filter(|(_, end)| end.is_err()).min();
        let last = ends.iter().map(|(at, _)| *at).max().expect("a branch");
        let (at, decided) = match (*strategy, first_success, first_failure) {
            ("ALL", _, Some((at, failure))) => (*at, failure),
            ("FIRST", Some((at, success)), _) => (*at, success),
            (_, Some((_, success)), _) => (last, success),
            (_, None, Some((_, failure))) => (last, failure),
            (_, None, None) => unreachable!("a branch"),
        };
        match decided {
            Ok(winner) => {
                self.winners.insert(join.clone(), winner.clone());
                (at, Ok(join))
            }
            Err(node) => (at, Err(node.clone())),
        }
    }
}
