//! What ALL, ANY and FIRST wait for, what they stop, what they give.

use serde_json::json;

use super::driver::{Driver, fan, pipeline};
use crate::pipeline::AttemptStatus;

#[test]
fn all_waits_for_every_branch() {
    let mut definition = fan(3, "ALL");
    definition["nodes"][6]["output"] = json!("{{ steps.j }}");
    let mut driver = Driver::begun(&definition);
    driver.succeed("b2");
    driver.succeed("b0");
    assert_eq!(driver.ending, None);
    driver.succeed("b1");
    let results = json!({"b0": {"from": "b0"}, "b1": {"from": "b1"}, "b2": {"from": "b2"}});
    // All at one time by this clock: then the first written has won.
    assert_eq!(driver.succeeded().0, json!({"first": "b0", "results": results}));
}

#[test]
fn the_winner_is_who_came_first() {
    let mut driver = Driver::begun(&fan(3, "ALL"));
    for node in ["b2", "b0", "b1"] {
        driver.succeed(node);
        driver.now += chrono::TimeDelta::milliseconds(1);
    }
    assert_eq!(driver.output("j")["first"], "b2");
}

#[test]
fn all_fails_with_the_first_failure_and_cancels_the_rest() {
    let mut driver = Driver::new(&fan(7, "ALL"));
    driver.wake();
    driver.succeed("b0");
    driver.reject("b2");
    assert_eq!(driver.failed(), ("PROVIDER_REJECTED".into(), Some("b2".into()), 0));
    assert_eq!(
        driver.statuses(),
        "start:succeeded f:succeeded b0:succeeded b1:cancelled b2:failed b3:cancelled b4:cancelled b5:cancelled \
         b6:cancelled j:failed end:skipped"
    );
    let withdrawn: Vec<&str> = driver.withdrawn.iter().map(|(node, _)| node.as_str()).collect();
    assert_eq!(withdrawn, ["b1", "b3", "b4", "b5"]);
    assert_eq!(driver.steps["j"].error.as_ref().and_then(|error| error.node_id.as_deref()), Some("b2"));
}

#[test]
fn any_needs_one_success_and_waits_for_all() {
    let mut driver = Driver::begun(&fan(3, "ANY"));
    driver.reject("b0");
    driver.succeed("b1");
    assert_eq!(driver.ending, None);
    driver.reject("b2");
    driver.succeeded();
    let results = json!({"b0": null, "b1": {"from": "b1"}, "b2": null});
    assert_eq!(driver.output("j"), json!({"first": "b1", "results": results}));
}

#[test]
fn any_fails_when_every_branch_has() {
    let mut driver = Driver::begun(&fan(2, "ANY"));
    driver.reject("b1");
    driver.now += chrono::TimeDelta::milliseconds(1);
    assert_eq!(driver.ending, None);
    driver.reject("b0");
    assert_eq!(driver.failed(), ("PROVIDER_REJECTED".into(), Some("b1".into()), 0));
}

#[test]
fn first_takes_the_first_success_and_cancels_the_rest() {
    let mut driver = Driver::begun(&fan(3, "FIRST"));
    driver.reject("b0");
    assert_eq!(driver.ending, None);
    driver.succeed("b2");
    driver.succeeded();
    assert_eq!(
        driver.statuses(),
        "start:succeeded f:succeeded b0:failed b1:cancelled b2:succeeded j:succeeded end:succeeded"
    );
    let results = json!({"b0": null, "b1": null, "b2": {"from": "b2"}});
    assert_eq!(driver.output("j"), json!({"first": "b2", "results": results}));
    // The run is over before its last call is.
    assert!(driver.run.awaits_answers());
    driver.succeed("b1");
    assert_eq!(driver.attempt_status("b1", 1), AttemptStatus::Cancelled);
    assert_eq!(driver.output("j")["results"]["b1"], json!(null));
}

#[test]
fn first_fails_when_every_branch_has() {
    let mut driver = Driver::begun(&fan(2, "FIRST"));
    driver.reject("b0");
    driver.reject("b1");
    assert_eq!(driver.failed().1.as_deref(), Some("b0"));
}

