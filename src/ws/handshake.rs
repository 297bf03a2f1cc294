//! Who may open a socket, and where it resumes.

use super::{connection::Connection, stream_cut::cut_of, ticket};
use crate::http::{
    State,
    bearer::{Read, Scoped},
    error::{ApiError, ErrorCode},
    language::{Language, Text},
    paging::ValidQuery,
};
use actix_web::{
    FromRequest, HttpRequest, HttpResponse, get,
    http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
    web,
};
use actix_web_actors::ws::{self, WsResponseBuilder};
use greenroom_actors::stream::{Epoch, OpenSocket, ResumeFrom, StreamError};
use serde::Deserialize;
use utoipa::IntoParams;

/// The subprotocol we speak.
const PROTOCOL: &str = "greenroom.v1";

/// Before the access token or API key in `Sec-WebSocket-Protocol`.
const BEARER: &str = "bearer.";

/// The largest frame, also after joining continuations.
pub(super) const MOST_BYTES: usize = 64 << 10;

/// The query of the websocket.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SocketQuery {
    /// From `POST /ws/tickets`, instead of a token or key.
    ticket: Option<String>,
    /// The epoch of the last position, to resume there.
    epoch: Option<String>,
    /// The last `seq`.
    seq: Option<i64>,
    /// The last `final`.
    #[serde(rename = "final")]
    #[param(rename = "final")]
    final_no: Option<i64>,
}

impl SocketQuery {
    fn resume(&self) -> Result<Option<ResumeFrom>, ApiError> {
        let refused = |path| {
            let message = Text::new(
                "续传需要 epoch 和非负的 seq，final 可选。",
                "A resume names epoch and a seq that is not negative, and may name final.",
            );
            ApiError::at(ErrorCode::BadRequest, path, message)
        };
        let final_no = self.final_no;
        if final_no.is_some_and(|number| number < 0) {
            return Err(refused("/final"));
        }
        match (&self.epoch, self.seq) {
            (None, None) if final_no.is_none() => Ok(None),
            (None, _) => Err(refused("/epoch")),
            (Some(epoch), Some(seq)) => {
                let seq = u64::try_from(seq).map_err(|_| refused("/seq"))?;
                Ok(Some(ResumeFrom { epoch: Epoch::new(epoch), seq, final_no }))
            }
            (Some(_), None) => Err(refused("/seq")),
        }
    }
}

/// Open a websocket for live updates.
///
/// The access token or API key comes in `Authorization`, or in `Sec-WebSocket-Protocol: greenroom.v1, bearer.<it>`,
/// or as a ticket in the query. The frames are described in `docs/websocket.md`.
#[utoipa::path(
    tag = "live",
    params(SocketQuery),
    security(("bearer" = []), ("apiKey" = ["read"])),
    responses(
        (status = 101, description = "The socket is open."),
        (status = 400, description = "Not a websocket handshake, or a parameter that does not fit.")
    )
)]
#[get("/ws")]
pub(crate) async fn connect(
    request: HttpRequest,
    payload: web::Payload,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    // who it is comes before anything else, but a ticket lies in the query
    let query = ValidQuery::<SocketQuery>::extract(&request).await;
    let ticket = query.as_ref().ok().and_then(|query| query.0.ticket.clone());
    let bearer = if request.headers().contains_key(AUTHORIZATION) {
        *Scoped::<Read>::extract(&request).await?
    } else if let Some(text) = bearer_protocol(&request) {
        *Scoped::<Read>::of_text(&request, &text)?
    } else if let Some(ticket) = ticket {
        ticket::redeem(&state.live.tickets, &ticket).await?
    } else {
        *Scoped::<Read>::extract(&request).await?
    };
    let resume = query?.0.resume()?;
    ws::handshake(&request).map_err(|_| {
        ApiError::new(ErrorCode::BadRequest)
            .with_detail(Text::new("不是有效的 websocket 握手。", "This is not a websocket handshake."))
    })?;
    let held = resume.is_none();
    let command =
        OpenSocket { user: bearer.id, session: bearer.session, resume, held, cut: cut_of(&request) };
    let socket = state.live.sockets.open(command).await?;
    // the socket hears from now on when its session or key ends, which may have ended before
    match bearer.key {
        Some(key) => state.api_keys.must_work(key).await?,
        None => state.session.must_not_be_closed(bearer.id, bearer.session).await?,
    }
    let connection = Connection::open(state, socket, bearer, Language::of(request.headers()));
    WsResponseBuilder::new(connection, &request, payload)
        .protocols(&[PROTOCOL])
        .frame_size(MOST_BYTES)
        .start()
        .map_err(|_| ApiError::new(ErrorCode::BadRequest))
}

/// The access token or API key in `Sec-WebSocket-Protocol`, where there is one.
pub(crate) fn bearer_protocol(request: &HttpRequest) -> Option<String> {
    let headers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL);
    let mut protocols = headers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    protocols.find_map(|protocol| protocol.trim().strip_prefix(BEARER).map(str::to_owned))
}

impl From<StreamError> for ApiError {
    fn from(error: StreamError) -> Self {
        match error {
            StreamError::Unavailable => Self::unavailable(),
            StreamError::Database(error) => error.into(),
            StreamError::ForeignTask(_) => Self::not_found(),
        }
    }
}
