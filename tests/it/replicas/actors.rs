//! The actors of all replicas are seen on any of them.

use crate::support::{TestApp, eventually};
use serde_json::Value;

fn of(list: &Value, replica: &str, kind: &str) -> Vec<Value> {
    let items = list["items"].as_array().unwrap();
    items.iter().filter(|actor| actor["replica"] == replica && actor["kind"] == kind).cloned().collect()
}

#[actix_web::test]
async fn any_replica_shows_the_actors_of_all_that_run() {
    let app = TestApp::builder()
        .env("GREENROOM__SERVER__REPLICA_ID", "a")
        .env("GREENROOM__PIPELINE__LEASE_MS", 1_500)
        .start()
        .await;
    let mut other = app.second_replica_with("GREENROOM__SERVER__REPLICA_ID", "b").await;
    let admin = app.admin().await;
    let all = async || admin.get("/api/v1/admin/actors?all=true").await.expect(200);
    let shown = eventually("both are shown", async || {
        let shown = all().await;
        (of(&shown, "b", "pipeline").len() == 1).then_some(shown)
    })
    .await;
    let own = admin.get("/api/v1/admin/actors").await.expect(200);
    for kind in ["quota", "session", "stream", "pipeline", "upkeep", "signals"] {
        let count = of(&own, "a", kind).len();
        assert!(count > 0, "{kind}");
        assert_eq!((of(&own, "b", kind).len(), of(&shown, "a", kind).len()), (0, count), "{kind}");
        assert_eq!(of(&shown, "b", kind).len(), count, "{kind}");
    }
    let client = other.client();
    client.send(client.request(reqwest::Method::POST, "/faults/session.registered")).await;
    client.register(&crate::support::new_phone(), "correct horse").await;
    eventually("a restart on the other is shown", async || {
        let shown = all().await;
        let session = of(&shown, "b", "session").pop()?;
        (session["restarts"] == 1 && session["lastPanic"].is_string()).then_some(())
    })
    .await;
    other.kill9();
    eventually("what is gone is not shown", async || {
        of(&all().await, "b", "session").is_empty().then_some(())
    })
    .await;
    let wrong = admin.get("/api/v1/admin/actors?all=maybe").await;
    assert_eq!((wrong.status, wrong.code()), (400, "BAD_REQUEST"));
    assert_eq!(wrong.json["errors"][0]["path"], "/all");
}
