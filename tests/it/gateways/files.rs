//! A file's way in and out: announced, sent by a signed link, completed, fetched, deleted.

use super::picture;
use crate::support::{Client, Reply, TestApp, servers};
use greenroom::gateways::object_store::LocalObjectStore;
use greenroom_actors::{clock::SystemClock, records::files::Files};
use image::ImageFormat;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::Arc;

async fn announce(user: &Client, content_type: &str, size: usize) -> Value {
    let body = json!({"contentType": content_type, "size": size, "name": "Mantel 大衣.png"});
    user.post("/api/v1/files", body).await.expect(201)
}

/// Sends bytes to a link as a stranger does who has nothing but the link.
async fn send(app: &TestApp, url: &str, content_type: &str, bytes: Vec<u8>) -> Reply {
    let client = app.client();
    client.send(client.request(Method::PUT, url).header("Content-Type", content_type).body(bytes)).await
}

#[tokio::test]
async fn a_file_goes_in_and_comes_out_byte_for_byte() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let bytes = picture(20, 10, &[[1, 2, 3], [200, 100, 0]], ImageFormat::Png);
    let announced = announce(&user, "image/png", bytes.len()).await;
    let file = format!("/api/v1/files/{}", announced["id"].as_str().unwrap());
    let upload = &announced["upload"];
    assert_eq!(upload["method"], "PUT");
    assert_eq!(upload["headers"], json!({"Content-Type": "image/png"}));
    assert!(upload["expiresAt"].as_str().unwrap().ends_with('Z'), "{upload}");
    assert_eq!(user.get(&file).await.expect(200)["downloadUrl"], Value::Null);

    let link = upload["url"].as_str().unwrap();
    assert!(link.starts_with(&app.service.url), "{link}");
    assert_eq!(send(&app, link, "image/png", bytes.clone()).await.status, 200);
    let completed = user.post(&format!("{file}/complete"), json!({})).await.expect(200);
    let again = user.post(&format!("{file}/complete"), json!({})).await.expect(200);
    for view in [&completed, &again] {
        assert_eq!(view["size"], bytes.len());
        assert_eq!((&view["name"], &view["kind"]), (&json!("Mantel 大衣.png"), &json!("upload")));
        assert_eq!((&view["contentType"], &view["taskId"]), (&json!("image/png"), &Value::Null));
    }

    let redirect = user.get(&format!("{file}/content")).await;
    assert_eq!(redirect.status, 302);
    let stranger = app.client();
    let download = stranger.request(Method::GET, redirect.header("location")).send().await.unwrap();
    assert_eq!(download.status(), 200);
    let header = |name: &str| download.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("content-type"), "image/png");
    assert_eq!(header("content-length"), bytes.len().to_string());
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert!(header("cache-control").starts_with("private"));
    assert!(header("content-disposition").contains("filename*=UTF-8''Mantel%20%E5%A4%A7%E8%A1%A3.png"));
    assert_eq!(download.bytes().await.unwrap(), bytes);
    assert_eq!(user.download(announced["id"].as_str().unwrap()).await, bytes);

    let old_link = completed["downloadUrl"].as_str().unwrap().to_owned();
    assert_eq!(user.delete(&file).await.status, 204);
    assert_eq!(user.delete(&file).await.status, 404);
    assert_eq!(user.get(&file).await.status, 404);
    assert_eq!(stranger.get(&old_link).await.status, 404, "the bytes are gone too");
}

