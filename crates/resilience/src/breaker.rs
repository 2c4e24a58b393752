//! The circuit breaker: what fails is left alone until it has had time to recover.
//!
//! Closed, it lets everything through and watches: failures in a row, the share of failures over a sliding window, and the
//! share of slow answers. When one of them crosses its limit it opens, and refuses everything at once with
//! [`Rejection::CircuitOpen`](crate::Rejection::CircuitOpen). After a while it is half-open: a few probes go through, and
//! their fate decides. If all succeed it closes; if one fails it opens again, for twice as long, up to a limit.
//!
//! ```text
//!            a limit is crossed              the time is over
//!   closed ─────────────────────▶ open ──────────────────────▶ half-open
//!     ▲                             ▲       a probe fails           │ │
//!     │                             └───────────────────────────────┘ │
//!     └───────────────────────────────────────────────────────────────┘
//!                              all probes succeed
//! ```
//!
//! **Contains:** the cost of a dead dependency for its callers. Without it each request waits for a timeout, and the
//! requests that wait take the memory and the connections of those that would succeed. It also leaves the dependency alone
//! while it starts.
//!
//! **Can cause:** an outage where there was a partial one. A breaker in front of many instances, of which one is broken,
//! or of many operations, of which one fails, refuses them all: give each thing that fails alone a breaker of its own (per
//! endpoint, [`outlier`](crate::outlier) ejection is made for that). With few calls a limit is crossed by chance, which is
//! why `calls_min` exists.
//!
//! A healthy call costs two short locks.
//!
//! ```
//! use std::io;
//! use http::{Request, Response};
//! use resilience::{ByStatus, Failure, breaker::{BreakerConfig, BreakerLayer}};
//! use tower::{ServiceBuilder, ServiceExt as _, service_fn};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = BreakerConfig { consecutive_failures: Some(3), ..BreakerConfig::default() };
//! let service = ServiceBuilder::new()
//!     .layer(BreakerLayer::new(config, ByStatus)?)
//!     .map_err(Failure::Service)
//!     .service(service_fn(|_: Request<()>| async { Ok::<_, io::Error>(Response::new(())) }));
//! service.oneshot(Request::get("http://ledger/days").body(())?).await?;
//! # Ok(()) }
//! ```

use std::time::Duration;

use crate::{
    classify::Outcome,
    config::{ConfigError, check, check_duration, check_share},
    moment::Moment,
    observe::Ending,
    window::Window,
};

mod layer;

pub use layer::{BreakerLayer, BreakerService, CircuitBreaker, Permitted};

/// No breaker looks back further, or stays open for longer: an hour ago was another service.
pub const DURATION_MAX: Duration = Duration::from_secs(60 * 60);
/// More probes than this at a time are load.
pub const PROBES_MAX: u32 = 1000;

const CALLS: usize = 0;
const FAILURES: usize = 1;
const SLOW: usize = 2;

/// When a breaker opens and closes.
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    /// Opens after so many failures in a row.
    pub consecutive_failures: Option<u32>,
    /// Opens when at least this share of the window's calls failed.
    pub failure_share: Option<f64>,
    /// Opens when at least this share of the window's calls took longer than `slow_after`.
    pub slow_share: Option<f64>,
    /// Which calls are slow. A call that was given up counts when it had taken this long.
    pub slow_after: Duration,
    /// Shares are looked at only with so many calls in the window.
    pub calls_min: u32,
    /// How far back shares look.
    pub window: Duration,
    /// How long it stays open the first time.
    pub open_for: Duration,
    /// How long it stays open at most, after probes have failed time and again.
    pub open_for_max: Duration,
    /// Probes that go through while it is half-open, and that have to succeed.
    pub probes: u32,
}

impl Default for BreakerConfig {
    /// Opens when half of at least twenty calls within ten seconds failed or took longer than ten seconds, for five
    /// seconds, later for up to a minute; three probes close it.
    fn default() -> Self {
        Self {
            consecutive_failures: None,
            failure_share: Some(0.5),
            slow_share: Some(0.5),
            slow_after: Duration::from_secs(10),
            calls_min: 20,
            window: Duration::from_secs(10),
            open_for: Duration::from_secs(5),
            open_for_max: Duration::from_secs(60),
            probes: 3,
        }
    }
}

impl BreakerConfig {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(failures) = self.consecutive_failures {
            check(failures > 0, "consecutive_failures", "at least 1", failures)?;
        }
        for (field, share) in [("failure_share", self.failure_share), ("slow_share", self.slow_share)] {
            share.map_or(Ok(()), |share| check_share(field, share))?;
        }
        check(self.calls_min > 0, "calls_min", "at least 1", self.calls_min)?;
        let rule = format!("between 1 and {PROBES_MAX}");
        check((1..=PROBES_MAX).contains(&self.probes), "probes", rule, self.probes)?;
        check_duration("slow_after", self.slow_after, DURATION_MAX)?;
        check_duration("window", self.window, DURATION_MAX)?;
        check_duration("open_for_max", self.open_for_max, DURATION_MAX)?;
        check_duration("open_for", self.open_for, self.open_for_max)
    }
}

/// What a breaker does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It lets everything through.
    Closed,
    /// It lets nothing through until that moment.
    Open {
        /// When it will be half-open.
        until: Moment,
    },
    /// It lets a few probes through.
    HalfOpen,
}

#[derive(Debug)]
enum State {
    Closed {
        /// Failures in a row.
        failures: u32,
    },
    Open {
        until: Moment,
        /// How often it has opened since it was closed.
        times: u32,
    },
    HalfOpen {
        since: Moment,
        times: u32,
        under_way: u32,
        succeeded: u32,
    },
}

