//! Runs from start to end: what is charged, what comes out, what is told.

use super::*;
use greenroom_actors::{
    events::{Event, EventKind},
    pipeline::provider::{CallOutput, ProducedFile},
    quota::QuotaError,
};

#[actix_web::test]
async fn a_chain_of_steps_ends_with_its_output_and_its_charge() {
    let ground = Ground::start().await;
    ground.provider("echo", json!({})).await;
    ground.fake.script(|call| Reply::output(json!({"said": call.node})));
    let pipeline = ground.pipeline(chain(&[("one", "echo"), ("two", "echo")])).await;
    let user = ground.user(10).await;
    let task = ground.replica.start_task(user, pipeline).await;
    let ended = ground.ended(task).await;
    assert_eq!(ended.status, TaskStatus::Succeeded, "{ended:?}");
    assert_eq!(ended.output, Some(json!({"said": "two"})));
    assert_eq!(ended.progress, 100);
    assert!(ended.started_at.is_some() && ended.finished_at.is_some());
    assert_eq!(ground.counters(user).await, (7, 0));
    let steps = ground.steps(task).await;
    let statuses: Vec<_> = steps.iter().map(|step| (step.node.as_str(), step.status)).collect();
    let all = ["start", "one", "two", "end"].map(|node| (node, StepStatus::Succeeded));
    assert_eq!(statuses, all);
    let keys: Vec<_> = ground.fake.seen().into_iter().map(|seen| seen.key).collect();
    assert_eq!(keys, [format!("{task}:one"), format!("{task}:two")]);
    ground.expect_clean().await;
}

#[actix_web::test]
async fn a_task_without_calls_ends_too() {
    let ground = Ground::start().await;
    let definition = json!({
        "name": "Nothing", "quotaCost": 1,
        "nodes": [{"id": "start", "type": "start"}, {"id": "end", "type": "end", "output": {"got": "{{ input.x }}"}}],
        "edges": [["start", "end"]]});
    let pipeline = ground.pipeline(definition).await;
    let user = ground.user(1).await;
    let task = ground.replica.try_start(user, pipeline, json!({"x": [1, 2]})).await.unwrap();
    let ended = ground.ended(task.id).await;
    assert_eq!(ended.output, Some(json!({"got": [1, 2]})), "{ended:?}");
    assert_eq!(ground.counters(user).await, (0, 0));
    ground.expect_clean().await;
}

#[actix_web::test]
async fn the_story_is_told_in_order_and_after_it_happened() {
    let mut ground = Ground::start().await;
    ground.provider("echo", json!({})).await;
    let pipeline = ground.pipeline(chain(&[("one", "echo"), ("two", "echo")])).await;
    let user = ground.user(10).await;
    let task = ground.replica.start_task(user, pipeline).await;
    ground.ended(task).await;
    let mut told: Vec<Event> = Vec::new();
    while !told.iter().any(|event| event.kind == EventKind::TaskFinished) {
        told.extend(ground.replica.published.next().await);
    }
    let story: Vec<String> = told
        .iter()
        .filter(|event| event.task == Some(task) && event.kind != EventKind::QuotaChanged)
        .map(|event| {
            let text = |name: &str| event.data[name].as_str().unwrap_or_default().to_owned();
            format!(
                "{} {}{}",
                event.kind.name(),
                text("nodeId"),
                event.data["progress"].as_i64().unwrap_or(-1)
            )
        })
        .collect();
    assert_eq!(
        story,
        [
            "task.created -1",
            "task.started -1",
            "step.started one-1",
            "step.finished one-1",
            "task.progress 50",
            "step.started two-1",
            "step.finished two-1",
            "step.finished end-1",
            "task.progress 100",
            "task.finished -1",
        ]
    );
    ground.expect_clean().await;
}

