//! Counters, gauges and histograms of controllers, under upstream's names, as Prometheus reads them.
//!
//! Each controller declares its own as statics, and `render_metrics` of the crate has them written. Labels come from fixed
//! sets, reasons the API knows, zones of nodes, and names of objects for as long as there are such, so their number is bounded
//! by the cluster's shape.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use parking_lot::Mutex;

/// What a value is to monitoring.
#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
}

/// Values by labels.
pub(crate) struct Family {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    values: Mutex<BTreeMap<Vec<String>, f64>>,
}

impl Family {
    /// What only grows.
    pub(crate) const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: Kind::Counter, labels, values: Mutex::new(BTreeMap::new()) }
    }

    /// What goes up and down.
    pub(crate) const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Self {
        Self { name, help, kind: Kind::Gauge, labels, values: Mutex::new(BTreeMap::new()) }
    }

    /// Counts one more.
    pub(crate) fn increase(&self, labels: &[&str]) {
        self.add(labels, 1);
    }

    /// Counts so many more; none makes the value appear.
    pub(crate) fn add(&self, labels: &[&str], more: u64) {
        self.change(labels, |value| value + more as f64);
    }

    /// Says what it is now.
    pub(crate) fn set(&self, labels: &[&str], value: f64) {
        self.change(labels, |_| value);
    }

    /// Says nothing more of what has these first labels.
    pub(crate) fn forget(&self, first: &[&str]) {
        self.values.lock().retain(|labels, _| !first.iter().zip(labels).all(|(first, label)| first == label));
    }

    fn change(&self, labels: &[&str], to: impl Fn(f64) -> f64) {
        let mut values = self.values.lock();
        let value = values.entry(labels.iter().map(|label| (*label).to_owned()).collect()).or_default();
        *value = to(*value);
    }

    /// Appends the family; a counter without labels is there from the beginning.
    pub(crate) fn render(&self, out: &mut String) {
        let kind = match self.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        head(self.name, self.help, kind, out);
        let values = self.values.lock();
        if values.is_empty() && self.labels.is_empty() {
            let _ = writeln!(out, "{} 0", self.name);
        }
        for (labels, value) in &*values {
            let _ = writeln!(out, "{}{} {value}", self.name, braced(self.labels, labels, None));
        }
    }
}

#[derive(Default)]
struct Observed {
    /// One for each bound, and one for what is beyond the last.
    buckets: Vec<u64>,
    sum: f64,
}

/// How values are spread, by labels.
pub(crate) struct Histogram {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    bounds: &'static [f64],
    observed: Mutex<BTreeMap<Vec<String>, Observed>>,
}

impl Histogram {
    /// With these upper bounds, which ascend.
    pub(crate) const fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        bounds: &'static [f64],
    ) -> Self {
        Self { name, help, labels, bounds, observed: Mutex::new(BTreeMap::new()) }
    }

    /// Notes a value.
    pub(crate) fn observe(&self, labels: &[&str], value: f64) {
        let mut observed = self.observed.lock();
        let observed = observed.entry(labels.iter().map(|label| (*label).to_owned()).collect()).or_default();
        observed.buckets.resize(self.bounds.len() + 1, 0);
        let bucket = self.bounds.iter().position(|bound| value <= *bound).unwrap_or(self.bounds.len());
        observed.buckets[bucket] += 1;
        observed.sum += value;
    }

    /// Notes a time in seconds.
    pub(crate) fn observe_time(&self, labels: &[&str], took: Duration) {
        self.observe(labels, took.as_secs_f64());
    }

    /// Appends the family.
    pub(crate) fn render(&self, out: &mut String) {
        head(self.name, self.help, "histogram", out);
        for (labels, observed) in &*self.observed.lock() {
            let mut total = 0;
            for (at, count) in observed.buckets.iter().enumerate() {
                total += count;
                let bound = self.bounds.get(at).map_or_else(|| "+Inf".to_owned(), f64::to_string);
                let labels = braced(self.labels, labels, Some(&bound));
                let _ = writeln!(out, "{}_bucket{labels} {total}", self.name);
            }
            let labels = braced(self.labels, labels, None);
            let _ = writeln!(out, "{0}_sum{labels} {1}\n{0}_count{labels} {total}", self.name, observed.sum);
        }
    }
}

fn head(name: &str, help: &str, kind: &str, out: &mut String) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn braced(names: &[&str], values: &[String], bound: Option<&str>) -> String {
    let mut text = String::new();
    for (name, value) in names.iter().copied().zip(values.iter().map(String::as_str)).chain(bound.map(|le| ("le", le)))
    {
        let before = if text.is_empty() { '{' } else { ',' };
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{before}{name}=\"{value}\"");
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_written_as_prometheus_reads_them() {
        let mut out = String::new();
        let plain = Family::counter("deleted_total", "Deleted.", &[]);
        plain.render(&mut out);
        plain.add(&[], 2);
        plain.render(&mut out);
        let zones = Family::gauge("zone_size", "Nodes.", &["zone"]);
        zones.set(&["a\"b"], 3.0);
        zones.set(&["a\"b"], 1.5);
        zones.set(&["gone"], 1.0);
        zones.forget(&["gone"]);
        zones.render(&mut out);
        let times = Histogram::new("time_seconds", "Time.", &["mode"], &[0.1, 1.0]);
        times.observe(&["x"], 0.1);
        times.observe_time(&["x"], Duration::from_secs(5));
        times.render(&mut out);
        let expected = "# HELP deleted_total Deleted.\n# TYPE deleted_total counter\ndeleted_total 0\n\
            # HELP deleted_total Deleted.\n# TYPE deleted_total counter\ndeleted_total 2\n\
            # HELP zone_size Nodes.\n# TYPE zone_size gauge\nzone_size{zone=\"a\\\"b\"} 1.5\n\
            # HELP time_seconds Time.\n# TYPE time_seconds histogram\n\
            time_seconds_bucket{mode=\"x\",le=\"0.1\"} 1\ntime_seconds_bucket{mode=\"x\",le=\"1\"} 1\n\
            time_seconds_bucket{mode=\"x\",le=\"+Inf\"} 2\ntime_seconds_sum{mode=\"x\"} 5.1\ntime_seconds_count{mode=\"x\"} 2\n";
        assert_eq!(out, expected);
    }
}