/// Leave for one call, which has to be given back with [`Breaker::record`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a permit that is not given back is a probe that never ends"]
pub struct Permit {
    /// Which state the call began in. What a call says that began before the breaker opened says nothing of the time after.
    generation: u64,
}

/// The state machine, which knows no clock.
///
/// ```
/// use std::time::Duration;
/// use resilience::{Moment, Outcome, breaker::{Breaker, BreakerConfig, Status}, observe::Ending};
///
/// let mut breaker = Breaker::new(BreakerConfig { consecutive_failures: Some(1), ..BreakerConfig::default() })?;
/// let start = Moment::from_nanos(0);
/// let permit = breaker.admit(start).unwrap();
/// breaker.record(start, permit, Duration::ZERO, Ending::Answered(Outcome::Failure));
/// assert_eq!(breaker.admit(start).unwrap_err(), Duration::from_secs(5));
/// assert!(breaker.admit(start + Duration::from_secs(5)).is_ok(), "a probe");
/// assert_eq!(breaker.status(), Status::HalfOpen);
/// # Ok::<_, resilience::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Breaker {
    config: BreakerConfig,
    state: State,
    /// Grows with every change of state.
    generation: u64,
    window: Window<3>,
}

impl Breaker {
    /// A closed breaker.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: BreakerConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        let window = Window::new(config.window);
        Ok(Self { config, state: State::Closed { failures: 0 }, generation: 0, window })
    }

    /// What it did when it was last asked or told something.
    pub fn status(&self) -> Status {
        match self.state {
            State::Closed { .. } => Status::Closed,
            State::Open { until, .. } => Status::Open { until },
            State::HalfOpen { .. } => Status::HalfOpen,
        }
    }

    /// Leave for a call.
    ///
    /// # Errors
    /// With the time until the next probe, when the call must not be made.
    pub fn admit(&mut self, now: Moment) -> Result<Permit, Duration> {
        if let State::Open { until, times } = self.state {
            if now < until {
                return Err(until.since(now));
            }
            self.enter(State::HalfOpen { since: now, times, under_way: 0, succeeded: 0 });
        }
        if let State::HalfOpen { since, times, under_way, succeeded } = &mut self.state {
            if *under_way + *succeeded >= self.config.probes {
                let patience = open_for(&self.config, *times);
                let times = *times;
                if now.since(*since) < patience {
                    return Err(patience - now.since(*since));
                }
                // probes that have not come back in this time have failed
                return Err(self.open(now, times + 1));
            }
            *under_way += 1;
        }
        Ok(Permit { generation: self.generation })
    }

    /// Takes a permit back, with what the call said.
    pub fn record(&mut self, now: Moment, permit: Permit, took: Duration, ending: Ending) {
        if permit.generation != self.generation {
            return;
        }
        let slow = took > self.config.slow_after && self.config.slow_share.is_some();
        let outcome = match ending {
            Ending::Answered(outcome) => outcome,
            Ending::Abandoned if slow => Outcome::Success,
            Ending::Abandoned => Outcome::Neutral,
        };
        match &mut self.state {
            State::Closed { .. } => self.watch(now, outcome, slow),
            State::Open { .. } => {}
            State::HalfOpen { times, under_way, succeeded, .. } => {
                let times = *times;
                *under_way = under_way.saturating_sub(1);
                match outcome {
                    Outcome::Neutral => {}
                    Outcome::Success if !slow => {
                        *succeeded += 1;
                        if *succeeded >= self.config.probes {
                            self.enter(State::Closed { failures: 0 });
                        }
                    }
                    Outcome::Success | Outcome::Failure => {
                        self.open(now, times + 1);
                    }
                }
            }
        }
    }

    fn watch(&mut self, now: Moment, outcome: Outcome, slow: bool) {
        let State::Closed { failures } = &mut self.state else { return };
        match outcome {
            Outcome::Neutral => return,
            Outcome::Success => *failures = 0,
            Outcome::Failure => {
                *failures = failures.saturating_add(1);
                self.window.add(now, FAILURES);
            }
        }
        let in_a_row = self.config.consecutive_failures.is_some_and(|limit| *failures >= limit);
        self.window.add(now, CALLS);
        if slow {
            self.window.add(now, SLOW);
        }
        if outcome == Outcome::Success && !slow {
            // nothing can have crossed its limit
            return;
        }
        let sums = self.window.sums(now);
        let crossed = |share: Option<f64>, count: u64| {
            share.is_some_and(|share| {
                sums[CALLS] >= u64::from(self.config.calls_min) && count as f64 >= share * sums[CALLS] as f64
            })
        };
        let failing = outcome == Outcome::Failure && crossed(self.config.failure_share, sums[FAILURES]);
        let slowing = slow && crossed(self.config.slow_share, sums[SLOW]);
        if in_a_row || failing || slowing {
            self.open(now, 1);
        }
    }

    /// Opens for the `times`-th time in a row; gives the time it stays so.
    fn open(&mut self, now: Moment, times: u32) -> Duration {
        let time = open_for(&self.config, times);
        self.enter(State::Open { until: now + time, times });
        time
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
        self.window.clear();
    }
}

/// Twice as long each time, up to the limit.
fn open_for(config: &BreakerConfig, times: u32) -> Duration {
    let doublings = times.saturating_sub(1).min(u32::BITS - 1);
    config.open_for.saturating_mul(1 << doublings).min(config.open_for_max)
}

#[cfg(test)]
mod tests;
