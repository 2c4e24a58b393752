//! Pauses between tries.

use std::time::Duration;

use crate::{
    config::{ConfigError, check, check_duration},
    moment::nanos,
    random::below,
};

/// The longest pause that may be configured: nobody waits this long for an answer.
pub const PAUSE_MAX: Duration = Duration::from_secs(5 * 60);

/// Exponential back-off with full jitter: the pause before the n-th retry is anything between nothing and `base · 2ⁿ⁻¹`,
/// at most `max`.
///
/// Full jitter, because clients that failed together would otherwise come back together: drawn from the whole range, their
/// retries arrive as an even stream, with half the pauses of a fixed back-off.
///
/// ```
/// use std::time::Duration;
/// use resilience::retry::Backoff;
///
/// let backoff = Backoff { base: Duration::from_millis(100), max: Duration::from_millis(250) };
/// assert_eq!(backoff.ceiling(1), Duration::from_millis(100));
/// assert_eq!(backoff.ceiling(3), Duration::from_millis(250));
/// assert_eq!(backoff.pause(1, u64::MAX / 2), Duration::from_millis(50));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first pause.
    pub base: Duration,
    /// The longest pause.
    pub max: Duration,
}

impl Default for Backoff {
    /// 25 ms to 1 s: a connection is made anew within the first, an instance replaced within the last.
    fn default() -> Self {
        Self { base: Duration::from_millis(25), max: Duration::from_secs(1) }
    }
}

impl Backoff {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_duration("backoff.max", self.max, PAUSE_MAX)?;
        let base = self.base;
        check(!base.is_zero() && base <= self.max, "backoff.base", "above 0s and at most max", format!("{base:?}"))
    }

    /// The longest pause before a retry; 1 is the first.
    pub fn ceiling(&self, retry: u32) -> Duration {
        let doublings = retry.saturating_sub(1).min(u32::BITS - 1);
        self.base.saturating_mul(1 << doublings).min(self.max)
    }

    /// The pause before a retry.
    pub fn pause(&self, retry: u32, random: u64) -> Duration {
        Duration::from_nanos(below(nanos(self.ceiling(retry)).saturating_add(1), random))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_stay_below_a_ceiling_that_doubles(retry in 1u32..200, random: u64) {
            let backoff = Backoff::default();
            prop_assert!(backoff.pause(retry, random) <= backoff.ceiling(retry));
            prop_assert_eq!(backoff.ceiling(retry + 1), (backoff.ceiling(retry) * 2).min(backoff.max));
        }
    }

    #[test]
    fn pauses_use_their_whole_range() {
        let backoff = Backoff::default();
        assert_eq!(backoff.pause(4, 0), Duration::ZERO);
        assert_eq!(backoff.pause(4, u64::MAX), backoff.ceiling(4));
    }
}
