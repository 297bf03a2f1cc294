//! What tasks cost whose providers used less than was held, refused the content, or said nothing usable about it.

use super::*;

/// A ground whose provider answers with what a task's input says, and a spare one that does the same.
async fn ground() -> (Ground, FakeProvider) {
    let fake = FakeProvider::start(|call| {
        let answer = &call.json()["answer"];
        let status = answer["status"].as_u64().map_or(200, |status| u16::try_from(status).unwrap());
        Answer::status(status, answer.clone())
    })
    .await;
    let provider = |id: &str| {
        let mut provider = fake.definition(id);
        provider["response"] =
            json!({"contentRejected": "{{ body.code == 'unsafe' }}", "error": "{{ body.message }}"});
        provider
    };
    let ground = Ground::start(provider("draw")).await;
    ground.app.put_provider(provider("spare")).await;
    (ground, fake)
}

impl Ground {
    /// Runs a task of a pipeline with these fields to its end; its provider answers `answer`.
    async fn ended_with(&self, fields: Value, answer: &Value) -> Value {
        let step = json!({"input": {"answer": "{{ input.answer }}"}, "fallback": ["spare"]});
        let mut definition = definition(step);
        definition.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let pipeline = self.app.publish_pipeline(definition).await;
        let body = json!({"pipelineId": pipeline, "input": {"answer": answer}});
        let task = self.user.post("/api/v1/tasks", body).await.expect(202);
        self.ended(task["id"].as_str().unwrap()).await
    }

    /// Quota of the user's that is gone for good.
    async fn spent(&self) -> i64 {
        let (remaining, reserved) = self.quota().await;
        assert_eq!(reserved, 0);
        10 * COST - remaining
    }
}

#[actix_web::test]
async fn usage_is_charged_and_the_rest_returns_at_once() {
    let (ground, _) = ground().await;
    let finished = "select (data ->> 'charged')::bigint from final_events
                    where event = 'task.finished' order by final_no desc limit 1";
    let mut spent = 0;
    for (charge, answer, charged) in [
        ("{{ steps.draw.images | length }}", json!({"images": [1, 2]}), 2),
        ("{{ steps.draw.images | length }}", json!({"images": []}), 0),
        ("{{ steps.draw.images | length }}", json!({"images": vec![1; 99]}), 5),
        ("{{ steps.draw.seconds / 10 }}", json!({"seconds": 21}), 3),
        ("{{ steps.draw.units }}", json!({"units": -5}), 0),
        // what says nothing costs what was agreed to, and takes no result away
        ("{{ steps.draw.units }}", json!({"units": "many"}), 5),
        ("{{ steps.draw.units }}", json!({}), 5),
        ("{{ steps.draw.units / 0 }}", json!({"units": 1}), 5),
    ] {
        let ended = ground.ended_with(json!({"quotaCost": {"max": 5, "charge": charge}}), &answer).await;
        assert_eq!((&ended["status"], &ended["quotaCost"]), (&json!("succeeded"), &json!(5)), "{ended:#}");
        spent += charged;
        assert_eq!(ground.spent().await, spent, "{charge} of {answer}");
        let settled = ground.user.get("/api/v1/users/me/quota/transactions").await.expect(200);
        assert_eq!(settled["items"][0]["charged"], charged, "{settled:#}");
        assert_eq!(ground.app.count(finished).await, charged);
    }
    assert_eq!(ground.app.service.metric("greenroom_charges_invalid_total", &[]).await, 3.0);
}

#[actix_web::test]
async fn a_refusal_of_the_content_is_final_and_costs_where_the_pipeline_says_so() {
    let (ground, fake) = ground().await;
    let (mut spent, mut calls) = (0, 0);
    for (costs, charged) in [(json!({}), 0), (json!({"chargeOnContentRejected": true}), COST)] {
        for status in [200, 400, 429, 503] {
            let answer = json!({"status": status, "code": "unsafe", "message": "not this"});
            let ended = ground.ended_with(costs.clone(), &answer).await;
            assert_eq!(ended["status"], "failed");
            let error = json!({"code": "CONTENT_REJECTED", "message": "not this", "nodeId": "draw"});
            assert_eq!(ended["error"], error);
            (spent, calls) = (spent + charged, calls + 1);
            assert_eq!(fake.calls().len(), calls, "neither retried nor handed to a fallback");
            assert_eq!(ground.spent().await, spent);
        }
    }
}
