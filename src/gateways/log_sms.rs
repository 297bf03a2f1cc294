//! Codes for a developer without an account at a message service.

use async_trait::async_trait;
use greenroom_actors::session::{Phone, SmsError, SmsSender};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

/// Writes codes to the log instead of sending them, so that a developer can sign in.
///
/// Only `greenroom dev` uses it, and only while `gateways.sms` is not set. This is the one place where a code may be
/// logged: whoever reads it can sign in as the phone's owner.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogSms;

#[async_trait]
impl SmsSender for LogSms {
    async fn send_code(
        &self,
        phone: &Phone,
        code: &SecretString,
        lifetime: Duration,
    ) -> Result<(), SmsError> {
        tracing::info!(
            target: "greenroom::codes",
            ?phone,
            code = code.expose_secret(),
            lifetime_s = lifetime.as_secs(),
            "a code; gateways.sms is not set, so it is not sent"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateways::testing::Log;

    #[tokio::test]
    async fn the_code_is_in_the_log_and_the_phone_is_masked() {
        let log = Log::capture();
        let phone = Phone::parse("13800138000").unwrap();
        LogSms.send_code(&phone, &"246810".into(), Duration::from_secs(300)).await.unwrap();
        let text = log.text();
        assert!(text.contains("INFO greenroom::codes"), "{text}");
        assert!(text.contains("246810") && text.contains("138****8000"), "{text}");
        assert!(!text.contains("13800138000"), "{text}");
    }
}
