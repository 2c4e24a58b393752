//! How often something took how much, in the buckets that upstream has for it.

use std::fmt::Write as _;

/// Bounds that double, as upstream's do.
pub(super) const fn doubling<const N: usize>(first: f64) -> [f64; N] {
    let mut bounds = [first; N];
    let mut at = 1;
    while at < N {
        bounds[at] = bounds[at - 1] * 2.0;
        at += 1;
    }
    bounds
}

/// A histogram. All of a metric share their bounds, which are kept beside.
#[derive(Clone, Debug)]
pub(super) struct Histogram<const N: usize> {
    counts: [u64; N],
    beyond: u64,
    sum: f64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { counts: [0; N], beyond: 0, sum: 0.0 }
    }
}

impl<const N: usize> Histogram<N> {
    pub(super) fn note(&mut self, bounds: &[f64; N], value: f64) {
        match bounds.iter().position(|bound| value <= *bound) {
            Some(bucket) => self.counts[bucket] += 1,
            None => self.beyond += 1,
        }
        self.sum += value;
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.beyond
    }

    /// Appends its series; `labels` are those that all of them have, with a comma behind each.
    pub(super) fn render(&self, name: &str, bounds: &[f64; N], labels: &str, out: &mut String) {
        let mut total = 0;
        for (bound, count) in bounds.iter().zip(self.counts) {
            total += count;
            let _ = writeln!(out, "{name}_bucket{{{labels}le=\"{bound}\"}} {total}");
        }
        let count = self.count();
        let _ = writeln!(out, "{name}_bucket{{{labels}le=\"+Inf\"}} {count}");
        let own = match labels.strip_suffix(',') {
            Some(labels) => format!("{{{labels}}}"),
            None => String::new(),
        };
        let _ = writeln!(out, "{name}_sum{own} {}\n{name}_count{own} {count}", self.sum);
    }
}
