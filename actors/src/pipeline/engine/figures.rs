//! What this replica tells the others, and people, of how the providers fare: a row a provider, written again when it
//! has changed, every second at most. In PostgreSQL, so that losing Redis hides nothing.

use super::{actor::Engine, breaker::Room, health::Figures, tools::Tools};
use crate::{
    database::DatabaseError,
    pipeline::store::{self, BreakerState, Elsewhere, FiguresRow},
};
use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};
use chrono::{DateTime, TimeDelta, Utc};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

/// What the replicas know of each other.
#[derive(Debug, Default)]
pub(super) struct SharedFigures {
    written: HashMap<String, FiguresRow>,
    /// How the providers fare at the others.
    elsewhere: HashMap<String, Elsewhere>,
    is_sharing: bool,
}

impl SharedFigures {
    /// How many calls of a provider wait at other replicas.
    pub(super) fn waiting_elsewhere(&self, provider: &str) -> i64 {
        self.elsewhere.get(provider).map_or(0, |elsewhere| elsewhere.waiting)
    }

    /// How long a call of a provider takes at other replicas, where some have ended there.
    pub(super) fn lasting_elsewhere(&self, provider: &str) -> Option<Duration> {
        let call_ms = self.elsewhere.get(provider)?.call_ms?;
        u64::try_from(call_ms).ok().map(Duration::from_millis)
    }
}

impl Engine {
    /// Writes what has changed since it was last written, and reads what the others have written.
    pub(super) fn share_figures(&mut self, context: &mut Context<Self>) {
        let at = Instant::now();
        let Some(now) = self.tools.clock.time(at).filter(|_| !self.figures.is_sharing) else { return };
        let rows = self.rows(at, now);
        let is_new = |row: &&FiguresRow| self.figures.written.get(&row.provider) != Some(row);
        let changed: Vec<_> = rows.iter().filter(is_new).cloned().collect();
        let calls_wait = self.queued || !self.admission.providers().is_empty();
        self.figures.is_sharing = true;
        let tools = Arc::clone(&self.tools);
        let share = async move { share(&tools, &changed, calls_wait).await };
        context.spawn(share.into_actor(self).map(|shared, actor, _| {
            actor.figures.is_sharing = false;
            match shared {
                Ok(elsewhere) => {
                    actor.figures.elsewhere = elsewhere;
                    actor.figures.written = rows.into_iter().map(|row| (row.provider.clone(), row)).collect();
                }
                Err(error) => {
                    tracing::warn!(
                        error = %crate::causes(&error),
                        "the providers' figures are not written"
                    );
                }
            }
        }));
    }

    fn rows(&self, at: Instant, now: DateTime<Utc>) -> Vec<FiguresRow> {
        let waiting = self.admission.waiting();
        let figures = self.tools.health.figures(at, |provider| self.tools.providers.find(provider).is_some());
        let row = |(provider, figures): (String, Figures)| {
            let (breaker, open_until) = match figures.room {
                Room::All => (BreakerState::Closed, None),
                Room::Probe | Room::None { until: None } => (BreakerState::HalfOpen, None),
                Room::None { until: Some(until) } => {
                    let left = TimeDelta::from_std(until.saturating_duration_since(at)).unwrap_or_default();
                    (BreakerState::Open, Some(now + left))
                }
            };
            show(&provider, breaker);
            let waiting = waiting.get(provider.as_str()).copied().unwrap_or(0);
            FiguresRow {
                waiting: i64::try_from(waiting).unwrap_or(i64::MAX),
                calls: figures.calls,
                failures: figures.failures,
                call_ms: figures.lasting.and_then(|lasting| i64::try_from(lasting.as_millis()).ok()),
                breaker,
                open_until,
                last_error: figures.last_error,
                provider,
            }
        };
        figures.into_iter().map(row).collect()
    }
}

async fn share(
    tools: &Tools,
    changed: &[FiguresRow],
    calls_wait: bool,
) -> Result<HashMap<String, Elsewhere>, DatabaseError> {
    if changed.is_empty() && !calls_wait {
        return Ok(HashMap::new());
    }
    let client = tools.database.client().await?;
    if !changed.is_empty() {
        store::write_figures(&client, tools.owner, changed).await?;
    }
    if calls_wait { store::figures_elsewhere(&client, tools.owner).await } else { Ok(HashMap::new()) }
}

fn show(provider: &str, breaker: BreakerState) {
    let figure = match breaker {
        BreakerState::Closed => 0.0,
        BreakerState::HalfOpen => 0.5,
        BreakerState::Open => 1.0,
    };
    metrics::gauge!("greenroom_provider_breaker_open", "provider" => provider.to_owned()).set(figure);
}
