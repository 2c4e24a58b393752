//! How long a Job waits before it replaces pods that failed: twice as long with each failure in a row.

use std::time::Duration;

use jiff::Timestamp;

/// The wait after the first failure, upstream's value.
const FIRST: Duration = Duration::from_secs(10);
/// The longest wait, upstream's value.
const LONGEST: Duration = Duration::from_secs(600);

/// The failures of a Job since its last success.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Backoff {
    failures: u32,
    last: Option<Timestamp>,
}

impl Backoff {
    /// What is known after pods that succeeded and failed at these times.
    pub(super) fn after(&self, succeeded: &[Timestamp], failed: &[Timestamp]) -> Self {
        let Some(success) = succeeded.iter().max() else {
            let failures = self.failures.saturating_add(u32::try_from(failed.len()).unwrap_or(u32::MAX));
            return Self { failures, last: failed.iter().max().copied().or(self.last) };
        };
        let since = || failed.iter().filter(|at| *at > success);
        Self { failures: u32::try_from(since().count()).unwrap_or(u32::MAX), last: since().max().copied() }
    }

    /// How long to wait yet.
    pub(super) fn left(&self, now: Timestamp) -> Duration {
        self.last.map_or(Duration::ZERO, |last| left(self.failures, last, now))
    }
}

/// How long to wait yet after `failures` in a row, of which the last was at `last`.
pub(super) fn left(failures: u32, last: Timestamp, now: Timestamp) -> Duration {
    if failures == 0 {
        return Duration::ZERO;
    }
    let pause = FIRST.saturating_mul(1 << (failures - 1).min(30)).min(LONGEST);
    // a finish in the future (another machine's clock) waits no longer than the pause
    let elapsed = Duration::try_from(now.duration_since(last)).unwrap_or(Duration::ZERO);
    pause.saturating_sub(elapsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn failures_since_the_last_success_count() {
        let before = Backoff { failures: 2, last: Some(at(5)) };
        for (succeeded, failed, failures, last) in [
            (&[][..], &[][..], 2, Some(5)),
            (&[], &[9, 7], 4, Some(9)),
            (&[6], &[], 0, None),
            (&[6, 3], &[9, 7, 6], 2, Some(9)),
            (&[10], &[9, 7], 0, None),
        ] {
            let times = |seconds: &[i64]| seconds.iter().copied().map(at).collect::<Vec<_>>();
            let after = before.after(&times(succeeded), &times(failed));
            assert_eq!(after, Backoff { failures, last: last.map(at) }, "{succeeded:?} {failed:?}");
        }
    }

    #[test]
    fn the_wait_doubles_up_to_ten_minutes() {
        let waits = [0, 1, 2, 3, 6, 7, 40].map(|failures| left(failures, at(0), at(0)).as_secs());
        assert_eq!(waits, [0, 10, 20, 40, 320, 600, 600]);
        assert_eq!(left(2, at(0), at(15)), Duration::from_secs(5));
        assert_eq!(left(2, at(0), at(20)), Duration::ZERO);
        assert_eq!(left(1, at(100), at(0)), Duration::from_secs(10));
        assert_eq!(Backoff::default().left(at(0)), Duration::ZERO);
    }
}
