//! One socket's life: it sends what the hub has queued, answers frames, keeps the heartbeat, and ends.
//!
//! actix polls this actor only while the connection's write buffer has room, and only then does it drain its
//! queue. A client that does not read therefore freezes its own actor, and the hub judges it.

use super::{
    allowance::{Allowance, Hearing},
    handshake::MOST_BYTES,
    protocol::{self, ClientFrame, Closing, FrameFault},
};
use crate::http::{
    State,
    bearer::Bearer,
    error::{ApiError, ErrorCode},
    language::{Language, Text},
    tasks::TaskView,
};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, SpawnHandle, StreamHandler, WrapFuture};
use actix_http::ws::Item;
use actix_web::web::{self, BytesMut};
use actix_web_actors::ws::{CloseCode, CloseReason, Message, ProtocolError, WebsocketContext};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    clock::{Clock, SystemClock},
    ids::TaskId,
    stream::{Epoch, OpenedSocket, Outgoing, ResumeFrom, StreamError},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// Pings that may stay unanswered.
const UNANSWERED_PINGS: u8 = 2;

/// A token is good for this long after its end, as it is for requests: clocks differ.
const LEEWAY: Duration = Duration::from_secs(30);

/// How long live events wait for a client that did not say in its URL where to resume but may do so in a frame.
/// Without it, an event could overtake the resume, and positions would not ascend.
const HOLD: Duration = Duration::from_millis(250);

/// How long a client may take to read its close frame before the connection is cut.
const FAREWELL: Duration = Duration::from_secs(10);

/// Tasks in a snapshot; those that are not final go first.
const SHOWN: i64 = 200;

/// Final tasks in a snapshot.
const ENDED_SHOWN: i64 = 50;

/// Bytes of input and output in a snapshot, about.
const SHOWN_BYTES: i64 = 4 << 20;

type Context = WebsocketContext<Connection>;

/// One socket.
pub(super) struct Connection {
    state: web::Data<State>,
    socket: Arc<OpenedSocket>,
    language: Language,
    expires_at: DateTime<Utc>,
    expiry: SpawnHandle,
    unanswered_pings: u8,
    allowance: Allowance,
    // the beginning of a text that comes in several frames
    begun: Option<BytesMut>,
}

impl Connection {
    pub(super) fn open(
        state: web::Data<State>,
        socket: OpenedSocket,
        bearer: Bearer,
        language: Language,
    ) -> Self {
        Self {
            state,
            socket: Arc::new(socket),
            language,
            expires_at: bearer.expires_at,
            expiry: SpawnHandle::default(),
            unanswered_pings: 0,
            allowance: Allowance::new(Instant::now()),
            begun: None,
        }
    }

