//! The main job with both kinds of provider: a photo goes in, a sheet of pictures comes out.

use super::picture;
use crate::support::{Answer, FakeProvider, TestApp};
use base64::{Engine, prelude::BASE64_STANDARD};
use image::ImageFormat;
use reqwest::Method;
use serde_json::{Value, json};

fn lookbook() -> Value {
    json!({
        "name": "Lookbook", "quotaCost": 2,
        "inputSchema": {
            "type": "object", "required": ["photo"],
            "properties": {"photo": {"type": "string", "format": "file-id"}}
        },
        "nodes": [
            {"id": "start", "type": "start"},
            {"id": "fan", "type": "fork"},
            {"id": "front", "type": "provider", "provider": "image",
             "input": {"op": "resize", "file": "{{ input.photo }}", "width": 128}},
            {"id": "tones", "type": "provider", "provider": "image",
             "input": {"op": "palette", "file": "{{ input.photo }}", "count": 2}},
            {"id": "drawn", "type": "provider", "provider": "draw", "input": {"photo": "{{ input.photo }}"}},
            {"id": "gather", "type": "join", "strategy": "ALL"},
            {"id": "sheet", "type": "provider", "provider": "image",
             "input": {"op": "collage", "files": ["{{ steps.front.file }}", "{{ steps.drawn.picture }}"], "cell": 64}},
            {"id": "end", "type": "end", "output": {
                "lookbook": "{{ steps.sheet.file }}", "palette": "{{ steps.tones.colors }}",
                "seed": "{{ steps.drawn.seed }}"
            }}
        ],
        "edges": [
            ["start", "fan"], ["fan", "front"], ["fan", "tones"], ["fan", "drawn"], ["front", "gather"],
            ["tones", "gather"], ["drawn", "gather"], ["gather", "sheet"], ["sheet", "end"]
        ]
    })
}

#[tokio::test]
async fn a_photo_becomes_a_lookbook() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    app.grant(&user, 2).await;
    let photo = picture(256, 128, &[[200, 0, 0], [0, 0, 200]], ImageFormat::Png);
    let drawn = BASE64_STANDARD.encode(picture(32, 32, &[[0, 200, 0]], ImageFormat::Png));
    let provider = FakeProvider::start(move |_| Answer::json(json!({"seed": 7, "image": drawn}))).await;
    app.put_provider(json!({"id": "image", "kind": "image"})).await;
    app.put_provider(json!({
        "id": "draw", "kind": "http", "baseUrl": provider.url,
        "request": {
            "headers": {"X-Task": "{{ task.id }}"},
            "body": {"link": "{{ input.photo | file_url }}", "inline": "{{ input.photo | file_base64 }}"}
        },
        "response": {
            "output": {"seed": "{{ body.seed }}"}, "files": {"picture": {"base64": "{{ body.image }}"}}
        }
    }))
    .await;
    let pipeline = app.publish_pipeline(lookbook()).await;
    let id = user.upload("image/png", photo.clone()).await;
    let task =
        user.post("/api/v1/tasks", json!({"pipelineId": pipeline, "input": {"photo": id}})).await.expect(202);
    let task = user.final_task(task["id"].as_str().unwrap()).await;
    assert_eq!(task["status"], "succeeded", "{task:#}");
    assert_eq!(task["output"]["palette"], json!(["#0000c8", "#c80000"]));
    assert_eq!(task["output"]["seed"], 7);

    let sheet = task["output"]["lookbook"].as_str().unwrap();
    let files = task["files"].as_array().unwrap();
    let kinds: Vec<&Value> = files.iter().map(|file| &file["kind"]).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "output").count(), 1, "{files:#?}");
    assert!(
        files
            .iter()
            .any(|file| file["id"] == sheet && file["kind"] == "output" && file["taskId"] == task["id"])
    );
    let picture = image::load_from_memory(&user.download(sheet).await).unwrap().into_rgb8();
    assert_eq!(picture.dimensions(), (128, 64), "two cells");
    assert!(picture.get_pixel(16, 32).0[0] > 150, "the photo's red is on the left");
    assert!(picture.get_pixel(96, 32).0[1] > 150, "what was drawn is on the right");

    let calls = provider.calls();
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].key(), format!("{}:drawn", task["id"].as_str().unwrap()));
    assert_eq!(calls[0].headers["x-task"], task["id"].as_str().unwrap());
    assert_eq!(BASE64_STANDARD.decode(calls[0].json()["inline"].as_str().unwrap()).unwrap(), photo);
    let link = calls[0].json()["link"].as_str().unwrap().to_owned();
    let fetched = app.client().request(Method::GET, &link).send().await.unwrap();
    assert_eq!(
        fetched.bytes().await.unwrap(),
        photo,
        "the provider could fetch it with nothing but the link"
    );
}
