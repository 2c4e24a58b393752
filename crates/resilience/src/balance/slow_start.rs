//! Endpoints that have just started get less.

use std::time::Duration;

use crate::{
    config::{ConfigError, check, check_duration},
    moment::Moment,
};

/// No endpoint takes longer to get warm.
const WINDOW_MAX: Duration = Duration::from_secs(60 * 60);

/// How the share of a new endpoint grows to its full weight. Caches are cold, connections are not there, code is not
/// compiled: a full share in the first second makes the first answers the slowest of all.
///
/// The names are Envoy's: the weight is multiplied by `max(min_weight, (age / window) ^ (1 / aggression))`.
///
/// ```
/// use std::time::Duration;
/// use resilience::{Moment, balance::SlowStart};
///
/// let slow_start = SlowStart { window: Duration::from_secs(10), aggression: 1.0, min_weight: 0.1 };
/// slow_start.validate()?;
/// let joined = Moment::from_nanos(0);
/// assert_eq!(slow_start.factor(joined + Duration::from_secs(5), joined), 0.5);
/// assert_eq!(slow_start.factor(joined + Duration::from_secs(30), joined), 1.0);
/// # Ok::<_, resilience::ConfigError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SlowStart {
    /// After this time an endpoint counts in full.
    pub window: Duration,
    /// 1 grows evenly; more grows faster at first.
    pub aggression: f64,
    /// The least share.
    pub min_weight: f64,
}

impl SlowStart {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_duration("slow_start.window", self.window, WINDOW_MAX)?;
        let (aggression, min_weight) = (self.aggression, self.min_weight);
        check(aggression > 0.0 && aggression.is_finite(), "slow_start.aggression", "above 0", aggression)?;
        check(min_weight > 0.0 && min_weight <= 1.0, "slow_start.min_weight", "above 0 and at most 1", min_weight)
    }

    /// What the weight of an endpoint is multiplied by that joined at a moment.
    pub fn factor(&self, now: Moment, joined: Moment) -> f64 {
        let age = now.since(joined).as_secs_f64() / self.window.as_secs_f64();
        if age >= 1.0 {
            return 1.0;
        }
        age.powf(1.0 / self.aggression).max(self.min_weight)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_grows_from_the_least_to_the_whole(ms in 0u64..20_000, more in 0u64..20_000, aggression in 0.1f64..10.0) {
            let slow_start = SlowStart { window: Duration::from_secs(10), aggression, min_weight: 0.1 };
            let at = |ms| slow_start.factor(Moment::default() + Duration::from_millis(ms), Moment::default());
            prop_assert!((0.1..=1.0).contains(&at(ms)));
            prop_assert!(at(ms) <= at(ms + more));
            prop_assert_eq!(at(10_000), 1.0);
        }
    }

    #[test]
    fn nothing_to_begin_with_is_refused() {
        let slow_start = SlowStart { window: Duration::from_secs(1), aggression: 1.0, min_weight: 0.0 };
        let error = slow_start.validate().unwrap_err();
        assert_eq!(error.to_string(), "slow_start.min_weight: must be above 0 and at most 1, not 0");
    }
}