    fn end(&mut self, closing: Closing, context: &mut Context) {
        let description = Some(closing.reason().to_owned());
        context.close(Some(CloseReason { code: CloseCode::from(closing.code()), description }));
        if let Some(cut) = self.socket.take_cut() {
            // a client that is gone never takes the close frame, and the server would wait for it
            actix::spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                cut();
            });
        }
        context.stop();
    }

    fn refuse(&self, code: ErrorCode, message: &Text, context: &mut Context) {
        context.text(protocol::error(code, message.in_language(self.language)));
    }

    fn beat(&mut self, context: &mut Context) {
        if self.unanswered_pings >= UNANSWERED_PINGS {
            return self.end(Closing::NoPong, context);
        }
        self.unanswered_pings += 1;
        context.ping(b"");
    }

    /// Ends the socket when its token or key has ended, unless it was renewed by then.
    fn watch_expiry(&mut self, context: &mut Context) {
        let left = (self.expires_at + LEEWAY - SystemClock.now()).to_std().unwrap_or_default();
        context.cancel_future(self.expiry);
        self.expiry = context.run_later(left, |connection, context| {
            let ended = (SystemClock.now() - connection.expires_at).to_std();
            if ended.is_ok_and(|ended| ended >= LEEWAY) {
                connection.end(Closing::Expired, context);
            } else {
                connection.watch_expiry(context);
            }
        });
    }

    /// Whether a frame that came now is heard.
    fn hears(&mut self, context: &mut Context) -> bool {
        match self.allowance.take(Instant::now()) {
            Hearing::Heard => true,
            Hearing::Ignored => false,
            Hearing::Refused => {
                let message =
                    Text::new("帧过于频繁，后续的帧将被忽略。", "Too many frames; more are ignored.");
                self.refuse(ErrorCode::RateLimited, &message, context);
                false
            }
        }
    }

    fn take_text(&mut self, text: &str, context: &mut Context) {
        let frame = match ClientFrame::parse(text) {
            Ok(frame) => frame,
            Err(fault) => return context.text(fault.frame(self.language)),
        };
        match frame {
            ClientFrame::Subscribe { task_ids } => self.subscribe(task_ids, context),
            ClientFrame::Unsubscribe {} => self.state.live.sockets.unsubscribe(&self.socket),
            ClientFrame::Resume { epoch, seq, final_no } => {
                self.socket.resume(ResumeFrom { epoch: Epoch::new(&epoch), seq, final_no });
            }
            ClientFrame::Snapshot {} => self.snapshot(context),
            ClientFrame::Ping {} => context.text(protocol::pong()),
            ClientFrame::Auth { access_token } => self.renew(&access_token, context),
        }
    }

    fn subscribe(&mut self, tasks: Vec<TaskId>, context: &mut Context) {
        let (sockets, socket) = (self.state.live.sockets.clone(), Arc::clone(&self.socket));
        let subscribed = async move { sockets.subscribe(&socket, tasks).await };
        // frames after this one wait, so that they are done in the order they came
        context.wait(subscribed.into_actor(self).map(|subscribed, connection, context| match subscribed {
            Ok(()) => {}
            Err(StreamError::ForeignTask(task)) => {
                let message = Text::new(format!("没有任务 {task}。"), format!("There is no task {task}."));
                connection.refuse(ErrorCode::NotFound, &message, context);
            }
            Err(_) => connection.refuse_code(ErrorCode::Unavailable, context),
        }));
    }

    fn snapshot(&mut self, context: &mut Context) {
        let (state, socket) = (self.state.clone(), Arc::clone(&self.socket));
        let shown = async move {
            // the position first: what happens while the tasks are read comes as events too
            let (epoch, seq) = socket.reached();
            let overview = state.pipeline.overview(socket.user(), ENDED_SHOWN, SHOWN, SHOWN_BYTES).await?;
            let tasks = TaskView::of_tasks(overview.tasks, &state).await?;
            Ok::<_, ApiError>(protocol::snapshot(json!(tasks), overview.more, &epoch, seq))
        };
        context.wait(shown.into_actor(self).map(|shown, connection, context| match shown {
            Ok(frame) => context.text(frame),
            Err(_) => connection.refuse_code(ErrorCode::Unavailable, context),
        }));
    }

    fn refuse_code(&self, code: ErrorCode, context: &mut Context) {
        self.refuse(code, &code.meaning(), context);
    }

    fn renew(&mut self, token: &SecretString, context: &mut Context) {
        let claims = self.state.tokens.verify(token.expose_secret()).ok();
        let Some(claims) = claims.filter(|claims| claims.user == self.socket.user()) else {
            return self.refuse_code(ErrorCode::Unauthenticated, context);
        };
        let state = self.state.clone();
        let asked = async move { state.session.must_not_be_closed(claims.user, claims.session).await };
        // it hears of this session's end from now on
        let before = self.socket.set_session(claims.session);
        context.wait(asked.into_actor(self).map(move |open, connection, context| match open {
            Ok(()) => {
                connection.expires_at = claims.expires_at;
                connection.watch_expiry(context);
                context.text(protocol::auth_ok(claims.expires_at));
            }
            Err(error) => {
                connection.socket.set_session(before);
                connection.refuse_code(ApiError::from(error).code(), context);
            }
        }));
    }

    fn take_part(&mut self, item: Item, context: &mut Context) {
        match item {
            Item::FirstText(bytes) => self.begun = Some(BytesMut::from(&*bytes)),
            Item::FirstBinary(_) => context.text(FrameFault::Binary.frame(self.language)),
            Item::Continue(bytes) => drop(self.add_part(&bytes, context)),
            Item::Last(bytes) => {
                if self.add_part(&bytes, context)
                    && let Some(whole) = self.begun.take()
                {
                    match std::str::from_utf8(&whole) {
                        Ok(text) if self.hears(context) => self.take_text(text, context),
                        Ok(_) => {}
                        Err(_) => self.end(Closing::NotText, context),
                    }
                }
            }
        }
    }

    fn add_part(&mut self, bytes: &[u8], context: &mut Context) -> bool {
        let Some(begun) = &mut self.begun else { return false };
        if begun.len() + bytes.len() > MOST_BYTES {
            self.end(Closing::TooLarge, context);
            return false;
        }
        begun.extend_from_slice(bytes);
        true
    }
}

impl Actor for Connection {
    type Context = Context;

    fn started(&mut self, context: &mut Context) {
        context.text(protocol::hello(
            &self.socket.position,
            self.state.live.heartbeat.as_secs(),
            self.expires_at,
        ));
        context.add_stream(self.socket.outgoing());
        context.run_interval(self.state.live.heartbeat, Self::beat);
        context.run_later(HOLD, |connection, _| connection.socket.release());
        self.watch_expiry(context);
    }
}

impl StreamHandler<Outgoing> for Connection {
    fn handle(&mut self, outgoing: Outgoing, context: &mut Context) {
        match outgoing {
            Outgoing::Event { event, from_seq } => context.text(protocol::event(&event, from_seq)),
            Outgoing::Resync { reason, position } => context.text(protocol::resync(reason, &position)),
            Outgoing::Close(cause) => self.end(Closing::Hub(cause), context),
        }
    }

    fn finished(&mut self, _: &mut Context) {
        // after a close, which has ended the socket
    }
}

impl StreamHandler<Result<Message, ProtocolError>> for Connection {
    fn handle(&mut self, message: Result<Message, ProtocolError>, context: &mut Context) {
        match message {
            Ok(Message::Text(text)) => {
                if self.hears(context) {
                    self.take_text(&text, context);
                }
            }
            Ok(Message::Binary(_)) => {
                if self.hears(context) {
                    context.text(FrameFault::Binary.frame(self.language));
                }
            }
            Ok(Message::Continuation(item)) => self.take_part(item, context),
            Ok(Message::Ping(payload)) => {
                if self.hears(context) {
                    context.pong(&payload);
                }
            }
            Ok(Message::Pong(_)) => self.unanswered_pings = 0,
            Ok(Message::Close(reason)) => {
                context.close(reason);
                context.stop();
            }
            Ok(Message::Nop) => {}
            Err(ProtocolError::Overflow) => self.end(Closing::TooLarge, context),
            // text that is not UTF-8 comes as an error of its decoder, reserved bits as invalid data
            Err(ProtocolError::Io(error)) if error.kind() != std::io::ErrorKind::InvalidData => {
                self.end(Closing::NotText, context);
            }
            Err(_) => self.end(Closing::Protocol, context),
        }
    }
}
