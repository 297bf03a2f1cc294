//! When calls are made, repeated, handed to fallbacks.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::{Value as Json, json};

use super::driver::{Driver, fan, single};
use crate::pipeline::{
    AttemptCause, AttemptStatus, StepStatus,
    provider::{CallError, CallFault},
};

fn with_fallbacks() -> Json {
    let mut definition = single();
    definition["nodes"][1]["fallback"] = json!(["two", "three"]);
    definition["nodes"][1]["retry"] = json!({"maxAttempts": 2, "backoffMs": 1_000});
    definition
}

#[test]
fn a_task_has_no_more_calls_at_once_than_it_may_and_takes_them_in_order() {
    let mut driver = Driver::new(&fan(50, "ALL"));
    driver.wake();
    assert_eq!(driver.open_nodes(), ["b0", "b1", "b2", "b3", "b4"]);
    driver.succeed("b3");
    assert_eq!(driver.open_nodes(), ["b0", "b1", "b2", "b4", "b5"]);
    driver.max_concurrency = 3;
    driver.succeed("b0");
    driver.succeed("b1");
    assert_eq!(driver.open_nodes(), ["b2", "b4", "b5"]);
    driver.succeed("b2");
    assert_eq!(driver.open_nodes(), ["b4", "b5", "b6"]);
    assert_eq!(driver.most_open, 5);
}

#[test]
fn a_stumbling_provider_is_asked_again_after_its_backoff() {
    let mut driver = Driver::begun(&single());
    driver.stumble("a");
    assert_eq!(driver.open_nodes(), [] as [&str; 0]);
    assert_eq!(driver.status("a"), StepStatus::Running);
    // 500 ms, spread over the upper half
    assert_eq!(driver.run.wake_at(), Some(trunc(&driver) + TimeDelta::milliseconds(250)));
    assert_eq!(driver.run.backing_off_until(), driver.run.wake_at());
    driver.pass(TimeDelta::milliseconds(249));
    assert_eq!(driver.open_nodes(), [] as [&str; 0]);
    driver.random = 1.0;
    driver.pass(TimeDelta::milliseconds(1));
    let call = driver.open_call("a");
    assert_eq!((call.attempt, call.cause), (2, AttemptCause::Retry));
    assert_eq!(driver.run.backing_off_until(), None);
    driver.stumble("a");
    assert_eq!(driver.run.wake_at(), Some(trunc(&driver) + TimeDelta::seconds(1)));
    driver.pass(TimeDelta::seconds(1));
    driver.stumble("a");
    assert_eq!(driver.failed(), ("PROVIDER_UNAVAILABLE".into(), Some("a".into()), 0));
    assert_eq!(driver.attempts.len(), 3);
}

fn trunc(driver: &Driver) -> chrono::DateTime<chrono::Utc> {
    chrono::SubsecRound::trunc_subsecs(driver.now, 6)
}

#[test]
fn the_wait_is_bounded_and_a_provider_may_ask_for_more() {
    let mut definition = single();
    definition["nodes"][1]["retry"] = json!({"maxAttempts": 20, "backoffMs": 60_000});
    definition["deadlineMs"] = json!(86_400_000);
    let mut driver = Driver::begun(&definition);
    driver.random = 1.0;
    for _ in 0..15 {
        driver.stumble("a");
        assert_eq!(driver.run.wake_at(), Some(trunc(&driver) + TimeDelta::seconds(60)));
        driver.pass(TimeDelta::seconds(60));
    }
    let patience = CallError {
        fault: CallFault::Retryable { retry_after: Some(Duration::from_secs(90)) },
        code: "PROVIDER_UNAVAILABLE",
        message: "Later.".into(),
    };
    driver.answer("a", Err(patience));
    assert_eq!(driver.run.wake_at(), Some(trunc(&driver) + TimeDelta::seconds(90)));
}

#[test]
fn the_node_decides_about_retries_before_the_provider() {
    let mut driver = Driver::new(&single());
    driver.policy.max_attempts = 1;
    driver.wake();
    driver.stumble("a");
    assert_eq!(driver.attempts.len(), 1);
    driver.failed();

    let mut definition = single();
    definition["nodes"][1]["retry"] = json!({"maxAttempts": 2});
    let mut driver = Driver::new(&definition);
    driver.policy.max_attempts = 1;
    driver.wake();
    driver.stumble("a");
    assert_eq!(driver.ending, None);
}

