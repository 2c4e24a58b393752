//! Points in time, as the state machines of this crate are given them.
//!
//! No decision in this crate reads a clock. Each is handed the [`Moment`] it happens at, which is what lets a test or a
//! simulation replay an hour in a millisecond. The tower layers get theirs from [`now`], the only place with a clock.

use std::{
    ops::{Add, Sub},
    sync::LazyLock,
    time::Duration,
};

use tokio::time::Instant;

/// Nanoseconds between the beginning of time and the first call of [`now`]: 146 years either way, so that neither a clock
/// that a test has turned nor the longest window reaches an end.
const ORIGIN_NANOS: u64 = 1 << 62;

/// A point in time: eight bytes, fit for an atomic. Only the distance of two of them has a meaning.
///
/// ```
/// use std::time::Duration;
/// use resilience::Moment;
///
/// let start = Moment::from_nanos(0);
/// let later = start + Duration::from_secs(2);
/// assert_eq!(later.since(start), Duration::from_secs(2));
/// assert_eq!(start.since(later), Duration::ZERO, "time does not run backwards");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment so many nanoseconds after the beginning of time.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the beginning of time.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time that has passed since `earlier`; nothing when that is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

/// A duration in nanoseconds; the longest that fits, 584 years, for what is longer.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The present, by tokio's clock: monotonic, and turned by tests that pause it.
pub fn now() -> Moment {
    static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    let (origin, now) = (*ORIGIN, Instant::now());
    let nanos = match now.checked_duration_since(origin) {
        Some(after) => ORIGIN_NANOS.saturating_add(nanos(after)),
        None => ORIGIN_NANOS.saturating_sub(nanos(origin.duration_since(now))),
    };
    Moment(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn now_follows_a_clock_that_a_test_turns() {
        let before = now();
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!(now().since(before), Duration::from_secs(3600));
    }

    #[test]
    fn no_sum_overflows() {
        assert_eq!(Moment::from_nanos(5) + Duration::MAX, Moment::from_nanos(u64::MAX));
        assert_eq!(Moment::from_nanos(5) - Duration::MAX, Moment::from_nanos(0));
    }
}
