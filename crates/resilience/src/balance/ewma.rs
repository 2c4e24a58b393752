//! How long an endpoint takes, by a moving average that jumps up and sinks slowly.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    config::{ConfigError, check_duration},
    moment::Moment,
};

/// Time in an average is counted in 2¹⁴ ns, 16 µs: fine enough for a hundred thousand answers per second, and with 32 bits
/// it begins anew only after 19 hours. An endpoint that nobody asked for exactly that long keeps its average.
const TICK_BITS: u32 = 14;
/// No average looks back further.
const DECAY_MAX: Duration = Duration::from_secs(60 * 60);

/// The latency of an endpoint, as Finagle's peak EWMA has it: an answer that is slower than the average becomes the
/// average at once, one that is faster draws it down with time. So an endpoint that gets slow is avoided with the first slow
/// answer, and comes back step by step. Nothing is remembered for ever: without answers the average sinks, too, so that an
/// endpoint that was avoided is tried again.
///
/// Eight bytes: the average and when it was taken are one atomic number.
///
/// ```
/// use std::time::Duration;
/// use resilience::{Moment, balance::PeakEwma};
///
/// let latency = PeakEwma::new(Duration::from_secs(10), Duration::from_millis(5))?;
/// let now = Moment::from_nanos(0);
/// latency.answered(now, Duration::from_millis(50));
/// assert!(latency.load(now, 0, 1.0) >= 0.049);
/// assert!(latency.load(now, 3, 1.0) >= 4.0 * 0.049, "three requests are under way, and this would be the fourth");
/// assert!(latency.load(now + Duration::from_secs(20), 0, 1.0) < 0.01, "long ago");
/// # Ok::<_, resilience::ConfigError>(())
/// ```
#[derive(Debug)]
pub struct PeakEwma {
    decay_seconds: f32,
    /// Seconds as the bits of an f32 above, ticks below.
    state: AtomicU64,
}

impl PeakEwma {
    /// An average that forgets about two thirds within `decay`. Before the first answer an endpoint counts as if it took
    /// `initial`: with a short one, new endpoints are tried at once.
    ///
    /// # Errors
    /// When a duration is out of its range.
    pub fn new(decay: Duration, initial: Duration) -> Result<Self, ConfigError> {
        check_duration("decay", decay, DECAY_MAX)?;
        check_duration("initial", initial, DECAY_MAX)?;
        let state = AtomicU64::new(pack(initial.as_secs_f32(), 0));
        Ok(Self { decay_seconds: decay.as_secs_f32(), state })
    }

    /// An answer took this long. An error counts as what it cost: the time until a caller would have given up.
    pub fn answered(&self, now: Moment, took: Duration) {
        let (ticks, took) = (ticks(now), took.as_secs_f32());
        let mut state = self.state.load(Ordering::Relaxed);
        loop {
            let (average, then) = unpack(state);
            let kept = self.kept(then, ticks);
            // what it has sunk to by itself meanwhile
            let average = average * kept;
            let next = if took >= average {
                pack(took, ticks)
            } else if ticks == then {
                // no time has passed for it to sink in
                return;
            } else {
                pack(took + (average - took) * kept, ticks)
            };
            match self.state.compare_exchange_weak(state, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return,
                Err(current) => state = current,
            }
        }
    }

    /// What one more request would mean for the endpoint, in seconds: its latency for each of the requests under way and
    /// that one, shared by its weight.
    pub fn load(&self, now: Moment, under_way: u32, weight: f64) -> f64 {
        let (average, then) = unpack(self.state.load(Ordering::Relaxed));
        let latency = average * self.kept(then, ticks(now));
        f64::from(latency.max(f32::MIN_POSITIVE)) * (f64::from(under_way) + 1.0) / weight
    }

    /// What is left of an average after the time between two ticks.
    fn kept(&self, then: u32, now: u32) -> f32 {
        let passed = now.wrapping_sub(then);
        // another thread has been here with a later moment
        if passed > u32::MAX / 2 && then.wrapping_sub(now) < u32::MAX / 4 {
            return 1.0;
        }
        let seconds = passed as f32 * ((1u64 << TICK_BITS) as f32 / 1e9);
        (-seconds / self.decay_seconds).exp()
    }
}

fn ticks(now: Moment) -> u32 {
    (now.as_nanos() >> TICK_BITS) as u32
}

const fn pack(average: f32, ticks: u32) -> u64 {
    (average.to_bits() as u64) << 32 | ticks as u64
}

const fn unpack(state: u64) -> (f32, u32) {
    (f32::from_bits((state >> 32) as u32), state as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{balance::two_choices, moment::nanos, random::Random};

    fn ewma() -> PeakEwma {
        PeakEwma::new(Duration::from_secs(10), Duration::from_millis(1)).unwrap()
    }

    proptest! {
        #[test]
        fn an_average_lies_between_what_was_measured_and_jumps_to_peaks(
            answers in prop::collection::vec((0u64..5_000_000, 1u64..1_000_000), 1..200),
        ) {
            let (latency, mut now) = (ewma(), Moment::default() + Duration::from_secs(5));
            let mut highest = Duration::from_millis(1);
            for (step, micros) in answers {
                now = now + Duration::from_micros(step);
                let took = Duration::from_micros(micros);
                highest = highest.max(took);
                latency.answered(now, took);
                let load = latency.load(now, 0, 1.0);
                prop_assert!(load <= highest.as_secs_f64() * 1.0001, "{} above {:?}", load, highest);
                prop_assert!(load >= took.as_secs_f64() * 0.9999, "{} below {:?}", load, took);
            }
        }
    }

    #[test]
    fn the_ticks_may_begin_anew() {
        let (latency, round) = (ewma(), Duration::from_nanos(1 << (TICK_BITS + 32)));
        let now = Moment::default() + round - Duration::from_secs(1);
        latency.answered(now, Duration::from_secs(1));
        let later = latency.load(now + Duration::from_secs(10), 0, 1.0);
        assert!((0.36..0.38).contains(&later), "{later}");
        assert!(latency.load(now - Duration::from_secs(1), 0, 1.0) >= 0.99, "a thread that was late");
    }

    #[test]
    fn an_endpoint_that_gets_slow_loses_nearly_all_requests_and_gets_them_back() {
        let endpoints: Vec<_> = (0..10).map(|_| ewma()).collect();
        let (random, mut now) = (Random::seeded(2), Moment::default());
        let mut run = |slow_ms: u64, seconds: u32| {
            let mut slow = 0;
            for _ in 0..seconds * 1000 {
                now = now + Duration::from_millis(1);
                let chosen = two_choices(10, random.draw(), |n| endpoints[n].load(now, 0, 1.0)).unwrap();
                slow += u32::from(chosen == 3);
                let ms = if chosen == 3 { slow_ms } else { 10 };
                endpoints[chosen].answered(now, Duration::from_millis(ms));
            }
            slow
        };
        let fair = run(10, 10);
        assert!((700..1300).contains(&fair), "{fair} of 10,000");
        let slow = run(200, 10);
        assert!(slow < 20, "{slow} of 10,000 while it takes twenty times as long");
        run(10, 60);
        let back = run(10, 10);
        assert!(back > 500, "{back} of 10,000 after it has recovered");
    }

    #[test]
    fn no_decay_is_refused() {
        let error = PeakEwma::new(Duration::ZERO, Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.to_string(), "decay: must be above 0s and at most 3600s, not 0ns");
        assert_eq!(nanos(DECAY_MAX) >> TICK_BITS >> 32, 0, "the longest decay is less than a round of ticks");
    }
}