#[tokio::test]
async fn a_file_counts_only_when_it_is_what_was_announced() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let announced = announce(&user, "image/jpeg", 5).await;
    let complete = format!("/api/v1/files/{}/complete", announced["id"].as_str().unwrap());
    let content = format!("/api/v1/files/{}/content", announced["id"].as_str().unwrap());
    let link = announced["upload"]["url"].as_str().unwrap();
    let incomplete = user.post(&complete, json!({})).await;
    assert_eq!((incomplete.status, incomplete.code()), (409, "UPLOAD_INCOMPLETE"));
    assert_eq!(user.get(&content).await.code(), "UPLOAD_INCOMPLETE");

    for (content_type, bytes, status) in
        [("image/jpeg", "abcd", 400), ("image/jpeg", "abcdef", 400), ("image/png", "abcde", 415)]
    {
        let refused = send(&app, link, content_type, bytes.into()).await;
        assert_eq!(refused.status, status, "{content_type} {bytes}: {refused:?}");
        assert_eq!(user.post(&complete, json!({})).await.code(), "UPLOAD_INCOMPLETE");
    }
    assert_eq!(send(&app, link, "image/jpeg", "abcde".into()).await.status, 200);
    assert_eq!(send(&app, link, "image/jpeg", "vwxyz".into()).await.status, 409, "a link is good once");
    user.post(&complete, json!({})).await.expect(200);
    assert_eq!(user.download(announced["id"].as_str().unwrap()).await, b"abcde");
}

#[tokio::test]
async fn a_link_that_was_touched_opens_nothing() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let announced = announce(&user, "image/jpeg", 5).await;
    let link = announced["upload"]["url"].as_str().unwrap();
    for touched in [
        link.replace("size=5", "size=6"),
        link.replace("jpeg", "png"),
        link.replace("expires=", "expires=9"),
        link.replace("signature=", "signature=A"),
        link.split('?').next().unwrap().to_owned(),
        format!("{link}&x=1"),
    ] {
        let refused = send(&app, &touched, "image/jpeg", "abcde".into()).await;
        assert_eq!((refused.status, refused.code()), (403, "FORBIDDEN"), "{touched}");
    }
    assert_eq!(app.client().get(link).await.status, 403, "an upload link does not download");
    let wrong_method = app.client().post(link, json!({})).await;
    assert_eq!((wrong_method.status, wrong_method.header("allow")), (405, "GET, PUT"));
    for path in
        ["/objects/", "/objects/..%2f..%2fetc%2fpasswd", "/objects/../../etc/passwd", "/objects/a%00b?x"]
    {
        let refused = app.client().get(path).await;
        assert!([403, 404].contains(&refused.status) && !refused.code().is_empty(), "{path}: {refused:?}");
    }
}

#[tokio::test]
async fn files_are_their_owners_alone() {
    let app = TestApp::start().await;
    let (owner, other) = (app.register_user().await, app.register_user().await);
    let id = owner.upload("image/png", picture(2, 2, &[[0, 0, 0]], ImageFormat::Png)).await;
    let (file, complete, content) = (
        format!("/api/v1/files/{id}"),
        format!("/api/v1/files/{id}/complete"),
        format!("/api/v1/files/{id}/content"),
    );
    for (person, status) in [(&other, 404), (&app.client(), 401)] {
        assert_eq!(person.get(&file).await.status, status);
        assert_eq!(person.get(&content).await.status, status);
        assert_eq!(person.post(&complete, json!({})).await.status, status);
        assert_eq!(person.delete(&file).await.status, status);
    }
    owner.get(&file).await.expect(200);
    for nothing in ["x", "..%2f", "%00", "00000000-0000-0000-0000-00000000000g", &id.replace('-', "")] {
        assert_eq!(owner.get(&format!("/api/v1/files/{nothing}")).await.status, 404, "{nothing}");
    }
}

#[tokio::test]
async fn what_is_not_taken_is_refused_when_it_is_announced() {
    let app = TestApp::builder().env("GREENROOM__STORAGE__MAX_UPLOAD_BYTES", 1000).start().await;
    let user = app.register_user().await;
    let good = json!({"contentType": "image/webp", "size": 1000});
    user.post("/api/v1/files", good.clone()).await.expect(201);
    for (field, value, status) in [
        ("contentType", json!("text/html"), 422),
        ("contentType", json!("image/svg+xml"), 422),
        ("contentType", json!(7), 400),
        ("size", json!(0), 422),
        ("size", json!(1001), 422),
        ("size", json!(-1), 400),
        ("size", json!("9"), 400),
        ("size", json!(1e300), 400),
        ("name", json!(""), 422),
        ("name", json!("a\nb"), 422),
        ("name", json!("x".repeat(201)), 422),
        ("name", json!("a\u{0}b"), 400),
        ("owner", json!("me"), 400),
    ] {
        let mut body = good.clone();
        body[field] = value.clone();
        let refused = user.post("/api/v1/files", body).await;
        assert_eq!(refused.status, status, "{field} = {value}: {refused:?}");
        assert_eq!(refused.json["errors"][0]["path"], format!("/{field}"));
    }
}