#[test]
fn a_cancelled_call_keeps_its_place_until_its_answer() {
    let mut driver = Driver::new(&pipeline(
        "start:start f:fork a:p b:p j:FIRST g:fork c:p d:p k:ALL end:end",
        "start>f f>a f>b a>j b>j j>g g>c g>d c>k d>k k>end",
    ));
    driver.max_concurrency = 2;
    driver.wake();
    driver.succeed("b");
    assert_eq!(driver.open_nodes(), ["a", "c"]);
    driver.succeed("a");
    assert_eq!(driver.open_nodes(), ["c", "d"]);
}

#[test]
fn a_withdrawn_call_that_never_left_frees_its_place() {
    let mut driver = Driver::new(&pipeline(
        "start:start f:fork a:p b:p j:FIRST g:fork c:p d:p k:ALL end:end",
        "start>f f>a f>b a>j b>j j>g g>c g>d c>k d>k k>end",
    ));
    driver.max_concurrency = 2;
    driver.wake();
    driver.start("b");
    let (node, attempt) = ("b".to_owned(), 1);
    driver.open.retain(|call| call.node != "b");
    let result = Ok(json!(1));
    driver.apply(crate::pipeline::state::Event::CallFinished { node, attempt, result });
    assert_eq!(driver.withdrawn, [("a".to_owned(), 1)]);
    driver.drop_call("a");
    assert_eq!(driver.open_nodes(), ["c", "d"]);
    assert!(!driver.attempts.contains_key(&("a".to_owned(), 1)));
}

fn nested(inner: &str, outer: &str) -> Driver {
    Driver::begun(&pipeline(
        &format!("start:start f:fork a:p g:fork b:p c:p k:{inner} d:p e:p j:{outer} end:end"),
        "start>f f>a a>g g>b g>c b>k c>k k>d d>j f>e e>j j>end",
    ))
}

#[test]
fn a_failed_inner_join_is_a_failed_branch_of_the_outer() {
    let mut driver = nested("ALL", "ANY");
    driver.succeed("a");
    driver.reject("c");
    assert_eq!(driver.ending, None);
    assert_eq!(
        driver.statuses(),
        "start:succeeded f:succeeded a:succeeded g:succeeded b:cancelled c:failed k:failed d:pending e:running \
         j:pending end:pending"
    );
    driver.succeed("e");
    driver.succeeded();
    assert_eq!(driver.output("j"), json!({"first": "e", "results": {"d": null, "e": {"from": "e"}}}));
    // Its branch had failed before it got there.
    assert_eq!(driver.status("d"), crate::pipeline::StepStatus::Skipped);
}

#[test]
fn an_outer_failure_stops_all_within() {
    let mut driver = nested("ANY", "ALL");
    driver.succeed("a");
    driver.succeed("b");
    driver.reject("e");
    assert_eq!(driver.failed().1.as_deref(), Some("e"));
    assert_eq!(
        driver.statuses(),
        "start:succeeded f:succeeded a:succeeded g:succeeded b:succeeded c:cancelled k:skipped d:skipped e:failed \
         j:failed end:skipped"
    );
}

#[test]
fn a_failure_travels_through_joins_with_its_origin() {
    let mut driver = nested("ALL", "ALL");
    driver.succeed("a");
    driver.reject("b");
    assert_eq!(driver.failed(), ("PROVIDER_REJECTED".into(), Some("b".into()), 0));
}

#[test]
fn a_branch_may_end_in_a_join() {
    let mut driver = Driver::begun(&pipeline(
        "start:start f:fork g:fork a:p b:p k:FIRST c:p j:ALL end:end",
        "start>f f>g g>a g>b a>k b>k k>j f>c c>j j>end",
    ));
    driver.succeed("b");
    driver.succeed("c");
    let inner = json!({"first": "b", "results": {"a": null, "b": {"from": "b"}}});
    assert_eq!(driver.output("j")["results"], json!({"k": inner, "c": {"from": "c"}}));
}

#[test]
fn steps_that_did_not_succeed_are_null_to_templates() {
    let mut definition = fan(2, "ANY");
    definition["nodes"][5]["output"] =
        json!({"a": "{{ steps.b0.from }}", "b": "{{ steps.b1.from }}", "c": "{{ steps.b0 }}"});
    let mut driver = Driver::begun(&definition);
    driver.reject("b0");
    driver.succeed("b1");
    assert_eq!(driver.succeeded().0, json!({"a": null, "b": "b1", "c": null}));
}
