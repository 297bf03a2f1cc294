//! Keys by which programs call in a user's name. Only somebody signed in makes, sees and revokes them: a key cannot.

use super::{
    amount::Amount,
    error::{ApiError, ErrorCode, FieldError, asked_twice},
    extract::{ClientOrigin, Id, User},
    idempotency::IdempotencyKey,
    json::ValidJson,
    language::Text,
    paging::{List, Page, PageQuery, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, delete, get, post, web};
use chrono::{DateTime, Datelike, Utc};
use greenroom_actors::{
    clock::{Clock, SystemClock},
    ids::{ApiKeyId, UserId},
    records::api_keys::{self, ApiKeyRecord, KeyText, Scope},
};
use serde::{Deserialize, Serialize};
use std::collections::HashSet;
use utoipa::ToSchema;
use uuid::Uuid;

/// Characters of a name at most.
const NAME_MAX: usize = 64;
/// Units of a cap at most.
const CAP_MAX: i64 = 1_000_000_000_000;

/// What a key is for.
#[derive(ToSchema)]
#[schema(as = ApiKeyScope, rename_all = "lowercase")]
#[expect(dead_code, reason = "it only describes the scope in the contract")]
enum ScopeView {
    /// Starting and cancelling tasks.
    Tasks,
    /// Files, whatever one does with them.
    Files,
    /// Looking: at tasks, files, pipelines, quota, and live.
    Read,
}

/// A key, without its text.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ApiKey)]
struct ApiKeyView {
    id: String,
    name: String,
    #[schema(value_type = Vec<ScopeView>)]
    scopes: Vec<&'static str>,
    /// When it stops working; null for never.
    expires_at: Option<DateTime<Utc>>,
    /// Units that tasks started on one day (of Asia/Shanghai) may cost; null for no cap.
    daily_quota: Option<i64>,
    /// The same of one month of the calendar.
    monthly_quota: Option<i64>,
    created_at: DateTime<Utc>,
    /// When it was last used, to a minute.
    last_used_at: Option<DateTime<Utc>>,
    /// Units that its tasks of today hold and were charged.
    used_today: i64,
    /// The same of this month.
    used_this_month: i64,
}

/// A key that was made. Its text is never shown again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MadeApiKey {
    id: String,
    /// The key, to be sent as `Authorization: Bearer <key>`.
    #[schema(example = "grk_...")]
    key: String,
    name: String,
    #[schema(value_type = Vec<ScopeView>)]
    scopes: Vec<&'static str>,
    expires_at: Option<DateTime<Utc>>,
    daily_quota: Option<i64>,
    monthly_quota: Option<i64>,
    created_at: DateTime<Utc>,
}

/// A key to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewApiKey {
    /// 1 to 64 characters; blanks around it are removed.
    name: String,
    /// One at least, each once.
    #[schema(value_type = Vec<ScopeView>, min_items = 1)]
    scopes: Vec<Scope>,
    /// When it stops working; never where left out.
    #[serde(alias = "expires_at")]
    expires_at: Option<DateTime<Utc>>,
    /// Units that tasks started on one day (of Asia/Shanghai) may cost, 0 to 10^12; no cap where left out.
    #[serde(alias = "daily_quota")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1_000_000_000_000_i64)]
    daily_quota: Option<Amount>,
    /// The same of one month of the calendar.
    #[serde(alias = "monthly_quota")]
    #[schema(value_type = Option<i64>, minimum = 0, maximum = 1_000_000_000_000_i64)]
    monthly_quota: Option<Amount>,
}

fn names(scopes: &[Scope]) -> Vec<&'static str> {
    scopes.iter().map(|scope| scope.name()).collect()
}

impl From<ApiKeyRecord> for ApiKeyView {
    fn from(record: ApiKeyRecord) -> Self {
        Self {
            id: record.id.to_string(),
            scopes: names(&record.scopes),
            name: record.name,
            expires_at: record.expires_at,
            daily_quota: record.daily_quota,
            monthly_quota: record.monthly_quota,
            created_at: record.created_at,
            last_used_at: record.last_used_at,
            used_today: record.used_today,
            used_this_month: record.used_this_month,
        }
    }
}

