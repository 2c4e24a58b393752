//! How many retries all requests together may have.

use std::time::Duration;

use parking_lot::Mutex;

use crate::{
    config::{ConfigError, check},
    moment::Moment,
    window::Window,
};

const REQUESTS: usize = 0;
const RETRIES: usize = 1;

/// Shortest and longest interval: a second has too few requests to take a share of, and after a minute the past says
/// nothing of the present.
const INTERVAL_RANGE: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(60);
/// The largest share: ten retries per request are a storm by any definition.
const SHARE_MAX: f64 = 10.0;
/// The largest minimum.
const MIN_PER_SECOND_MAX: u32 = 100_000;

/// How many retries there may be for how many requests.
#[derive(Clone, Debug, PartialEq)]
pub struct BudgetConfig {
    /// Retries for each request of the interval.
    pub share: f64,
    /// Retries per second that are allowed in any case, so that a client with few requests can retry at all.
    pub min_per_second: u32,
    /// How far back requests and retries count.
    pub interval: Duration,
}

impl Default for BudgetConfig {
    /// A fifth, which lets a service with one failure in ten heal completely, and bounds its load at 1.2 times the usual;
    /// ten per second; over ten seconds.
    fn default() -> Self {
        Self { share: 0.2, min_per_second: 10, interval: Duration::from_secs(10) }
    }
}

/// A budget of retries: over any interval, no more than a share of the requests, plus a minimum.
///
/// All clients of one service share one budget; retries and hedges of the same requests too. A request costs one short
/// lock.
///
/// ```
/// use std::time::Duration;
/// use resilience::{Moment, retry::{Budget, BudgetConfig}};
///
/// let now = Moment::from_nanos(0);
/// let budget = Budget::new(BudgetConfig { share: 0.5, min_per_second: 0, interval: Duration::from_secs(10) })?;
/// budget.request(now);
/// assert!(!budget.withdraw(now), "half a retry is none");
/// budget.request(now);
/// assert!(budget.withdraw(now));
/// assert!(!budget.withdraw(now));
/// # Ok::<_, resilience::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Budget {
    share: f64,
    reserve: f64,
    window: Mutex<Window<2>>,
}

impl Budget {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: BudgetConfig) -> Result<Self, ConfigError> {
        let BudgetConfig { share, min_per_second, interval } = config;
        check((0.0..=SHARE_MAX).contains(&share), "share", format!("between 0 and {SHARE_MAX}"), share)?;
        let rule = format!("at most {MIN_PER_SECOND_MAX}");
        check(min_per_second <= MIN_PER_SECOND_MAX, "min_per_second", rule, min_per_second)?;
        check(INTERVAL_RANGE.contains(&interval), "interval", "between 1s and 60s", format!("{interval:?}"))?;
        let reserve = f64::from(min_per_second) * interval.as_secs_f64();
        Ok(Self { share, reserve, window: Mutex::new(Window::new(interval)) })
    }

    /// Counts a request that is sent for the first time.
    pub fn request(&self, now: Moment) {
        self.window.lock().add(now, REQUESTS);
    }

    /// Takes a retry out of the budget; false when there is none left, and none may be made.
    pub fn withdraw(&self, now: Moment) -> bool {
        let mut window = self.window.lock();
        let [requests, retries] = window.sums(now);
        let allowed = retries as f64 + 1.0 <= requests as f64 * self.share + self.reserve;
        if allowed {
            window.add(now, RETRIES);
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn retries_never_exceed_their_share(
            steps in prop::collection::vec((0u64..500, 1u32..5), 1..300), share in 0.0f64..1.5, min_per_second in 0u32..4,
        ) {
            // the worst case: every request fails, and every failure asks for three retries
            let interval = Duration::from_secs(2);
            let budget = Budget::new(BudgetConfig { share, min_per_second, interval }).unwrap();
            let (mut now, mut requests, mut retries) = (Moment::default(), Vec::new(), Vec::new());
            for (step, burst) in steps {
                now = now + Duration::from_millis(step);
                for _ in 0..burst {
                    budget.request(now);
                    requests.push(now);
                    retries.extend((0..3).filter(|_| budget.withdraw(now)).map(|_| now));
                }
                // what a retry was allowed for may be forgotten before the retry is
                if retries.last() != Some(&now) {
                    continue;
                }
                let since = |times: &[Moment], age| times.iter().filter(|then| now.since(**then) < age).count() as f64;
                // the window is up to a slot shorter than the interval
                let made = since(&retries, interval - interval / 10);
                let allowed = since(&requests, interval) * share + f64::from(min_per_second) * 2.0;
                prop_assert!(made <= allowed, "{} retries where {} are allowed", made, allowed);
            }
        }
    }

    #[test]
    fn the_minimum_serves_clients_with_few_requests() {
        let budget = Budget::new(BudgetConfig::default()).unwrap();
        let now = Moment::default();
        assert_eq!((0..1000).filter(|_| budget.withdraw(now)).count(), 100);
        assert!(budget.withdraw(now + Duration::from_secs(10)), "and comes back");
    }

    #[test]
    fn senseless_budgets_are_refused() {
        let wrong = |config| Budget::new(config).unwrap_err().to_string();
        let default = BudgetConfig::default;
        assert_eq!(wrong(BudgetConfig { share: -0.1, ..default() }), "share: must be between 0 and 10, not -0.1");
        let interval = Duration::from_millis(100);
        assert_eq!(wrong(BudgetConfig { interval, ..default() }), "interval: must be between 1s and 60s, not 100ms");
    }
}
