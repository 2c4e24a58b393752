//! How fast something is done that can wait: a burst at once, then so many a second.

use std::time::Duration;

use tokio::time::Instant;

/// Credit that is used up and refills with time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    burst: f64,
    per_second: f64,
    /// How much credit is worth being woken for.
    portion: f64,
    credit: f64,
    at: Instant,
}

impl Pace {
    /// A pace of `per_second` after a `burst`; who has used up everything waits for a `portion`.
    pub fn new(burst: u32, per_second: u32, portion: u32) -> Self {
        let [burst, per_second, portion] = [burst, per_second, portion].map(f64::from);
        Self { burst, per_second, portion, credit: burst, at: Instant::now() }
    }

    /// How long to wait before the next one; zero when it may be done now.
    pub fn pause(&mut self, now: Instant) -> Duration {
        let earned = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.credit = (self.credit + earned).min(self.burst);
        self.at = now;
        if self.credit >= 1.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64((self.portion - self.credit) / self.per_second)
    }

    /// Notes that one is done.
    pub fn spend(&mut self) {
        self.credit -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_burst_is_done_at_once_and_more_of_it_bit_by_bit() {
        let start = Instant::now();
        let mut pace = Pace::new(64, 1000, 8);
        let mut now = start;
        for _ in 0..164 {
            now += pace.pause(now);
            assert!(pace.pause(now).is_zero());
            pace.spend();
        }
        assert_eq!(now.duration_since(start).as_millis(), 104, "100 beyond the burst, in eights");
        assert!(pace.pause(now + Duration::from_secs(60)).is_zero());
        assert!((pace.credit - 64.0).abs() < f64::EPSILON, "what is not used is not saved up");
    }
}
