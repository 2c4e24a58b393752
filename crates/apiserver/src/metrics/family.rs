//! Families of metrics whose labels are only known when they are counted, such as the names of webhooks.
//!
//! Finding the series takes a lock and makes a text, so families are for what happens rarely or takes long anyway. What
//! every request counts has fixed places instead.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use parking_lot::RwLock;

use super::{head, histogram::Histogram};

/// Series of one family at most: more than any cluster has webhooks, policies and bindings that do something. What comes
/// later is not counted.
const SERIES_MAX: usize = 4096;

/// Label names with their values, in the order of names.
pub(crate) type Labels<'a> = &'a [(&'static str, &'a str)];

/// All series of one metric.
#[derive(Debug)]
pub(crate) struct Family<M> {
    name: &'static str,
    help: &'static str,
    make: fn() -> M,
    series: RwLock<BTreeMap<String, Arc<M>>>,
}

impl<M> Family<M> {
    /// A family of metrics that `make` makes.
    pub(crate) fn new(name: &'static str, help: &'static str, make: fn() -> M) -> Self {
        Self { name, help, make, series: RwLock::default() }
    }

    /// Forgets all series.
    pub(crate) fn clear(&self) {
        self.series.write().clear();
    }

    fn find(&self, labels: Labels<'_>) -> Option<Arc<M>> {
        let labels = render_labels(labels);
        if let Some(known) = self.series.read().get(&labels) {
            return Some(known.clone());
        }
        let mut series = self.series.write();
        if series.len() >= SERIES_MAX && !series.contains_key(&labels) {
            return None;
        }
        Some(series.entry(labels).or_insert_with(|| Arc::new((self.make)())).clone())
    }
}

impl Family<AtomicU64> {
    /// A family of counters.
    pub(crate) fn counters(name: &'static str, help: &'static str) -> Self {
        Self::new(name, help, AtomicU64::default)
    }

    /// Counts one.
    pub(crate) fn count(&self, labels: Labels<'_>) {
        if let Some(counter) = self.find(labels) {
            counter.fetch_add(1, Relaxed);
        }
    }

    /// Sets a gauge.
    pub(crate) fn set(&self, labels: Labels<'_>, value: u64) {
        if let Some(gauge) = self.find(labels) {
            gauge.store(value, Relaxed);
        }
    }

    /// Appends the family, as `kind`.
    pub(crate) fn render(&self, kind: &str, out: &mut String) {
        head(out, self.name, kind, self.help);
        for (labels, counter) in &*self.series.read() {
            let _ = writeln!(out, "{}{{{labels}}} {}", self.name, counter.load(Relaxed));
        }
    }
}

impl Family<Histogram> {
    /// Notes a time.
    pub(crate) fn took(&self, labels: Labels<'_>, took: std::time::Duration) {
        if let Some(histogram) = self.find(labels) {
            histogram.took(took);
        }
    }

    /// Appends the family.
    pub(crate) fn render(&self, out: &mut String) {
        head(out, self.name, "histogram", self.help);
        for (labels, histogram) in &*self.series.read() {
            histogram.render(self.name, labels, out);
        }
    }
}

/// `a="b",c="d"`, with what would end a value escaped.
fn render_labels(labels: Labels<'_>) -> String {
    let mut text = String::new();
    for (name, value) in labels {
        let comma = if text.is_empty() { "" } else { "," };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{comma}{name}=\"{value}\"");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_told_apart_by_their_labels() {
        let family = Family::counters("denied_total", "What was denied.");
        family.count(&[("name", "a"), ("type", "x")]);
        family.count(&[("name", "a"), ("type", "x")]);
        family.count(&[("name", "quote \" and \\"), ("type", "x")]);
        let mut out = String::new();
        family.render("counter", &mut out);
        assert_eq!(
            out,
            "# HELP denied_total What was denied.\n# TYPE denied_total counter\n\
             denied_total{name=\"a\",type=\"x\"} 2\ndenied_total{name=\"quote \\\" and \\\\\",type=\"x\"} 1\n"
        );
    }

    #[test]
    fn the_number_of_series_has_a_bound() {
        let family = Family::counters("c", "h");
        for index in 0..=SERIES_MAX {
            family.count(&[("n", &index.to_string())]);
        }
        assert_eq!(family.series.read().len(), SERIES_MAX);
    }
}
