//! What a client shows at first.

use super::*;

/// Bends rows: tasks of `user` that stand so, oldest first.
async fn insert_tasks(app: &TestApp, user: &Client, status: &str, count: usize) -> Vec<TaskId> {
    let sql = app.sql().await;
    let insert = "insert into tasks (id, user_id, pipeline_id, pipeline_version, status, quota_cost, input, finished_at)
        values ($1, $2, $1, 1, $3, 0, '{\"photo\": \"p\"}', case when $3 = 'failed' then clock_timestamp() end)";
    let mut tasks = Vec::new();
    for _ in 0..count {
        let task = TaskId::new();
        sql.execute(insert, &[&task, &id(user), &status]).await.unwrap();
        tasks.push(task);
    }
    tasks
}

async fn snapshot(socket: &mut Socket) -> Value {
    socket.send(json!({"type": "snapshot"})).await;
    let frames = socket.read_until(|frame| frame["type"] == "snapshot").await;
    frames.into_iter().next_back().unwrap()
}

fn ids(tasks: &Value) -> Vec<String> {
    tasks.as_array().unwrap().iter().map(|task| task["id"].as_str().unwrap().to_owned()).collect()
}

/// These tasks would be run, or found wrong by the audit.
async fn remove_tasks(app: &TestApp) {
    app.sql().await.batch_execute("delete from tasks").await.unwrap();
}

#[actix_web::test]
async fn a_snapshot_shows_what_runs_and_what_ended_last_as_the_list_does() {
    let app = TestApp::builder().may_leave_work().start().await;
    let (user, other) = (app.register_user().await, app.register_user().await);
    let mut socket = Socket::open(&user).await;
    assert_eq!(snapshot(&mut socket).await["tasks"], json!([]));

    let ended = insert_tasks(&app, &user, "failed", 60).await;
    insert_tasks(&app, &other, "failed", 3).await;
    let shown = snapshot(&mut socket).await;
    let newest: Vec<String> = ended.iter().rev().take(50).map(ToString::to_string).collect();
    assert_eq!(ids(&shown["tasks"]), newest);
    assert_eq!(shown.get("more"), None);
    assert_eq!((&shown["epoch"], &shown["seq"]), (&socket.hello["epoch"], &socket.hello["seq"]));
    let list = user.get("/api/v1/tasks?limit=50").await.expect(200);
    assert_eq!(shown["tasks"], list["items"]);
    remove_tasks(&app).await;
}

#[actix_web::test]
async fn beyond_two_hundred_a_snapshot_says_that_there_are_more() {
    let app = TestApp::builder().may_leave_work().start().await;
    let user = app.register_user().await;
    let mut socket = Socket::open(&user).await;
    // owned by nobody known, so that no engine takes them while the test looks
    let live = insert_tasks(&app, &user, "queued", 170).await;
    app.sql().await.batch_execute("update tasks set owner = gen_random_uuid()").await.unwrap();
    let ended = insert_tasks(&app, &user, "failed", 60).await;
    let shown = snapshot(&mut socket).await;
    let expected: Vec<String> =
        ended.iter().rev().take(30).chain(live.iter().rev()).map(ToString::to_string).collect();
    assert_eq!(ids(&shown["tasks"]), expected, "what runs goes before what ended");
    assert_eq!(shown["more"], true);
    remove_tasks(&app).await;
}
