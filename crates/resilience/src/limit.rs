//! How many requests at a time: fixed, or found out.
//!
//! The right number of concurrent requests is what a service works on at once, plus a few; more only wait inside of it,
//! where nobody can see or drop them. A [`Limit`] says the number; [`bulkhead`](crate::bulkhead) enforces it. Two of the
//! three kinds move with what is measured:
//!
//! - [`LimitConfig::Aimd`] grows by one per round of requests that went well and shrinks by a tenth, once per round, when
//!   some were refused or slow, as TCP does. It needs to be told what slow is.
//! - [`LimitConfig::Gradient`] compares the latency of the moment with that of the long run, and shrinks by their ratio, as
//!   Netflix's Gradient2 does, but learns hardly anything from moments in which requests may have waited. It needs no
//!   number, and finds the knee of the curve.
//!
//! **Contains:** overload of a service whose capacity nobody knows, or that changes: with the machine, the version, the
//! noise of neighbours.
//!
//! **Can cause:** a limit far below what the service could do. A latency that grows for another reason (larger requests, a
//! slower database) looks like a queue; then the gradient gives throughput away, down to `min`. And one that grows slowly
//! becomes the latency of the long run, so that an overload that lasts for an hour is not seen any more. Set `min` to what is
//! certainly harmless, and `max` to what is certainly enough.

use std::time::Duration;

use crate::{
    config::{ConfigError, check, check_duration},
    moment::Moment,
};

/// No service of one process works on more at a time.
pub const LIMIT_MAX: usize = 1_000_000;
/// The share that AIMD keeps when it shrinks.
const AIMD_KEEP: f64 = 0.9;
/// How fast the latency of the long run follows one that is lower, or one that was measured with half of the places free:
/// nobody waited then, so that is what the service takes.
const LONG_LEARN: f64 = 0.1;
/// How fast it follows one that is higher while most places are taken: that is probably a queue, and a queue must not
/// become what is usual before somebody has noticed. With ten windows a second it takes ten minutes.
const LONG_RISE: f64 = 1.0 / 6000.0;
/// The least that one step of the gradient keeps, so that one bad window does not close the service.
const GRADIENT_MIN: f64 = 0.5;
/// The share that a step moves the limit by, of the way to where it should be.
const GRADIENT_STEP: f64 = 0.2;
/// What limits the number of requests under way.
#[derive(Clone, Debug, PartialEq)]
pub enum LimitConfig {
    /// So many.
    Fixed(usize),
    /// Additive increase, multiplicative decrease.
    Aimd(AimdConfig),
    /// By the ratio of latencies.
    Gradient(GradientConfig),
}

/// Between which numbers a limit moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it begins.
    pub initial: usize,
    /// Where it ends when everything is slow.
    pub min: usize,
    /// Where it ends when everything is fast.
    pub max: usize,
}

impl Default for Range {
    /// 20, between 4 and 1,000.
    fn default() -> Self {
        Self { initial: 20, min: 4, max: 1000 }
    }
}

/// See [`LimitConfig::Aimd`].
#[derive(Clone, Debug, PartialEq)]
pub struct AimdConfig {
    /// Between which numbers it moves.
    pub range: Range,
    /// An answer that takes longer means that there were too many.
    pub slow_after: Duration,
}

/// See [`LimitConfig::Gradient`].
#[derive(Clone, Debug, PartialEq)]
pub struct GradientConfig {
    /// Between which numbers it moves.
    pub range: Range,
    /// How many times the latency of the long run is still fine. At least 1.
    pub tolerance: f64,
    /// How many requests may wait inside the service. Without any the limit could not grow.
    pub headroom: usize,
    /// How long latencies are gathered before the limit moves.
    pub window: Duration,
    /// How many of them it takes, at least.
    pub samples_min: u32,
}

impl Default for GradientConfig {
    /// One and a half times the long run's latency, 4 waiting, moved ten times a second.
    fn default() -> Self {
        Self {
            range: Range::default(),
            tolerance: 1.5,
            headroom: 4,
            window: Duration::from_millis(100),
            samples_min: 10,
        }
    }
}

