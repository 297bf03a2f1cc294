//! Which calls may leave: as many as their providers' rates and slots allow, and none before one that waits for longer
//! at another replica.

use crate::{
    database::DatabaseError,
    ids::OwnerId,
    pipeline::{
        WaitingReason,
        engine::admission::{CallRequest, Encounter, Hold, LONGER},
        store::{self, AttemptStart, LockedRates, SlotWish, Waits},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::Instant,
};

/// Locks what was counted of those candidates' providers that may only be called so often.
pub(super) async fn lock_rates(
    transaction: &deadpool_postgres::Transaction<'_>,
    candidates: &[CallRequest],
) -> Result<HashMap<String, LockedRates>, DatabaseError> {
    let limited = candidates.iter().filter(|call| call.rate_limit.is_some());
    let limited: BTreeSet<&str> = limited.map(|call| call.provider.id.as_str()).collect();
    let limited: Vec<_> = limited.into_iter().collect();
    let locked = store::lock_rates(transaction, &limited).await?;
    Ok(locked.into_iter().map(|rates| (rates.provider.clone(), rates)).collect())
}

/// Since when calls wait elsewhere for the slots that `candidates` want.
pub(super) async fn waits_elsewhere(
    transaction: &deadpool_postgres::Transaction<'_>,
    owner: OwnerId,
    candidates: &[CallRequest],
) -> Result<Waits, DatabaseError> {
    let wanted = candidates.iter().filter(|call| call.ceiling.is_some());
    let wanted: BTreeSet<&str> = wanted.map(|call| call.provider.id.as_str()).collect();
    let wanted: Vec<_> = wanted.into_iter().collect();
    store::waits_elsewhere(transaction, owner, &wanted).await
}

/// The calls that wait at other replicas.
pub(super) struct Elsewhere<'a> {
    pub(super) waits: Waits,
    /// Providers for which those that wait for longer are overtaken.
    pub(super) impatient: &'a HashSet<String>,
}

/// What of the candidates may leave.
pub(super) struct Admitted {
    pub(super) starts: Vec<AttemptStart>,
    pub(super) encounters: HashMap<String, Encounter>,
    /// Providers of which none will leave for a while.
    pub(super) holds: HashMap<String, Hold>,
    /// When the first slot becomes free by itself, of providers that had none.
    pub(super) slot_deadlines: HashMap<String, Instant>,
}

/// Lets as many of `candidates` leave, in their order, as their providers' rates and slots allow, and as do not
/// wait for less long than calls `elsewhere`.
pub(super) async fn admit(
    transaction: &deadpool_postgres::Transaction<'_>,
    candidates: &[&CallRequest],
    rates: &mut HashMap<String, LockedRates>,
    elsewhere: &Elsewhere<'_>,
) -> Result<Admitted, DatabaseError> {
    let mut rooms: HashMap<&str, u32> = HashMap::new();
    let mut timely = Vec::with_capacity(candidates.len());
    for call in candidates {
        let provider = call.provider.id.as_str();
        if let Some(limit) = call.rate_limit {
            // a provider that was deleted just now has no rates
            let locked = rates.get_mut(provider);
            let room = rooms
                .entry(provider)
                .or_insert_with(|| locked.map_or(0, |locked| locked.rates.room(limit, locked.now)));
            if *room == 0 {
                continue;
            }
            *room -= 1;
        }
        timely.push(*call);
    }
    let (starts, encounters) = take_slots(transaction, &timely, elsewhere).await?;

    let (mut holds, mut slot_deadlines) = (HashMap::new(), HashMap::new());
    for call in candidates {
        let provider = call.provider.id.as_str();
        // each provider once
        if let (Some(limit), Some(mut locked)) = (call.rate_limit, rates.remove(provider)) {
            let taken = starts.iter().filter(|start| start.provider == provider).count();
            locked.rates.take(u32::try_from(taken).unwrap_or(u32::MAX));
            if taken > 0 {
                store::save_rates(transaction, &locked).await?;
            }
            let opens_in = locked.rates.opens_in(limit, locked.now);
            if !opens_in.is_zero() {
                let hold = Hold::new(Instant::now(), opens_in, WaitingReason::ProviderCeiling);
                holds.insert(provider.to_owned(), hold);
            }
        }
    }
    // no slot at all: the provider may be paused, or its calls may have died with their replica
    let without: BTreeSet<&str> = timely
        .iter()
        .filter(|call| call.ceiling.is_some())
        .map(|call| call.provider.id.as_str())
        .filter(|provider| {
            starts.iter().all(|start| start.provider != *provider) && !encounters.contains_key(*provider)
        })
        .collect();
    if !without.is_empty() {
        let without: Vec<_> = without.into_iter().collect();
        let (pauses, left) = futures_util::try_join!(
            store::pauses(transaction, &without),
            store::slot_deadlines(transaction, &without),
        )?;
        let now = Instant::now();
        for (provider, left) in pauses {
            holds.insert(provider, Hold::new(now, left, WaitingReason::Backoff));
        }
        slot_deadlines = left.into_iter().map(|(provider, left)| (provider, now + left)).collect();
    }
    Ok(Admitted { starts, encounters, holds, slot_deadlines })
}

