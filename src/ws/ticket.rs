//! Tickets: a browser cannot set headers on a websocket, so it gets a ticket for one first.

use crate::http::{
    State,
    bearer::{Bearer, Read, Scoped},
    error::ApiError,
};
use actix_web::{HttpResponse, post, web};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    ids::{ApiKeyId, SessionId, UserId},
    stream::{TicketError, Tickets},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A ticket for one websocket.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ticket {
    /// To be sent as `?ticket=` of `/api/v1/ws`, once.
    ticket: String,
    /// Seconds until it is void.
    #[schema(example = 30)]
    expires_in: u64,
}

/// Issue a ticket for one websocket.
///
/// For browsers, which cannot send an `Authorization` header with a websocket. It is good once, for 30 seconds.
#[utoipa::path(
    tag = "live",
    security(("bearer" = []), ("apiKey" = ["read"])),
    responses((status = 201, description = "A ticket.", body = Ticket))
)]
#[post("/ws/tickets")]
pub(crate) async fn create_ticket(
    bearer: Scoped<Read>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let Bearer { id: user, key, session, expires_at } = *bearer;
    let holder = Holder { user, key, session, expires_at };
    let ticket = state.live.tickets.issue(&serde_json::to_string(&holder).unwrap_or_default()).await?;
    Ok(HttpResponse::Created().json(Ticket { ticket, expires_in: Tickets::life().as_secs() }))
}

/// What a ticket stands for: the caller as its access token or API key described it.
#[derive(Serialize, Deserialize)]
struct Holder {
    user: UserId,
    key: Option<ApiKeyId>,
    session: SessionId,
    expires_at: DateTime<Utc>,
}

/// Who a ticket was issued to; it is used up.
pub(super) async fn redeem(tickets: &Tickets, ticket: &str) -> Result<Bearer, ApiError> {
    let holder: String = tickets.redeem(ticket).await?;
    let Holder { user, key, session, expires_at } =
        serde_json::from_str(&holder).map_err(|_| TicketError::Invalid)?;
    Ok(Bearer { id: user, key, session, expires_at })
}

impl From<TicketError> for ApiError {
    fn from(error: TicketError) -> Self {
        match error {
            TicketError::Invalid => {
                Self::unauthenticated("Bearer realm=\"greenroom\", error=\"invalid_token\"")
            }
            TicketError::Unavailable(_) => Self::unavailable(),
        }
    }
}
