//! Load shedding: when there is too much, the least important goes first.
//!
//! The state machine looks at the *fastest* answer of each interval. When even that was slower than the target, everything
//! waits, so the service is overloaded, and the share of requests that is shed grows; when it was not, the share falls.
//! Which requests make up the share is decided by their [`Criticality`]: all of the sheddable before any of the critical,
//! and within one level by lot.
//!
//! **Contains:** overload that no caller's limit prevents: a launch, a retry storm, half of the machines gone. The service
//! answers as many requests as it can, and the ones that matter, instead of all of them too late.
//!
//! **Can cause:** refusals for reasons that shedding does not help: answers that are slow because something behind them
//! is. Give the target distance from the usual latency (ten times the median is a start), and shed where the overload is:
//! at the server, not in front of a dependency. Health checks must be [`Criticality::CriticalPlus`], or an overloaded
//! instance is restarted on top of it.
//!
//! A request costs two short locks.

use std::time::Duration;

use crate::{
    config::{ConfigError, check_duration, check_share},
    moment::Moment,
    random::unit,
};

mod layer;

pub use layer::{ByExtension, Prioritise, ShedLayer, ShedService, Shedding};

/// Nobody waits longer than this for a sign of overload.
const DURATION_MAX: Duration = Duration::from_secs(60);
/// What a step up takes, of what is not shed yet: from nothing to a half in seven intervals.
const STEP_UP: f64 = 0.1;
/// What a step down leaves of the share …
const STEP_DOWN: f64 = 0.9;
/// … and takes off in addition, so that it reaches zero.
const STEP_DOWN_LEAST: f64 = 0.005;
/// Intervals without an answer that may be those of slow ones. Further ones are quiet, and quiet ends shedding.
const SILENT: u128 = 10;
const LEVELS: f64 = 4.0;

/// How much a request matters, as Google's SRE book has it; the least first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Criticality {
    /// May fail for a while, now and then: batch work, prefetching.
    Sheddable,
    /// May fail for a while, rarely: work that is retried by itself.
    SheddablePlus,
    /// A user waits for it.
    #[default]
    Critical,
    /// Other things depend on it: health checks, payments.
    CriticalPlus,
}

/// When and how much is shed.
#[derive(Clone, Debug, PartialEq)]
pub struct ShedConfig {
    /// When even the fastest answer took longer, the service is overloaded.
    pub target: Duration,
    /// How often that is judged.
    pub interval: Duration,
    /// The largest share that is shed. What is left tells when the overload is over.
    pub share_max: f64,
}

impl Default for ShedConfig {
    /// 100 ms, ten times a second, up to 95 %.
    fn default() -> Self {
        Self { target: Duration::from_millis(100), interval: Duration::from_millis(100), share_max: 0.95 }
    }
}

impl ShedConfig {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_duration("target", self.target, DURATION_MAX)?;
        check_duration("interval", self.interval, DURATION_MAX)?;
        check_share("share_max", self.share_max)
    }
}

/// The state machine.
///
/// ```
/// use std::time::Duration;
/// use resilience::{Moment, shed::{Criticality, ShedConfig, Shedder}};
///
/// let mut shedder = Shedder::new(ShedConfig::default())?;
/// let mut now = Moment::from_nanos(0);
/// for _ in 0..10 {
///     now = now + Duration::from_millis(100);
///     shedder.answered(now, Duration::from_secs(1));
/// }
/// assert!(!shedder.admits(now, Criticality::Sheddable, 7), "overloaded");
/// assert!(shedder.admits(now, Criticality::CriticalPlus, 7), "but not for this");
/// # Ok::<_, resilience::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct Shedder {
    config: ShedConfig,
    share: f64,
    /// When the interval is over.
    ends: Moment,
    fastest: Option<Duration>,
}

