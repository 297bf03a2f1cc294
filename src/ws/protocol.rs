//! The frames of the websocket, as plain data.

use crate::http::{error::ErrorCode, language::Language, language::Text};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    ids::TaskId,
    stream::{CloseCause, Position, ResyncReason, StreamEvent},
};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Tasks a client may subscribe to at once.
pub const MOST_TASKS: usize = 1_000;

/// What a client sends.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ClientFrame {
    /// From now on only events of these tasks, and those about the user.
    Subscribe {
        /// Which tasks.
        task_ids: Vec<TaskId>,
    },
    /// All of my events again.
    Unsubscribe {},
    /// Send what I missed since this position.
    Resume {
        /// The epoch of the last position.
        epoch: String,
        /// The last `seq`.
        seq: u64,
        /// The last `final`.
        #[serde(rename = "final")]
        final_no: Option<i64>,
    },
    /// Send what is running and what ended last.
    Snapshot {},
    /// Are you there?
    Ping {},
    /// A newer access token of the same user.
    Auth {
        /// The token.
        access_token: SecretString,
    },
}

/// The names in `type`, to tell an unknown frame from a faulty one.
const CLIENT_FRAMES: [&str; 6] = ["subscribe", "unsubscribe", "resume", "snapshot", "ping", "auth"];

/// Why a frame was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameFault {
    /// It is not JSON.
    NotJson,
    /// Nothing has this `type`, or there is none.
    UnknownType,
    /// A field is missing or of the wrong kind.
    Fields,
    /// More tasks than may be subscribed to.
    TooManyTasks,
    /// It is binary.
    Binary,
}

impl ClientFrame {
    /// Reads a frame.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, FrameFault> {
        let value: Value = serde_json::from_str(text).map_err(|_| FrameFault::NotJson)?;
        let known =
            value.get("type").and_then(Value::as_str).is_some_and(|name| CLIENT_FRAMES.contains(&name));
        if !known {
            return Err(FrameFault::UnknownType);
        }
        let frame = serde_json::from_value(value).map_err(|_| FrameFault::Fields)?;
        match &frame {
            Self::Subscribe { task_ids } if task_ids.len() > MOST_TASKS => Err(FrameFault::TooManyTasks),
            Self::Resume { seq, final_no, .. }
                if i64::try_from(*seq).is_err() || final_no.is_some_and(|number| number < 0) =>
            {
                Err(FrameFault::Fields)
            }
            _ => Ok(frame),
        }
    }
}

impl FrameFault {
    /// The error frame for it.
    #[must_use]
    pub fn frame(self, language: Language) -> String {
        let (code, message) = match self {
            Self::NotJson => {
                (ErrorCode::MalformedJson, Text::new("帧不是有效的 JSON。", "The frame is not JSON."))
            }
            Self::UnknownType => {
                (ErrorCode::BadRequest, Text::new("没有这种类型的帧。", "There is no frame of this type."))
            }
            Self::Fields => (
                ErrorCode::BadRequest,
                Text::new("帧缺少字段，或字段无效。", "A field of the frame is missing or not valid."),
            ),
            Self::TooManyTasks => (
                ErrorCode::BadRequest,
                Text::new("一次最多订阅 1000 个任务。", "At most 1000 tasks can be subscribed to."),
            ),
            Self::Binary => {
                (ErrorCode::BadRequest, Text::new("只接受文本帧。", "Frames are text, never binary."))
            }
        };
        error(code, message.in_language(language))
    }
}

