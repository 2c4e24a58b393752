//! Outlier ejection: endpoints that fail while the others do not get no requests for a while.
//!
//! Every endpoint of a service is watched by what it answers, and three things make it an outlier: so many 5xx (or gateway
//! failures) in a row; a success rate far below that of all endpoints together; or a share of failures above a limit. An
//! outlier is ejected for a base time, twice that the second time and so on up to a limit, and every interval without an
//! ejection takes one time back. Names and defaults are Envoy's.
//!
//! **Contains:** the one broken instance among good ones, which otherwise fails its share of all requests, and more than
//! its share where failing is faster than working.
//!
//! **Can cause:** overload of the endpoints that remain, which then fail too: at most `max_ejection_percent` of them are
//! ejected at a time. And when everything fails alike (a bad version, a database that is down), ejecting helps nobody:
//! success rates are compared with each other for that reason.
//!
//! Nothing runs in the background: an ejection ends by the clock, and endpoints are compared by the first request after an
//! interval is over. A request costs a few atomic operations on its endpoint.
//!
//! ```
//! use resilience::{Moment, outlier::{Answer, Detector, OutlierConfig}};
//!
//! let detector = Detector::new(OutlierConfig { consecutive_5xx: Some(2), ..OutlierConfig::default() })?;
//! let (good, bad) = (detector.join(), detector.join());
//! let now = Moment::from_nanos(0);
//! for _ in 0..2 {
//!     detector.record(now, &good, Answer::Success);
//!     detector.record(now, &bad, Answer::Failure);
//! }
//! assert!(!good.is_ejected(now));
//! assert!(bad.is_ejected(now));
//! # Ok::<_, resilience::ConfigError>(())
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;

use crate::{
    config::{ConfigError, check, check_duration},
    moment::{Moment, nanos},
};

mod compare;
mod layer;

pub use compare::{FailurePercentage, SuccessRate};
pub use layer::{OutlierLayer, OutlierService, Watched};

/// No interval and no ejection is longer.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// When endpoints are ejected, and for how long.
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierConfig {
    /// Ejects after so many failures in a row, gateway failures included.
    pub consecutive_5xx: Option<u32>,
    /// Ejects after so many gateway failures in a row: 502, 503, 504, and connections that fail.
    pub consecutive_gateway_failure: Option<u32>,
    /// Ejects endpoints whose success rate is far below that of all.
    pub success_rate: Option<SuccessRate>,
    /// Ejects endpoints that fail more often than this.
    pub failure_percentage: Option<FailurePercentage>,
    /// How often endpoints are compared, and how soon an endpoint that behaves is forgiven one ejection.
    pub interval: Duration,
    /// How long the first ejection is.
    pub base_ejection_time: Duration,
    /// How long an ejection is at most.
    pub max_ejection_time: Duration,
    /// How many of the endpoints are ejected at most, in percent, but always one, where there is more than one.
    pub max_ejection_percent: u32,
}

impl Default for OutlierConfig {
    /// Envoy's: five in a row, rates every ten seconds, for 30 s to five minutes, at most a tenth.
    fn default() -> Self {
        Self {
            consecutive_5xx: Some(5),
            consecutive_gateway_failure: None,
            success_rate: Some(SuccessRate::default()),
            failure_percentage: None,
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_time: Duration::from_secs(300),
            max_ejection_percent: 10,
        }
    }
}

impl OutlierConfig {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, count) in [
            ("consecutive_5xx", self.consecutive_5xx),
            ("consecutive_gateway_failure", self.consecutive_gateway_failure),
        ] {
            check(count != Some(0), field, "at least 1", 0)?;
        }
        self.success_rate.as_ref().map_or(Ok(()), SuccessRate::validate)?;
        self.failure_percentage.as_ref().map_or(Ok(()), FailurePercentage::validate)?;
        check_duration("interval", self.interval, DURATION_MAX)?;
        check_duration("max_ejection_time", self.max_ejection_time, DURATION_MAX)?;
        check_duration("base_ejection_time", self.base_ejection_time, self.max_ejection_time)?;
        check(self.max_ejection_percent <= 100, "max_ejection_percent", "at most 100", self.max_ejection_percent)
    }
}

/// What an answer says of the endpoint that gave it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It works.
    Success,
    /// It answered with a server error.
    Failure,
    /// It did not answer, or could not reach what it needs: 502, 503, 504, a connection that failed.
    GatewayFailure,
}

/// An endpoint, and what is known of it. Who balances asks [`is_ejected`](Self::is_ejected).
#[derive(Debug, Default)]
pub struct Endpoint {
    failures: AtomicU32,
    gateway_failures: AtomicU32,
    /// Since endpoints were compared last.
    successes: AtomicU32,
    answers: AtomicU32,
    /// When its last ejection ends, in nanoseconds.
    ejected_until: AtomicU64,
    /// Ejections that are not forgiven yet.
    ejections: AtomicU32,
}

impl Endpoint {
    /// Whether it is to get no requests.
    pub fn is_ejected(&self, now: Moment) -> bool {
        now.as_nanos() < self.ejected_until.load(Ordering::Relaxed)
    }
}

