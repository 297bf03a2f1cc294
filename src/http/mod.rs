//! The HTTP room: REST resources. It turns requests into messages to actors and reads of records, and their
//! replies into responses. It knows no SQL, no Redis and no gateway; the rules are `greenroom_actors`'.
//!
//! This file is the whole route table. A handler lives in the file of its resource, takes its caller first
//! (401 and 403 come before anything else), then path, query and body through the extractors of `extract.rs`,
//! `paging.rs` and `json.rs`, and returns an [`error::ApiError`] for every refusal. The contract
//! (`/openapi.json`) and the answer to a wrong method are made from the same table.

mod admin;
mod amount;
mod api_keys;
mod auth;
pub mod bearer;
pub mod client_address;
pub mod context;
pub mod error;
mod errors;
pub mod extract;
#[cfg(feature = "faults")]
mod faults;
mod files;
mod health;
pub mod idempotency;
pub mod json;
pub mod language;
pub mod limits;
pub mod metrics;
mod objects;
mod openapi;
pub mod paging;
mod pipelines;
mod plans;
mod provider_callbacks;
mod quota;
mod security_log;
mod server;
mod sessions;
pub mod state;
pub(crate) mod tasks;
mod users;

pub use openapi::openapi;
pub use server::serve;
pub use state::{HttpSettings, State, UploadSettings};

use crate::ws;
use actix_web::{HttpRequest, HttpResponse, http::Method, web};
use error::ApiError;
use utoipa_actix_web::{scope, service_config::ServiceConfig};

/// Registers every route.
pub fn configure(config: &mut web::ServiceConfig) {
    routes(&mut ServiceConfig::new(config));
    openapi::configure(config);
    config.service(
        web::resource("/objects/{key:.+}")
            .route(web::put().to(objects::put_object))
            .route(web::get().to(objects::get_object))
            .default_service(web::to(no_route)),
    );
    #[cfg(feature = "faults")]
    config.service(faults::arm);
    config.default_service(web::to(no_route));
}

/// The routes of the contract.
fn routes(config: &mut ServiceConfig) {
    config.service(health::get_live).service(health::get_ready).service(
        scope("/api/v1")
            .service(errors::list_errors)
            .service(auth::send_code)
            .service(auth::register)
            .service(auth::login)
            .service(auth::wechat_login)
            .service(auth::refresh)
            .service(auth::logout)
            .service(auth::reset_password)
            .service(sessions::list_sessions)
            .service(sessions::close_session)
            .service(sessions::set_password)
            .service(users::get_me)
            .service(users::patch_me)
            .service(users::delete_me)
            .service(users::get_invite)
            .service(sessions::change_phone)
            .service(sessions::bind_wechat)
            .service(security_log::list_own_security_log)
            .service(api_keys::list_api_keys)
            .service(api_keys::create_api_key)
            .service(api_keys::revoke_api_key)
            .service(quota::get_quota)
            .service(quota::list_transactions)
            .service(quota::list_grants)
            .service(quota::get_statement)
            .service(plans::list_plans)
            .service(pipelines::list_pipelines)
            .service(pipelines::get_pipeline)
            .service(tasks::create_task)
            .service(tasks::list_tasks)
            .service(tasks::get_task)
            .service(tasks::cancel_task)
            .service(provider_callbacks::take_provider_callback)
            .service(files::create_file)
            .service(files::complete_file)
            .service(files::get_file)
            .service(files::get_file_content)
            .service(files::delete_file)
            .service(ws::ticket::create_ticket)
            .service(ws::handshake::connect)
            .service(
                scope("/admin")
                    .service(admin::users::list_users)
                    .service(admin::users::get_user)
                    .service(admin::users::patch_user)
                    .service(admin::grants::create_grant)
                    .service(admin::plans::list_plans)
                    .service(admin::plans::create_plan)
                    .service(admin::plans::patch_plan)
                    .service(admin::pipelines::list_pipelines)
                    .service(admin::pipelines::create_pipeline)
                    .service(admin::pipelines::validate_pipeline)
                    .service(admin::pipelines::get_pipeline)
                    .service(admin::pipelines::create_pipeline_version)
                    .service(admin::pipelines::publish_pipeline)
                    .service(admin::pipelines::unpublish_pipeline)
                    .service(admin::tasks::list_tasks)
                    .service(admin::tasks::cancel_task)
                    .service(admin::actors::list_actors)
                    .service(admin::jobs::list_jobs)
                    .service(admin::jobs::run_job)
                    .service(admin::audit_log::list_audit_log)
                    .service(security_log::list_security_log)
                    .service(admin::providers::list_providers)
                    .service(admin::providers::put_provider)
                    .service(admin::providers::delete_provider)
                    .service(admin::providers::test_provider),
            ),
    );
}

/// Addresses outside the contract, with their methods.
const UNDOCUMENTED: &[(&str, &[Method])] = &[
    ("/openapi.json", &[Method::GET]),
    ("/docs", &[Method::GET]),
    ("/docs/{rest:.*}", &[Method::GET]),
    ("/objects/{key:.+}", &[Method::GET, Method::PUT]),
];

async fn no_route(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(match openapi::allowed_methods(&request) {
        Some(methods) => ApiError::method_not_allowed(&methods),
        None => ApiError::not_found(),
    })
}

#[cfg(test)]
mod tests;
