//! Codes by short message, over Tencent Cloud (`SendSms`, version 2021-01-11).
//!
//! The action is not idempotent: the same request again sends a second message. So nothing is repeated here, and
//! what is not known to have failed counts as perhaps sent ([`SmsError::Unknown`]):
//!
//! | what happened | outcome |
//! |---|---|
//! | no connection | `Unreachable`: nothing was sent |
//! | `Response.Error`, or the number's `Code` is not `Ok` | `Refused` with the code |
//! | the same, of the family `InternalError`: the cloud itself timed out or lost the answer | `Unknown` |
//! | no answer in time, a broken connection, a redirect, too much, or what cannot be read | `Unknown` |

#[cfg(test)]
mod tests;

use super::{
    http_client::{OutsideClient, OutsideError, read_body},
    platform_words,
    tencent::{self, Action, TencentKey},
};
use async_trait::async_trait;
use greenroom_actors::{
    causes,
    clock::Clock,
    session::{Phone, SmsError, SmsSender, mask_phone},
};
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};
use url::Url;

/// The platform's address.
pub const SMS_ADDRESS: &str = "https://sms.tencentcloudapi.com";

/// How long a message may take to be accepted. Somebody waits for it before a form.
pub const SMS_TIME_LIMIT: Duration = Duration::from_secs(10);

/// An answer is a few hundred bytes.
const ANSWER_BYTES: u64 = 64 << 10;

/// Our account at the message service.
#[derive(Clone, Debug)]
pub struct SmsAccount {
    /// Where the service stands; only the origin counts.
    pub endpoint: Url,
    /// Region of the service.
    pub region: String,
    /// The access key.
    pub key: TencentKey,
    /// The application there.
    pub sdk_app_id: String,
    /// The approved signature, as text.
    pub sign_name: String,
    /// The approved text, which has two places: the code and its minutes.
    pub template_id: String,
}

/// Sends codes over Tencent Cloud.
pub struct TencentSms {
    account: SmsAccount,
    client: Arc<OutsideClient>,
    clock: Arc<dyn Clock>,
    within: Duration,
}

/// Says whose account it is, and no key.
impl fmt::Debug for TencentSms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TencentSms").field("account", &self.account).finish_non_exhaustive()
    }
}

impl TencentSms {
    /// A sender for `account`; each message must be accepted `within` ([`SMS_TIME_LIMIT`]). The clock must be right
    /// to five minutes, or the cloud refuses the signature.
    #[must_use]
    pub fn new(
        account: SmsAccount,
        client: Arc<OutsideClient>,
        clock: Arc<dyn Clock>,
        within: Duration,
    ) -> Self {
        Self { account, client, clock, within }
    }

    /// Whether the cloud takes our key, application, signature and text. Asks for a message to a number that is none, so
    /// nothing is sent.
    ///
    /// # Errors
    /// What is wrong with them, as the cloud says it.
    pub async fn check(&self) -> Result<(), SmsError> {
        match self.send("+8600000000000", "000000", Duration::from_secs(60)).await {
            Err(SmsError::Refused(code)) if code == NO_SUCH_NUMBER => Ok(()),
            said => said,
        }
    }

    /// Sends once. The status and body of whatever answer there is.
    async fn ask(&self, message: &SendSms<'_>) -> Result<(StatusCode, bytes::Bytes), SmsError> {
        let SmsAccount { endpoint, key, region, .. } = &self.account;
        let action = Action { service: "sms", version: "2021-01-11", name: "SendSms", region };
        let body = serde_json::to_vec(message).map_err(|_| SmsError::Unreachable)?;
        let request = tencent::request(endpoint, key, action, body, self.clock.now()).map_err(|_| {
            tracing::warn!("no code is sent: gateways.sms.secret_id or .region cannot stand in a header");
            SmsError::Unreachable
        })?;
        let response = self.client.send(request, self.within).await.map_err(|error| {
            tracing::warn!(error = %causes(&error), "the message service does not answer");
            match error {
                OutsideError::Refused(_) | OutsideError::Unreachable(_) => SmsError::Unreachable,
                OutsideError::TimedOut | OutsideError::Broken(_) | OutsideError::TooLarge { .. } => {
                    SmsError::Unknown
                }
            }
        })?;
        let status = response.status();
        let body = read_body(response, ANSWER_BYTES).await.map_err(|error| {
            tracing::warn!(%status, error = %causes(&error), "the message service's answer cannot be read");
            SmsError::Unknown
        })?;
        Ok((status, body))
    }
}