#[actix_web::test]
async fn produced_files_are_kept_and_marked_as_what_they_are() {
    let ground = Ground::start().await;
    ground.provider("paint", json!({})).await;
    ground.fake.script(|call| {
        let file = ProducedFile {
            field: "said".to_owned(),
            name: format!("{}.txt", call.node),
            content_type: "text/plain".to_owned(),
            bytes: call.node.clone().into(),
        };
        Reply::produced(CallOutput { output: json!({"width": 1}), files: vec![file] })
    });
    let pipeline = ground.pipeline(chain(&[("draft", "paint"), ("final", "paint")])).await;
    let user = ground.user(10).await;
    let task = ground.replica.start_task(user, pipeline).await;
    let ended = ground.ended(task).await;
    assert_eq!(ended.status, TaskStatus::Succeeded, "{ended:?}");
    let files = "select name, kind, completed_at is not null from files where task_id = $1 order by id";
    let rows = ground.sql.query(files, &[&task]).await.unwrap();
    let rows: Vec<(String, String, bool)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
    let expected = [("draft.txt", "intermediate"), ("final.txt", "output")];
    assert_eq!(rows, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned(), true)));
    let draft = ground.step(task, "draft").await.output.unwrap();
    assert_eq!(draft["width"], 1);
    assert!(draft["said"].as_str().unwrap().parse::<uuid::Uuid>().is_ok());
    ground.expect_clean().await;
}

#[actix_web::test]
async fn what_cannot_be_accepted_holds_nothing() {
    let ground = Ground::with(Wishes { queued_per_user: 2, running_per_user: 1, ..Wishes::default() }).await;
    ground.provider("echo", json!({})).await;
    ground.fake.script(|_| Reply::hang());
    let mut definition = chain(&[("one", "echo")]);
    definition["inputSchema"] = json!({"type": "object", "required": ["photo"],
        "properties": {"photo": {"type": "string", "format": "file-id"}}});
    let with_file = ground.pipeline(definition).await;
    let mut definition = chain(&[("one", "echo")]);
    definition["requiresMembership"] = json!(true);
    let for_members = ground.pipeline(definition).await;
    let plain = ground.pipeline(chain(&[("one", "echo")])).await;
    let (user, poor) = (ground.user(100).await, ground.user(1).await);
    let start = async |pipeline, input| ground.replica.try_start(user, pipeline, input).await;

    assert!(matches!(start(PipelineId::new(), json!({})).await, Err(PipelineError::PipelineNotFound)));
    assert!(matches!(start(for_members, json!({})).await, Err(PipelineError::MembershipRequired)));
    let Err(PipelineError::InputInvalid(faults)) = start(with_file, json!({"photo": 1})).await else {
        panic!()
    };
    assert_eq!(faults[0].path, "/input/photo");
    let foreign = json!({"photo": uuid::Uuid::now_v7()});
    let Err(PipelineError::InputInvalid(faults)) = start(with_file, foreign).await else { panic!() };
    assert_eq!(faults[0].path, "/input/photo");
    let broke = ground.replica.try_start(poor, plain, json!({})).await;
    assert!(matches!(broke, Err(PipelineError::Quota(_))), "{broke:?}");
    assert_eq!(ground.counters(user).await, (100, 0));

    // one runs, two wait, the next is too many
    let running = start(plain, json!({})).await.unwrap().id;
    eventually("the first runs", async || {
        (ground.task(running).await.status == TaskStatus::Running).then_some(())
    })
    .await;
    let waiting = [start(plain, json!({})).await.unwrap(), start(plain, json!({})).await.unwrap()];
    assert!(matches!(start(plain, json!({})).await, Err(PipelineError::Quota(QuotaError::TooManyQueued))));
    let told = ground.replica.pipeline.waiting(&waiting).await.unwrap();
    assert_eq!(told[&waiting[0].id].reason.name(), "user_ceiling");
    assert_eq!((told[&waiting[0].id].position, told[&waiting[1].id].position), (Some(0), Some(1)));
    for task in [running, waiting[0].id, waiting[1].id] {
        ground.replica.cancel(task).await.unwrap();
    }
    assert_eq!(ground.counters(user).await, (100, 0));
    ground.fake.script(|_| Reply::ok());
}
