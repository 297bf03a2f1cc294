//! What admins see and do. `support` may read; only `admin` may write; the token alone decides.
//! Every write leaves an entry in the audit log, in the transaction that does it.

pub(super) mod actors;
pub(super) mod audit_log;
pub(super) mod grants;
pub(super) mod jobs;
pub(super) mod pipelines;
pub(super) mod plans;
pub(super) mod providers;
pub(super) mod tasks;
pub(super) mod users;

use super::extract::{Admin, RequestId};
use greenroom_actors::quota::AuditEntry;
use serde::Deserialize;
use serde_json::Value;

/// A body with nothing in it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The audit log's entry of a write.
fn audit(
    admin: Admin,
    action: &'static str,
    target: String,
    detail: Value,
    request: RequestId,
) -> AuditEntry {
    AuditEntry { actor: admin.0.id, action, target, detail, request_id: Some(request.0) }
}