#[async_trait]
impl SmsSender for TencentSms {
    async fn send_code(
        &self,
        phone: &Phone,
        code: &SecretString,
        lifetime: Duration,
    ) -> Result<(), SmsError> {
        self.send(&format!("+86{}", phone.digits()), code.expose_secret(), lifetime).await
    }
}

impl TencentSms {
    async fn send(&self, number: &str, code: &str, lifetime: Duration) -> Result<(), SmsError> {
        // rounded down: better a code that lives longer than it says
        let minutes = (lifetime.as_secs() / 60).max(1).to_string();
        let message = SendSms {
            phone_number_set: [number],
            sms_sdk_app_id: &self.account.sdk_app_id,
            template_id: &self.account.template_id,
            sign_name: &self.account.sign_name,
            template_param_set: [code, &minutes],
        };
        let (status, body) = self.ask(&message).await?;
        match Verdict::read(status, &body) {
            Verdict::Sent => Ok(()),
            Verdict::Refused { refusal, request_id } => {
                let reason = platform_words::code(&refusal.code);
                let message = refusal.message.unwrap_or_default();
                let digits = number.strip_prefix("+86").unwrap_or(number);
                let message = platform_words::text(&message, &[code, digits]);
                let request_id = platform_words::code(&request_id.unwrap_or_default());
                if concerns_the_phone(&reason) {
                    let phone = mask_phone(digits);
                    tracing::info!(phone, reason, message, request_id, "the message service sends no code");
                } else {
                    tracing::warn!(reason, message, request_id, "the message service refuses to send codes");
                }
                if is_internal(&reason) { Err(SmsError::Unknown) } else { Err(SmsError::Refused(reason)) }
            }
            Verdict::Unreadable => {
                tracing::warn!(%status, bytes = body.len(), "the message service's answer says nothing of our message");
                Err(SmsError::Unknown)
            }
        }
    }
}

/// What a number that is none is refused with.
const NO_SUCH_NUMBER: &str = "InvalidParameterValue.IncorrectPhoneNumber";

/// `SendSms`, for one number.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct SendSms<'a> {
    phone_number_set: [&'a str; 1],
    sms_sdk_app_id: &'a str,
    template_id: &'a str,
    sign_name: &'a str,
    template_param_set: [&'a str; 2],
}

#[derive(Deserialize)]
struct Envelope {
    #[serde(rename = "Response")]
    response: Answer,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    error: Option<Said>,
    send_status_set: Option<Vec<Said>>,
    request_id: Option<String>,
}

/// Of the whole request, or of one number.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    code: String,
    message: Option<String>,
}

/// What an answer says of our message.
enum Verdict {
    Sent,
    Refused { refusal: Said, request_id: Option<String> },
    Unreadable,
}

impl Verdict {
    /// The service answers 200 also when it refuses; whoever stands between us may not. Without an error for the
    /// whole, each number still has its own answer, and only `Ok` means sent.
    fn read(status: StatusCode, body: &[u8]) -> Self {
        let answer = match serde_json::from_slice::<Envelope>(body) {
            Ok(envelope) if !status.is_redirection() => envelope.response,
            _ => return Self::Unreadable,
        };
        let numbers = answer.send_status_set.unwrap_or_default();
        let told = status == StatusCode::OK && !numbers.is_empty();
        let refusal = answer.error.or_else(|| numbers.into_iter().find(|number| number.code != "Ok"));
        match refusal {
            Some(refusal) => Self::Refused { refusal, request_id: answer.request_id },
            None if told => Self::Sent,
            None => Self::Unreadable,
        }
    }
}

/// Whether the service does not know itself what became of the message.
fn is_internal(code: &str) -> bool {
    code.split('.').next() == Some("InternalError")
}

/// Whether a refusal is about this one number, so that there is nothing for an operator to mend.
fn concerns_the_phone(code: &str) -> bool {
    code.starts_with("LimitExceeded.PhoneNumber")
        || matches!(code, "FailedOperation.PhoneNumberInBlacklist" | NO_SUCH_NUMBER)
}
