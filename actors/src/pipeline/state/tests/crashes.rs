//! What is left after the replica died, and what is done about it.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use serde_json::json;

use super::driver::{CALL_LASTS, Driver, fan, pipeline, single};
use crate::pipeline::{
    AttemptCause, AttemptStatus, StepStatus,
    provider::{CallError, CallFault},
    state::Ending,
};

#[test]
fn a_run_that_had_not_begun_begins() {
    let mut driver = Driver::new(&single());
    driver.crash();
    assert_eq!(driver.open_nodes(), ["a"]);
}

#[test]
fn a_call_nobody_had_started_is_made_as_if_nothing_had_been() {
    let mut driver = Driver::begun(&single());
    driver.crash();
    let call = driver.open_call("a");
    assert_eq!((call.attempt, call.cause), (1, AttemptCause::First));
}

#[test]
fn a_lost_call_keeps_its_place_and_is_repeated_after_its_deadline() {
    let mut driver = Driver::new(&fan(3, "ALL"));
    driver.max_concurrency = 2;
    driver.wake();
    driver.start("b0");
    driver.crash();
    assert_eq!(driver.open_nodes(), ["b1"]);
    driver.succeed("b1");
    assert_eq!(driver.open_nodes(), ["b2"]);
    let deadline = driver.attempts[&("b0".to_owned(), 1)].deadline_at;
    assert_eq!(driver.run.wake_at(), Some(deadline));
    driver.pass(CALL_LASTS - TimeDelta::milliseconds(1));
    assert_eq!(driver.open_nodes(), ["b2"]);
    assert_eq!(driver.attempt_status("b0", 1), AttemptStatus::Running);
    driver.pass(TimeDelta::milliseconds(1));
    assert_eq!(driver.attempt_status("b0", 1), AttemptStatus::Unknown);
    let call = driver.open_call("b0");
    assert_eq!((call.attempt, call.cause, call.provider.as_str()), (2, AttemptCause::Crash, "one"));
    driver.succeed("b0");
    driver.succeed("b2");
    driver.succeeded();
}

#[test]
fn a_second_crash_before_the_repeat_changes_nothing() {
    let mut driver = Driver::begun(&single());
    driver.start("a");
    driver.crash();
    driver.pass(TimeDelta::seconds(10));
    driver.crash();
    driver.pass(CALL_LASTS);
    assert_eq!(driver.open_call("a").attempt, 2);
    // The attempt is written off, its repeat was not started.
    driver.crash();
    let call = driver.open_call("a");
    assert_eq!((call.attempt, call.cause), (2, AttemptCause::Crash));
}

#[test]
fn a_crash_is_no_failure_of_the_provider() {
    let mut driver = Driver::begun(&single());
    driver.policy.pure_call = true;
    for attempt in 1..=5 {
        assert_eq!(driver.open_call("a").attempt, attempt);
        driver.start("a");
        driver.crash();
    }
    driver.stumble("a");
    assert_eq!(driver.ending, None);
}

#[test]
fn a_call_without_effect_outside_is_repeated_at_once() {
    let mut driver = Driver::begun(&single());
    driver.policy.pure_call = true;
    driver.start("a");
    driver.crash();
    assert_eq!(driver.attempt_status("a", 1), AttemptStatus::Unknown);
    assert_eq!(driver.open_call("a").attempt, 2);
}

#[test]
fn a_lost_call_that_must_not_be_repeated_fails_its_step_and_keeps_its_place() {
    let mut driver = Driver::new(&fan(3, "ANY"));
    driver.policy.at_most_once = true;
    driver.max_concurrency = 1;
    driver.wake();
    driver.start("b0");
    driver.crash();
    assert_eq!(driver.attempt_status("b0", 1), AttemptStatus::Unknown);
    assert_eq!(driver.steps["b0"].error.as_ref().map(|error| error.code.as_str()), Some("OUTCOME_UNKNOWN"));
    assert_eq!(driver.open_nodes(), [] as [&str; 0]);
    assert_eq!(driver.wake(), []);
    // Nobody forgets the place over a second crash.
    driver.crash();
    assert_eq!(driver.open_nodes(), [] as [&str; 0]);
    driver.pass(CALL_LASTS);
    assert_eq!(driver.open_nodes(), ["b1"]);
}

