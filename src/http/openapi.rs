//! The contract, generated from the routes: `/openapi.json`, the page that shows it, and which methods an
//! address has.

use super::{
    error::{Problem, ProblemField},
    limits::is_limited,
};
use actix_web::{
    App, HttpRequest, HttpResponse, Responder,
    dev::ResourceDef,
    get,
    http::{Method, header::LOCATION},
    web,
};
use std::sync::LazyLock;
use utoipa::{
    OpenApi, PartialSchema, ToSchema,
    openapi::{
        Content, HttpMethod, RefOr, ResponseBuilder,
        header::{Header, HeaderBuilder},
        path::{Operation, PathItem},
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_actix_web::AppExt;
use utoipa_swagger_ui::{Config, SwaggerUi};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Greenroom",
        description = "Backend of AI-task products: people buy quota, spend it on tasks that run pipelines of AI \
                       calls, and watch them live. Errors are RFC 9457 problems; `GET /api/v1/errors` lists the codes."
    ),
    components(schemas(Problem<'static>, ProblemField<'static>))
)]
struct Base;

/// The contract of this build: OpenAPI 3.1.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut document) =
        App::new().into_utoipa_app().openapi(Base::openapi()).configure(super::routes).split_for_parts();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("The `accessToken` of a sign-in."))
        .build();
    let api_key = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("grk_...")
        .description(Some(
            "A key of `POST /api/v1/users/me/api-keys`, for programs. An operation that takes one names the scope that \
             it needs, or one of those; every other operation answers `403 SCOPE_MISSING` to a key.",
        ))
        .build();
    for (name, scheme) in [("bearer", bearer), ("apiKey", api_key)] {
        let schemes = &mut document.components.get_or_insert_default().security_schemes;
        schemes.insert(name.to_owned(), RefOr::T(SecurityScheme::Http(scheme)));
    }
    for (path, item) in &mut document.paths.paths {
        let parameters = item.parameters.is_some();
        for (_, operation) in operations(item) {
            describe_refusals(operation, parameters);
            if is_limited(path) {
                describe_limit(operation);
            }
            describe_headers(operation);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    [
        (HttpMethod::Get, &mut item.get),
        (HttpMethod::Post, &mut item.post),
        (HttpMethod::Put, &mut item.put),
        (HttpMethod::Patch, &mut item.patch),
        (HttpMethod::Delete, &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Adds the refusals that follow from what an operation takes, so that no route can forget them.
fn describe_refusals(operation: &mut Operation, item_has_parameters: bool) {
    let mut refusals = vec![
        ("500", "A defect; it is in the log under the request id."),
        ("503", "Certainly not done; come back after `Retry-After`."),
    ];
    if operation.security.is_some() {
        refusals.push(("401", "No valid access token, nor an API key."));
        let is_admins = operation.tags.iter().flatten().any(|tag| tag == "admin");
        refusals.push((
            "403",
            if is_admins { "Not an admin." } else { "`SCOPE_MISSING` to an API key that is not for it." },
        ));
    }
    if operation.request_body.is_some() {
        refusals.push(("400", "Not JSON, or a field that does not fit."));
        refusals.push(("413", "The body is too large."));
        refusals.push(("415", "The body is not `application/json`."));
    }
    if item_has_parameters || operation.parameters.as_ref().is_some_and(|parameters| !parameters.is_empty()) {
        refusals.push(("400", "A parameter that does not fit."));
    }
    for (status, description) in refusals {
        operation
            .responses
            .responses
            .entry(status.to_owned())
            .or_insert_with(|| RefOr::T(ResponseBuilder::new().description(description).build()));
    }
}

/// Adds how a caller is told of the limit.
fn describe_limit(operation: &mut Operation) {
    let refused =
        || RefOr::T(ResponseBuilder::new().description("`RATE_LIMITED`: too many requests.").build());
    operation.responses.responses.entry("429".to_owned()).or_insert_with(refused);
    for response in operation.responses.responses.values_mut() {
        let RefOr::T(response) = response else { continue };
        for (name, description) in [
            ("RateLimit-Limit", "Requests a minute."),
            ("RateLimit-Remaining", "How many more are taken now."),
            ("RateLimit-Reset", "Seconds until as many as the limit are taken."),
        ] {
            response.headers.insert(name.to_owned(), header(u64::schema(), description));
        }
    }
}

fn describe_headers(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let RefOr::T(response) = response else { continue };
        response
            .headers
            .entry("X-Request-Id".to_owned())
            .or_insert_with(|| header(String::schema(), "The request in the log."));
        let refusal = status.starts_with(['4', '5']);
        if refusal && response.content.is_empty() {
            let schema = utoipa::openapi::Ref::from_schema_name(Problem::name());
            response
                .content
                .insert("application/problem+json".to_owned(), RefOr::T(Content::new(Some(schema))));
        }
        if ["429", "503"].contains(&status.as_str()) {
            response
                .headers
                .entry("Retry-After".to_owned())
                .or_insert_with(|| header(u64::schema(), "Seconds."));
        }
    }
}

fn header(schema: RefOr<utoipa::openapi::Schema>, description: &str) -> RefOr<Header> {
    RefOr::T(HeaderBuilder::new().schema(Some(schema)).description(Some(description)).build())
}

static DOCUMENT: LazyLock<web::Bytes> =
    LazyLock::new(|| web::Bytes::from(openapi().to_json().unwrap_or_default()));

/// The contract.
#[get("/openapi.json")]
async fn openapi_json() -> impl Responder {
    HttpResponse::Ok().content_type("application/json").body(DOCUMENT.clone())
}

#[get("/docs")]
async fn docs() -> impl Responder {
    HttpResponse::PermanentRedirect().insert_header((LOCATION, "/docs/")).finish()
}

/// The routes of this file.
pub(super) fn configure(config: &mut web::ServiceConfig) {
    config
        .service(openapi_json)
        .service(docs)
        .service(SwaggerUi::new("/docs/{_:.*}").config(Config::from("/openapi.json")));
}

/// Addresses and their methods.
static ADDRESSES: LazyLock<Vec<(ResourceDef, Vec<Method>)>> = LazyLock::new(|| {
    let mut document = openapi();
    let documented = document.paths.paths.iter_mut().map(|(pattern, item)| {
        let methods = operations(item).map(|(method, _)| method_of(&method)).collect();
        (ResourceDef::new(pattern.as_str()), methods)
    });
    let others =
        super::UNDOCUMENTED.iter().map(|(pattern, methods)| (ResourceDef::new(*pattern), methods.to_vec()));
    documented.chain(others).collect()
});

fn method_of(method: &HttpMethod) -> Method {
    match method {
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
        HttpMethod::Patch => Method::PATCH,
        HttpMethod::Delete => Method::DELETE,
        _ => Method::GET,
    }
}

/// The methods of the address of a request that no route took, such as `GET, POST`; `None` where there is no
/// such address.
#[must_use]
pub(super) fn allowed_methods(request: &HttpRequest) -> Option<String> {
    let path = request.path();
    let mut allowed: Vec<&str> = ADDRESSES
        .iter()
        .filter(|(pattern, _)| pattern.is_match(path))
        .flat_map(|(_, methods)| methods.iter().map(Method::as_str))
        .collect();
    allowed.sort_unstable();
    allowed.dedup();
    (!allowed.is_empty() && !allowed.contains(&request.method().as_str())).then(|| allowed.join(", "))
}
