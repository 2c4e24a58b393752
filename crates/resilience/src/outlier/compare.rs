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

/// Whether an endpoint stands out of all.
pub(super) fn is_outlier(config: &OutlierConfig, all: &[Rate], one: &Rate) -> bool {
    let taking_part = |volume: u32| all.iter().filter(move |rate| rate.answers >= volume);
    let far_below = config.success_rate.as_ref().is_some_and(|rule| {
        let count = taking_part(rule.request_volume).count();
        if count < rule.minimum_hosts || one.answers < rule.request_volume {
            return false;
        }
        let mean = taking_part(rule.request_volume).map(|rate| rate.success()).sum::<f64>() / count as f64;
        let squares = taking_part(rule.request_volume).map(|rate| (rate.success() - mean).powi(2)).sum::<f64>();
        one.success() < mean - rule.stdev_factor * (squares / count as f64).sqrt()
    });
    let failing = config.failure_percentage.as_ref().is_some_and(|rule| {
        let failures = u64::from(one.answers - one.successes);
        taking_part(rule.request_volume).count() >= rule.minimum_hosts
            && one.answers >= rule.request_volume
            && failures * 100 >= u64::from(one.answers) * u64::from(rule.threshold)
    });
    far_below || failing
}