/// The endpoints of one service.
#[derive(Debug)]
pub struct Detector {
    config: OutlierConfig,
    /// When endpoints are compared next, in nanoseconds.
    compare_at: AtomicU64,
    endpoints: Mutex<Vec<Arc<Endpoint>>>,
}

impl Detector {
    /// A service without endpoints.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: OutlierConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, compare_at: AtomicU64::new(0), endpoints: Mutex::default() })
    }

    /// A new endpoint.
    pub fn join(&self) -> Arc<Endpoint> {
        let endpoint = Arc::<Endpoint>::default();
        self.endpoints.lock().push(endpoint.clone());
        endpoint
    }

    /// An endpoint that is no more.
    pub fn leave(&self, endpoint: &Arc<Endpoint>) {
        self.endpoints.lock().retain(|known| !Arc::ptr_eq(known, endpoint));
    }

    /// How many endpoints get no requests at the moment, and how many there are.
    pub fn ejected(&self, now: Moment) -> (usize, usize) {
        let endpoints = self.endpoints.lock();
        (count_ejected(&endpoints, now), endpoints.len())
    }

    /// An endpoint has answered. True when this made an outlier of it, which is worth a line in the log.
    pub fn record(&self, now: Moment, endpoint: &Endpoint, answer: Answer) -> bool {
        endpoint.answers.fetch_add(1, Ordering::Relaxed);
        let mut outlier = false;
        match answer {
            Answer::Success => {
                endpoint.successes.fetch_add(1, Ordering::Relaxed);
                // the usual case writes nothing that it does not have to
                for counter in [&endpoint.failures, &endpoint.gateway_failures] {
                    if counter.load(Ordering::Relaxed) != 0 {
                        counter.store(0, Ordering::Relaxed);
                    }
                }
            }
            Answer::Failure => {
                endpoint.gateway_failures.store(0, Ordering::Relaxed);
                outlier = reaches(&endpoint.failures, self.config.consecutive_5xx);
            }
            Answer::GatewayFailure => {
                outlier = reaches(&endpoint.failures, self.config.consecutive_5xx);
                outlier |= reaches(&endpoint.gateway_failures, self.config.consecutive_gateway_failure);
            }
        }
        let ejected = outlier && {
            let endpoints = self.endpoints.lock();
            self.eject(now, endpoint, &mut self.room(now, &endpoints))
        };
        self.compare(now);
        ejected
    }

    /// How many more may be ejected.
    fn room(&self, now: Moment, endpoints: &[Arc<Endpoint>]) -> usize {
        if endpoints.len() < 2 {
            return 0;
        }
        let most = (endpoints.len() * self.config.max_ejection_percent as usize / 100).max(1);
        most.saturating_sub(count_ejected(endpoints, now))
    }

    /// Ejects an endpoint, unless it is or there is no room.
    fn eject(&self, now: Moment, endpoint: &Endpoint, room: &mut usize) -> bool {
        if *room == 0 || endpoint.is_ejected(now) {
            return false;
        }
        *room -= 1;
        let times = endpoint.ejections.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let time = self.config.base_ejection_time.saturating_mul(times).min(self.config.max_ejection_time);
        endpoint.ejected_until.store((now + time).as_nanos(), Ordering::Relaxed);
        endpoint.failures.store(0, Ordering::Relaxed);
        endpoint.gateway_failures.store(0, Ordering::Relaxed);
        true
    }

    /// Compares endpoints when the interval is over. Of several threads that find it over, one does.
    fn compare(&self, now: Moment) {
        let at = self.compare_at.load(Ordering::Relaxed);
        if now.as_nanos() < at {
            return;
        }
        let next = now.as_nanos().saturating_add(nanos(self.config.interval));
        if self.compare_at.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed).is_err() || at == 0 {
            return;
        }
        let endpoints = self.endpoints.lock();
        let rates = compare::gather(&endpoints);
        let bounds = compare::bounds(&self.config, &rates);
        let mut room = self.room(now, &endpoints);
        for (endpoint, rate) in endpoints.iter().zip(rates) {
            // not in the interval in which it came back: it has to show first that it behaves
            let back = Moment::from_nanos(endpoint.ejected_until.load(Ordering::Relaxed));
            if now >= back + self.config.interval {
                let forgiven = endpoint.ejections.load(Ordering::Relaxed).saturating_sub(1);
                endpoint.ejections.store(forgiven, Ordering::Relaxed);
            }
            if bounds.exclude(rate) {
                self.eject(now, endpoint, &mut room);
            }
        }
    }
}

fn reaches(counter: &AtomicU32, limit: Option<u32>) -> bool {
    let count = counter.fetch_add(1, Ordering::Relaxed).saturating_add(1);
    limit.is_some_and(|limit| count >= limit)
}

fn count_ejected(endpoints: &[Arc<Endpoint>], now: Moment) -> usize {
    endpoints.iter().filter(|endpoint| endpoint.is_ejected(now)).count()
}

#[cfg(test)]
mod tests;
