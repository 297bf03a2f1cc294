//! Accounts with other platforms: all of one is set or nothing is, in a form that can be sent.

use secrecy::{ExposeSecret, SecretString};
use url::{Position, Url};

use super::{Gateways, Sms, Wechat, variable_of};

/// What platforms hand out is shorter by far.
const VALUE_BYTES: usize = 256;

/// One key of an account, by its whole name, with its value.
type Key<'a> = (&'static str, Option<&'a str>);

impl Gateways {
    /// What is missing or cannot be sent, as (key, what would be right).
    pub(super) fn check(&self, found: &mut Vec<(&'static str, String)>) {
        self.wechat.check(found);
        self.sms.check(found);
    }
}

impl Wechat {
    fn check(&self, found: &mut Vec<(&'static str, String)>) {
        let keys = [
            ("gateways.wechat.appid", self.appid.as_deref()),
            ("gateways.wechat.secret", exposed(self.secret.as_ref())),
        ];
        all_or_nothing("gateways.wechat", &keys, self.base_url.is_some(), found);
        visible(&keys, found);
        if self.base_url.as_ref().is_some_and(|url| !is_plain(url)) {
            let message = "must be an address without user name, password, query and fragment";
            found.push(("gateways.wechat.base_url", message.to_owned()));
        }
    }
}

impl Sms {
    fn check(&self, found: &mut Vec<(&'static str, String)>) {
        let sent_in_ascii = [
            ("gateways.sms.region", self.region.as_deref()),
            ("gateways.sms.secret_id", self.secret_id.as_deref()),
            ("gateways.sms.secret_key", exposed(self.secret_key.as_ref())),
            ("gateways.sms.sdk_app_id", self.sdk_app_id.as_deref()),
            ("gateways.sms.template_id", self.template_id.as_deref()),
        ];
        let sign_name = ("gateways.sms.sign_name", self.sign_name.as_deref());
        let keys = [&sent_in_ascii[..], &[sign_name]].concat();
        all_or_nothing("gateways.sms", &keys, self.endpoint.is_some(), found);
        visible(&sent_in_ascii, found);
        let bad_name = |name: &str| name.trim().is_empty() || name.contains(char::is_control);
        if sign_name.1.is_some_and(bad_name) {
            found.push((sign_name.0, "must be the signature's text, on one line".to_owned()));
        }
        // every action is a POST to the root, and what is signed says so
        if self.endpoint.as_ref().is_some_and(|url| !is_plain(url) || url.path() != "/") {
            let message = "must be an origin, such as https://sms.tencentcloudapi.com, without a path";
            found.push(("gateways.sms.endpoint", message.to_owned()));
        }
    }
}

/// Half an account would show only when the first user needs it.
fn all_or_nothing(
    section: &str,
    keys: &[Key<'_>],
    has_address: bool,
    found: &mut Vec<(&'static str, String)>,
) {
    if !has_address && keys.iter().all(|(_, value)| value.is_none()) {
        return;
    }
    for (key, _) in keys.iter().filter(|(_, value)| value.is_none()) {
        let message = format!(
            "is required because other keys of {section} are set: set all of them or none; set {}",
            variable_of(key)
        );
        found.push((key, message));
    }
}

/// Keys and ids are copied, and a line end that came along is hard to see in what a platform answers.
fn visible(keys: &[Key<'_>], found: &mut Vec<(&'static str, String)>) {
    let fits = |value: &str| {
        (1..=VALUE_BYTES).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic())
    };
    for (key, _) in keys.iter().filter(|(_, value)| value.is_some_and(|value| !fits(value))) {
        found.push((key, format!("must be 1 to {VALUE_BYTES} visible ASCII characters, without spaces")));
    }
}

fn exposed(secret: Option<&SecretString>) -> Option<&str> {
    secret.map(ExposeSecret::expose_secret)
}

/// Whether an address is nothing but scheme, host, port and path.
fn is_plain(url: &Url) -> bool {
    url.username().is_empty() && url.password().is_none() && url[Position::AfterPath..].is_empty()
}
