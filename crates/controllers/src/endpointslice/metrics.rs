//! What the EndpointSlice controller tells monitoring, under upstream's names.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use parking_lot::Mutex;
use reconcile::Key;

use super::hints::Distribution;
use super::slices::{Counts, Plan};

const PREFIX: &str = "endpoint_slice_controller";
/// Upper bounds of endpoints per sync: powers of two.
const ENDPOINTS: [f64; 15] =
    [2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0];
/// Upper bounds of slices per sync: the client library's for everything that names none.
const SLICES: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Numbers, by how large they were.
#[derive(Debug, Default)]
struct Histogram {
    /// How many were at most the bound of that place, and no smaller one.
    counts: BTreeMap<usize, u64>,
    sum: u64,
}

impl Histogram {
    fn note(&mut self, number: usize, bounds: &[f64]) {
        let place = bounds.iter().position(|bound| number as f64 <= *bound).unwrap_or(bounds.len());
        *self.counts.entry(place).or_default() += 1;
        self.sum += number as u64;
    }

    fn render(&self, out: &mut String, name: &str, labels: &str, bounds: &[f64]) {
        let separator = if labels.is_empty() { "" } else { "," };
        let mut total = 0;
        for (place, bound) in bounds.iter().map(ToString::to_string).chain(["+Inf".to_owned()]).enumerate() {
            total += self.counts.get(&place).copied().unwrap_or(0);
            let _ = writeln!(out, "{name}_bucket{{{labels}{separator}le=\"{bound}\"}} {total}");
        }
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(out, "{name}_sum{labels} {}\n{name}_count{labels} {total}", self.sum);
    }
}

/// What there is of a service.
#[derive(Debug)]
struct Service {
    counts: Counts,
    distribution: String,
}

