//! The object store's signed links, where the store is a directory and has no server of its own. Whoever holds
//! a link may use it: it says itself what it is for, and there is no token.

use super::{
    error::{ApiError, ErrorCode},
    language::Text,
    state::State,
};
use actix_web::{
    HttpRequest, HttpResponse,
    body::SizedStream,
    http::header::{
        CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, Charset, ContentDisposition, DispositionParam,
        DispositionType, ExtendedValue, HeaderMap, HeaderName,
    },
    web,
};
use futures_util::StreamExt;
use std::io;

/// Types that a browser may show by itself; everything else it must save.
const SHOWN: [&str; 3] = ["image/jpeg", "image/png", "image/webp"];

/// `PUT /objects/{key}`: takes the bytes of an announced file.
pub(super) async fn put_object(
    request: HttpRequest,
    payload: web::Payload,
    key: web::Path<String>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let grant = state.objects.check_upload(&key, request.query_string())?;
    let said = |name: &HeaderName| text(request.headers(), name);
    if !said(&CONTENT_TYPE).is_some_and(|said| said.eq_ignore_ascii_case(&grant.content_type)) {
        let message = Text::new(
            format!("须为 {}。", grant.content_type),
            format!("It must be {}, as was announced.", grant.content_type),
        );
        return Err(ApiError::at(ErrorCode::UnsupportedMediaType, "/Content-Type", message));
    }
    // refused by its head where it says so, so that nobody sends what will not be taken
    if said(&CONTENT_LENGTH).and_then(|said| said.parse::<u64>().ok()).is_some_and(|said| said != grant.size)
    {
        return Err(ApiError::wrong_size(grant.size));
    }
    let bytes = payload.map(|chunk| chunk.map_err(io::Error::other));
    state.objects.receive(&grant, Box::pin(bytes)).await?;
    Ok(HttpResponse::Ok().finish())
}

/// `GET /objects/{key}`: sends the bytes of a file.
pub(super) async fn get_object(
    request: HttpRequest,
    key: web::Path<String>,
    state: web::Data<State>,
) -> Result<HttpResponse, ApiError> {
    let object = state.objects.open(&key, request.query_string()).await?;
    let disposition = if SHOWN.contains(&object.content_type.as_str()) {
        DispositionType::Inline
    } else {
        DispositionType::Attachment
    };
    Ok(HttpResponse::Ok()
        .content_type(object.content_type)
        .insert_header(ContentDisposition { disposition, parameters: file_name(object.name) })
        .insert_header((CACHE_CONTROL, "private, max-age=300"))
        .body(SizedStream::new(object.size, object.bytes)))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// The name in the old form for ASCII, and in the new form for all else.
fn file_name(name: String) -> Vec<DispositionParam> {
    let ascii: String =
        name.chars().map(|c| if c.is_ascii_graphic() && !"\"\\/".contains(c) { c } else { '_' }).collect();
    let mut parameters = vec![DispositionParam::Filename(ascii.clone())];
    if ascii != name {
        parameters.push(DispositionParam::FilenameExt(ExtendedValue {
            charset: Charset::Ext("UTF-8".to_owned()),
            language_tag: None,
            value: name.into_bytes(),
        }));
    }
    parameters
}
