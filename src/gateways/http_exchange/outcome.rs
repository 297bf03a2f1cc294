//! What an ended request means for the engine.
//!
//! | what happened | code | may be repeated |
//! |---|---|---|
//! | no connection | `PROVIDER_UNAVAILABLE` | yes: nothing was sent |
//! | the address is not allowed | `PROVIDER_REJECTED` | no |
//! | no answer in time, or the connection broke | `PROVIDER_TIMEOUT`, `PROVIDER_UNAVAILABLE` | only where a call may happen twice |
//! | 502, 504 | `PROVIDER_UNAVAILABLE` | the same: somebody between us lost the answer |
//! | 408, 409, 425, 429, other 5xx | `PROVIDER_UNAVAILABLE` | yes, not before `Retry-After` |
//! | any other status, or a 2xx that does not say what was promised | `PROVIDER_REJECTED` | no |
//! | `contentRejected`, on any status | `CONTENT_REJECTED` | no |

use super::super::http_client::OutsideError;
use greenroom_actors::pipeline::provider::{CallError, CallFault};
use reqwest::StatusCode;
use std::time::Duration;

/// The code of what the provider does not take.
pub(in crate::gateways) const REJECTED: &str = "PROVIDER_REJECTED";

/// The call's end where there is no answer.
pub(in crate::gateways) fn not_answered(error: OutsideError) -> CallError {
    tracing::debug!(%error, cause = ?std::error::Error::source(&error), "a provider did not answer");
    match error {
        OutsideError::Refused(_) => CallError::permanent(REJECTED, "the provider's address is not allowed"),
        OutsideError::Unreachable(_) => {
            CallError::retryable("PROVIDER_UNAVAILABLE", "the provider cannot be reached")
        }
        OutsideError::TimedOut => timed_out(),
        OutsideError::Broken(_) => CallError {
            fault: CallFault::Unanswered,
            code: "PROVIDER_UNAVAILABLE",
            message: "the provider broke the connection".to_owned(),
        },
        OutsideError::TooLarge { .. } => rejected("the provider's answer is too large"),
    }
}

/// The call's end where the deadline came first.
pub(in crate::gateways) fn timed_out() -> CallError {
    CallError {
        fault: CallFault::Unanswered,
        code: "PROVIDER_TIMEOUT",
        message: "the provider did not answer in time".to_owned(),
    }
}

/// The call's end where another try would end the same.
pub(in crate::gateways) fn rejected(message: impl Into<String>) -> CallError {
    CallError::permanent(REJECTED, message)
}

/// The call's end under a status that is no success. `said` is what the answer says about it.
pub(in crate::gateways) fn failed(
    status: StatusCode,
    retry_after: Option<Duration>,
    said: Option<String>,
) -> CallError {
    let message = match said {
        Some(said) => format!("the provider answered {}: {said}", status.as_u16()),
        None => format!("the provider answered {}", status.as_u16()),
    };
    match status.as_u16() {
        502 | 504 if retry_after.is_none() => {
            CallError { fault: CallFault::Unanswered, code: "PROVIDER_UNAVAILABLE", message }
        }
        408 | 409 | 425 | 429 | 500..=599 => {
            CallError { fault: CallFault::Retryable { retry_after }, code: "PROVIDER_UNAVAILABLE", message }
        }
        _ => rejected(message),
    }
}
