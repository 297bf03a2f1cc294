//! One visit to the queues: what may be taken is taken.

use super::tools::Tools;
use crate::{
    database::DatabaseError,
    ids::TaskId,
    pipeline::{
        store::{self, Claimed},
        turns::Bound,
    },
};
use std::{collections::HashMap, time::Duration};

/// Orphans, released and expired tasks taken by one visit, each at most.
const OTHERS: i64 = 500;
/// Queued tasks taken by one claim.
const CLAIM: i64 = 200;

/// What a visit is to look for.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    /// What bounds the tasks that are taken for each provider.
    pub(super) bounds: HashMap<String, Bound>,
    /// How many tasks there is room for.
    pub(super) room: i64,
    /// Whether to look for more than queued tasks: those left by others, and those queued for too long.
    pub(super) thorough: bool,
}

/// What a visit brought.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// To be run.
    pub(super) claimed: Vec<Claimed>,
    /// To be ended: queued for too long.
    pub(super) expired: Vec<Claimed>,
    /// Whether tasks are queued that were not taken, as far as was looked.
    pub(super) queued: bool,
    /// Whether another claim may bring more at once.
    pub(super) more: bool,
    /// Whether another replica was just taking tasks from a queue that there is room for.
    pub(super) busy: bool,
    /// In what time the first of the other replicas falls silent, unless it is heard of before; where it was a thorough
    /// one.
    pub(super) next_expiry: Option<Duration>,
    /// All tasks that were ours when the visit began, where it was a thorough one.
    pub(super) own: Vec<TaskId>,
}

/// Makes a visit. What was taken before a failure is ours all the same, so it is returned with it.
pub(super) async fn visit(tools: &Tools, visit: Visit) -> (Found, Option<DatabaseError>) {
    let mut found = Found { queued: true, ..Found::default() };
    let failed = take(tools, visit, &mut found).await.err();
    (found, failed)
}

async fn take(tools: &Tools, visit: Visit, found: &mut Found) -> Result<(), DatabaseError> {
    let owner = tools.owner;
    let mut client = tools.database.client().await?;
    if visit.thorough {
        found.own = store::own_tasks(&client, owner).await?;
        found.expired = store::claim_expired(&client, owner, tools.settings.queue_ttl, OTHERS).await?;
        found.claimed = store::claim_released(&client, owner, OTHERS.min(visit.room)).await?;
        let buried = store::bury_expired(&client, owner, tools.lease.lease()).await?;
        if buried > 0 {
            tracing::warn!(replicas = buried, "replicas fell silent; their tasks are taken over");
        }
        found.next_expiry = store::next_expiry(&client, owner).await?;
        let room = visit.room - count(&found.claimed);
        let orphans = store::claim_orphans(&client, owner, OTHERS.min(room)).await?;
        found.claimed.extend(orphans);
        store::close_overdue(&client, OTHERS).await?;
        let begun = tools.queued.begin();
        tools.queued.end(begun, store::count_queued(&client).await?);
    }
    let queues = store::queues(&client, owner).await?;
    found.queued = !queues.is_empty();
    let ceiling = i64::from(tools.settings.running_per_user);
    for (queue, standing) in queues {
        let room = CLAIM.min(visit.room - count(&found.claimed));
        // cores bound what calls nobody, and what calls whom nobody knows: that fails in no time
        let bound = visit.bounds.get(&queue).copied().unwrap_or(Bound::Cores(tools.settings.local_calls));
        if room <= 0 || bound.room(standing) == 0 {
            continue;
        }
        match store::claim_queued(&mut client, owner, &queue, bound, room, ceiling).await? {
            Some(taken) => {
                tools.queued.claimed(count(&taken.claimed));
                found.more |= taken.more;
                found.claimed.extend(taken.claimed);
            }
            None => found.busy = true,
        }
    }
    Ok(())
}

fn count(claimed: &[Claimed]) -> i64 {
    i64::try_from(claimed.len()).unwrap_or(i64::MAX)
}
