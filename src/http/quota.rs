//! What a user can spend, and the books behind it.

use super::{
    bearer::{Read, Scoped},
    error::{ApiError, ErrorCode},
    language::Text,
    paging::{List, Page, PageQuery, ValidQuery},
    state::State,
};
use actix_web::{
    HttpRequest, HttpResponse, get,
    http::header::{ACCEPT, CONTENT_DISPOSITION, HeaderMap},
    web,
};
use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, Utc};
use greenroom_actors::quota::{GrantRecord, Quota, Statement, StatementRow, TransactionRecord};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// What can be spent.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Quota)]
struct QuotaView {
    /// Units that can be spent now.
    remaining: i64,
    /// Units that unfinished tasks hold.
    reserved: i64,
    membership_expires_at: Option<DateTime<Utc>>,
}

impl From<Quota> for QuotaView {
    fn from(quota: Quota) -> Self {
        Self {
            remaining: quota.remaining,
            reserved: quota.reserved,
            membership_expires_at: quota.membership_expires_at,
        }
    }
}

/// What a task holds or was charged.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Transaction)]
struct TransactionView {
    id: String,
    task_id: String,
    /// Units held.
    amount: i64,
    /// Units of them charged.
    charged: i64,
    /// `reserved`, then `confirmed` or `cancelled` for good.
    #[schema(example = "confirmed")]
    phase: String,
    created_at: DateTime<Utc>,
    settled_at: Option<DateTime<Utc>>,
}

impl From<TransactionRecord> for TransactionView {
    fn from(record: TransactionRecord) -> Self {
        Self {
            id: record.id.to_string(),
            task_id: record.task.to_string(),
            amount: record.amount,
            charged: record.charged,
            phase: record.phase,
            created_at: record.created_at,
            settled_at: record.settled_at,
        }
    }
}

/// Quota that came in at once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Grant)]
struct GrantView {
    id: String,
    /// Units given.
    amount: i64,
    /// Units of them left.
    remaining: i64,
    /// `purchase`, `gift`, `manual` or `refund`.
    #[schema(example = "manual")]
    kind: String,
    expires_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
}

impl From<GrantRecord> for GrantView {
    fn from(record: GrantRecord) -> Self {
        Self {
            id: record.id.to_string(),
            amount: record.amount,
            remaining: record.remaining,
            kind: record.kind,
            expires_at: record.expires_at,
            created_at: record.created_at,
        }
    }
}

/// What happened to the balance (remaining and reserved together) in a period: opening and rows add up to closing.
#[derive(Serialize, ToSchema)]
#[schema(as = Statement)]
struct StatementView {
    opening: i64,
    closing: i64,
    rows: Vec<StatementRowView>,
}

/// One movement.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = StatementRow)]
struct StatementRowView {
    at: DateTime<Utc>,
    /// `grant`, `charge`, `expiry`, `clawback` or `correction`.
    #[schema(example = "charge")]
    kind: String,
    /// Signed: what went is negative.
    amount: i64,
    /// The balance after it.
    balance: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    task_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl From<StatementRow> for StatementRowView {
    fn from(row: StatementRow) -> Self {
        Self {
            at: row.at,
            kind: row.kind,
            amount: row.amount,
            balance: row.balance,
            task_id: row.task.map(|task| task.to_string()),
            order_id: row.order,
            reason: row.reason,
        }
    }
}

/// What can be spent.
#[utoipa::path(
    tag = "quota",
    security(("bearer" = []), ("apiKey" = ["read"])),
    responses((status = 200, description = "Units left and held.", body = QuotaView))
)]
#[get("/users/me/quota")]
pub(super) async fn get_quota(user: Scoped<Read>, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let quota = state.quota.quota(user.id).await?;
    Ok(HttpResponse::Ok().json(QuotaView::from(quota)))
}

/// Lists holds and charges, newest first.
#[utoipa::path(
    tag = "quota",
    security(("bearer" = []), ("apiKey" = ["read"])),
    params(PageQuery),
    responses((status = 200, description = "A page of them.", body = List<TransactionView>))
)]
#[get("/users/me/quota/transactions")]
pub(super) async fn list_transactions(
    user: Scoped<Read>,
    state: web::Data<State>,
    query: ValidQuery<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::<Uuid>::new("transactions", query.0.limit, query.0.cursor.as_ref())?;
    let records = state.quota.transactions(user.id, page.after, page.rows()).await?;
    Ok(HttpResponse::Ok().json(page.answer(records, |record| record.id, TransactionView::from)))
}

/// Lists what came in, newest first.
#[utoipa::path(
    tag = "quota",
    security(("bearer" = []), ("apiKey" = ["read"])),
    params(PageQuery),
    responses((status = 200, description = "A page of them.", body = List<GrantView>))
)]
#[get("/users/me/quota/grants")]
pub(super) async fn list_grants(
    user: Scoped<Read>,
    state: web::Data<State>,
    query: ValidQuery<PageQuery>,
) -> Result<HttpResponse, ApiError> {
    let page = Page::<Uuid>::new("grants", query.0.limit, query.0.cursor.as_ref())?;
    let records = state.quota.grants(user.id, page.after, page.rows()).await?;
    Ok(HttpResponse::Ok().json(page.answer(records, |record| record.id.0, GrantView::from)))
}

/// The period of a statement.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Period {
    /// From when on, inclusive: a time, or a day of UTC. The beginning where left out.
    #[param(value_type = Option<String>, example = "2026-01-01T00:00:00Z")]
    from: Option<Moment>,
    /// Until when, exclusive. Now where left out.
    #[param(value_type = Option<String>, example = "2026-02-01")]
    to: Option<Moment>,
}

