//! Tickets: a browser cannot set headers on a websocket, so it gets a ticket for one first.

use crate::http::{State, error::ApiError, extract::User};
use actix_web::{HttpResponse, post, web};
use chrono::{DateTime, Utc};
use greenroom_actors::{
    ids::{SessionId, UserId},
    session::Role,
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
    security(("bearer" = [])),
    responses((status = 201, description = "A ticket.", body = Ticket))
)]
#[post("/ws/tickets")]
pub(crate) async fn create_ticket(user: User, state: web::Data<State>) -> Result<HttpResponse, ApiError> {
    let bearer = serde_json::to_string(&Bearer::from(user)).unwrap_or_default();
    let ticket = state.live.tickets.issue(&bearer).await?;
    Ok(HttpResponse::Created().json(Ticket { ticket, expires_in: Tickets::life().as_secs() }))
}

/// What a ticket stands for: the caller as its access token described it.
#[derive(Serialize, Deserialize)]
struct Bearer {
    user: UserId,
    role: Role,
    session: SessionId,
    expires_at: DateTime<Utc>,
}

impl From<User> for Bearer {
    fn from(user: User) -> Self {
        Self { user: user.id, role: user.role, session: user.session, expires_at: user.expires_at }
    }
}

/// Who a ticket was issued to; it is used up.
pub(super) async fn redeem(tickets: &Tickets, ticket: &str) -> Result<User, ApiError> {
    let bearer: String = tickets.redeem(ticket).await?;
    let bearer: Bearer = serde_json::from_str(&bearer).map_err(|_| TicketError::Invalid)?;
    Ok(User { id: bearer.user, role: bearer.role, session: bearer.session, expires_at: bearer.expires_at })
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
