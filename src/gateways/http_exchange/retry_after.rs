//! The `Retry-After` header: a wish for a pause, in seconds or as a date.

use chrono::{DateTime, Utc};
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};
use std::time::Duration;

/// The longest pause that is honoured: a slip of a provider must not stop it for days.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// How long the provider wants to be left alone. A date counts from the answer's own `Date` where there is
/// one, so that the two clocks need not agree.
pub(super) fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let until = DateTime::parse_from_rfc2822(text).ok()?;
            let from = date(headers, &DATE).unwrap_or(now);
            (until.to_utc() - from).to_std().unwrap_or_default()
        }
    };
    Some(pause.min(PAUSE_MAX))
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(headers.get(name)?.to_str().ok()?).ok().map(|date| date.to_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pause(retry_after_header: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after_header.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        let now = "2026-11-24T12:00:00Z".parse().unwrap();
        retry_after(&headers, now).map(|pause| pause.as_secs())
    }

    #[test]
    fn seconds_and_dates_are_understood_and_bounded() {
        for (header, date, expected) in [
            ("7", None, Some(7)),
            (" 0 ", None, Some(0)),
            ("999999999", None, Some(3600)),
            ("Tue, 24 Nov 2026 12:00:30 GMT", None, Some(30)),
            ("Tue, 24 Nov 2026 12:00:30 GMT", Some("Tue, 24 Nov 2026 12:00:10 GMT"), Some(20)),
            ("Tue, 24 Nov 2026 11:00:00 GMT", None, Some(0)),
            ("Thu, 24 Nov 2033 12:00:00 GMT", None, Some(3600)),
            ("soon", None, None),
            ("-5", None, None),
            ("1.5", None, None),
        ] {
            assert_eq!(pause(header, date), expected, "{header} {date:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), DateTime::UNIX_EPOCH), None);
    }
}
