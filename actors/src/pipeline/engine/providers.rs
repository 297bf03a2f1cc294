//! The providers as runs know them: all of them in memory, read again every second, so that what an
//! administrator changes on one replica holds on all.

use crate::{
    pipeline::provider::CallPolicy,
    records::providers::{ProviderError, Providers, ReadyProvider},
};
use arc_swap::ArcSwap;
use std::{collections::HashMap, sync::Arc};

/// Slots of a provider in the whole cluster; `None` where this replica's cores bound its calls.
pub(super) fn ceiling(policy: &CallPolicy) -> Option<i32> {
    policy.max_concurrency.map(|calls| i32::try_from(calls).unwrap_or(i32::MAX))
}

/// The providers. A read never waits.
pub(super) struct ProviderBoard {
    records: Providers,
    known: ArcSwap<HashMap<String, ReadyProvider>>,
}

impl ProviderBoard {
    pub(super) fn new(records: Providers) -> Self {
        Self { records, known: ArcSwap::default() }
    }

    /// Reads all providers again. One that cannot be used is left out, and said so once.
    ///
    /// # Errors
    /// PostgreSQL; what was known stays.
    pub(super) async fn refresh(&self) -> Result<(), ProviderError> {
        let before = self.known.load();
        let mut known = HashMap::new();
        for (id, ready) in self.records.load_all().await? {
            match ready {
                Ok(ready) => {
                    known.insert(id, ready);
                }
                Err(error) if before.contains_key(&id) || before.is_empty() => {
                    tracing::error!(error = %crate::causes(&error), provider = %id, "a provider cannot be used");
                }
                Err(_) => {}
            }
        }
        self.known.store(Arc::new(known));
        Ok(())
    }

    /// Reads all providers again if one of `ids` is not known: it may have been saved just now.
    ///
    /// # Errors
    /// PostgreSQL.
    pub(super) async fn learn(&self, ids: impl IntoIterator<Item = &str>) -> Result<(), ProviderError> {
        let known = self.known.load_full();
        if ids.into_iter().all(|id| known.contains_key(id)) { Ok(()) } else { self.refresh().await }
    }

    /// All of them, also those that are disabled.
    pub(super) fn all(&self) -> Arc<HashMap<String, ReadyProvider>> {
        self.known.load_full()
    }

    /// The provider of that id, also one that is disabled.
    pub(super) fn find(&self, id: &str) -> Option<ReadyProvider> {
        self.known.load().get(id).cloned()
    }

    /// What holds for calls of a provider, also of one that is disabled.
    pub(super) fn policy(&self, id: &str) -> Option<CallPolicy> {
        self.known.load().get(id).map(|known| known.policy.clone())
    }
}
