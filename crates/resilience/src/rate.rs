//! Rate limits: so many requests in a time, and a burst on top.
//!
//! A token bucket, kept as one number: the moment at which the bucket would be full again (the generic cell rate
//! algorithm). It refills by itself, costs eight bytes and one atomic exchange, and nothing has to run in the background.
//! [`Limiters`] keeps one for each caller, of as many callers as memory was set aside for.
//!
//! **Contains:** one caller, or all together, asking for more than their share: the loop in a script, the customer with a
//! thousand workers.
//!
//! **Can cause:** refusals while the service idles: a limit says nothing of what the service could do, so set it by what
//! a caller may cost, and protect the service with a [`bulkhead`](crate::bulkhead). Callers that retry at once make a limit
//! of their refusals; they are told when to come back (429 with `Retry-After`).
//!
//! ```
//! use std::time::Duration;
//! use resilience::{Moment, rate::{Limiter, RateConfig}};
//!
//! let limiter = Limiter::new(RateConfig { requests: 10, per: Duration::from_secs(1), burst: 2 })?;
//! let now = Moment::from_nanos(0);
//! assert_eq!(limiter.take(now, 1), Ok(()));
//! assert_eq!(limiter.take(now, 1), Ok(()));
//! assert_eq!(limiter.take(now, 1), Err(Duration::from_millis(100)));
//! assert_eq!(limiter.take(now + Duration::from_millis(100), 1), Ok(()));
//! # Ok::<_, resilience::ConfigError>(())
//! ```

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    config::{ConfigError, check, check_duration},
    moment::{Moment, nanos},
};

mod keyed;
mod layer;

pub use keyed::Limiters;
pub use layer::{RateFuture, RateLayer, RateService};

/// A rate over more than a day is a quota, which has to outlive a restart.
pub const PER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How many requests in which time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateConfig {
    /// So many requests …
    pub requests: u32,
    /// … in this time. Requests are spread evenly over it, but for the burst.
    pub per: Duration,
    /// So many at once, by a caller that was quiet before. At least 1.
    pub burst: u32,
}

impl RateConfig {
    /// So many per second, and as many at once.
    pub const fn per_second(requests: u32) -> Self {
        Self { requests, per: Duration::from_secs(1), burst: requests }
    }

    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check(self.requests > 0, "requests", "at least 1", self.requests)?;
        check(self.burst > 0, "burst", "at least 1", self.burst)?;
        check_duration("per", self.per, PER_MAX)?;
        let most = nanos(self.per);
        check(u64::from(self.requests) <= most, "requests", "at most one per nanosecond", self.requests)
    }
}

/// What a limit is made of, in nanoseconds.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Between two requests.
    step: u64,
    /// How long a full bucket lasts.
    depth: u64,
}

impl Bucket {
    fn new(config: &RateConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        // rounded up: a rate that does not divide the time is missed by less than a nanosecond per request, downwards
        let step = nanos(config.per).div_ceil(u64::from(config.requests));
        Ok(Self { step, depth: step.saturating_mul(u64::from(config.burst)) })
    }

    /// When the bucket will be full again after `tokens` are taken out of one that will be full at `full`.
    fn take(&self, full: u64, now: u64, tokens: u32) -> Result<u64, Duration> {
        let next = full.max(now).saturating_add(self.step.saturating_mul(u64::from(tokens)));
        let missing = next.saturating_sub(now.saturating_add(self.depth));
        match missing {
            0 => Ok(next),
            _ if self.step.saturating_mul(u64::from(tokens)) > self.depth => Err(Duration::MAX),
            _ => Err(Duration::from_nanos(missing)),
        }
    }
}

/// One limit.
#[derive(Debug)]
pub struct Limiter {
    bucket: Bucket,
    full: AtomicU64,
}

impl Limiter {
    /// A full bucket.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: RateConfig) -> Result<Self, ConfigError> {
        Bucket::new(&config).map(|bucket| Self { bucket, full: AtomicU64::new(0) })
    }

    /// Takes `tokens` out of the bucket: 1 for a request like any other, more for one that costs more.
    ///
    /// # Errors
    /// With the time until there are enough; [`Duration::MAX`] where there never will be, because the bucket is smaller.
    pub fn take(&self, now: Moment, tokens: u32) -> Result<(), Duration> {
        let mut full = self.full.load(Ordering::Relaxed);
        loop {
            let next = self.bucket.take(full, now.as_nanos(), tokens)?;
            match self.full.compare_exchange_weak(full, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(current) => full = current,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_time_sees_more_than_the_rate_and_the_burst(
            steps in prop::collection::vec(0u64..300, 1..300), requests in 1u32..20, burst in 1u32..20,
        ) {
            let limiter = Limiter::new(RateConfig { requests, per: Duration::from_secs(1), burst }).unwrap();
            let (mut now, mut taken) = (Moment::default() + Duration::from_secs(100), Vec::new());
            for step in steps {
                now = now + Duration::from_millis(step);
                match limiter.take(now, 1) {
                    Ok(()) => taken.push(now),
                    Err(wait) => {
                        prop_assert!(limiter.take(now + wait - Duration::from_nanos(1), 1).is_err(), "not before");
                        prop_assert_eq!(limiter.take(now + wait, 1), Ok(()), "and then");
                        now = now + wait;
                        taken.push(now);
                    }
                }
            }
            for (first, began) in taken.iter().enumerate() {
                for (last, ended) in taken.iter().enumerate().skip(first) {
                    let allowed = f64::from(burst) + ended.since(*began).as_secs_f64() * f64::from(requests);
                    prop_assert!((last - first + 1) as f64 <= allowed + 1e-6);
                }
            }
        }
    }

    #[test]
    fn a_request_that_costs_more_than_the_bucket_holds_never_passes() {
        let limiter = Limiter::new(RateConfig::per_second(5)).unwrap();
        assert_eq!(limiter.take(Moment::default(), 6), Err(Duration::MAX));
        assert_eq!(limiter.take(Moment::default(), 5), Ok(()), "and takes nothing");
    }

    #[test]
    fn senseless_rates_are_refused() {
        let wrong = |requests, per, burst| RateConfig { requests, per, burst }.validate().unwrap_err().to_string();
        assert_eq!(wrong(0, Duration::from_secs(1), 1), "requests: must be at least 1, not 0");
        assert_eq!(wrong(1, Duration::from_secs(1), 0), "burst: must be at least 1, not 0");
        assert_eq!(wrong(9, Duration::from_nanos(5), 1), "requests: must be at most one per nanosecond, not 9");
    }
}