impl LimitConfig {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Fixed(limit) => {
                check((1..=LIMIT_MAX).contains(limit), "limit", format!("between 1 and {LIMIT_MAX}"), limit)
            }
            Self::Aimd(AimdConfig { range, slow_after }) => {
                check_duration("limit.slow_after", *slow_after, Duration::from_secs(3600))?;
                range.validate()
            }
            Self::Gradient(config) => {
                let tolerance = config.tolerance;
                check((1.0..=10.0).contains(&tolerance), "limit.tolerance", "between 1 and 10", tolerance)?;
                check_duration("limit.window", config.window, Duration::from_secs(60))?;
                check(config.samples_min > 0, "limit.samples_min", "at least 1", config.samples_min)?;
                let headroom = config.headroom;
                check((1..=LIMIT_MAX).contains(&headroom), "limit.headroom", "at least 1", headroom)?;
                config.range.validate()
            }
        }
    }
}

impl Range {
    fn validate(&self) -> Result<(), ConfigError> {
        let rule = format!("at least min and at most {LIMIT_MAX}");
        check(self.min > 0, "limit.min", "at least 1", self.min)?;
        check((self.min..=LIMIT_MAX).contains(&self.max), "limit.max", rule, self.max)?;
        check((self.min..=self.max).contains(&self.initial), "limit.initial", "between min and max", self.initial)
    }

    fn clamp(&self, limit: f64) -> f64 {
        limit.clamp(self.min as f64, self.max as f64)
    }
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// How long it took.
    pub took: Duration,
    /// How many were under way with it, itself included.
    pub in_flight: usize,
    /// Whether the service said that it had too much to do.
    pub overloaded: bool,
}

/// A limit, and what it has learned.
#[derive(Debug)]
pub enum Limit {
    /// So many.
    Fixed(usize),
    /// See [`LimitConfig::Aimd`].
    Aimd(Aimd),
    /// See [`LimitConfig::Gradient`].
    Gradient(Gradient),
}

/// What AIMD has learned.
#[derive(Debug)]
pub struct Aimd {
    config: AimdConfig,
    limit: f64,
    /// When it shrank. What began before that speaks of the old limit, and shrinks it no further.
    shrank: Moment,
}

/// What the gradient has learned.
#[derive(Debug)]
pub struct Gradient {
    config: GradientConfig,
    limit: f64,
    long_nanos: Option<f64>,
    began: Moment,
    samples: u32,
    sum_nanos: f64,
    in_flight: usize,
}

impl Limit {
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: LimitConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(match config {
            LimitConfig::Fixed(limit) => Self::Fixed(limit),
            LimitConfig::Aimd(config) => {
                Self::Aimd(Aimd { limit: config.range.initial as f64, config, shrank: Moment::default() })
            }
            LimitConfig::Gradient(config) => Self::Gradient(Gradient {
                limit: config.range.initial as f64,
                config,
                long_nanos: None,
                began: Moment::default(),
                samples: 0,
                sum_nanos: 0.0,
                in_flight: 0,
            }),
        })
    }

    /// How many requests may be under way.
    pub fn current(&self) -> usize {
        match self {
            Self::Fixed(limit) => *limit,
            Self::Aimd(Aimd { limit, .. }) | Self::Gradient(Gradient { limit, .. }) => *limit as usize,
        }
    }

    /// Learns from a request that is over.
    pub fn sample(&mut self, now: Moment, sample: Sample) {
        match self {
            Self::Fixed(_) => {}
            Self::Aimd(aimd) => aimd.sample(now, sample),
            Self::Gradient(gradient) => gradient.sample(now, sample),
        }
    }
}

impl Aimd {
    fn sample(&mut self, now: Moment, sample: Sample) {
        if sample.overloaded || sample.took > self.config.slow_after {
            if now - sample.took >= self.shrank {
                self.limit = self.config.range.clamp(self.limit * AIMD_KEEP);
                self.shrank = now;
            }
        } else if sample.in_flight * 2 >= self.limit as usize {
            // a limit that nobody comes near proves nothing by going well
            self.limit = self.config.range.clamp(self.limit + 1.0 / self.limit);
        }
    }
}

impl Gradient {
    fn sample(&mut self, now: Moment, sample: Sample) {
        self.in_flight = self.in_flight.max(sample.in_flight);
        // a refusal is fast, and says nothing of how fast answers are
        if !sample.overloaded {
            if self.samples == 0 {
                self.began = now;
            }
            self.samples += 1;
            self.sum_nanos += sample.took.as_nanos() as f64;
        }
        if self.samples >= self.config.samples_min && now.since(self.began) >= self.config.window {
            self.step();
        }
    }