impl NewApiKey {
    fn checked(self, user: UserId, idempotency_key: Option<String>) -> Result<api_keys::NewApiKey, ApiError> {
        let mut errors = Vec::new();
        let mut refuse = |path: &str, chinese: &'static str, english: &'static str| {
            errors.push(FieldError { path: path.to_owned(), message: Text::new(chinese, english) });
        };
        let name = self.name.trim().to_owned();
        if !(1..=NAME_MAX).contains(&name.chars().count()) || name.chars().any(char::is_control) {
            refuse(
                "/name",
                "须为 1 到 64 个字符，不含控制字符。",
                "1 to 64 characters without control characters.",
            );
        }
        if self.scopes.is_empty() {
            refuse("/scopes", "至少一个权限范围。", "One scope at least is expected.");
        }
        let mut seen = HashSet::new();
        for (index, scope) in self.scopes.iter().enumerate() {
            if !seen.insert(scope) {
                refuse(&format!("/scopes/{index}"), "权限范围不能重复。", "A scope is named once.");
            }
        }
        if self.expires_at.is_some_and(|at| at <= SystemClock.now() || at.year() > 9999) {
            refuse("/expiresAt", "须为将来的时间。", "A time to come is expected.");
        }
        for (path, cap) in [("/dailyQuota", self.daily_quota), ("/monthlyQuota", self.monthly_quota)] {
            if cap.is_some_and(|Amount(cap)| !(0..=CAP_MAX).contains(&cap)) {
                refuse(path, "须在 0 到 10^12 之间。", "From 0 to 10^12 is expected.");
            }
        }
        if !errors.is_empty() {
            return Err(ApiError::new(ErrorCode::ValidationFailed).with_errors(errors));
        }
        Ok(api_keys::NewApiKey {
            id: ApiKeyId::new(),
            user,
            text: KeyText::random(),
            name,
            scopes: self.scopes,
            daily_quota: self.daily_quota.map(|Amount(cap)| cap),
            monthly_quota: self.monthly_quota.map(|Amount(cap)| cap),
            expires_at: self.expires_at,
            idempotency_key,
        })
    }
}

/// Lists the keys that are not revoked, newest first, with what they have spent.
#[utoipa::path(
    tag = "users",
    security(("bearer" = [])),
    params(PageQuery),
    responses((status = 200, description = "A page of them.", body = List<ApiKeyView>))
)]
#[get("/users/me/api-keys")]
pub(super) async fn list_api_keys(
    user: User,
    state: web::Data<State>,
    query: ValidQuery<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::<Uuid>::new("api-keys", query.0.limit, query.0.cursor.as_ref())?;
    let keys = state.api_keys.list(user.id, page.after, page.rows()).await?;
    Ok(HttpResponse::Ok().json(page.answer(keys, |key| key.id.0, ApiKeyView::from)))
}

/// Makes a key and shows it, this once.
///
/// What is not stored cannot be answered again: a repeat with the same `Idempotency-Key` within a day makes no second key
/// and is 409 `CONFLICT`, with the id of the first.
#[utoipa::path(
    tag = "users",
    security(("bearer" = [])),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 128 printable characters.")),
    request_body = NewApiKey,
    responses(
        (status = 201, description = "Made.", body = MadeApiKey),
        (status = 409, description = "`CONFLICT`: 20 keys work already, or the `Idempotency-Key` has made one"),
        (status = 422, description = "`VALIDATION_FAILED` with the path"),
        (status = 504, description = "`OUTCOME_UNKNOWN`: look at the list; a key that did not arrive is of no use"),
    )
)]
#[post("/users/me/api-keys")]
pub(super) async fn create_api_key(
    user: User,
    key: IdempotencyKey,
    origin: ClientOrigin,
    state: web::Data<State>,
    request: ValidJson<NewApiKey>,
) -> Result<HttpResponse, ApiError> {
    let new = request.body.checked(user.id, key.into_text())?;
    // the key outlasts the session
    state.session.must_be_open(user.id, user.session).await?;
    let made = asked_twice(|| state.api_keys.create(&new, &origin.0)).await?;
    Ok(HttpResponse::Created().json(MadeApiKey {
        id: made.id.to_string(),
        key: new.text.expose().to_owned(),
        scopes: names(&made.scopes),
        name: made.name,
        expires_at: made.expires_at,
        daily_quota: made.daily_quota,
        monthly_quota: made.monthly_quota,
        created_at: made.created_at,
    }))
}

