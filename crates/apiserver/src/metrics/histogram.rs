//! Histograms with fixed bounds: an observation is two atomic additions and takes no lock.

use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// From a millisecond on, each twice the one before.
pub(crate) static DOUBLING: Bounds = Bounds::seconds(&[
    0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384,
]);

/// What is measured, and the upper bounds of the buckets.
#[derive(Debug)]
pub(crate) struct Bounds {
    unit: Unit,
    upper: &'static [f64],
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Unit {
    Seconds,
    /// Of times so long that nanoseconds would overflow.
    WholeSeconds,
    Bytes,
}

impl Bounds {
    /// Of times, in seconds.
    pub(crate) const fn seconds(upper: &'static [f64]) -> Self {
        Self { unit: Unit::Seconds, upper }
    }

    /// Of long times, in seconds.
    pub(crate) const fn whole_seconds(upper: &'static [f64]) -> Self {
        Self { unit: Unit::WholeSeconds, upper }
    }

    /// Of sizes, in bytes.
    pub(crate) const fn bytes(upper: &'static [f64]) -> Self {
        Self { unit: Unit::Bytes, upper }
    }
}

/// How often values fell between two bounds, and their sum.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: &'static Bounds,
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    /// In nanoseconds, seconds or bytes.
    sum: AtomicU64,
}

impl Histogram {
    /// An empty one.
    pub(crate) fn new(bounds: &'static Bounds) -> Self {
        let counts = (0..=bounds.upper.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Notes a time.
    pub(crate) fn took(&self, took: Duration) {
        let amount = match self.bounds.unit {
            Unit::WholeSeconds => took.as_secs(),
            _ => u64::try_from(took.as_nanos()).unwrap_or(u64::MAX),
        };
        self.note(took.as_secs_f64(), amount);
    }

    /// Notes a size.
    pub(crate) fn sized(&self, bytes: u64) {
        self.note(bytes as f64, bytes);
    }

    fn note(&self, value: f64, amount: u64) {
        let upper = self.bounds.upper;
        let bucket = upper.iter().position(|bound| value <= *bound).unwrap_or(upper.len());
        self.counts[bucket].fetch_add(1, Relaxed);
        self.sum.fetch_add(amount, Relaxed);
    }

    /// How many values were noted.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Whether anything was noted.
    pub(crate) fn is_used(&self) -> bool {
        self.counts.iter().any(|count| count.load(Relaxed) > 0)
    }

    /// Appends the lines of this histogram; `labels` are its own.
    pub(crate) fn render(&self, name: &str, labels: &str, out: &mut String) {
        self.render_above(0.0, name, labels, out);
    }

    /// Appends the lines of this histogram, as though it had no bound below `least`.
    pub(crate) fn render_above(&self, least: f64, name: &str, labels: &str, out: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (index, count) in self.counts.iter().enumerate() {
            total += count.load(Relaxed);
            if self.bounds.upper.get(index).is_some_and(|bound| *bound < least) {
                continue;
            }
            let bound = self.bounds.upper.get(index).map_or("+Inf".to_owned(), |bound| cel::format_double(*bound));
            let _ = writeln!(out, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {total}");
        }
        let sum = self.sum.load(Relaxed);
        let sum = match self.bounds.unit {
            Unit::Seconds => Duration::from_nanos(sum).as_secs_f64(),
            Unit::WholeSeconds | Unit::Bytes => sum as f64,
        };
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}_sum{labels} {sum}\n{name}_count{labels} {total}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_count_what_is_not_above_their_bound() {
        static BOUNDS: Bounds = Bounds::bytes(&[1e3, 1e6]);
        let histogram = Histogram::new(&BOUNDS);
        for bytes in [1000, 1001, 5_000_000] {
            histogram.sized(bytes);
        }
        let mut out = String::new();
        histogram.render("sizes", "a=\"b\"", &mut out);
        let lines = [
            "sizes_bucket{a=\"b\",le=\"1000\"} 1",
            "sizes_bucket{a=\"b\",le=\"1e+06\"} 2",
            "sizes_bucket{a=\"b\",le=\"+Inf\"} 3",
            "sizes_sum{a=\"b\"} 5002001",
            "sizes_count{a=\"b\"} 3",
        ];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn long_times_do_not_overflow_their_sum() {
        static BOUNDS: Bounds = Bounds::whole_seconds(&[0.0, 60.0]);
        let histogram = Histogram::new(&BOUNDS);
        let years = Duration::from_secs(10 * 365 * 24 * 3600);
        (0..1000).for_each(|_| histogram.took(years));
        let mut out = String::new();
        histogram.render_above(1.0, "left", "", &mut out);
        let lines =
            ["left_bucket{le=\"60\"} 0", "left_bucket{le=\"+Inf\"} 1000", "left_sum 315360000000", "left_count 1000"];
        assert_eq!(out.lines().collect::<Vec<_>>(), lines);
    }

    #[test]
    fn times_are_summed_in_seconds() {
        static BOUNDS: Bounds = Bounds::seconds(&[0.5]);
        let histogram = Histogram::new(&BOUNDS);
        histogram.took(Duration::from_millis(250));
        let mut out = String::new();
        histogram.render("wait", "", &mut out);
        assert!(out.ends_with("wait_sum 0.25\nwait_count 1\n"), "{out}");
    }
}
