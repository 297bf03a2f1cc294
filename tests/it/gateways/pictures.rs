//! The kind `image` on real files, through the door an admin has for trying providers.

use super::picture;
use crate::support::{Client, TestApp};
use image::ImageFormat;
use serde_json::{Value, json};

async fn try_image(admin: &Client, input: Value) -> Value {
    admin.post("/api/v1/admin/providers/image/test", json!({"input": input})).await.expect(200)
}

#[tokio::test]
async fn each_operation_says_what_it_made() {
    let app = TestApp::start().await;
    app.put_provider(json!({"id": "image", "kind": "image"})).await;
    let admin = app.admin().await;
    let photo =
        admin.upload("image/png", picture(400, 200, &[[250, 0, 0], [0, 0, 250]], ImageFormat::Png)).await;
    let mark = admin.upload("image/webp", picture(20, 20, &[[255, 255, 255]], ImageFormat::WebP)).await;
    for (input, width, height, name) in [
        (json!({"op": "resize", "file": photo, "width": 100}), 100, 50, "resize.jpg"),
        (
            json!({"op": "resize", "file": photo, "width": 60, "height": 60, "fit": "cover", "format": "png"}),
            60,
            60,
            "resize.png",
        ),
        (
            json!({"op": "crop", "file": photo, "x": 10, "y": 20, "width": 30, "height": 40}),
            30,
            40,
            "crop.jpg",
        ),
        (json!({"op": "thumbnail", "file": photo, "size": 64, "format": "webp"}), 64, 32, "thumbnail.webp"),
        (json!({"op": "grayscale", "file": photo}), 400, 200, "grayscale.jpg"),
        (json!({"op": "blur", "file": photo, "sigma": 3}), 400, 200, "blur.jpg"),
        (
            json!({"op": "collage", "files": [photo, mark, photo], "cell": 64, "gap": 8, "background": "#102030"}),
            136,
            136,
            "collage.jpg",
        ),
        (
            json!({"op": "watermark", "file": photo, "mark": mark, "position": "center", "opacity": 1}),
            400,
            200,
            "watermark.jpg",
        ),
    ] {
        let tried = try_image(&admin, input.clone()).await;
        assert_eq!(tried["error"], Value::Null, "{input}");
        assert_eq!(tried["output"], json!({"width": width, "height": height}), "{input}");
        let file = &tried["files"][0];
        assert_eq!((&file["field"], &file["name"]), (&json!("file"), &json!(name)));
        assert!(file["size"].as_u64().unwrap() > 100);
    }
    let palette = try_image(&admin, json!({"op": "palette", "file": photo})).await;
    assert_eq!(palette["output"], json!({"colors": ["#0000fa", "#fa0000"]}));
}

#[tokio::test]
async fn a_bad_picture_and_a_bad_wish_are_told_apart() {
    let app = TestApp::start().await;
    app.put_provider(json!({"id": "image", "kind": "image"})).await;
    let admin = app.admin().await;
    let whole = picture(64, 64, &[[9, 9, 9], [90, 0, 90]], ImageFormat::Jpeg);
    let good = admin.upload("image/jpeg", whole.clone()).await;
    let cut = admin.upload("image/jpeg", whole[..whole.len() / 2].to_vec()).await;
    let none = admin.upload("image/png", b"<svg></svg>".to_vec()).await;
    let foreign = app.register_user().await.upload("image/jpeg", whole).await;
    for (input, code) in [
        (json!({"op": "grayscale", "file": cut}), "IMAGE_INVALID"),
        (json!({"op": "grayscale", "file": none}), "IMAGE_INVALID"),
        (json!({"op": "collage", "files": [good, cut]}), "IMAGE_INVALID"),
        (json!({"op": "resize", "file": good}), "PROVIDER_REJECTED"),
        (json!({"op": "resize", "file": good, "width": 5000}), "PROVIDER_REJECTED"),
        (json!({"op": "dance", "file": good}), "PROVIDER_REJECTED"),
        (json!({"op": "grayscale", "file": foreign}), "INPUT_INVALID"),
        (json!({"op": "grayscale", "file": uuid::Uuid::now_v7()}), "INPUT_INVALID"),
    ] {
        let tried = try_image(&admin, input.clone()).await;
        assert_eq!(
            (&tried["error"]["code"], &tried["error"]["retryable"]),
            (&json!(code), &json!(false)),
            "{input}"
        );
    }
}
