//! What users hear about: the facts that actors hand to the stream.

use crate::ids::{TaskId, UserId};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

/// The kinds of events, by the names clients see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[expect(missing_docs, reason = "the names are the contract's; API.md tells their data")]
pub enum EventKind {
    #[serde(rename = "task.created")]
    TaskCreated,
    #[serde(rename = "task.waiting")]
    TaskWaiting,
    #[serde(rename = "task.started")]
    TaskStarted,
    #[serde(rename = "step.started")]
    StepStarted,
    #[serde(rename = "step.finished")]
    StepFinished,
    #[serde(rename = "task.progress")]
    TaskProgress,
    #[serde(rename = "task.finished")]
    TaskFinished,
    #[serde(rename = "quota.changed")]
    QuotaChanged,
    #[serde(rename = "quota.low")]
    QuotaLow,
    #[serde(rename = "order.updated")]
    OrderUpdated,
}

impl EventKind {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::TaskCreated,
        Self::TaskWaiting,
        Self::TaskStarted,
        Self::StepStarted,
        Self::StepFinished,
        Self::TaskProgress,
        Self::TaskFinished,
        Self::QuotaChanged,
        Self::QuotaLow,
        Self::OrderUpdated,
    ];

    /// The name in frames and in `final_events.event`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TaskCreated => "task.created",
            Self::TaskWaiting => "task.waiting",
            Self::TaskStarted => "task.started",
            Self::StepStarted => "step.started",
            Self::StepFinished => "step.finished",
            Self::TaskProgress => "task.progress",
            Self::TaskFinished => "task.finished",
            Self::QuotaChanged => "quota.changed",
            Self::QuotaLow => "quota.low",
            Self::OrderUpdated => "order.updated",
        }
    }

    /// The kind of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Whether a client must hear of it whatever happens: such events are rows of `final_events`.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::TaskFinished | Self::QuotaChanged | Self::QuotaLow | Self::OrderUpdated)
    }
}

/// One fact about one user's things.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Who may hear it.
    pub user: UserId,
    /// What happened.
    pub kind: EventKind,
    /// The task it is about.
    pub task: Option<TaskId>,
    /// The event's data, as API.md has it for each kind.
    pub data: Value,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The durable number of a final event, from `users.final_no`; others have none.
    pub final_no: Option<i64>,
}

impl Event {
    /// The event as the JSON object clients see, but for its type and its position.
    #[must_use]
    pub fn body(&self) -> String {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            event: &'static str,
            task_id: Option<TaskId>,
            data: &'a Value,
            at: DateTime<Utc>,
            #[serde(rename = "final", skip_serializing_if = "Option::is_none")]
            final_no: Option<i64>,
        }
        let body = Body {
            event: self.kind.name(),
            task_id: self.task,
            data: &self.data,
            at: self.at,
            final_no: self.final_no,
        };
        // keys are text and values plain, which always serialises
        serde_json::to_string(&body).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_kind_is_found_by_its_name() {
        for kind in EventKind::ALL {
            assert_eq!(EventKind::named(kind.name()), Some(kind));
            assert_eq!(json!(kind), json!(kind.name()));
        }
        assert_eq!(EventKind::named("task.unheard"), None);
    }

    #[test]
    fn a_body_has_a_final_number_only_if_the_event_is_final() {
        let task: TaskId = "01890000-0000-7000-8000-000000000001".parse().unwrap();
        let mut event = Event {
            user: UserId::new(),
            kind: EventKind::TaskProgress,
            task: Some(task),
            data: json!({"progress": 40}),
            at: "2026-01-02T03:04:05Z".parse().unwrap(),
            final_no: None,
        };
        assert_eq!(
            event.body(),
            r#"{"event":"task.progress","taskId":"01890000-0000-7000-8000-000000000001","data":{"progress":40},"at":"2026-01-02T03:04:05Z"}"#
        );
        event.kind = EventKind::QuotaChanged;
        event.task = None;
        event.final_no = Some(7);
        assert_eq!(
            event.body(),
            r#"{"event":"quota.changed","taskId":null,"data":{"progress":40},"at":"2026-01-02T03:04:05Z","final":7}"#
        );
    }
}
