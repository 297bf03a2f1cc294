//! The actors of this replica.

use crate::http::{
    error::ApiError,
    extract::Support,
    paging::{List, ValidQuery},
    state::State,
};
use actix_web::{HttpResponse, get, web};
use greenroom_actors::supervisor::{Condition, VitalsSnapshot};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// An actor and how it fares.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Actor)]
struct ActorView {
    /// The replica it runs in.
    replica: String,
    #[schema(example = "quota-0")]
    name: String,
    #[schema(example = "quota")]
    kind: String,
    /// Which of several equals.
    shard: Option<usize>,
    /// `starting`, `running`, `backing_off`, `stopped` or `failed`.
    #[schema(example = "running")]
    state: &'static str,
    /// How often it was started again.
    restarts: u64,
    last_panic: Option<String>,
    /// Commands that wait or are being worked on.
    mailbox: usize,
    /// Commands answered since the process started.
    handled: u64,
    /// Mean time from command to answer.
    latency_ms: f64,
}

impl ActorView {
    fn new(replica: &str, vitals: VitalsSnapshot) -> Self {
        Self {
            replica: replica.to_owned(),
            name: match vitals.shard {
                Some(shard) => format!("{}-{shard}", vitals.name),
                None => vitals.name.to_string(),
            },
            kind: vitals.name.into_owned(),
            shard: vitals.shard,
            state: match vitals.condition {
                Condition::Starting => "starting",
                Condition::Running => "running",
                Condition::BackingOff => "backing_off",
                Condition::Stopped => "stopped",
                Condition::Failed => "failed",
            },
            restarts: vitals.restarts,
            last_panic: vitals.last_panic,
            mailbox: vitals.mailbox,
            handled: vitals.handled,
            latency_ms: vitals.latency_ms,
        }
    }
}

/// Whose actors to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ActorsQuery {
    /// Those of all replicas: of the others as they were when they last renewed their leases, a few seconds ago.
    #[serde(default)]
    #[param(value_type = Option<bool>, default = false)]
    all: bool,
}

/// Lists the actors of the replica that answers, or of all.
#[utoipa::path(
    tag = "admin",
    security(("bearer" = [])),
    params(ActorsQuery),
    responses((status = 200, description = "All of them.", body = List<ActorView>))
)]
#[get("/actors")]
pub(in crate::http) async fn list_actors(
    _: Support,
    state: web::Data<State>,
    query: ValidQuery<ActorsQuery>,
) -> Result<HttpResponse, ApiError> {
    let view = |replica: &str, vitals: Vec<VitalsSnapshot>| -> Vec<ActorView> {
        vitals.into_iter().map(|vitals| ActorView::new(replica, vitals)).collect()
    };
    let items = if query.0.all {
        let replicas = state.pipeline.replicas().await?;
        replicas.into_iter().flat_map(|replica| view(&replica.label, replica.actors)).collect()
    } else {
        view(&state.settings.replica, state.supervisor.snapshot())
    };
    Ok(HttpResponse::Ok().json(List::whole(items)))
}
