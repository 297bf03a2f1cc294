//! Giving quota, and taking it back.

use super::audit;
use crate::http::{
    amount::Amount,
    error::{ApiError, ErrorCode, FieldError, asked_twice},
    extract::{Admin, Id, RequestId},
    idempotency::IdempotencyKey,
    json::ValidJson,
    language::Text,
    state::State,
};
use actix_web::{HttpRequest, HttpResponse, http::StatusCode, post, web};
use chrono::{DateTime, Datelike, Utc};
use greenroom_actors::{
    clock::{Clock, SystemClock},
    ids::UserId,
    quota::{Correct, Corrected, Grant, GrantKind, Granted},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

/// Units at once at most.
const AMOUNT_MAX: i64 = 1_000_000_000_000;
/// Characters of a reason at most.
const REASON_MAX: usize = 500;

/// Quota to give, or to take where the amount is negative.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewGrant {
    /// Units, up to 10^12 either way, not 0.
    #[schema(value_type = i64, example = 100)]
    amount: Amount,
    /// Why, for the statement.
    reason: String,
    /// When a grant stops counting; never where left out.
    #[serde(alias = "expires_at")]
    expires_at: Option<DateTime<Utc>>,
}

/// A grant or correction that was written.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct WrittenGrant {
    id: String,
    amount: i64,
    reason: String,
    /// What the user can spend now.
    quota_remaining: i64,
}

/// Gives quota to a user; a negative amount takes it, down to nothing and not below.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header, description = "1 to 128 printable characters.")),
    request_body = NewGrant,
    responses(
        (status = 201, description = "Written.", body = WrittenGrant),
        (status = 404, description = "`NOT_FOUND`"),
        (status = 409, description = "`QUOTA_INSUFFICIENT`: less is left than is to be taken; `IDEMPOTENCY_IN_PROGRESS`"),
        (status = 422, description = "`VALIDATION_FAILED` with the path, `IDEMPOTENCY_KEY_REUSED`"),
        (status = 504, description = "`OUTCOME_UNKNOWN`: repeat with the same key"),
    )
)]
#[post("/users/{id}/grants")]
pub(in crate::http) async fn create_grant(
    admin: Admin,
    id: Id<UserId>,
    key: IdempotencyKey,
    request_id: RequestId,
    state: web::Data<State>,
    request: HttpRequest,
    body: ValidJson<NewGrant>,
) -> Result<HttpResponse, ApiError> {
    let document = body.document;
    let (amount, reason, expires_at) = body.body.checked()?;
    let user = id.0;
    // one reference for both askings of the same request
    let reference = Uuid::now_v7().to_string();
    let detail = json!({ "amount": amount, "reason": reason, "expiresAt": expires_at });
    let action = if amount > 0 { "quota.grant" } else { "quota.correct" };
    let entry = Some(audit(admin, action, format!("user:{user}"), detail, request_id));
    if amount > 0 {
        let claim = key.claim(&request, admin.0.id, &document, StatusCode::CREATED, render_granted)?;
        let command = Grant {
            user,
            amount,
            kind: GrantKind::Manual,
            reference,
            priority: 0,
            expires_at,
            reason,
            idempotency: claim.idempotent(),
            audit: entry,
        };
        let answer = asked_twice(|| state.quota.grant(command.clone())).await?;
        Ok(claim.respond(answer).0)
    } else {
        let claim = key.claim(&request, admin.0.id, &document, StatusCode::CREATED, render_corrected)?;
        let amount = -amount;
        let idempotency = claim.idempotent();
        let command = Correct { user, amount, reference, reason, idempotency, audit: entry };
        let answer =
            asked_twice(|| state.quota.correct(command.clone())).await.map_err(ApiError::as_conflict)?;
        Ok(claim.respond(answer).0)
    }
}

impl NewGrant {
    fn checked(self) -> Result<(i64, String, Option<DateTime<Utc>>), ApiError> {
        let Amount(amount) = self.amount;
        let mut errors = Vec::new();
        let mut refuse = |path: &str, chinese: &'static str, english: &'static str| {
            errors.push(FieldError { path: path.to_owned(), message: Text::new(chinese, english) });
        };
        if amount == 0 || !(-AMOUNT_MAX..=AMOUNT_MAX).contains(&amount) {
            refuse("/amount", "须在 ±10^12 之间且不为 0。", "At most 10^12 either way and not 0.");
        }
        let reason = self.reason.trim().to_owned();
        if reason.is_empty() || reason.chars().count() > REASON_MAX {
            refuse("/reason", "须为 1 到 500 个字符。", "1 to 500 characters are expected.");
        }
        if let Some(at) = self.expires_at {
            if amount < 0 {
                refuse("/expiresAt", "扣减不能有到期时间。", "A correction does not expire.");
            } else if at <= SystemClock.now() || at.year() > 9999 {
                refuse("/expiresAt", "须为将来的时间。", "A time to come is expected.");
            }
        }
        if errors.is_empty() {
            Ok((amount, reason, self.expires_at))
        } else {
            Err(ApiError::new(ErrorCode::ValidationFailed).with_errors(errors))
        }
    }
}

fn render_granted(granted: &Granted) -> Value {
    json!(WrittenGrant {
        id: granted.grant.to_string(),
        amount: granted.amount,
        reason: granted.reason.clone(),
        quota_remaining: granted.remaining,
    })
}

fn render_corrected(corrected: &Corrected) -> Value {
    json!(WrittenGrant {
        id: corrected.adjustment.to_string(),
        amount: -corrected.amount,
        reason: corrected.reason.clone(),
        quota_remaining: corrected.remaining,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{json::parse, language::Language};

    fn faults(body: &str) -> (u16, Vec<String>) {
        let checked = parse::<NewGrant>(body.as_bytes()).and_then(|read| read.body.checked());
        let error = checked.unwrap_err();
        let body: Value = serde_json::from_slice(&error.body(Language::English, "")).unwrap();
        let paths = body["errors"].as_array().unwrap().iter();
        let paths = paths.map(|error| error["path"].as_str().unwrap().to_owned()).collect();
        (u16::try_from(body["status"].as_u64().unwrap()).unwrap(), paths)
    }

    #[test]
    fn an_amount_out_of_range_and_an_empty_reason_are_refused_by_path() {
        for (body, status, paths) in [
            (r#"{"amount":0,"reason":"r"}"#, 422, &["/amount"][..]),
            (r#"{"amount":1000000000001,"reason":"r"}"#, 422, &["/amount"]),
            (r#"{"amount":-1000000000001,"reason":"r"}"#, 422, &["/amount"]),
            (r#"{"amount":100000000000000000000000000,"reason":"r"}"#, 422, &["/amount"]),
            (r#"{"amount":1.5,"reason":"r"}"#, 400, &["/amount"]),
            (r#"{"amount":1.5}"#, 400, &["/amount"]),
            (r#"{"amount":1,"reason":"  "}"#, 422, &["/reason"]),
            (r#"{"amount":0,"reason":""}"#, 422, &["/amount", "/reason"]),
            (r#"{"amount":1,"reason":"r","expiresAt":"2020-01-01T00:00:00Z"}"#, 422, &["/expiresAt"]),
            (r#"{"amount":-1,"reason":"r","expiresAt":"2120-01-01T00:00:00Z"}"#, 422, &["/expiresAt"]),
        ] {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            assert_eq!(faults(body), (status, paths), "{body}");
        }
    }
}
