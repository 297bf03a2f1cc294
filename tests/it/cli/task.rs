//! `greenroom task show`.

use serde_json::json;

use super::said;
use crate::support::{Answer, FakeProvider, TestApp};

#[tokio::test]
async fn a_run_is_shown_as_a_timeline() {
    let app = TestApp::start().await;
    let provider = FakeProvider::start(|call| match call.number {
        0 => Answer::status(503, json!({})),
        _ => Answer::json(json!({ "said": "done" })),
    })
    .await;
    app.put_provider(provider.definition("ai")).await;
    let pipeline = app
        .publish_pipeline(json!({
            "name": "One call", "quotaCost": 3, "inputSchema": { "type": "object" },
            "nodes": [
                { "id": "start", "type": "start" },
                { "id": "draw", "type": "provider", "provider": "ai", "input": {},
                  "retry": { "maxAttempts": 3, "backoffMs": 10 } },
                { "id": "end", "type": "end", "output": { "said": "{{ steps.draw.said }}" } },
            ],
            "edges": [["start", "draw"], ["draw", "end"]],
        }))
        .await;
    let user = app.register_user().await;
    app.grant(&user, 5).await;
    let task = user.post("/api/v1/tasks", json!({ "pipelineId": pipeline, "input": {} })).await.expect(202);
    let id = task["id"].as_str().unwrap();
    assert_eq!(user.final_task(id).await["status"], "succeeded");

    let (code, text) = said(&app.run(&["task", "show", id]).await);
    assert_eq!(code, 0, "{text}");
    let mut rest = text.as_str();
    for part in [
        "One call (version 1)",
        "confirmed: 3 held, 3 charged",
        "accepted",
        "call 1 of ai sent (first)",
        "call 1 of ai failed",
        "call 2 of ai sent (retry)",
        "call 2 of ai succeeded",
        "succeeded",
    ] {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("{part} is not next in\n{text}")).1;
    }
}

#[tokio::test]
async fn an_unknown_task_is_a_failure_and_a_broken_id_wrong_use() {
    let app = TestApp::builder().prepare().await;
    let unknown = "01990000-0000-7000-8000-000000000000";
    let (code, text) = said(&app.run(&["task", "show", unknown]).await);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(unknown), "{text}");
    assert_eq!(said(&app.run(&["task", "show", "no-id"]).await).0, 2);
}
