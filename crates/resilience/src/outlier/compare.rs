//! Which endpoints stand out, by what all of them answered since the last time.

use std::sync::{Arc, atomic::Ordering};

use super::{Endpoint, OutlierConfig};
use crate::config::{ConfigError, check};

/// An endpoint is an outlier whose success rate is so many standard deviations below the mean of all.
#[derive(Clone, Debug, PartialEq)]
pub struct SuccessRate {
    /// With fewer endpoints that had enough requests, nothing is compared.
    pub minimum_hosts: usize,
    /// Requests per interval with which an endpoint takes part.
    pub request_volume: u32,
    /// How many standard deviations.
    pub stdev_factor: f64,
}

impl Default for SuccessRate {
    /// Envoy's: five endpoints of a hundred requests, 1.9 standard deviations.
    fn default() -> Self {
        Self { minimum_hosts: 5, request_volume: 100, stdev_factor: 1.9 }
    }
}

impl SuccessRate {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        check(self.minimum_hosts > 1, "success_rate.minimum_hosts", "at least 2", self.minimum_hosts)?;
        check(self.request_volume > 0, "success_rate.request_volume", "at least 1", self.request_volume)?;
        let factor = self.stdev_factor;
        check(factor > 0.0 && factor.is_finite(), "success_rate.stdev_factor", "above 0", factor)
    }
}

/// An endpoint is an outlier that fails at least so often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailurePercentage {
    /// So many failures of a hundred answers.
    pub threshold: u32,
    /// With fewer endpoints that had enough requests, nothing is ejected.
    pub minimum_hosts: usize,
    /// Requests per interval with which an endpoint takes part.
    pub request_volume: u32,
}

impl Default for FailurePercentage {
    /// Envoy's: 85 of a hundred, of fifty requests at least, with five endpoints.
    fn default() -> Self {
        Self { threshold: 85, minimum_hosts: 5, request_volume: 50 }
    }
}

impl FailurePercentage {
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let rule = "between 1 and 100";
        check((1..=100).contains(&self.threshold), "failure_percentage.threshold", rule, self.threshold)?;
        check(self.request_volume > 0, "failure_percentage.request_volume", "at least 1", self.request_volume)
    }
}

/// What an endpoint answered in an interval.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    answers: u32,
    successes: u32,
}

impl Rate {
    fn success(self) -> f64 {
        f64::from(self.successes) / f64::from(self.answers.max(1))
    }
}

/// Takes what endpoints have answered since the last time.
pub(super) fn gather(endpoints: &[Arc<Endpoint>]) -> Vec<Rate> {
    let take = |endpoint: &Arc<Endpoint>| {
        let answers = endpoint.answers.swap(0, Ordering::Relaxed);
        // the other thread's answer may have been counted and its success not
        Rate { answers, successes: endpoint.successes.swap(0, Ordering::Relaxed).min(answers) }
    };
    endpoints.iter().map(take).collect()
}

/// Beyond what an endpoint stands out of all.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    /// Requests with which it takes part, and the success rate below which it stands out.
    success: Option<(u32, f64)>,
    /// Requests with which it takes part, and the failures of a hundred with which it stands out.
    failures: Option<(u32, u32)>,
}

/// The bounds that follow from what all endpoints answered. One pass, or two, however many there are.
pub(super) fn bounds(config: &OutlierConfig, all: &[Rate]) -> Bounds {
    let taking_part = |volume: u32| all.iter().filter(move |rate| rate.answers >= volume);
    let success = config.success_rate.as_ref().and_then(|rule| {
        let rates = || taking_part(rule.request_volume).map(|rate| rate.success());
        let count = rates().count();
        let mean = rates().sum::<f64>() / count as f64;
        let deviation = (rates().map(|rate| (rate - mean).powi(2)).sum::<f64>() / count as f64).sqrt();
        (count >= rule.minimum_hosts).then_some((rule.request_volume, mean - rule.stdev_factor * deviation))
    });
    let failures = config.failure_percentage.as_ref().and_then(|rule| {
        let enough = taking_part(rule.request_volume).count() >= rule.minimum_hosts;
        enough.then_some((rule.request_volume, rule.threshold))
    });
    Bounds { success, failures }
}

impl Bounds {
    /// Whether an endpoint that answered so stands out.
    pub(super) fn exclude(&self, rate: Rate) -> bool {
        let below = |(volume, least)| rate.answers >= volume && rate.success() < least;
        let above = |(volume, most): (u32, u32)| {
            let failures = u64::from(rate.answers - rate.successes);
            rate.answers >= volume && failures * 100 >= u64::from(rate.answers) * u64::from(most)
        };
        self.success.is_some_and(below) || self.failures.is_some_and(above)
    }
}
