//! The outside world as the settings want it: where files lie, whom pipelines may call, who sends codes and who knows
//! the users of a mini-program.

use crate::{
    config::{self, Settings},
    gateways::{
        self, HttpLimits, LogSms,
        address_guard::AddressGuard,
        http_client::OutsideClient,
        object_store::LocalObjectStore,
        sms::{SMS_ADDRESS, SMS_TIME_LIMIT, SmsAccount, TencentSms},
        tencent::TencentKey,
        wechat_login::{MiniProgram, WECHAT_ADDRESS, WECHAT_TIME_LIMIT, WechatMiniProgram},
    },
    sealing::{CredentialSealer, DerivedKeys, MasterKeys},
};
use anyhow::Context;
use greenroom_actors::{
    clock::SystemClock,
    database::Database,
    object_store::{LinkedObjects, ObjectStore},
    pipeline::provider::ProviderKinds,
    records::{files::Files, providers::Providers},
    sealer::Sealer,
    session::{SmsSender, WechatError, WechatLogin},
    signals::Signals,
};
use std::{net::SocketAddr, sync::Arc};
use url::Url;

/// Where codes for phones go while `gateways.sms` is not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsentCodes {
    /// Nowhere: there are no codes.
    NotOffered,
    /// To the log, where a developer reads them. For `greenroom dev` alone.
    Logged,
}

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
    /// Who sends codes to phones; `None` while nobody is set up.
    pub(super) sms: Option<Arc<dyn SmsSender>>,
    /// Who knows the users of our mini-program; `None` while none is set up.
    pub(super) wechat: Option<Arc<dyn WechatLogin>>,
}

