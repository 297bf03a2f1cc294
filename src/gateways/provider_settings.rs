//! The part of a provider's configuration that every kind has: ceilings, time, retries.

use super::checked::{self, Whole};
use greenroom_actors::pipeline::{
    Fault,
    provider::{BreakerPolicy, CallPolicy, RateLimit},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::time::Duration;

/// Calls at once where the admin does not say.
pub(super) const MAX_CONCURRENCY: u32 = 5;

/// The keys that [`ProviderSettings`] reads.
const KEYS: [&str; 8] = [
    "timeoutMs",
    "maxConcurrency",
    "rateLimit",
    "newKeyPerAttempt",
    "atMostOnce",
    "retry",
    "breaker",
    "whenDisabled",
];

/// What an admin may say of any kind of provider; all of it may be left out.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ProviderSettings {
    /// How long a call may take, ms.
    timeout_ms: Option<Whole<100, 3_600_000>>,
    /// Calls at once in the whole cluster.
    max_concurrency: Option<Whole<1, 1000>>,
    /// Calls in a span of time, in the whole cluster.
    rate_limit: Option<Rate>,
    new_key_per_attempt: Option<bool>,
    at_most_once: Option<bool>,
    retry: Option<Retry>,
    /// When to stop calling for a while.
    breaker: Option<Breaker>,
    /// What becomes of steps without a fallback while the provider is disabled.
    when_disabled: Option<WhenDisabled>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Retry {
    max_attempts: Option<Whole<1, 20>>,
    backoff_ms: Option<Whole<0, 600_000>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rate {
    per_second: Option<Whole<1, 100_000>>,
    per_minute: Option<Whole<1, 1_000_000>>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Breaker {
    failures: Option<Whole<1, 1000>>,
    open_ms: Option<Whole<100, 3_600_000>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum WhenDisabled {
    Fail,
    Hold,
}

impl ProviderSettings {
    /// Reads the common keys of a configuration and gives back the others, which are its kind's.
    pub(super) fn split(config: &Value) -> Result<(Self, Map<String, Value>), Vec<Fault>> {
        let Value::Object(config) = config else {
            return Err(vec![checked::fault("", "must be an object")]);
        };
        let (common, own): (Map<_, _>, Map<_, _>) =
            config.clone().into_iter().partition(|(key, _)| KEYS.contains(&key.as_str()));
        Ok((checked::read("", Value::Object(common))?, own))
    }

    /// What the engine goes by; `max_concurrency` as an outside provider has it.
    pub(super) fn policy(&self) -> CallPolicy {
        let retry = self.retry.clone().unwrap_or_default();
        let or = |number: u32, default| if number == 0 { default } else { number };
        CallPolicy {
            max_concurrency: Some(self.max_concurrency().unwrap_or(MAX_CONCURRENCY)),
            rate_limit: self.rate_limit(),
            breaker: self.breaker.as_ref().map(|breaker| BreakerPolicy {
                failures: or(breaker.failures.map_or(0, |n| n.0), 5),
                open: Duration::from_millis(u64::from(breaker.open_ms.map_or(30_000, |ms| ms.0))),
            }),
            hold_when_disabled: self.when_disabled == Some(WhenDisabled::Hold),
            timeout: Duration::from_millis(u64::from(self.timeout_ms.map_or(30_000, |ms| ms.0))),
            max_attempts: or(retry.max_attempts.map_or(0, |n| n.0), 3),
            backoff: Duration::from_millis(u64::from(retry.backoff_ms.map_or(500, |ms| ms.0))),
            at_most_once: self.at_most_once.unwrap_or(false),
            new_key_per_attempt: self.new_key_per_attempt.unwrap_or(false),
            pure_call: false,
            polls: false,
            callback: false,
        }
    }

    fn rate_limit(&self) -> Option<RateLimit> {
        let limit = self.rate_limit.as_ref()?;
        let (per_second, per_minute) = (limit.per_second.map(|n| n.0), limit.per_minute.map(|n| n.0));
        (per_second.is_some() || per_minute.is_some()).then_some(RateLimit { per_second, per_minute })
    }

    /// The ceiling the admin wrote, if one.
    pub(super) fn max_concurrency(&self) -> Option<u32> {
        self.max_concurrency.map(|n| n.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_left_out_has_the_defaults_of_the_contract() {
        let (settings, own) = ProviderSettings::split(&json!({"baseUrl": "https://ai.example"})).unwrap();
        assert_eq!(own.keys().collect::<Vec<_>>(), ["baseUrl"]);
        assert_eq!(
            settings.policy(),
            CallPolicy {
                max_concurrency: Some(5),
                rate_limit: None,
                breaker: None,
                hold_when_disabled: false,
                timeout: Duration::from_secs(30),
                max_attempts: 3,
                backoff: Duration::from_millis(500),
                at_most_once: false,
                new_key_per_attempt: false,
                pure_call: false,
                polls: false,
                callback: false,
            }
        );
    }

    #[test]
    fn what_is_said_holds() {
        let (settings, own) = ProviderSettings::split(&json!({
            "timeoutMs": 100, "maxConcurrency": 1000, "newKeyPerAttempt": true, "atMostOnce": true,
            "retry": {"maxAttempts": 1, "backoffMs": 0}, "breaker": {"failures": 5, "openMs": 30000},
            "rateLimit": {"perSecond": 10, "perMinute": 300}, "whenDisabled": "hold"
        }))
        .unwrap();
        assert!(own.is_empty());
        let policy = settings.policy();
        assert_eq!((policy.max_concurrency, policy.timeout), (Some(1000), Duration::from_millis(100)));
        assert_eq!((policy.max_attempts, policy.backoff), (1, Duration::ZERO));
        assert!(policy.at_most_once && policy.new_key_per_attempt && policy.hold_when_disabled);
        assert_eq!(policy.rate_limit, Some(RateLimit { per_second: Some(10), per_minute: Some(300) }));
        let breaker =
            |failures, seconds| Some(BreakerPolicy { failures, open: Duration::from_secs(seconds) });
        assert_eq!(policy.breaker, breaker(5, 30));
        let (settings, _) =
            ProviderSettings::split(&json!({"breaker": {"failures": 2}, "rateLimit": {}})).unwrap();
        assert_eq!((settings.policy().breaker, settings.policy().rate_limit), (breaker(2, 30), None));
    }

    #[test]
    fn each_fault_has_its_path() {
        for (config, path) in [
            (json!([]), ""),
            (json!({"timeoutMs": 99}), "/timeoutMs"),
            (json!({"timeoutMs": 3_600_001}), "/timeoutMs"),
            (json!({"maxConcurrency": 0}), "/maxConcurrency"),
            (json!({"maxConcurrency": 1001}), "/maxConcurrency"),
            (json!({"maxConcurrency": "5"}), "/maxConcurrency"),
            (json!({"atMostOnce": "no"}), "/atMostOnce"),
            (json!({"retry": {"maxAttempts": 0}}), "/retry/maxAttempts"),
            (json!({"retry": {"tries": 1}}), "/retry/tries"),
            (json!({"breaker": {"failures": 0}}), "/breaker/failures"),
            (json!({"rateLimit": {"perSecond": 0}}), "/rateLimit/perSecond"),
            (json!({"whenDisabled": "wait"}), "/whenDisabled"),
        ] {
            let faults = ProviderSettings::split(&config).unwrap_err();
            assert_eq!(faults.len(), 1, "{config}");
            assert_eq!(faults[0].path, path, "{config}: {}", faults[0].message);
        }
    }
}