/// Finds slots for as many of `candidates` as there are, in their order; those that are for calls which wait for
/// longer elsewhere are left to them.
async fn take_slots(
    transaction: &deadpool_postgres::Transaction<'_>,
    candidates: &[&CallRequest],
    elsewhere: &Elsewhere<'_>,
) -> Result<(Vec<AttemptStart>, HashMap<String, Encounter>), DatabaseError> {
    let others = |provider: &str| elsewhere.waits.get(provider).map_or(&[][..], Vec::as_slice);
    let mut wishes: BTreeMap<&str, SlotWish> = BTreeMap::new();
    for call in candidates {
        if let Some(ceiling) = call.ceiling {
            let provider = call.provider.id.as_str();
            // one more for each that waits elsewhere: only what is beyond theirs is taken
            let theirs = i64::try_from(others(provider).len()).unwrap_or(i64::MAX);
            let none = || SlotWish { provider: provider.to_owned(), ceiling, wanted: theirs };
            wishes.entry(provider).or_insert_with(none).wanted += 1;
        }
    }
    let mut free: HashMap<String, Vec<i32>> = HashMap::new();
    let wishes: Vec<_> = wishes.into_values().collect();
    for (provider, slot) in store::take_slots(transaction, &wishes).await? {
        free.entry(provider).or_default().push(slot);
    }
    let mut encounters = HashMap::new();
    let mut starts = Vec::new();
    for call in candidates {
        let provider = call.provider.id.as_str();
        let slot = if call.ceiling.is_some() {
            let Some(free) = free.get_mut(provider).filter(|free| !free.is_empty()) else { continue };
            if others(provider).iter().filter(|since| **since + LONGER < call.since).count() >= free.len() {
                if !elsewhere.impatient.contains(provider) {
                    encounters.insert(provider.to_owned(), Encounter::Left);
                    continue;
                }
                encounters.insert(provider.to_owned(), Encounter::Overtook);
            }
            free.pop()
        } else {
            None
        };
        starts.push(AttemptStart {
            attempt: call.attempt,
            task: call.task,
            lease_no: call.lease_no,
            node: call.node.clone(),
            number: call.number,
            provider: provider.to_owned(),
            idempotency_key: call.idempotency_key.clone(),
            slot,
            cause: call.cause,
            timeout: call.timeout,
        });
    }
    Ok((starts, encounters))
}

/// The providers with more slots in `freed`, one name a slot, than `starts` take of them.
pub(super) fn not_taken_again(freed: Vec<String>, starts: &[AttemptStart]) -> BTreeSet<String> {
    let mut left: HashMap<String, i64> = HashMap::new();
    for provider in freed {
        *left.entry(provider).or_default() += 1;
    }
    for start in starts.iter().filter(|start| start.slot.is_some()) {
        if let Some(left) = left.get_mut(&start.provider) {
            *left -= 1;
        }
    }
    left.into_iter().filter(|(_, left)| *left > 0).map(|(provider, _)| provider).collect()
}
