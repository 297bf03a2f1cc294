//! The outside world as the settings want it: where files lie, whom pipelines may call.

use crate::{
    config::Settings,
    gateways::{self, HttpLimits, address_guard::AddressGuard, object_store::LocalObjectStore},
    sealing::{CredentialSealer, MasterKey},
};
use anyhow::Context;
use greenroom_actors::{
    clock::SystemClock,
    database::Database,
    object_store::{LinkedObjects, ObjectStore},
    pipeline::provider::ProviderKinds,
    records::{files::Files, providers::Providers},
    sealer::Sealer,
    signals::Signals,
};
use std::{net::SocketAddr, sync::Arc};
use url::Url;

/// What is outside, ready to be used.
pub(super) struct Outside {
    /// Where files lie, as the server of its links sees it.
    pub(super) objects: Arc<dyn LinkedObjects>,
    /// Users' files.
    pub(super) files: Files,
    /// Whom pipelines may call.
    pub(super) providers: Providers,
    /// Who does the calls.
    pub(super) kinds: ProviderKinds,
    /// Seals what must be kept and not be read.
    pub(super) sealer: Arc<dyn Sealer>,
    /// What sessions are made with.
    pub(super) keys: SessionKeys,
}

/// Keys of the session actor, each for one use.
pub(super) struct SessionKeys {
    /// Derives refresh tokens.
    pub(super) refresh: [u8; 32],
    /// Hashes codes.
    pub(super) codes: [u8; 32],
}

impl Outside {
    /// Builds it. Links to files and for callbacks begin with `server.public_url`, else with the address we listen on.
    ///
    /// # Errors
    /// Where `secrets.key` is no key or the directory of the files cannot be used.
    pub(super) fn new(
        settings: &Settings,
        database: &Database,
        signals: &Signals,
        listening: SocketAddr,
    ) -> anyhow::Result<Self> {
        let key = settings.secrets.key.as_ref().context("secrets.key is not set")?;
        let master = MasterKey::from_base64(key)?;
        let public_url = match &settings.server.public_url {
            Some(url) => url.clone(),
            None => Url::parse(&format!("http://{listening}")).context("server.listen makes no address")?,
        };
        let directory = settings.storage.dir.clone();
        let shown = directory.display().to_string();
        let store = LocalObjectStore::open(
            directory,
            public_url.clone(),
            &master.derive("links"),
            Arc::new(SystemClock),
        )
        .with_context(|| format!("storage.dir = {shown} cannot be used"))?;
        let (store, sealer) = (Arc::new(store), Arc::new(CredentialSealer::new(&master)?));
        let keys = SessionKeys { refresh: master.derive("refresh tokens"), codes: master.derive("codes") };
        let kinds = gateways::provider_kinds(
            AddressGuard::new(settings.providers.allow_private_networks),
            HttpLimits {
                response_bytes: settings.providers.max_response_bytes as u64,
                file_bytes: settings.providers.max_file_bytes,
            },
            public_url,
        );
        Ok(Self {
            files: Files::new(database.clone(), Arc::clone(&store) as Arc<dyn ObjectStore>),
            objects: store,
            providers: Providers::new(
                database.clone(),
                kinds.clone(),
                Arc::clone(&sealer) as _,
                signals.clone(),
            ),
            kinds,
            sealer,
            keys,
        })
    }
}
