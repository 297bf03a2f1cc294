//! PostgreSQL's time of day between two readings of it: the reading, moved on by the monotonic clock.
//!
//! State machines date rows and order backoffs with it; what replicas compare is compared in SQL.

use chrono::{DateTime, TimeDelta, Utc};
use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

/// The clock. It never goes back, so that a run's rows keep their order.
#[derive(Debug, Default)]
pub(super) struct ServerClock {
    reading: Mutex<Option<(Instant, DateTime<Utc>)>>,
}

impl ServerClock {
    /// Takes a reading in: PostgreSQL said `server` at `at`.
    pub(super) fn read(&self, at: Instant, server: DateTime<Utc>) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        let ahead = reading.is_some_and(|(then, time)| moved_on(then, time, at) > server);
        if !ahead {
            *reading = Some((at, server));
        }
    }

    /// The time at `at`; `None` before the first reading.
    pub(super) fn time(&self, at: Instant) -> Option<DateTime<Utc>> {
        let reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.map(|(then, time)| moved_on(then, time, at))
    }
}

fn moved_on(then: Instant, time: DateTime<Utc>, at: Instant) -> DateTime<Utc> {
    let elapsed = TimeDelta::from_std(at.saturating_duration_since(then)).unwrap_or(TimeDelta::MAX);
    time.checked_add_signed(elapsed).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn it_moves_on_by_the_monotonic_clock_and_never_back() {
        let clock = ServerClock::default();
        let start = Instant::now();
        assert_eq!(clock.time(start), None);
        let noon = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        clock.read(start, noon);
        let later = start + Duration::from_secs(5);
        assert_eq!(clock.time(later), Some(noon + TimeDelta::seconds(5)));
        clock.read(later, noon + TimeDelta::seconds(4));
        assert_eq!(
            clock.time(later),
            Some(noon + TimeDelta::seconds(5)),
            "a reading that is behind is left out"
        );
        clock.read(later, noon + TimeDelta::seconds(7));
        assert_eq!(clock.time(later), Some(noon + TimeDelta::seconds(7)));
    }
}