    fn step(&mut self) {
        let short = (self.sum_nanos / f64::from(self.samples)).max(1.0);
        let in_flight = self.in_flight;
        (self.samples, self.sum_nanos, self.in_flight) = (0, 0.0, 0);
        let busy = in_flight * 2 >= self.limit as usize;
        let long = self.long_nanos.get_or_insert(short);
        *long += (short - *long) * if busy && short > *long { LONG_RISE } else { LONG_LEARN };
        if !busy {
            return;
        }
        let gradient = (self.config.tolerance * *long / short).clamp(GRADIENT_MIN, 1.0);
        let wanted = self.limit * gradient + self.config.headroom as f64;
        self.limit = self.config.range.clamp(self.limit + (wanted - self.limit) * GRADIENT_STEP);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A service with so many workers, each busy for 10 ms with a request: what more requests at a time do is wait.
    fn saturate(limit: &mut Limit, workers: usize, seconds: u64, start: Moment) -> Moment {
        let (mut now, end) = (start, start + Duration::from_secs(seconds));
        while now < end {
            let in_flight = limit.current();
            let round = Duration::from_millis(10).mul_f64((in_flight as f64 / workers as f64).max(1.0));
            now = now + round;
            for _ in 0..in_flight {
                limit.sample(now, Sample { took: round, in_flight, overloaded: false });
            }
        }
        now
    }

    #[test]
    fn the_gradient_finds_what_a_service_can_do_and_follows_it() {
        let mut limit = Limit::new(LimitConfig::Gradient(GradientConfig::default())).unwrap();
        let now = saturate(&mut limit, 50, 30, Moment::default());
        let found = limit.current();
        assert!((50..110).contains(&found), "{found} for 50 workers");
        saturate(&mut limit, 10, 20, now);
        assert!((10..60).contains(&limit.current()), "{} for 10 workers", limit.current());
    }

    #[test]
    fn aimd_stays_near_what_keeps_answers_fast() {
        let config = AimdConfig { range: Range::default(), slow_after: Duration::from_millis(20) };
        let mut limit = Limit::new(LimitConfig::Aimd(config)).unwrap();
        let now = saturate(&mut limit, 50, 60, Moment::default());
        assert!((80..=102).contains(&limit.current()), "{}: twice the workers are twice the time", limit.current());
        saturate(&mut limit, 10, 10, now);
        assert!((16..=22).contains(&limit.current()), "{}", limit.current());
    }

    #[test]
    fn many_refusals_of_one_round_shrink_aimd_once() {
        let config = AimdConfig { range: Range::default(), slow_after: Duration::from_secs(1) };
        let mut limit = Limit::new(LimitConfig::Aimd(config)).unwrap();
        let now = Moment::default() + Duration::from_secs(10);
        for _ in 0..20 {
            limit.sample(now, Sample { took: Duration::from_millis(5), in_flight: 20, overloaded: true });
        }
        assert_eq!(limit.current(), 18);
    }

    proptest! {
        #[test]
        fn no_limit_leaves_its_range(
            samples in prop::collection::vec((0u64..50, 0u64..5_000_000, 0usize..2000, any::<bool>()), 1..2000),
        ) {
            let range = Range { initial: 10, min: 3, max: 40 };
            let aimd = AimdConfig { range, slow_after: Duration::from_millis(1) };
            let gradient = GradientConfig { range, ..GradientConfig::default() };
            let mut limits = [LimitConfig::Aimd(aimd), LimitConfig::Gradient(gradient)].map(|c| Limit::new(c).unwrap());
            let mut now = Moment::default();
            for (step, took, in_flight, overloaded) in samples {
                now = now + Duration::from_millis(step);
                for limit in &mut limits {
                    limit.sample(now, Sample { took: Duration::from_nanos(took), in_flight, overloaded });
                    prop_assert!((3..=40).contains(&limit.current()));
                }
            }
        }
    }

    #[test]
    fn senseless_limits_are_refused() {
        let wrong = |config: LimitConfig| config.validate().unwrap_err().to_string();
        assert_eq!(wrong(LimitConfig::Fixed(0)), "limit: must be between 1 and 1000000, not 0");
        let range = Range { initial: 5, min: 10, max: 20 };
        let config = GradientConfig { range, ..GradientConfig::default() };
        assert_eq!(wrong(LimitConfig::Gradient(config)), "limit.initial: must be between min and max, not 5");
    }
}
