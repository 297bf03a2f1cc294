//! How a run begins, goes through, and ends.

use chrono::TimeDelta;
use serde_json::json;

use super::driver::{Driver, fan, pipeline, single};
use crate::pipeline::{
    AttemptCause, AttemptStatus, StepStatus,
    provider::CallError,
    state::{Effect, Ending, Event},
};

#[test]
fn a_pipeline_without_steps_ends_at_once() {
    let driver = Driver::begun(&pipeline("start:start end:end", "start>end"));
    assert_eq!(driver.succeeded(), (json!(null), 3));
    assert_eq!(driver.progress, 100);
    assert_eq!(driver.statuses(), "start:succeeded end:succeeded");
}

#[test]
fn steps_follow_each_other_and_the_end_has_the_output() {
    let mut definition = pipeline("start:start a:p b:p end:end", "start>a a>b b>end");
    definition["nodes"][1]["input"] = json!({"text": "{{ input.text }}", "task": "{{ task.id }}"});
    definition["nodes"][2]["input"] = json!({"sum": "{{ steps.a.n + 1 }}", "later": "{{ steps.none }}"});
    definition["nodes"][2]["input"].as_object_mut().expect("an object").remove("later");
    definition["nodes"][3]["output"] = json!({"result": "{{ steps.b }}"});
    let mut driver = Driver::with_input(&definition, json!({"text": "hi"}));
    driver.wake();
    let call = driver.open_call("a");
    assert_eq!((call.attempt, call.provider.as_str(), call.cause), (1, "one", AttemptCause::First));
    let input = call.input.resolve(&[]).expect("no files");
    assert_eq!(input, json!({"text": "hi", "task": super::driver::task().to_string()}));
    assert_eq!(driver.statuses(), "start:succeeded a:pending b:pending end:pending");

    driver.start("a");
    assert_eq!(driver.statuses(), "start:succeeded a:running b:pending end:pending");
    driver.answer("a", Ok(json!({"n": 4})));
    assert_eq!(driver.progress, 50);
    assert_eq!(driver.open_call("b").input.resolve(&[]).expect("no files"), json!({"sum": 5}));
    driver.answer("b", Ok(json!([1])));
    assert_eq!(driver.succeeded(), (json!({"result": [1]}), 3));
    assert_eq!(driver.statuses(), "start:succeeded a:succeeded b:succeeded end:succeeded");
    assert_eq!(driver.progress, 100);
    assert_eq!(driver.attempt_status("a", 1), AttemptStatus::Succeeded);
}

#[test]
fn a_failed_step_fails_the_task_and_skips_the_rest() {
    let mut driver = Driver::begun(&pipeline("start:start a:p b:p end:end", "start>a a>b b>end"));
    driver.reject("a");
    assert_eq!(driver.failed(), ("PROVIDER_REJECTED".into(), Some("a".into()), 0));
    assert_eq!(driver.statuses(), "start:succeeded a:failed b:skipped end:skipped");
    assert_eq!(driver.attempt_status("a", 1), AttemptStatus::Failed);
    assert_eq!(driver.run.wake_at(), None);
}

#[test]
fn nothing_counts_before_the_first_call_is_admitted() {
    let mut definition = single();
    definition["deadlineMs"] = json!(60_000);
    let mut driver = Driver::begun(&definition);
    assert_eq!(driver.run.wake_at(), None);
    driver.pass(TimeDelta::hours(5));
    assert_eq!(driver.ending, None);
    driver.start("a");
    assert_eq!(driver.run.wake_at(), driver.run.deadline_at());
    driver.pass(TimeDelta::milliseconds(59_999));
    assert_eq!(driver.ending, None);
    driver.pass(TimeDelta::milliseconds(1));
    assert_eq!(driver.failed(), ("TASK_DEADLINE_EXCEEDED".into(), None, 0));
    assert_eq!(driver.statuses(), "start:succeeded a:cancelled end:skipped");
}

#[test]
fn an_answer_after_the_end_changes_only_its_attempt() {
    let mut definition = single();
    definition["deadlineMs"] = json!(1_000);
    let mut driver = Driver::begun(&definition);
    driver.start("a");
    driver.pass(TimeDelta::seconds(2));
    assert!(driver.run.has_ended() && driver.run.awaits_answers());
    assert_eq!(driver.withdrawn, [("a".to_owned(), 1)]);
    let effects = driver.succeed("a");
    assert_eq!(effects.len(), 1, "{effects:?}");
    assert!(!driver.run.awaits_answers());
    assert_eq!(driver.attempt_status("a", 1), AttemptStatus::Cancelled);
    assert_eq!(driver.status("a"), StepStatus::Cancelled);
}

#[test]
fn a_call_is_not_repeated_by_hearing_of_it_twice() {
    let mut driver = Driver::begun(&pipeline("start:start a:p b:p end:end", "start>a a>b b>end"));
    driver.succeed("a");
    let again = Event::CallFinished { node: "a".into(), attempt: 1, result: Ok(json!("other")) };
    assert_eq!(driver.apply(again), []);
    for event in [
        Event::CallStarted { node: "a".into(), attempt: 1 },
        Event::CallDropped { node: "a".into(), attempt: 1 },
        Event::CallFinished { node: "b".into(), attempt: 2, result: Ok(json!(1)) },
        Event::CallFinished { node: "nobody".into(), attempt: 1, result: Ok(json!(1)) },
        Event::CallRefused { node: "start".into(), attempt: 1, error: CallError::permanent("X", "x") },
        Event::Woken,
    ] {
        assert_eq!(driver.apply(event.clone()), [], "{event:?}");
    }
}

