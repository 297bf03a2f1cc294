//! The room as a whole, with nothing behind it: what strangers are told, and what surrounds every request.

use super::{context::context, *};
use actix_web::{
    App, HttpResponse,
    body::to_bytes,
    http::{StatusCode, header::HeaderMap},
    middleware::from_fn,
    test::{TestRequest, init_service, try_call_service},
};
use serde_json::Value;

async fn ask(request: TestRequest) -> (StatusCode, HeaderMap, Value) {
    let app = App::new()
        .wrap(from_fn(context))
        .configure(configure)
        .route("/panic", web::get().to(|| async { if true { panic!("on purpose") } else { "never" } }))
        .route("/text", web::get().to(|| async { HttpResponse::ImATeapot().body("short and stout") }));
    let app = init_service(app).await;
    let response = match try_call_service(&app, request.to_request()).await {
        Ok(response) => response.into_parts().1.map_into_boxed_body(),
        // the listener sends what an error carries
        Err(error) => error.error_response(),
    };
    let (status, headers) = (response.status(), response.headers().clone());
    let body = to_bytes(response.into_body()).await.unwrap();
    (status, headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
}

#[actix_web::test]
async fn unknown_addresses_wrong_methods_and_foreign_refusals_are_problems() {
    for (request, status, code) in [
        (TestRequest::get().uri("/nothing"), 404, "NOT_FOUND"),
        (TestRequest::get().uri("/api/v1/errors/"), 404, "NOT_FOUND"),
        (TestRequest::get().uri("/api/v1/../../etc/passwd"), 404, "NOT_FOUND"),
        (TestRequest::get().uri("/api/v1/%2e%2e/%ff%00"), 404, "NOT_FOUND"),
        (TestRequest::get().uri("/docs/nothing.css"), 404, "NOT_FOUND"),
        (TestRequest::post().uri("/api/v1/errors"), 405, "METHOD_NOT_ALLOWED"),
        (TestRequest::get().uri("/api/v1/errors?limit=3"), 400, "BAD_REQUEST"),
        (TestRequest::get().uri("/text"), 418, "BAD_REQUEST"),
        (TestRequest::get().uri("/panic"), 500, "INTERNAL"),
    ] {
        let (answered, headers, problem) = ask(request).await;
        assert_eq!((answered.as_u16(), problem["code"].as_str()), (status, Some(code)));
        assert_eq!(header(&headers, "content-type"), "application/problem+json");
        assert_eq!(problem["requestId"], header(&headers, "x-request-id"));
        assert_eq!(header(&headers, "x-content-type-options"), "nosniff");
    }
}

#[actix_web::test]
async fn a_wrong_method_is_told_the_right_ones() {
    for (request, allow) in [
        (TestRequest::post().uri("/api/v1/errors"), "GET"),
        (TestRequest::delete().uri("/health/ready"), "GET"),
        (TestRequest::put().uri("/openapi.json"), "GET"),
        (TestRequest::post().uri("/docs/index.html"), "GET"),
    ] {
        assert_eq!(header(&ask(request).await.1, "allow"), allow);
    }
}

#[actix_web::test]
async fn a_sane_request_id_is_kept_and_another_replaced() {
    let with_id =
        |id: &'static str| TestRequest::get().uri("/api/v1/errors").insert_header(("X-Request-Id", id));
    assert_eq!(header(&ask(with_id("abc-1.2_3:4")).await.1, "x-request-id"), "abc-1.2_3:4");
    for insane in ["", "with space", "<script>", "a\"b"] {
        let (_, headers, _) = ask(with_id(insane)).await;
        assert!(header(&headers, "x-request-id").parse::<uuid::Uuid>().is_ok(), "{insane:?}");
    }
}

#[actix_web::test]
async fn errors_speak_the_language_of_the_client() {
    let (_, headers, problem) = ask(TestRequest::get().uri("/nothing")).await;
    assert_eq!((header(&headers, "content-language"), problem["title"].as_str()), ("zh-CN", Some("未找到")));
    let english = TestRequest::get().uri("/nothing").insert_header(("Accept-Language", "en-US,en;q=0.9"));
    let (_, headers, problem) = ask(english).await;
    assert_eq!((header(&headers, "content-language"), problem["title"].as_str()), ("en", Some("Not found")));
}

#[actix_web::test]
async fn every_code_is_listed() {
    let (status, _, body) = ask(TestRequest::get().uri("/api/v1/errors")).await;
    assert_eq!(status, StatusCode::OK);
    let items = body["items"].as_array().unwrap();
    assert_eq!(items.len(), error::ErrorCode::ALL.len());
    for item in items {
        for member in ["code", "title", "meaning"] {
            assert!(item[member].as_str().is_some_and(|text| !text.is_empty()), "{item}");
        }
    }
    assert_eq!(body["nextCursor"], Value::Null);
}

#[actix_web::test]
async fn the_contract_is_served_with_its_page() {
    let (status, _, document) = ask(TestRequest::get().uri("/openapi.json")).await;
    assert_eq!((status, document["openapi"].as_str()), (StatusCode::OK, Some("3.1.0")));
    assert_eq!(ask(TestRequest::get().uri("/docs/")).await.0, StatusCode::OK);
}

#[test]
fn every_operation_of_the_contract_is_described_and_says_how_it_refuses() {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut ids = std::collections::HashSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let name = format!("{method} {path}");
            assert!(
                operation["summary"].as_str().is_some_and(|text| text.len() > 5),
                "{name} has no summary"
            );
            assert!(ids.insert(operation["operationId"].clone()), "{name} shares its operation id");
            let responses = operation["responses"].as_object().unwrap();
            assert!(
                responses.keys().any(|status| status.starts_with(['1', '2', '3'])),
                "{name} never succeeds"
            );
            assert!(responses.contains_key("503"), "{name} does not say how it refuses");
            if operation["security"].is_array() {
                assert!(responses.contains_key("401"), "{name} does not say whom it lets in");
            }
            for (status, response) in responses {
                if status.starts_with(['4', '5']) && !path.starts_with("/health") {
                    let content = &response["content"]["application/problem+json"];
                    assert!(content.is_object(), "{name} {status} is no problem");
                }
            }
        }
    }
}

#[test]
fn every_reference_of_the_contract_leads_somewhere() {
    fn references(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = serde_json::to_value(openapi()).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 50);
    for reference in found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
    }
}
