//! Which run of a CronJob is due, and when to look again.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec};
use kinds::Schedule;

/// More missed runs than this are worth a warning, upstream's value.
const MISSED_MAX: i64 = 100;
/// Runs are started this much later, upstream's value: clocks that are set back a little repeat none.
const SCHEDULE_DELTA: Duration = Duration::from_millis(100);
/// How soon to look again at a schedule that has no further run: it is changed before it has one.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// How many runs did not take place when they should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Missed {
    None,
    Few,
    Many,
}

/// What there was to run up to now.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Recent {
    /// From when on runs count.
    since: Timestamp,
    /// The latest run that should have begun.
    pub(super) run: Option<Timestamp>,
    pub(super) missed: Missed,
}

/// A schedule in its time zone.
pub(super) struct Timetable {
    pub(super) schedule: Schedule,
    pub(super) zone: TimeZone,
}

impl Timetable {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.schedule.next(after, &self.zone)
    }

    /// The runs since the last one that took place, or since `deadline` if that is later.
    pub(super) fn recent(&self, cron: &CronJob, now: Timestamp, deadline: bool) -> Recent {
        let created = cron.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let last = cron.status.as_ref().and_then(|status| status.last_schedule_time.as_ref()).map(|time| time.0);
        let mut since = last.or(created).unwrap_or(now);
        let window = starting_deadline(&cron.spec).filter(|_| deadline);
        if let Some(limit) = window.and_then(|window| now.checked_sub(window).ok()) {
            since = since.max(limit);
        }
        let none = |missed| Recent { since, run: None, missed };
        let Some(first) = self.next(since).filter(|first| *first <= now) else { return none(Missed::None) };
        let Some(second) = self.next(first).filter(|second| *second <= now) else {
            return Recent { since, run: Some(first), missed: Missed::None };
        };
        // Not every run is counted: there may be very many. The distance of the first two is taken for all.
        let pause = second.duration_since(first).as_secs().max(1);
        let missed = now.duration_since(first).as_secs() / pause + 1;
        let near = first.checked_add(SignedDuration::from_secs((missed - 2).max(0).saturating_mul(pause)));
        let mut run = None;
        let mut at = near.ok().filter(|near| *near <= now).unwrap_or(first);
        while let Some(next) = self.next(at).filter(|next| *next <= now) {
            (run, at) = (Some(next), next);
        }
        Recent { since, run, missed: if missed > MISSED_MAX { Missed::Many } else { Missed::Few } }
    }

    /// How long to wait for the next run.
    pub(super) fn wait(&self, cron: &CronJob, now: Timestamp) -> Duration {
        let recent = self.recent(cron, now, false);
        let from = match (recent.run, recent.missed) {
            (Some(run), _) => run,
            (None, Missed::None) => recent.since,
            (None, _) => now,
        };
        let Some(next) = self.next(from) else { return NEVER };
        Duration::try_from(next.duration_since(now)).unwrap_or(Duration::ZERO) + SCHEDULE_DELTA
    }
}

/// How late a run may begin.
pub(super) fn starting_deadline(spec: &CronJobSpec) -> Option<Duration> {
    spec.starting_deadline_seconds.map(|seconds| Duration::from_secs(seconds.max(0).unsigned_abs()))
}