/// A time or a day in a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Moment(DateTime<Utc>);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // the plus of an offset arrives as a blank where the client did not escape it
        let text = String::deserialize(deserializer)?.replace(' ', "+");
        let day = |text: &str| Some(text.parse::<NaiveDate>().ok()?.and_time(NaiveTime::MIN).and_utc());
        let time = DateTime::parse_from_rfc3339(&text).map(|time| time.to_utc()).ok().or_else(|| day(&text));
        time.filter(|time| (1970..=9999).contains(&time.year())).map(Self).ok_or_else(|| {
            serde::de::Error::custom("须为 RFC 3339 时间或日期 (an RFC 3339 time or a day is expected)")
        })
    }
}

/// The statement of a period: every movement, and the balances before and after. CSV (`Accept: text/csv`) holds the
/// rows alone.
#[utoipa::path(
    tag = "quota",
    security(("bearer" = []), ("apiKey" = ["read"])),
    params(Period),
    responses((
        status = 200,
        description = "The movements in order.",
        content((StatementView = "application/json"), (String = "text/csv"))
    ))
)]
#[get("/users/me/quota/statement")]
pub(super) async fn get_statement(
    user: Scoped<Read>,
    state: web::Data<State>,
    request: HttpRequest,
    query: ValidQuery<Period>,
) -> Result<HttpResponse, ApiError> {
    let Period { from, to } = query.0;
    if from.zip(to).is_some_and(|(from, to)| from > to) {
        let message = Text::new("不能早于 from。", "It must not be before from.");
        return Err(ApiError::at(ErrorCode::BadRequest, "/to", message));
    }
    let statement = state.quota.statement(user.id, from.map(|at| at.0), to.map(|at| at.0)).await?;
    if prefers_csv(request.headers()) {
        return csv_answer(statement);
    }
    Ok(HttpResponse::Ok().json(StatementView {
        opening: statement.opening,
        closing: statement.closing,
        rows: statement.rows.into_iter().map(StatementRowView::from).collect(),
    }))
}

fn prefers_csv(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let quality = |wanted: &str| {
        accept.split(',').find_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
            let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
            named.then_some(quality)
        })
    };
    let (csv, json) = (quality("text/csv").unwrap_or(0.0), quality("application/json").unwrap_or(0.0));
    csv > json
}

fn csv_answer(statement: Statement) -> Result<HttpResponse, ApiError> {
    let bytes = csv_of(statement.rows).map_err(|error| {
        tracing::error!(%error, "a statement could not be written as CSV");
        ApiError::new(ErrorCode::Internal)
    })?;
    Ok(HttpResponse::Ok()
        .content_type("text/csv; charset=utf-8; header=present")
        .insert_header((CONTENT_DISPOSITION, "attachment; filename=\"statement.csv\""))
        .body(bytes))
}

fn csv_of(rows: Vec<StatementRow>) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(["at", "kind", "amount", "balance", "taskId", "orderId", "reason"])?;
    for row in rows.into_iter().map(StatementRowView::from) {
        writer.write_record([
            row.at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
            row.kind,
            row.amount.to_string(),
            row.balance.to_string(),
            row.task_id.unwrap_or_default(),
            row.order_id.unwrap_or_default(),
            row.reason.map(as_plain_text).unwrap_or_default(),
        ])?;
    }
    Ok(writer.into_inner().map_err(|error| error.into_error())?)
}

/// Keeps a spreadsheet from taking what somebody wrote for a formula.
fn as_plain_text(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::HeaderValue;

    #[test]
    fn csv_is_sent_to_those_who_prefer_it() {
        for (accept, csv) in [
            ("text/csv", true),
            ("TEXT/CSV; q=0.5", true),
            ("text/csv, application/json;q=0.9", true),
            ("", false),
            ("*/*", false),
            ("application/json, text/csv;q=0.5", false),
            ("application/json, text/csv", false),
            ("text/csv;q=0", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_str(accept).unwrap());
            assert_eq!(prefers_csv(&headers), csv, "{accept:?}");
        }
    }

    #[test]
    fn a_reason_is_no_formula() {
        let row = StatementRow {
            at: DateTime::UNIX_EPOCH,
            kind: "grant".to_owned(),
            amount: -5,
            balance: 0,
            task: None,
            order: None,
            reason: Some("=1+1, \"two\"".to_owned()),
        };
        let text = String::from_utf8(csv_of(vec![row]).unwrap()).unwrap();
        let line = text.lines().nth(1).unwrap();
        assert_eq!(line, "1970-01-01T00:00:00.000000Z,grant,-5,0,,,\"'=1+1, \"\"two\"\"\"");
    }

    #[test]
    fn a_moment_is_a_time_or_a_day_within_reason() {
        let read =
            |text: &str| serde_json::from_value::<Moment>(text.into()).map(|moment| moment.0.to_rfc3339());
        assert_eq!(read("2026-01-02").unwrap(), "2026-01-02T00:00:00+00:00");
        assert_eq!(read("2026-01-02T08:00:00+08:00").unwrap(), "2026-01-02T00:00:00+00:00");
        assert_eq!(read("2026-01-02T08:00:00 08:00").unwrap(), "2026-01-02T00:00:00+00:00");
        for bad in ["", "yesterday", "2026-13-01", "+262142-01-01T00:00:00Z", "-0001-01-01T00:00:00Z"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
