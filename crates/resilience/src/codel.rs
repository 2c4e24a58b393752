//! Controlled delay: how long a request may wait depends on whether the queue ever gets short.
//!
//! A queue that fills in a burst and empties again does its work. One that never gets short is a delay that everybody pays,
//! and at its end clients have given up. CoDel tells them apart by the *shortest* wait of an interval: while that is above
//! the target the queue stands, and everything that has waited for longer than the target is dropped, until one interval
//! has seen a short wait again. This is the variant for servers, which drops by age rather than by a rate.
//!
//! **Contains:** the standing queue, in which every request waits so long that its answer comes too late.
//!
//! **Can cause:** refusals in bursts that a patient client would have sat out, when the target is near the usual wait.

use std::time::Duration;

use crate::{
    config::{ConfigError, check_duration},
    moment::Moment,
};

/// Nobody who waits for an answer calls a longer wait short.
const DURATION_MAX: Duration = Duration::from_secs(60);

/// What counts as a standing queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodelConfig {
    /// The wait that is fine at any time.
    pub target: Duration,
    /// How long a queue may be longer than that before it stands.
    pub interval: Duration,
}

impl Default for CodelConfig {
    /// 5 ms and 100 ms: what CoDel was published with, and what it is usually run with in servers too.
    fn default() -> Self {
        Self { target: Duration::from_millis(5), interval: Duration::from_millis(100) }
    }
}

impl CodelConfig {
    /// # Errors
    /// When a field is out of its range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_duration("codel.interval", self.interval, DURATION_MAX)?;
        check_duration("codel.target", self.target, self.interval)
    }
}

/// The state machine.
#[derive(Debug)]
pub struct Codel {
    config: CodelConfig,
    /// When the interval is over whose shortest wait is looked for.
    ends: Moment,
    shortest: Duration,
    standing: bool,
}

impl Codel {
    /// A queue that does not stand.
    ///
    /// # Errors
    /// When a field is out of its range.
    pub fn new(config: CodelConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self { config, ends: Moment::default(), shortest: Duration::ZERO, standing: false })
    }

    /// Whether the queue stands.
    pub fn standing(&self) -> bool {
        self.standing
    }

    /// Whether a request is to be dropped that leaves the queue after such a wait.
    pub fn drops(&mut self, now: Moment, waited: Duration) -> bool {
        if now >= self.ends {
            // after a pause of more than an interval nothing is known of the queue, so it does not stand
            let known = now.since(self.ends) < self.config.interval;
            self.standing = known && self.shortest > self.config.target;
            self.ends = now + self.config.interval;
            self.shortest = waited;
        } else {
            self.shortest = self.shortest.min(waited);
        }
        self.standing && waited > self.config.target
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Requests that leave the queue every 2 ms after such waits; which of them were dropped.
    fn run(codel: &mut Codel, from_ms: u64, waits: impl IntoIterator<Item = u64>) -> Vec<bool> {
        let dropped = |(n, wait): (u64, u64)| codel.drops(Moment::default() + ms(from_ms + 2 * n), ms(wait));
        (0..).zip(waits).map(dropped).collect()
    }

    #[test]
    fn a_burst_is_let_through() {
        let mut codel = Codel::new(CodelConfig::default()).unwrap();
        // 50 requests at once, each 2 ms later than the one before, then none that wait
        assert!(!run(&mut codel, 1000, (0..50).map(|n| n * 2)).contains(&true));
        assert!(!run(&mut codel, 1100, [0; 100]).contains(&true));
    }

    #[test]
    fn of_a_standing_queue_only_what_is_fresh_gets_through() {
        let mut codel = Codel::new(CodelConfig::default()).unwrap();
        let dropped = run(&mut codel, 1000, [50; 200]);
        assert_eq!(dropped.iter().position(|dropped| *dropped), Some(50), "after one interval");
        assert!(dropped[50..].iter().all(|dropped| *dropped));
        assert!(codel.standing());
        assert_eq!(run(&mut codel, 1400, [4]), [false], "what has not waited long is served");
        let dropped = run(&mut codel, 1402, [50; 200]);
        assert!(dropped[..40].iter().all(|dropped| *dropped) && !dropped[60], "one short wait, one interval of grace");
    }

    #[test]
    fn a_pause_ends_it() {
        let mut codel = Codel::new(CodelConfig::default()).unwrap();
        run(&mut codel, 1000, [50; 100]);
        assert!(codel.standing());
        assert!(!codel.drops(Moment::default() + ms(5000), ms(50)));
    }

    #[test]
    fn a_target_longer_than_the_interval_is_refused() {
        let config = CodelConfig { target: ms(200), interval: ms(100) };
        let error = config.validate().unwrap_err();
        assert_eq!(error.to_string(), "codel.target: must be above 0s and at most 100ms, not 200ms");
    }
}