/// What the server sends, but for events.
#[derive(Serialize)]
#[serde(tag = "type", rename_all_fields = "camelCase")]
enum ServerFrame<'a> {
    #[serde(rename = "hello")]
    Hello {
        epoch: &'a str,
        seq: u64,
        #[serde(rename = "final")]
        final_no: i64,
        heartbeat_seconds: u64,
        session_expires_at: DateTime<Utc>,
    },
    #[serde(rename = "auth.ok")]
    AuthOk { session_expires_at: DateTime<Utc> },
    #[serde(rename = "resync")]
    Resync {
        reason: &'static str,
        epoch: &'a str,
        seq: u64,
        #[serde(rename = "final")]
        final_no: i64,
    },
    #[serde(rename = "snapshot")]
    Snapshot {
        tasks: Value,
        #[serde(skip_serializing_if = "is_false")]
        more: bool,
        epoch: &'a str,
        seq: u64,
    },
    #[serde(rename = "error")]
    Error { code: &'static str, message: &'a str },
    #[serde(rename = "pong")]
    Pong {},
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl ServerFrame<'_> {
    fn text(&self) -> String {
        // text, numbers and times only: this cannot fail
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The first frame.
#[must_use]
pub fn hello(position: &Position, heartbeat_seconds: u64, session_expires_at: DateTime<Utc>) -> String {
    let Position { epoch, seq, final_no } = position;
    ServerFrame::Hello {
        epoch: epoch.as_str(),
        seq: *seq,
        final_no: *final_no,
        heartbeat_seconds,
        session_expires_at,
    }
    .text()
}

/// The answer to an `auth` frame.
#[must_use]
pub fn auth_ok(session_expires_at: DateTime<Utc>) -> String {
    ServerFrame::AuthOk { session_expires_at }.text()
}

/// A new position.
#[must_use]
pub fn resync(reason: ResyncReason, position: &Position) -> String {
    let reason = match reason {
        ResyncReason::HistoryLost => "history_lost",
        ResyncReason::EpochChanged => "epoch_changed",
    };
    let Position { epoch, seq, final_no } = position;
    ServerFrame::Resync { reason, epoch: epoch.as_str(), seq: *seq, final_no: *final_no }.text()
}

/// The tasks a client shows at first, as `GET /tasks` shows them; `more` says that there was no room for all.
/// Later events than `epoch` and `seq` may repeat what it shows.
#[must_use]
pub fn snapshot(tasks: Value, more: bool, epoch: &str, seq: u64) -> String {
    ServerFrame::Snapshot { tasks, more, epoch, seq }.text()
}

/// A frame was not done.
#[must_use]
pub fn error(code: ErrorCode, message: &str) -> String {
    ServerFrame::Error { code: code.name(), message }.text()
}

/// The answer to a `ping` frame.
#[must_use]
pub fn pong() -> String {
    ServerFrame::Pong {}.text()
}

/// An event. Its body is JSON already; the position goes before it. `from_seq` is the first position it stands
/// for, if progress was merged into it.
#[must_use]
pub fn event(event: &StreamEvent, from_seq: Option<u64>) -> String {
    use std::fmt::Write;
    let rest = event.body.strip_prefix('{').unwrap_or(&event.body);
    let mut text = String::with_capacity(rest.len() + 96);
    text.push_str(r#"{"type":"event","#);
    if let Some((epoch, seq)) = &event.position {
        // writing to a string cannot fail; an epoch is made of letters and digits by us
        let _ = write!(text, r#""epoch":"{epoch}","seq":{seq},"#);
        if let Some(from_seq) = from_seq {
            let _ = write!(text, r#""fromSeq":{from_seq},"#);
        }
    }
    text.push_str(rest);
    text
}

/// Why a socket is closed, as its close code and reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// No pong for two heartbeats.
    NoPong,
    /// The access token has ended.
    Expired,
    /// What the hub decided.
    Hub(CloseCause),
    /// A frame over 64 KiB.
    TooLarge,
    /// Text that is not UTF-8.
    NotText,
    /// Not the websocket protocol.
    Protocol,
}

impl Closing {
    /// The close code.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::NoPong => 4000,
            Self::Expired | Self::Hub(CloseCause::SessionClosed) => 4001,
            Self::Hub(CloseCause::TooSlow) => 4008,
            Self::Hub(CloseCause::Replaced) => 4009,
            Self::Hub(CloseCause::Restarting) => 1012,
            Self::TooLarge => 1009,
            Self::NotText => 1007,
            Self::Protocol => 1002,
        }
    }

    /// The reason in the close frame.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::NoPong => "no pong",
            Self::Expired => "unauthenticated or expired",
            Self::Hub(CloseCause::SessionClosed) => "signed out",
            Self::Hub(CloseCause::TooSlow) => "too slow, resume",
            Self::Hub(CloseCause::Replaced) => "replaced by a newer socket",
            Self::Hub(CloseCause::Restarting) => "restarting, resume",
            Self::TooLarge => "frame over 64 KiB",
            Self::NotText => "text is not UTF-8",
            Self::Protocol => "not the websocket protocol",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use greenroom_actors::stream::{Epoch, EventClass};

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn position() -> Position {
        Position { epoch: Epoch::new("3f1c"), seq: 41, final_no: 17 }
    }

    #[test]
    fn server_frames_look_like_the_contract_says() {
        let expires = at("2026-01-02T03:04:05Z");
        assert_eq!(
            hello(&position(), 25, expires),
            r#"{"type":"hello","epoch":"3f1c","seq":41,"final":17,"heartbeatSeconds":25,"sessionExpiresAt":"2026-01-02T03:04:05Z"}"#
        );
        assert_eq!(auth_ok(expires), r#"{"type":"auth.ok","sessionExpiresAt":"2026-01-02T03:04:05Z"}"#);
        assert_eq!(
            resync(ResyncReason::HistoryLost, &position()),
            r#"{"type":"resync","reason":"history_lost","epoch":"3f1c","seq":41,"final":17}"#
        );
        assert_eq!(
            resync(ResyncReason::EpochChanged, &position()),
            r#"{"type":"resync","reason":"epoch_changed","epoch":"3f1c","seq":41,"final":17}"#
        );
        assert_eq!(
            error(ErrorCode::NotFound, "no such \"task\""),
            r#"{"type":"error","code":"NOT_FOUND","message":"no such \"task\""}"#
        );
        assert_eq!(pong(), r#"{"type":"pong"}"#);
        let tasks = serde_json::json!([{"id": "1"}]);
        assert_eq!(
            snapshot(tasks.clone(), false, "3f1c", 41),
            r#"{"type":"snapshot","tasks":[{"id":"1"}],"epoch":"3f1c","seq":41}"#
        );
        assert_eq!(
            snapshot(tasks, true, "3f1c", 41),
            r#"{"type":"snapshot","tasks":[{"id":"1"}],"more":true,"epoch":"3f1c","seq":41}"#
        );
    }

    #[test]
    fn an_event_has_its_position_before_its_body() {
        let mut progress = StreamEvent {
            position: Some((Epoch::new("3f1c"), 42)),
            final_no: None,
            task: None,
            class: EventClass::Progress,
            body: r#"{"event":"task.progress","data":{"progress":40}}"#.into(),
        };
        assert_eq!(
            event(&progress, None),
            r#"{"type":"event","epoch":"3f1c","seq":42,"event":"task.progress","data":{"progress":40}}"#
        );
        assert_eq!(
            event(&progress, Some(40)),
            r#"{"type":"event","epoch":"3f1c","seq":42,"fromSeq":40,"event":"task.progress","data":{"progress":40}}"#
        );
        progress.position = None;
        assert_eq!(
            event(&progress, None),
            r#"{"type":"event","event":"task.progress","data":{"progress":40}}"#
        );
    }

    #[test]
    fn client_frames_are_read() {
        let frame = ClientFrame::parse(r#"{"type":"resume","epoch":"3f1c","seq":41,"final":17}"#);
        assert!(
            matches!(frame, Ok(ClientFrame::Resume { epoch, seq: 41, final_no: Some(17) }) if epoch == "3f1c")
        );
        let frame = ClientFrame::parse(r#"{"type":"resume","epoch":"3f1c","seq":41}"#);
        assert!(matches!(frame, Ok(ClientFrame::Resume { final_no: None, .. })));
        let frame =
            ClientFrame::parse(r#"{"type":"subscribe","taskIds":["01890000-0000-7000-8000-000000000001"]}"#);
        assert!(matches!(frame, Ok(ClientFrame::Subscribe { task_ids }) if task_ids.len() == 1));
        for (text, kind) in [("ping", "Ping"), ("snapshot", "Snapshot"), ("unsubscribe", "Unsubscribe")] {
            let frame = ClientFrame::parse(&format!(r#"{{"type":"{text}","later":1}}"#)).unwrap();
            assert!(format!("{frame:?}").starts_with(kind));
        }
        let frame = ClientFrame::parse(r#"{"type":"auth","accessToken":"secret"}"#).unwrap();
        assert!(!format!("{frame:?}").contains("secret"));
    }

    #[test]
    fn each_fault_of_a_frame_is_named() {
        for (text, fault) in [
            ("", FrameFault::NotJson),
            ("{\"type\":\"ping\"", FrameFault::NotJson),
            ("[]", FrameFault::UnknownType),
            ("null", FrameFault::UnknownType),
            ("{}", FrameFault::UnknownType),
            (r#"{"type":7}"#, FrameFault::UnknownType),
            (r#"{"type":"dance"}"#, FrameFault::UnknownType),
            (r#"{"type":"subscribe"}"#, FrameFault::Fields),
            (r#"{"type":"subscribe","taskIds":["../1"]}"#, FrameFault::Fields),
            (r#"{"type":"subscribe","taskIds":"all"}"#, FrameFault::Fields),
            (r#"{"type":"resume","epoch":"e","seq":-1}"#, FrameFault::Fields),
            (r#"{"type":"resume","epoch":"e","seq":18446744073709551615}"#, FrameFault::Fields),
            (r#"{"type":"resume","epoch":"e","seq":1,"final":-4}"#, FrameFault::Fields),
            (r#"{"type":"resume","epoch":3,"seq":1}"#, FrameFault::Fields),
            (r#"{"type":"auth"}"#, FrameFault::Fields),
        ] {
            assert_eq!(ClientFrame::parse(text).err(), Some(fault), "{text}");
            assert!(fault.frame(Language::English).starts_with(r#"{"type":"error","code":""#));
        }
        let many = vec!["\"01890000-0000-7000-8000-000000000001\""; MOST_TASKS + 1].join(",");
        let frame = ClientFrame::parse(&format!(r#"{{"type":"subscribe","taskIds":[{many}]}}"#));
        assert_eq!(frame.err(), Some(FrameFault::TooManyTasks));
    }

    #[test]
    fn close_codes_are_those_of_the_contract() {
        let codes = [
            (Closing::NoPong, 4000),
            (Closing::Expired, 4001),
            (Closing::Hub(CloseCause::SessionClosed), 4001),
            (Closing::Hub(CloseCause::TooSlow), 4008),
            (Closing::Hub(CloseCause::Replaced), 4009),
            (Closing::Hub(CloseCause::Restarting), 1012),
            (Closing::TooLarge, 1009),
        ];
        for (closing, code) in codes {
            assert_eq!(closing.code(), code);
            assert!(closing.reason().len() <= 123, "a close frame holds no more");
        }
    }
}
