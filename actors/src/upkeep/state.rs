//! The timetable: which jobs there are and when each is next due. Pure: time is an argument.

use chrono::{DateTime, Days, FixedOffset, NaiveTime, TimeDelta, Utc};
use std::time::Duration;

/// How long a claim of a job holds. A job is stopped a minute before.
pub(super) const CLAIM: Duration = Duration::from_secs(600);

/// The zone that times of day are in: Asia/Shanghai, which has no summer time.
const ZONE_SECONDS: i32 = 8 * 3600;

/// A job there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Job {
    ExpireGrants,
    DeleteIdempotencyKeys,
    DeleteFinalEvents,
    DeleteProviderCallbacks,
    DeleteClosedSessions,
    DeleteSecurityLog,
    DeleteApiKeys,
    FillInviteCodes,
    EraseDeletedAccounts,
    RemoveAbandonedUploads,
    RemoveOrphanObjects,
}

/// When a job is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Schedule {
    /// So long after it has ended.
    Every(Duration),
    /// At this hour of every day.
    Daily(u32),
}

impl Job {
    pub(super) const ALL: [Self; 11] = [
        Self::ExpireGrants,
        Self::DeleteIdempotencyKeys,
        Self::DeleteFinalEvents,
        Self::DeleteProviderCallbacks,
        Self::DeleteClosedSessions,
        Self::DeleteSecurityLog,
        Self::DeleteApiKeys,
        Self::FillInviteCodes,
        Self::EraseDeletedAccounts,
        Self::RemoveAbandonedUploads,
        Self::RemoveOrphanObjects,
    ];

    /// The name in the table and in the API.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::ExpireGrants => "expire-grants",
            Self::DeleteIdempotencyKeys => "delete-idempotency-keys",
            Self::DeleteFinalEvents => "delete-final-events",
            Self::DeleteProviderCallbacks => "delete-provider-callbacks",
            Self::DeleteClosedSessions => "delete-closed-sessions",
            Self::DeleteSecurityLog => "delete-security-log",
            Self::DeleteApiKeys => "delete-api-keys",
            Self::FillInviteCodes => "fill-invite-codes",
            Self::EraseDeletedAccounts => "erase-deleted-accounts",
            Self::RemoveAbandonedUploads => "remove-abandoned-uploads",
            Self::RemoveOrphanObjects => "remove-orphan-objects",
        }
    }

    /// The job of that name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|job| job.name() == name)
    }

    /// When it is due.
    pub(super) const fn schedule(self) -> Schedule {
        match self {
            Self::ExpireGrants | Self::FillInviteCodes | Self::EraseDeletedAccounts => {
                Schedule::Every(Duration::from_secs(60))
            }
            Self::DeleteIdempotencyKeys => Schedule::Every(Duration::from_secs(600)),
            Self::DeleteFinalEvents
            | Self::DeleteProviderCallbacks
            | Self::DeleteClosedSessions
            | Self::DeleteSecurityLog
            | Self::DeleteApiKeys => Schedule::Every(Duration::from_secs(3600)),
            Self::RemoveAbandonedUploads | Self::RemoveOrphanObjects => Schedule::Daily(3),
        }
    }
}

impl Schedule {
    /// The first time after `now` that this says.
    pub(super) fn next(self, now: DateTime<Utc>) -> DateTime<Utc> {
        match self {
            Self::Every(pause) => now + TimeDelta::from_std(pause).unwrap_or(TimeDelta::MAX),
            Self::Daily(hour) => daily(hour, now).unwrap_or(now + TimeDelta::days(1)),
        }
    }
}

fn daily(hour: u32, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let zone = FixedOffset::east_opt(ZONE_SECONDS)?;
    let time = NaiveTime::from_hms_opt(hour, 0, 0)?;
    let today = now.with_timezone(&zone).date_naive();
    let at = |date: chrono::NaiveDate| Some(date.and_time(time).and_local_timezone(zone).single()?.to_utc());
    let today_at = at(today)?;
    if today_at > now { Some(today_at) } else { at(today.checked_add_days(Days::new(1))?) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn three_in_the_morning_is_that_of_shanghai() {
        let three = Schedule::Daily(3);
        assert_eq!(three.next(time("2026-11-24T07:00:00Z")), time("2026-11-24T19:00:00Z"));
        assert_eq!(three.next(time("2026-11-24T18:59:59Z")), time("2026-11-24T19:00:00Z"));
        assert_eq!(three.next(time("2026-11-24T19:00:00Z")), time("2026-11-25T19:00:00Z"));
        assert_eq!(three.next(time("2026-12-31T20:00:00Z")), time("2027-01-01T19:00:00Z"));
    }

    #[test]
    fn every_job_is_known_by_its_name() {
        for job in Job::ALL {
            assert_eq!(Job::named(job.name()), Some(job));
        }
        assert_eq!(Job::named("make-coffee"), None);
    }

    proptest! {
        #[test]
        fn the_next_time_lies_ahead_and_no_further_than_the_schedule_says(seconds in 0_i64..4_000_000_000) {
            let now = DateTime::from_timestamp(seconds, 0).unwrap();
            for job in Job::ALL {
                let ahead = job.schedule().next(now) - now;
                let most = match job.schedule() {
                    Schedule::Every(pause) => TimeDelta::from_std(pause).unwrap(),
                    Schedule::Daily(_) => TimeDelta::days(1),
                };
                prop_assert!(ahead > TimeDelta::zero() && ahead <= most, "{job:?}: {ahead}");
            }
        }
    }
}