/// Revokes a key: from now on it works nowhere, and its sockets end.
#[utoipa::path(
    tag = "users",
    security(("bearer" = [])),
    params(("id" = String, Path)),
    responses(
        (status = 204, description = "Revoked, now or before."),
        (status = 404, description = "`NOT_FOUND`, also for another user's"),
    )
)]
#[delete("/users/me/api-keys/{id}")]
pub(super) async fn revoke_api_key(
    user: User,
    id: Id<ApiKeyId>,
    origin: ClientOrigin,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    asked_twice(|| state.api_keys.revoke(user.id, id.0, &origin.0)).await?;
    Ok(HttpResponse::NoContent().finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{json::parse, language::Language};
    use serde_json::Value;

    fn faults(body: &str) -> (u64, Vec<String>) {
        let user = UserId::new();
        let read = parse::<NewApiKey>(body.as_bytes());
        let error = read.and_then(|read| read.body.checked(user, None)).unwrap_err();
        let body: Value = serde_json::from_slice(&error.body(Language::English, "")).unwrap();
        let paths = body["errors"].as_array().unwrap().iter();
        let paths = paths.map(|error| error["path"].as_str().unwrap().to_owned()).collect();
        (body["status"].as_u64().unwrap(), paths)
    }

    #[test]
    fn what_makes_no_key_is_refused_by_path() {
        let long = format!(r#"{{"name":"{}","scopes":["read"]}}"#, "长".repeat(65));
        for (body, status, paths) in [
            (r#"{"scopes":["read"]}"#, 400, &["/name"][..]),
            (r#"{"name":"a"}"#, 400, &["/scopes"]),
            (r#"{"name":"a","scopes":["admin"]}"#, 400, &["/scopes/0"]),
            (r#"{"name":"a","scopes":["read",7]}"#, 400, &["/scopes/1"]),
            (r#"{"name":"a","scopes":"read"}"#, 400, &["/scopes"]),
            (r#"{"name":"a","scopes":["read"],"expiresAt":"tomorrow"}"#, 400, &["/expiresAt"]),
            (r#"{"name":"a","scopes":["read"],"dailyQuota":1.5}"#, 400, &["/dailyQuota"]),
            (r#"{"name":"a","scopes":["read"],"role":"admin"}"#, 400, &["/role"]),
            (r#"{"name":"  ","scopes":["read"]}"#, 422, &["/name"]),
            (r#"{"name":"a\nb","scopes":["read"]}"#, 422, &["/name"]),
            (&long, 422, &["/name"]),
            (r#"{"name":"a","scopes":[]}"#, 422, &["/scopes"]),
            (r#"{"name":"a","scopes":["read","tasks","read"]}"#, 422, &["/scopes/2"]),
            (r#"{"name":"a","scopes":["read"],"expiresAt":"2020-01-01T00:00:00Z"}"#, 422, &["/expiresAt"]),
            (r#"{"name":"a","scopes":["read"],"expiresAt":"+12020-01-01T00:00:00Z"}"#, 422, &["/expiresAt"]),
            (r#"{"name":"a","scopes":["read"],"dailyQuota":-1}"#, 422, &["/dailyQuota"]),
            (r#"{"name":"a","scopes":["read"],"monthlyQuota":1000000000001}"#, 422, &["/monthlyQuota"]),
            (
                r#"{"name":"","scopes":[],"dailyQuota":-1,"monthlyQuota":1e30}"#,
                422,
                &["/name", "/scopes", "/dailyQuota", "/monthlyQuota"],
            ),
        ] {
            let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
            assert_eq!(faults(body), (status, paths), "{body}");
        }
    }

    #[test]
    fn what_makes_one_is_taken_as_it_is_meant() {
        let body = r#"{"name":" CI ","scopes":["read","tasks"],"daily_quota":0,"monthlyQuota":null}"#;
        let read = parse::<NewApiKey>(body.as_bytes()).unwrap();
        let new = read.body.checked(UserId::new(), None).unwrap();
        assert_eq!((new.name.as_str(), new.scopes), ("CI", vec![Scope::Read, Scope::Tasks]));
        assert_eq!((new.daily_quota, new.monthly_quota, new.expires_at), (Some(0), None, None));
    }
}
