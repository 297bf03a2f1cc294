//! Compiled configurations by provider: one is good as long as it is of the same record.

use greenroom_actors::pipeline::{
    Fault,
    provider::{CallError, ProviderRecord},
};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// The configurations of one kind.
pub(in crate::gateways) struct ReadyConfigs<C> {
    by_id: Mutex<HashMap<String, Ready<C>>>,
}

/// A configuration and the record it was compiled from.
struct Ready<C> {
    record: Arc<ProviderRecord>,
    config: Arc<C>,
}

impl<C> Default for ReadyConfigs<C> {
    fn default() -> Self {
        Self { by_id: Mutex::default() }
    }
}

impl<C> ReadyConfigs<C> {
    /// The configuration of `record`, which `compile` makes of its document and its credentials.
    pub(in crate::gateways) fn of(
        &self,
        record: &Arc<ProviderRecord>,
        compile: impl FnOnce(&Value, Option<&Value>) -> Result<C, Vec<Fault>>,
    ) -> Result<Arc<C>, CallError> {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_id.get(&record.id)
            && Arc::ptr_eq(&known.record, record)
        {
            return Ok(Arc::clone(&known.config));
        }
        let broken =
            || CallError::permanent("PROVIDER_REJECTED", "the provider's configuration is not valid");
        let auth: Option<Value> = record
            .auth
            .as_ref()
            .map(|auth| serde_json::from_str(auth.expose_secret()))
            .transpose()
            .map_err(|_| broken())?;
        let config = compile(&record.config, auth.as_ref()).map_err(|faults| {
            tracing::error!(provider = record.id, ?faults, "a saved provider is not valid any more");
            broken()
        })?;
        let config = Arc::new(config);
        let ready = Ready { record: Arc::clone(record), config: Arc::clone(&config) };
        by_id.insert(record.id.clone(), ready);
        Ok(config)
    }
}
