//! Latencies, counted in buckets that are an eighth of a power of two wide.

use std::time::Duration;

/// Buckets of each power of two: what is read is at most an eighth too much.
const STEPS: usize = 8;
const STEP_BITS: u32 = STEPS.trailing_zeros();
/// Smaller numbers have a bucket each.
const BUCKETS: usize = (u64::BITS - STEP_BITS + 1) as usize * STEPS;

/// A histogram of durations from nanoseconds to centuries, in two kilobytes, read to an eighth.
#[derive(Debug)]
pub struct Latencies {
    counts: Box<[u32; BUCKETS]>,
    count: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// An empty one.
    pub fn new() -> Self {
        Self { counts: Box::new([0; BUCKETS]), count: 0 }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds one.
    pub fn add(&mut self, nanos: u64) {
        let bucket = &mut self.counts[bucket(nanos)];
        if *bucket < u32::MAX {
            *bucket += 1;
            self.count += 1;
        }
    }

    /// The duration that so many of one hundred do not exceed (0.5 is the median), or up to an eighth more.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let wanted = ((self.count as f64 * share).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        });
        reached.map(|bucket| Duration::from_nanos(largest(bucket)))
    }

    /// Lets what is there count half, so that what comes counts more.
    pub fn age(&mut self) {
        self.counts.iter_mut().for_each(|count| *count /= 2);
        self.count = self.counts.iter().map(|count| u64::from(*count)).sum();
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEPS as u64 {
        return nanos as usize;
    }
    let power = nanos.ilog2() - STEP_BITS;
    (power as usize + 1) * STEPS + ((nanos >> power) as usize - STEPS)
}

/// The largest number of a bucket.
fn largest(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let power = (bucket / STEPS - 1) as u32;
    let next = u128::from((bucket % STEPS + STEPS + 1) as u64) << power;
    u64::try_from(next - 1).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_holds_what_is_at_most_an_eighth_less_than_its_largest(nanos: u64) {
            let largest = largest(bucket(nanos));
            prop_assert!(largest >= nanos && largest - nanos <= nanos / 8);
        }

        #[test]
        fn quantiles_are_right_to_an_eighth(mut all in prop::collection::vec(0u64..10_000_000_000, 1..300), share in 0.01f64..1.0) {
            let mut latencies = Latencies::new();
            all.iter().for_each(|nanos| latencies.add(*nanos));
            all.sort_unstable();
            let exact = all[((all.len() as f64 * share).ceil() as usize).clamp(1, all.len()) - 1];
            let read = latencies.quantile(share).unwrap().as_nanos() as u64;
            prop_assert!(read >= exact && read - exact <= exact / 8, "{} for {}", read, exact);
        }
    }

    #[test]
    fn the_ends_have_buckets() {
        let mut latencies = Latencies::new();
        assert_eq!(latencies.quantile(0.5), None);
        latencies.add(u64::MAX);
        assert_eq!(latencies.quantile(1.0), Some(Duration::from_nanos(u64::MAX)));
        latencies.age();
        assert_eq!((latencies.count(), latencies.quantile(0.5)), (0, None));
    }
}