#[test]
fn what_a_crash_has_cut_has_its_place_again() {
    let mut driver = Driver::new(&fan(3, "ALL"));
    driver.policy.pure_call = true;
    driver.max_concurrency = 1;
    driver.wake();
    driver.stumble("b0");
    driver.start("b1");
    driver.pass(TimeDelta::seconds(1));
    driver.crash();
    // `b0` is written before and due, but had no place.
    assert_eq!(driver.open_nodes(), ["b1"]);
}

#[test]
fn a_lost_call_of_a_cancelled_step_is_only_written_off() {
    let mut driver = Driver::begun(&pipeline(
        "start:start f:fork a:p b:p j:FIRST c:p end:end",
        "start>f f>a f>b a>j b>j j>c c>end",
    ));
    driver.succeed("b");
    driver.start_all();
    driver.crash();
    driver.pass(CALL_LASTS);
    assert_eq!(driver.attempt_status("a", 1), AttemptStatus::Unknown);
    assert_eq!(driver.status("a"), StepStatus::Cancelled);
    assert_eq!(driver.open_nodes(), ["c"]);
}

#[test]
fn a_backoff_goes_on() {
    let mut driver = Driver::begun(&single());
    driver.stumble("a");
    let wake_at = driver.run.wake_at();
    driver.crash();
    assert_eq!(driver.run.wake_at(), wake_at);
    driver.pass(TimeDelta::seconds(1));
    let call = driver.open_call("a");
    assert_eq!((call.attempt, call.cause), (2, AttemptCause::Retry));
}

#[test]
fn fallbacks_go_on_where_they_were() {
    let mut definition = single();
    definition["nodes"][1]["fallback"] = json!(["two"]);
    definition["nodes"][1]["retry"] = json!({"maxAttempts": 1});
    let mut driver = Driver::begun(&definition);
    driver.stumble("a");
    driver.crash();
    let call = driver.open_call("a");
    assert_eq!((call.attempt, call.provider.as_str(), call.cause), (2, "two", AttemptCause::Fallback));
    driver.stumble("a");
    assert_eq!(driver.failed().0, "PROVIDER_UNAVAILABLE");
}

#[test]
fn an_end_that_was_not_settled_is_found_again() {
    let mut definition = single();
    definition["quotaCost"] = json!({"max": 9, "charge": "{{ steps.a.n }}"});
    definition["nodes"][2]["output"] = json!("{{ steps.a.n }}");
    let mut driver = Driver::begun(&definition);
    driver.answer("a", Ok(json!({"n": 5})));
    let before = driver.succeeded();
    driver.crash();
    assert_eq!(driver.succeeded(), before);

    let mut driver = Driver::begun(&fan(2, "ALL"));
    driver.reject("b1");
    let before = driver.failed();
    driver.crash();
    assert_eq!(driver.failed(), before);
    assert!(driver.open.is_empty());
}

#[test]
fn a_deadline_passes_also_while_nobody_looks() {
    let mut driver = Driver::begun(&single());
    driver.start("a");
    driver.now += TimeDelta::hours(1);
    driver.crash();
    assert_eq!(driver.failed().0, "TASK_DEADLINE_EXCEEDED");
    driver.crash();
    assert!(matches!(driver.ending, Some(Ending::Failed { .. })));
}

#[test]
fn a_step_whose_row_was_not_written_is_known_by_its_attempt() {
    let mut driver = Driver::begun(&single());
    driver.start("a");
    driver.steps.remove("a");
    let run = driver.rebuilt(&BTreeSet::new());
    let step = run.steps().into_iter().find(|step| step.node == "a").expect("the step");
    assert_eq!(step.status, StepStatus::Running);
    assert_eq!(step.provider.as_deref(), Some("one"));
}