#[tokio::test]
async fn an_upload_that_never_came_is_removed_after_a_day() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let mut ids = Vec::new();
    for age in ["1 hour", "24 hours 1 minute", "26 hours"] {
        let announced = announce(&user, "image/jpeg", 5).await;
        let sent =
            send(&app, announced["upload"]["url"].as_str().unwrap(), "image/jpeg", "abcde".into()).await;
        assert_eq!(sent.status, 200);
        let id = announced["id"].as_str().unwrap().to_owned();
        let age_row =
            "update files set created_at = created_at - $2::text::interval where id = $1::text::uuid";
        app.sql().await.execute(age_row, &[&id, &age]).await.unwrap();
        ids.push(id);
    }
    let files = records(&app);
    assert_eq!(files.remove_abandoned(10).await.unwrap(), 1, "the one of 26 hours");
    assert_eq!(files.remove_abandoned(10).await.unwrap(), 0);
    let complete = async |id: &str| user.post(&format!("/api/v1/files/{id}/complete"), json!({})).await;
    assert_eq!(complete(&ids[0]).await.status, 200);
    assert_eq!(complete(&ids[1]).await.status, 404, "too late, though it is not removed yet");
    assert_eq!(complete(&ids[2]).await.status, 404);
    assert_eq!(app.count("select count(*) from files").await, 2);
    let objects = walk(&app.environment["GREENROOM__STORAGE__DIR"]);
    assert_eq!(objects, 2, "its bytes are gone too");
}

/// The service's files, seen from inside.
fn records(app: &TestApp) -> Files {
    let directory = app.environment["GREENROOM__STORAGE__DIR"].clone().into();
    let url = app.service.url.parse().unwrap();
    let store = LocalObjectStore::open(directory, url, &[0; 32].into(), Arc::new(SystemClock)).unwrap();
    Files::new(servers::pool(&app.database_url), Arc::new(store))
}

/// How many objects lie in a store's directory.
fn walk(directory: &str) -> usize {
    fn files(path: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
    }
    files(&std::path::Path::new(directory).join("objects"))
}

#[tokio::test]
async fn a_file_that_a_task_may_still_read_stays() {
    let app = TestApp::start().await;
    let user = app.register_user().await;
    let id = user.upload("image/png", picture(2, 2, &[[0, 0, 0]], ImageFormat::Png)).await;
    let file = format!("/api/v1/files/{id}");
    // a task that another replica runs, and keeps running
    let sql = app.sql().await;
    let run = "with r as (insert into replicas (owner, label, expires_at)
                          values (gen_random_uuid(), 'elsewhere', now() + interval '1 hour') returning owner)
               insert into tasks (id, user_id, pipeline_id, pipeline_version, status, quota_cost, input, owner)
               select gen_random_uuid(), $1::text::uuid, gen_random_uuid(), 1, 'running', 0, $2, owner from r";
    sql.execute(run, &[&user.id, &json!({"photos": [{"front": id}]})]).await.unwrap();
    let refused = user.delete(&file).await;
    assert_eq!((refused.status, refused.code()), (409, "CONFLICT"));
    user.get(&file).await.expect(200);

    sql.execute("update tasks set input = '{}'", &[]).await.unwrap();
    sql.execute("update files set task_id = (select id from tasks)", &[]).await.unwrap();
    assert_eq!(user.delete(&file).await.status, 409, "the task that made it may read it too");

    sql.execute("delete from tasks", &[]).await.unwrap();
    assert_eq!(user.delete(&file).await.status, 204);
}