impl Shedder {
    /// One that sheds nothing.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: ShedConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, share: 0.0, ends: Moment::default(), fastest: None })
    }

    /// The share of requests that is shed.
    pub fn share(&self) -> f64 {
        self.share
    }

    /// Whether a request is let through.
    pub fn admits(&mut self, now: Moment, criticality: Criticality, random: u64) -> bool {
        self.turn(now);
        let rank = (f64::from(criticality as u8) + unit(random)) / LEVELS;
        rank >= self.share
    }

    /// An answer was given, this long after its request was let through.
    pub fn answered(&mut self, now: Moment, took: Duration) {
        self.turn(now);
        self.fastest = Some(self.fastest.map_or(took, |fastest| fastest.min(took)));
    }

    fn turn(&mut self, now: Moment) {
        if now < self.ends {
            return;
        }
        let overloaded = self.fastest.is_some_and(|fastest| fastest > self.config.target);
        if overloaded {
            self.share = (self.share + (1.0 - self.share) * STEP_UP).min(self.config.share_max);
        }
        let silent = now.since(self.ends).as_nanos() / self.config.interval.as_nanos();
        for _ in 0..silent.saturating_sub(SILENT) + u128::from(!overloaded) {
            if self.share == 0.0 {
                break;
            }
            self.share = (self.share * STEP_DOWN - STEP_DOWN_LEAST).max(0.0);
        }
        self.ends = now + self.config.interval;
        self.fastest = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::random::Random;

    const LEVELS: [Criticality; 4] =
        [Criticality::Sheddable, Criticality::SheddablePlus, Criticality::Critical, Criticality::CriticalPlus];

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// A server that works off so many requests per 10 ms in the order they came, for ten seconds at a load; of each level,
    /// how many of the last five seconds' requests were let through, in percent; and the longest wait of them, in ms.
    fn simulate(per_tick: u32, served_per_tick: u32) -> ([u32; 4], u64) {
        let mut shedder = Shedder::new(ShedConfig::default()).unwrap();
        let (random, mut queue) = (Random::seeded(3), std::collections::VecDeque::new());
        let (mut came, mut admitted, mut longest) = ([0; 4], [0; 4], Duration::ZERO);
        for tick in 0..1000 {
            let now = Moment::default() + ms(tick * 10);
            for n in 0..per_tick {
                let level = (n % 4) as usize;
                let admits = shedder.admits(now, LEVELS[level], random.draw());
                if admits {
                    queue.push_back(now);
                }
                if tick >= 500 {
                    came[level] += 1;
                    admitted[level] += u32::from(admits);
                }
            }
            for _ in 0..served_per_tick {
                let Some(since) = queue.pop_front() else { break };
                let took = now.since(since) + ms(5);
                shedder.answered(now, took);
                if tick >= 500 {
                    longest = longest.max(took);
                }
            }
        }
        (std::array::from_fn(|level| admitted[level] * 100 / came[level]), longest.as_millis() as u64)
    }

    #[test]
    fn at_twice_the_load_the_more_important_half_is_served_in_time() {
        let (percent, longest) = simulate(40, 20);
        assert!(percent[0] < 10, "{percent:?}");
        assert!(percent[1] < 40, "{percent:?}");
        assert!(percent[2] > 60, "{percent:?}");
        assert!(percent[3] >= 99, "{percent:?}");
        assert!(longest < 700, "{longest} ms");
    }

    #[test]
    fn nothing_is_shed_while_there_is_room() {
        assert_eq!(simulate(16, 20).0, [100; 4]);
    }

    #[test]
    fn a_pause_ends_it() {
        let (mut shedder, mut now) = (Shedder::new(ShedConfig::default()).unwrap(), Moment::default());
        for _ in 0..20 {
            now = now + ms(100);
            shedder.answered(now, ms(500));
        }
        assert!(shedder.share() > 0.8);
        assert!(shedder.admits(now + Duration::from_secs(10), Criticality::Sheddable, 0));
        assert_eq!(shedder.share(), 0.0);
    }

    proptest! {
        #[test]
        fn the_more_important_is_never_shed_before_the_less(
            steps in prop::collection::vec((0u64..300, 0u64..400), 0..200), random: u64,
        ) {
            let (mut shedder, mut now) = (Shedder::new(ShedConfig::default()).unwrap(), Moment::default());
            for (step, took) in steps {
                now = now + ms(step);
                shedder.answered(now, ms(took));
                prop_assert!((0.0..=0.95).contains(&shedder.share()));
                let admitted = LEVELS.map(|level| shedder.admits(now, level, random));
                prop_assert!(admitted.is_sorted(), "{:?}", admitted);
            }
            // whatever has happened, quiet ends it
            for _ in 0..80 {
                now = now + ms(100);
                shedder.answered(now, ms(1));
            }
            prop_assert_eq!(shedder.share(), 0.0);
        }
    }
}