/// Keys of the session actor, each for one use.
pub(super) struct SessionKeys {
    /// Derive refresh tokens.
    pub(super) refresh: DerivedKeys,
    /// Hashes codes.
    pub(super) codes: [u8; 32],
    /// Hash those who were given something.
    pub(super) gifted: DerivedKeys,
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
        unsent_codes: UnsentCodes,
    ) -> anyhow::Result<Self> {
        let key = settings.secrets.key.as_ref().context("secrets.key is not set")?;
        let master = MasterKeys::from_base64(key, &settings.secrets.previous_keys)?;
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
        let keys = SessionKeys {
            refresh: master.derive("refresh tokens"),
            codes: master.derive("codes").current,
            gifted: master.derive("gifted identities"),
        };
        let kinds = gateways::provider_kinds(
            AddressGuard::new(settings.providers.allow_private_networks),
            HttpLimits {
                response_bytes: settings.providers.max_response_bytes as u64,
                file_bytes: settings.providers.max_file_bytes,
            },
            public_url,
        );
        // the addresses of platforms are an operator's word, who may have a proxy or a stand-in on the own network;
        // the guard is against addresses that come from elsewhere
        let platforms = Arc::new(OutsideClient::new(AddressGuard::new(true)));
        let accounts = &settings.gateways;
        Ok(Self {
            sms: sms(&accounts.sms, &platforms, unsent_codes)?,
            wechat: wechat(&accounts.wechat, &platforms)?,
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

/// What a platform answers to whoever looks after the service.
#[derive(Debug)]
pub struct PlatformAnswer {
    /// The section of its settings.
    pub section: &'static str,
    /// What it says against them.
    pub refusal: Option<String>,
}

/// Asks each platform that is set up whether it takes our account. Signs nobody in and sends nothing.
///
/// # Errors
/// Where an address is none.
pub async fn ask_platforms(settings: &config::Gateways) -> anyhow::Result<Vec<PlatformAnswer>> {
    let client = Arc::new(OutsideClient::new(AddressGuard::new(true)));
    let mut answers = Vec::new();
    if let Some(program) = wechat(&settings.wechat, &client)? {
        // who refuses the code has looked at the mini-program first
        let refusal = match program.exchange(&"asked-by-greenroom-doctor".into()).await {
            Err(error @ WechatError::Unavailable) => Some(error.to_string()),
            Ok(_) | Err(WechatError::CodeInvalid | WechatError::TooOften | WechatError::Blocked) => None,
        };
        answers.push(PlatformAnswer { section: "gateways.wechat", refusal });
    }
    if let Some(sender) = tencent_sms(&settings.sms, &client)? {
        let refusal = sender.check().await.err().map(|error| error.to_string());
        answers.push(PlatformAnswer { section: "gateways.sms", refusal });
    }
    Ok(answers)
}

/// The sender of codes.
fn sms(
    settings: &config::Sms,
    client: &Arc<OutsideClient>,
    unsent_codes: UnsentCodes,
) -> anyhow::Result<Option<Arc<dyn SmsSender>>> {
    Ok(match (tencent_sms(settings, client)?, unsent_codes) {
        (Some(sender), _) => Some(Arc::new(sender)),
        (None, UnsentCodes::NotOffered) => None,
        (None, UnsentCodes::Logged) => Some(Arc::new(LogSms)),
    })
}

/// Tencent Cloud's messages. Settings with half an account do not get here.
fn tencent_sms(settings: &config::Sms, client: &Arc<OutsideClient>) -> anyhow::Result<Option<TencentSms>> {
    let config::Sms { endpoint, region, secret_id, secret_key, sdk_app_id, sign_name, template_id } =
        settings.clone();
    let (Some(region), Some(id), Some(secret)) = (region, secret_id, secret_key) else { return Ok(None) };
    let account = SmsAccount {
        endpoint: or_platform(endpoint, SMS_ADDRESS)?,
        region,
        key: TencentKey { id, secret },
        sdk_app_id: sdk_app_id.context("gateways.sms.sdk_app_id is not set")?,
        sign_name: sign_name.context("gateways.sms.sign_name is not set")?,
        template_id: template_id.context("gateways.sms.template_id is not set")?,
    };
    Ok(Some(TencentSms::new(account, Arc::clone(client), Arc::new(SystemClock), SMS_TIME_LIMIT)))
}

/// The platform of the mini-program. Settings with half an account do not get here.
fn wechat(
    settings: &config::Wechat,
    client: &Arc<OutsideClient>,
) -> anyhow::Result<Option<Arc<dyn WechatLogin>>> {
    let config::Wechat { base_url, appid, secret } = settings.clone();
    let (Some(appid), Some(secret)) = (appid, secret) else { return Ok(None) };
    let program = MiniProgram { base_url: or_platform(base_url, WECHAT_ADDRESS)?, appid, secret };
    Ok(Some(Arc::new(WechatMiniProgram::new(program, Arc::clone(client), WECHAT_TIME_LIMIT))))
}

fn or_platform(set: Option<Url>, platform: &str) -> anyhow::Result<Url> {
    set.map_or_else(|| Url::parse(platform).context("a platform's address is none"), Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> Arc<OutsideClient> {
        Arc::new(OutsideClient::new(AddressGuard::new(true)))
    }

    #[test]
    fn what_is_unset_is_not_offered_and_only_dev_logs_codes() {
        let unset = config::Sms::default();
        assert!(sms(&unset, &client(), UnsentCodes::NotOffered).unwrap().is_none());
        assert!(sms(&unset, &client(), UnsentCodes::Logged).unwrap().is_some());
        assert!(wechat(&config::Wechat::default(), &client()).unwrap().is_none());
    }

    #[test]
    fn what_is_set_is_offered() {
        let set = config::Sms {
            endpoint: None,
            region: Some("ap-guangzhou".to_owned()),
            secret_id: Some("AKID".to_owned()),
            secret_key: Some("key".into()),
            sdk_app_id: Some("1400006666".to_owned()),
            sign_name: Some("sign".to_owned()),
            template_id: Some("449739".to_owned()),
        };
        assert!(sms(&set, &client(), UnsentCodes::NotOffered).unwrap().is_some());
        let set =
            config::Wechat { base_url: None, appid: Some("wx1".to_owned()), secret: Some("secret".into()) };
        assert!(wechat(&set, &client()).unwrap().is_some());
    }
}