#[derive(Debug, Default)]
struct Metrics {
    added: Histogram,
    removed: Histogram,
    changed: BTreeMap<(&'static str, String), Histogram>,
    writes: BTreeMap<&'static str, u64>,
    syncs: BTreeMap<&'static str, u64>,
    services: BTreeMap<(String, String), Service>,
}

static METRICS: Mutex<Metrics> = Mutex::new(Metrics {
    added: Histogram { counts: BTreeMap::new(), sum: 0 },
    removed: Histogram { counts: BTreeMap::new(), sum: 0 },
    changed: BTreeMap::new(),
    writes: BTreeMap::new(),
    syncs: BTreeMap::new(),
    services: BTreeMap::new(),
});

/// Notes how a reconcile ended.
pub(super) fn synced(result: &'static str) {
    *METRICS.lock().syncs.entry(result).or_default() += 1;
}

/// Notes a write of a slice.
pub(super) fn wrote(operation: &'static str) {
    *METRICS.lock().writes.entry(operation).or_default() += 1;
}

/// Notes how many slices of a family changed.
pub(super) fn changed(slices: usize, distribution: Distribution<'_>) {
    let topology = if distribution == Distribution::Proportional { "Auto" } else { "Disabled" };
    let labels = (topology, distribution.name().to_owned());
    METRICS.lock().changed.entry(labels).or_default().note(slices, &SLICES);
}

/// Notes what is planned for a service.
pub(super) fn planned(key: &Key, plans: &[Plan], distribution: Distribution<'_>) {
    let mut counts = Counts::default();
    let mut metrics = METRICS.lock();
    for plan in plans {
        metrics.added.note(plan.counts.added, &ENDPOINTS);
        metrics.removed.note(plan.counts.removed, &ENDPOINTS);
        counts.endpoints += plan.counts.endpoints;
        counts.slices += plan.counts.slices;
        counts.slices_min += plan.counts.slices_min;
    }
    let service = Service { counts, distribution: distribution.name().to_owned() };
    metrics.services.insert((key.namespace.clone(), key.name.clone()), service);
}

/// The service is gone.
pub(super) fn forget(key: &Key) {
    METRICS.lock().services.remove(&(key.namespace.clone(), key.name.clone()));
}

/// Appends everything in Prometheus' text format.
pub(crate) fn render(out: &mut String) {
    METRICS.lock().render(out);
}

impl Metrics {
    fn render(&self, out: &mut String) {
        let head = |out: &mut String, name: &str, kind: &str, help: &str| {
            let name = format!("{PREFIX}_{name}");
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            name
        };
        let name =
            head(out, "endpoints_added_per_sync", "histogram", "Endpoints added for each service that was synced.");
        self.added.render(out, &name, "", &ENDPOINTS);
        let help = "Endpoints removed for each service that was synced.";
        let name = head(out, "endpoints_removed_per_sync", "histogram", help);
        self.removed.render(out, &name, "", &ENDPOINTS);
        let help = "EndpointSlices changed for each service that was synced.";
        let name = head(out, "endpointslices_changed_per_sync", "histogram", help);
        for ((topology, distribution), histogram) in &self.changed {
            let labels = format!("topology=\"{topology}\",traffic_distribution=\"{distribution}\"");
            histogram.render(out, &name, &labels, &SLICES);
        }
        let name = head(out, "changes", "counter", "Changes of EndpointSlices.");
        for (operation, count) in &self.writes {
            let _ = writeln!(out, "{name}{{operation=\"{operation}\"}} {count}");
        }
        let name = head(out, "syncs", "counter", "Syncs of services.");
        for (result, count) in &self.syncs {
            let _ = writeln!(out, "{name}{{result=\"{result}\"}} {count}");
        }
        let total = |of: fn(&Counts) -> usize| self.services.values().map(|service| of(&service.counts)).sum::<usize>();
        for (name, help, value) in [
            ("endpoints_desired", "Endpoints that services want.", total(|counts| counts.endpoints)),
            ("num_endpoint_slices", "EndpointSlices.", total(|counts| counts.slices)),
            ("desired_endpoint_slices", "EndpointSlices if all were full.", total(|counts| counts.slices_min)),
        ] {
            let name = head(out, name, "gauge", help);
            let _ = writeln!(out, "{name} {value}");
        }
        let mut by_distribution: BTreeMap<&str, u64> = BTreeMap::new();
        for service in self.services.values().filter(|service| !service.distribution.is_empty()) {
            *by_distribution.entry(&service.distribution).or_default() += 1;
        }
        let help = "Services by where they want their traffic to go.";
        let name = head(out, "services_count_by_traffic_distribution", "gauge", help);
        for (distribution, count) in by_distribution {
            let _ = writeln!(out, "{name}{{traffic_distribution=\"{distribution}\"}} {count}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_upstreams_names_and_buckets_that_add_up() {
        let mut metrics = Metrics::default();
        [1, 3, 100_000].into_iter().for_each(|number| metrics.added.note(number, &ENDPOINTS));
        metrics.changed.entry(("Auto", String::new())).or_default().note(2, &SLICES);
        let counts = Counts { endpoints: 150, slices: 3, slices_min: 2, ..Counts::default() };
        for (name, distribution) in [("a", "PreferClose"), ("b", "")] {
            let service = Service { counts, distribution: distribution.to_owned() };
            metrics.services.insert(("default".to_owned(), name.to_owned()), service);
        }
        let mut out = String::new();
        metrics.render(&mut out);
        for line in [
            "endpoint_slice_controller_endpoints_added_per_sync_bucket{le=\"2\"} 1",
            "endpoint_slice_controller_endpoints_added_per_sync_bucket{le=\"32768\"} 2",
            "endpoint_slice_controller_endpoints_added_per_sync_bucket{le=\"+Inf\"} 3",
            "endpoint_slice_controller_endpoints_added_per_sync_count 3",
            "endpoint_slice_controller_endpointslices_changed_per_sync_bucket{topology=\"Auto\",traffic_distribution=\"\",le=\"2.5\"} 1",
            "endpoint_slice_controller_endpoints_desired 300",
            "endpoint_slice_controller_num_endpoint_slices 6",
            "endpoint_slice_controller_desired_endpoint_slices 4",
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"PreferClose\"} 1",
        ] {
            assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
        }
    }
}
