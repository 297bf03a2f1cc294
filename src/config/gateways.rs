//! Accounts with other platforms. All are optional: what is unset is not offered. Of `wechat` and `sms` all is set or
//! nothing (`check_gateways.rs`), but for the address.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use url::Url;

use super::areas::{address, secret};

/// `gateways`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gateways {
    /// Mini-program login.
    pub wechat: Wechat,
    /// Short messages.
    pub sms: Sms,
    /// WeChat Pay.
    pub wechat_pay: WechatPay,
    /// Alipay.
    pub alipay: Alipay,
    /// Key management.
    pub kms: Kms,
}

/// `gateways.wechat`: mini-program login.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wechat {
    /// The platform's address when unset.
    #[serde(deserialize_with = "address")]
    pub base_url: Option<Url>,
    /// The mini-program's id.
    pub appid: Option<String>,
    /// The mini-program's secret.
    #[serde(deserialize_with = "secret")]
    pub secret: Option<SecretString>,
}

/// `gateways.sms`: short messages.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sms {
    /// The platform's address when unset.
    #[serde(deserialize_with = "address")]
    pub endpoint: Option<Url>,
    /// Region of the service.
    pub region: Option<String>,
    /// Id of the access key.
    pub secret_id: Option<String>,
    /// The access key.
    #[serde(deserialize_with = "secret")]
    pub secret_key: Option<SecretString>,
    /// The application there.
    pub sdk_app_id: Option<String>,
    /// The approved signature, its text and not its id.
    pub sign_name: Option<String>,
    /// The approved text, with two places: the code and its minutes.
    pub template_id: Option<String>,
}

/// `gateways.wechat_pay`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WechatPay {
    /// The application payments are made in.
    pub appid: Option<String>,
    /// The merchant.
    pub mchid: Option<String>,
    /// Serial number of the merchant's certificate.
    pub serial_no: Option<String>,
    /// File of the merchant's private key.
    pub private_key_path: Option<PathBuf>,
}

/// `gateways.alipay`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Alipay {
    /// The application payments are made in.
    pub appid: Option<String>,
    /// File of our private key.
    pub private_key_path: Option<PathBuf>,
    /// File of the platform's public key.
    pub public_key_path: Option<PathBuf>,
}

/// `gateways.kms`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Kms {
    /// Region of the service.
    pub region: Option<String>,
    /// Id of the access key.
    pub secret_id: Option<String>,
    /// The access key.
    #[serde(deserialize_with = "secret")]
    pub secret_key: Option<SecretString>,
    /// The master key.
    pub key_id: Option<String>,
}