#[test]
fn an_answer_also_says_that_the_call_had_started() {
    let mut driver = Driver::begun(&single());
    driver.start("a");
    let definition = single();
    let mut hurried = Driver::begun(&definition);
    hurried.attempts = driver.attempts.clone();
    let result = Ok(json!(1));
    let effects = hurried.apply(Event::CallFinished { node: "a".into(), attempt: 1, result });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Started { .. })));
    assert!(hurried.steps["a"].started_at.is_some());
    assert!(hurried.ending.is_some());
}

#[test]
fn progress_counts_provider_steps_however_they_end() {
    let mut driver = Driver::begun(&fan(3, "ANY"));
    driver.succeed("b1");
    assert_eq!(driver.progress, 33);
    driver.reject("b0");
    assert_eq!(driver.progress, 66);
    driver.succeed("b2");
    assert_eq!(driver.progress, 100);
}

#[test]
fn a_usage_cost_charges_what_was_used_up_to_its_maximum() {
    for (images, charge) in [(0, 0), (2, 2), (4, 4), (9, 4)] {
        let mut definition = single();
        definition["quotaCost"] = json!({"max": 4, "charge": "{{ steps.a.images | length }}"});
        let mut driver = Driver::begun(&definition);
        driver.answer("a", Ok(json!({"images": vec!["x"; images]})));
        assert_eq!(driver.succeeded().1, charge, "{images} images");
    }
    for (expression, charge) in [
        ("{{ 4 / 2 }}", 2),
        ("{{ 1.2 }}", 2),
        ("{{ -0.5 }}", 0),
        ("{{ 1e30 }}", 4),
        ("{{ steps.a.none | length }}", 0),
        ("{{ -3 }}", 0),
        ("{{ 18446744073709551615 }}", 4),
    ] {
        let mut definition = single();
        definition["quotaCost"] = json!({"max": 4, "charge": expression});
        let mut driver = Driver::begun(&definition);
        driver.succeed("a");
        assert_eq!(driver.succeeded().1, charge, "{expression}");
    }
}

#[test]
fn a_charge_that_is_no_number_takes_nothing_away_and_costs_all_that_is_held() {
    let broken =
        ["{{ 'two' }}", "{{ steps.a.none }}", "{{ true }}", "{{ 1 / 0 }}", "{{ 0 / 0 }}", "{{ 1 + input }}"];
    for expression in broken {
        let mut definition = single();
        definition["quotaCost"] = json!({"max": 4, "charge": expression});
        let mut driver = Driver::begun(&definition);
        driver.succeed("a");
        assert_eq!(driver.succeeded().1, 4, "{expression}");
        let fault = match driver.ending {
            Some(Ending::Succeeded { charge_fault, .. }) => charge_fault,
            _ => None,
        };
        assert!(fault.is_some(), "{expression}");
    }
}

#[test]
fn rejected_content_costs_only_where_the_pipeline_says_so() {
    for (costs, code, charge) in
        [(true, "CONTENT_REJECTED", 3), (false, "CONTENT_REJECTED", 0), (true, "PROVIDER_REJECTED", 0)]
    {
        let mut definition = single();
        definition["chargeOnContentRejected"] = json!(costs);
        let mut driver = Driver::begun(&definition);
        driver.answer("a", Err(CallError::permanent(code, "No.")));
        assert_eq!(driver.failed(), (code.into(), Some("a".into()), charge));
    }
}

#[test]
fn an_output_that_does_not_fit_fails_the_step() {
    let mut definition = single();
    definition["nodes"][1]["outputSchema"] = json!({"required": ["seed"]});
    definition["nodes"][1]["fallback"] = json!(["two"]);
    for (definition, output) in [(&definition, json!({"from": "a"})), (&single(), json!({"seed": "\0"}))] {
        let mut driver = Driver::begun(definition);
        driver.answer("a", Ok(output));
        assert_eq!(driver.failed(), ("OUTPUT_INVALID".into(), Some("a".into()), 0));
        assert_eq!(driver.attempt_status("a", 1), AttemptStatus::Failed);
    }
    let mut driver = Driver::begun(&definition);
    driver.answer("a", Ok(json!({"seed": 1})));
    driver.succeeded();
}

#[test]
fn a_template_that_cannot_be_rendered_fails_its_step_without_a_call() {
    let mut definition = fan(2, "ANY");
    definition["nodes"][2]["input"] = json!({"x": "{{ input.text / 2 }}"});
    let mut driver = Driver::with_input(&definition, json!({"text": "two"}));
    driver.wake();
    assert_eq!(driver.open_nodes(), ["b1"]);
    assert_eq!(driver.status("b0"), StepStatus::Failed);
    assert_eq!(driver.steps["b0"].error.as_ref().expect("an error").code, "TEMPLATE_FAILED");
    driver.succeed("b1");
    driver.succeeded();

    let mut definition = single();
    definition["nodes"][2]["output"] = json!("{{ steps.a.from | int }}{{ 1 / 0 }}");
    let mut driver = Driver::begun(&definition);
    driver.succeed("a");
    assert_eq!(driver.failed(), ("TEMPLATE_FAILED".into(), Some("end".into()), 0));
    assert!(matches!(driver.ending, Some(Ending::Failed { .. })));
}

#[test]
fn time_is_kept_as_rows_keep_it() {
    let mut driver = Driver::begun(&single());
    driver.succeed("a");
    let finished = driver.steps["a"].finished_at.expect("finished");
    assert_eq!(finished.timestamp_subsec_nanos() % 1_000, 0);
}