#[test]
fn a_lost_call_that_is_asked_about_is_answered_as_if_nothing_had_been() {
    let mut driver = Driver::new(&fan(2, "ALL"));
    driver.policy.at_most_once = true;
    driver.wake();
    driver.start_all();
    driver.resume(&["b0", "b1"]);
    assert_eq!(driver.attempt_status("b0", 1), AttemptStatus::Running, "it is not written off");
    assert_eq!(driver.open_nodes(), ["b0", "b1"]);
    driver.succeed("b0");
    driver.stumble("b1");
    driver.pass(TimeDelta::seconds(1));
    let call = driver.open_call("b1");
    assert_eq!((call.attempt, call.cause), (2, AttemptCause::Retry));
    driver.succeed("b1");
    driver.succeeded();
}

#[test]
fn only_a_lost_call_that_somebody_waits_for_is_asked_about() {
    let mut driver = Driver::begun(&pipeline(
        "start:start f:fork a:p b:p j:FIRST c:p end:end",
        "start>f f>a f>b a>j b>j j>c c>end",
    ));
    driver.succeed("b");
    driver.start_all();
    let alive = BTreeSet::from([("c".to_owned(), 1)]);
    let mut run = driver.rebuilt(&alive);
    assert!(run.resume("a", 1).is_none(), "its step is cancelled");
    assert!(run.resume("c", 1).is_none(), "this process made it");
    assert!(run.resume("b", 1).is_none() && run.resume("nobody", 1).is_none());
    assert!(driver.rebuilt(&BTreeSet::new()).resume("c", 1).is_some());
    driver.now += CALL_LASTS;
    assert!(driver.rebuilt(&BTreeSet::new()).resume("c", 1).is_none(), "its deadline has passed");
}

#[test]
fn a_call_that_was_perhaps_never_sent_is_repeated_without_counting_against_its_provider() {
    let unheard =
        || CallError { fault: CallFault::Unheard, code: "PROVIDER_TIMEOUT", message: "Silence.".into() };
    let mut definition = single();
    definition["nodes"][1]["retry"] = json!({"maxAttempts": 1});
    let mut driver = Driver::begun(&definition);
    driver.start("a");
    driver.resume(&["a"]);
    driver.answer("a", Err(unheard()));
    assert_eq!(driver.attempt_status("a", 1), AttemptStatus::Unknown);
    let call = driver.open_call("a");
    assert_eq!((call.attempt, call.cause, call.provider.as_str()), (2, AttemptCause::Crash, "one"));

    let mut driver = Driver::new(&definition);
    driver.policy.at_most_once = true;
    driver.wake();
    driver.start("a");
    driver.resume(&["a"]);
    driver.answer("a", Err(unheard()));
    assert_eq!(driver.attempt_status("a", 1), AttemptStatus::Unknown);
    assert_eq!(driver.failed(), ("OUTCOME_UNKNOWN".into(), Some("a".into()), 0));
}

#[test]
fn a_run_that_is_lost_alone_hears_the_answers_of_its_calls() {
    let mut driver = Driver::new(&fan(3, "FIRST"));
    driver.policy.at_most_once = true;
    driver.max_concurrency = 2;
    driver.wake();
    driver.start("b0");
    driver.lose_run();
    // The call that had left keeps its place and its chance; the other is asked for again.
    assert_eq!(driver.open_keys(), [("b0".to_owned(), 1), ("b1".to_owned(), 1)]);
    driver.start("b1");
    driver.succeed("b0");
    driver.lose_run();
    assert!(driver.run.awaits_answers());
    driver.succeed("b1");
    assert_eq!(driver.attempt_status("b0", 1), AttemptStatus::Succeeded);
    assert_eq!(driver.attempt_status("b1", 1), AttemptStatus::Cancelled);
    driver.succeeded();
}
