//! What the EndpointSlice controller tells monitoring, under upstream's names.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use reconcile::Key;

use super::hints::Distribution;
use super::slices::{Counts, Plan};
use crate::metrics::{Family, Histogram};

/// Upper bounds of endpoints per sync: powers of two.
const ENDPOINTS: &[f64] =
    &[2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0, 32768.0];
/// Upper bounds of slices per sync: the client library's for everything that names none.
const SLICES: &[f64] = &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

static ADDED: Histogram = Histogram::new(
    "endpoint_slice_controller_endpoints_added_per_sync",
    "Endpoints added for each service that was synced.",
    &[],
    ENDPOINTS,
);
static REMOVED: Histogram = Histogram::new(
    "endpoint_slice_controller_endpoints_removed_per_sync",
    "Endpoints removed for each service that was synced.",
    &[],
    ENDPOINTS,
);
static CHANGED: Histogram = Histogram::new(
    "endpoint_slice_controller_endpointslices_changed_per_sync",
    "EndpointSlices changed for each service that was synced.",
    &["topology", "traffic_distribution"],
    SLICES,
);
static WRITES: Family =
    Family::counter("endpoint_slice_controller_changes", "Changes of EndpointSlices.", &["operation"]);
static SYNCS: Family = Family::counter("endpoint_slice_controller_syncs", "Syncs of services.", &["result"]);

/// What there is of a service.
#[derive(Debug)]
struct Service {
    counts: Counts,
    distribution: String,
}

/// As long as there are services.
static SERVICES: Mutex<BTreeMap<(String, String), Service>> = Mutex::new(BTreeMap::new());

/// Notes how a reconcile ended.
pub(super) fn synced(result: &'static str) {
    SYNCS.increase(&[result]);
}

/// Notes a write of a slice.
pub(super) fn wrote(operation: &'static str) {
    WRITES.increase(&[operation]);
}

/// Notes how many slices of a family changed.
pub(super) fn changed(slices: usize, distribution: Distribution<'_>) {
    let topology = if distribution == Distribution::Proportional { "Auto" } else { "Disabled" };
    CHANGED.observe(&[topology, distribution.name()], slices as f64);
}

/// Notes what is planned for a service.
pub(super) fn planned(key: &Key, plans: &[Plan], distribution: Distribution<'_>) {
    let mut counts = Counts::default();
    for plan in plans {
        ADDED.observe(&[], plan.counts.added as f64);
        REMOVED.observe(&[], plan.counts.removed as f64);
        counts.endpoints += plan.counts.endpoints;
        counts.slices += plan.counts.slices;
        counts.slices_min += plan.counts.slices_min;
    }
    let service = Service { counts, distribution: distribution.name().to_owned() };
    SERVICES.lock().insert((key.namespace.clone(), key.name.clone()), service);
}

/// The service is gone.
pub(super) fn forget(key: &Key) {
    SERVICES.lock().remove(&(key.namespace.clone(), key.name.clone()));
}

/// Appends everything in Prometheus' text format.
pub(crate) fn render(out: &mut String) {
    [&ADDED, &REMOVED, &CHANGED].iter().for_each(|histogram| histogram.render(out));
    [&WRITES, &SYNCS].iter().for_each(|family| family.render(out));
    render_services(SERVICES.lock().values(), out);
}

fn render_services<'a>(services: impl Iterator<Item = &'a Service>, out: &mut String) {
    let endpoints = Family::gauge("endpoint_slice_controller_endpoints_desired", "Endpoints that services want.", &[]);
    let slices = Family::gauge("endpoint_slice_controller_num_endpoint_slices", "EndpointSlices.", &[]);
    let slices_min =
        Family::gauge("endpoint_slice_controller_desired_endpoint_slices", "EndpointSlices if all were full.", &[]);
    let distributions = Family::gauge(
        "endpoint_slice_controller_services_count_by_traffic_distribution",
        "Services by where they want their traffic to go.",
        &["traffic_distribution"],
    );
    let mut total = Counts::default();
    for Service { counts, distribution } in services {
        total.endpoints += counts.endpoints;
        total.slices += counts.slices;
        total.slices_min += counts.slices_min;
        if !distribution.is_empty() {
            distributions.increase(&[distribution]);
        }
    }
    endpoints.set(&[], total.endpoints as f64);
    slices.set(&[], total.slices as f64);
    slices_min.set(&[], total.slices_min as f64);
    [endpoints, slices, slices_min, distributions].iter().for_each(|family| family.render(out));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_there_is_of_services_is_summed() {
        let counts = Counts { endpoints: 150, slices: 3, slices_min: 2, ..Counts::default() };
        let services =
            ["PreferClose", ""].map(|distribution| Service { counts, distribution: distribution.to_owned() });
        let mut out = String::new();
        render_services(services.iter(), &mut out);
        for line in [
            "endpoint_slice_controller_endpoints_desired 300",
            "endpoint_slice_controller_num_endpoint_slices 6",
            "endpoint_slice_controller_desired_endpoint_slices 4",
            "endpoint_slice_controller_services_count_by_traffic_distribution{traffic_distribution=\"PreferClose\"} 1",
        ] {
            assert!(out.lines().any(|found| found == line), "{line} in\n{out}");
        }
    }
}
