//! The answers of asynchronous providers. Whoever knows the address may bring one: it is told to the provider alone,
//! and there is no other token.

use super::{error::ApiError, json::AnyBody, state::State};
use actix_web::{HttpResponse, post, web};
use greenroom_actors::pipeline::TakeCallback;

/// Takes an asynchronous provider's answer.
///
/// The address is `callback.url` of the provider's request, made for one call. The first body counts; a repeat, and
/// one that comes when nobody waits for it any more, is answered alike and changes nothing.
#[utoipa::path(
    tag = "providers",
    params(("token" = String, Path, description = "The end of the address, as the call named it.")),
    request_body(content = String, description = "Whatever the provider answers; mostly JSON.", content_type = "*/*"),
    responses(
        (status = 204, description = "Kept, or known already."),
        (status = 404, description = "No call has named this address, or more than a day ago."),
    ),
)]
#[post("/provider-callbacks/{token}")]
pub(super) async fn take_provider_callback(
    path: web::Path<String>,
    state: web::Data<State>,
    body: AnyBody,
) -> Result<HttpResponse, ApiError> {
    let command = TakeCallback { token: path.into_inner(), body: body.0.into() };
    state.pipeline.take_callback(command).await?;
    Ok(HttpResponse::NoContent().finish())
}
