//! Hedging: a second request for the few that take unusually long.
//!
//! When an answer is not there after the time in which, say, 95 of a hundred are, the same request is sent once more, and
//! the first answer wins. The delay is measured, not set; a [`Budget`](crate::retry::Budget) keeps the hedges few; and both
//! must be allowed by the rules of [`retry`](crate::retry): a request is hedged only when doing it twice does no more than
//! doing it once. It is off unless a percentile is set.
//!
//! **Contains:** the tail: the answer that waits for a pause of the collector, a slow disk, the one busy instance. A
//! request that fans out to a hundred instances meets such a one nearly always.
//!
//! **Can cause:** load, just when everything is slow, which is why the delay follows the measured latency and the budget
//! holds. And a hedge to the same instance only doubles its work: use it where each request is balanced by itself.
//!
//! A request costs a copy of itself and three short locks.

use std::time::Duration;

use crate::{
    config::{ConfigError, check},
    moment::{Moment, nanos},
};

mod latencies;
mod layer;

pub use latencies::Latencies;
pub use layer::{Hedge, HedgeFuture, HedgeLayer};

/// How often the delay is computed anew. What is unusual does not change faster.
const REFRESH: Duration = Duration::from_secs(1);

/// When a request is sent a second time.
#[derive(Clone, Debug, PartialEq)]
pub struct HedgeConfig {
    /// The share of answers that is waited for: 0.95 hedges what takes longer than 95 of a hundred. `None` hedges nothing.
    pub percentile: Option<f64>,
    /// No request is hedged sooner.
    pub delay_min: Duration,
    /// Nor before so many answers have been measured.
    pub samples_min: u32,
}

impl Default for HedgeConfig {
    /// Off. When it is on: not within a millisecond, and after a hundred answers.
    fn default() -> Self {
        Self { percentile: None, delay_min: Duration::from_millis(1), samples_min: 100 }
    }
}

impl HedgeConfig {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(percentile) = self.percentile {
            let rule = "at least 0.5 and below 1";
            check((0.5..1.0).contains(&percentile), "percentile", rule, percentile)?;
        }
        check(self.samples_min > 0, "samples_min", "at least 1", self.samples_min)
    }
}

/// The state machine: measures answers and says how long to wait for one.
///
/// ```
/// use std::time::Duration;
/// use resilience::{Moment, hedge::{HedgeConfig, Hedger}};
///
/// let mut hedger = Hedger::new(HedgeConfig { percentile: Some(0.9), ..HedgeConfig::default() })?;
/// let now = Moment::from_nanos(0);
/// assert_eq!(hedger.delay(now), None, "nothing is known yet");
/// for ms in 1..=100 {
///     hedger.answered(Duration::from_millis(ms));
/// }
/// let delay = hedger.delay(now + Duration::from_secs(1)).unwrap();
/// assert!((90..=100).contains(&delay.as_millis()), "{delay:?}");
/// # Ok::<_, resilience::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Hedger {
    config: HedgeConfig,
    latencies: Latencies,
    delay: Option<Duration>,
    refresh: Moment,
}

impl Hedger {
    /// One that has measured nothing.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: HedgeConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, latencies: Latencies::new(), delay: None, refresh: Moment::default() })
    }

    /// Whether anything is hedged at all.
    pub fn enabled(&self) -> bool {
        self.config.percentile.is_some()
    }

    /// How long to wait for the first answer before the second request is sent; `None` when there is to be no second.
    pub fn delay(&mut self, now: Moment) -> Option<Duration> {
        let percentile = self.config.percentile?;
        if now >= self.refresh {
            self.refresh = now + REFRESH;
            if self.latencies.count() >= u64::from(self.config.samples_min) {
                self.delay = self.latencies.quantile(percentile).map(|delay| delay.max(self.config.delay_min));
                self.latencies.age();
            }
        }
        self.delay
    }

    /// An answer came after this time.
    pub fn answered(&mut self, took: Duration) {
        self.latencies.add(nanos(took));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_follows_the_latency() {
        let mut hedger = Hedger::new(HedgeConfig { percentile: Some(0.9), ..HedgeConfig::default() }).unwrap();
        let mut now = Moment::default();
        for ms in [10, 50] {
            for _ in 0..30 {
                for _ in 0..200 {
                    hedger.answered(Duration::from_millis(ms));
                }
                now = now + REFRESH;
                hedger.delay(now);
            }
            let delay = hedger.delay(now).unwrap().as_millis() as u64;
            assert!((ms..=ms * 9 / 8).contains(&delay), "{delay} ms for {ms}");
        }
    }

    #[test]
    fn it_is_off_unless_a_percentile_is_set() {
        let mut hedger = Hedger::new(HedgeConfig::default()).unwrap();
        for _ in 0..1000 {
            hedger.answered(Duration::from_millis(5));
        }
        assert_eq!(hedger.delay(Moment::default() + REFRESH), None);
        assert!(!hedger.enabled());
    }

    #[test]
    fn a_percentile_that_hedges_most_requests_is_refused() {
        let error = HedgeConfig { percentile: Some(0.2), ..HedgeConfig::default() }.validate().unwrap_err();
        assert_eq!(error.to_string(), "percentile: must be at least 0.5 and below 1, not 0.2");
    }
}