#[test]
fn fallbacks_follow_in_order_and_attempts_count_on() {
    let mut driver = Driver::begun(&with_fallbacks());
    let mut seen = Vec::new();
    while driver.ending.is_none() {
        let call = driver.open_call("a");
        seen.push((call.attempt, call.provider.clone(), call.cause, call.has_fallback));
        driver.stumble("a");
        driver.pass(TimeDelta::seconds(60));
    }
    use AttemptCause::{Fallback, First, Retry};
    let expected = [
        (1, "one", First, true),
        (2, "one", Retry, true),
        (3, "two", Fallback, true),
        (4, "two", Retry, true),
        (5, "three", Fallback, false),
        (6, "three", Retry, false),
    ];
    assert_eq!(seen, expected.map(|(attempt, id, cause, more)| (attempt, id.to_owned(), cause, more)));
    assert_eq!(driver.failed().0, "PROVIDER_UNAVAILABLE");
    assert_eq!(driver.steps["a"].provider.as_deref(), Some("three"));
}

#[test]
fn a_rejection_asks_nobody_else() {
    for code in ["PROVIDER_REJECTED", "CONTENT_REJECTED", "IMAGE_INVALID"] {
        let mut driver = Driver::begun(&with_fallbacks());
        driver.answer("a", Err(CallError::permanent(code, "No.")));
        assert_eq!(driver.failed().0, code);
        assert_eq!(driver.attempts.len(), 1);
    }
}

#[test]
fn a_provider_that_takes_no_calls_is_passed_over_without_an_attempt() {
    let mut driver = Driver::begun(&with_fallbacks());
    driver.refuse("a");
    let call = driver.open_call("a");
    assert_eq!((call.attempt, call.provider.as_str(), call.cause), (1, "two", AttemptCause::Fallback));
    driver.refuse("a");
    driver.refuse("a");
    assert_eq!(driver.failed(), ("PROVIDER_UNAVAILABLE".into(), Some("a".into()), 0));
    assert!(driver.attempts.is_empty());
}

#[test]
fn a_dropped_call_is_asked_for_again() {
    let mut driver = Driver::begun(&single());
    driver.drop_call("a");
    let call = driver.open_call("a");
    assert_eq!((call.attempt, call.cause), (1, AttemptCause::First));
}

#[test]
fn silence_is_repeated_unless_the_provider_is_called_at_most_once() {
    let mut driver = Driver::begun(&single());
    driver.leave_unanswered("a");
    assert_eq!(driver.attempt_status("a", 1), AttemptStatus::Failed);
    driver.pass(TimeDelta::seconds(1));
    assert_eq!(driver.open_call("a").attempt, 2);

    let mut driver = Driver::new(&with_fallbacks());
    driver.policy.at_most_once = true;
    driver.wake();
    driver.leave_unanswered("a");
    assert_eq!(driver.attempt_status("a", 1), AttemptStatus::Unknown);
    assert_eq!(driver.failed(), ("OUTCOME_UNKNOWN".into(), Some("a".into()), 0));
    // What was surely not done may be done again.
    let mut driver = Driver::new(&with_fallbacks());
    driver.policy.at_most_once = true;
    driver.wake();
    driver.stumble("a");
    driver.pass(TimeDelta::seconds(1));
    assert_eq!(driver.open_call("a").attempt, 2);
}

#[test]
fn a_backoff_gives_its_place_to_others() {
    let mut driver = Driver::new(&fan(3, "ALL"));
    driver.max_concurrency = 1;
    driver.wake();
    driver.stumble("b0");
    assert_eq!(driver.open_nodes(), ["b1"]);
    driver.pass(TimeDelta::seconds(1));
    assert_eq!(driver.open_nodes(), ["b1"]);
    // It waits for a place now, not for a time.
    assert_eq!(driver.run.wake_at(), driver.run.deadline_at());
    driver.succeed("b1");
    assert_eq!(driver.open_nodes(), ["b0"]);
}
