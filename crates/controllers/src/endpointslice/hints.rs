//! For whom endpoints are meant: hints by which data planes keep traffic near.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, EndpointSlice, ForNode, ForZone};
use kube::ResourceExt;

use super::slices::Plan;
use super::topology::{self, Allocation, Ratios};

/// Asks for hints in proportion to the zones' CPUs. The older name goes before the newer one.
const MODES: [&str; 2] = ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];

/// What a service asks its endpoints to be meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Distribution<'a> {
    /// Everybody.
    Everywhere,
    /// So that each zone has endpoints by its share of the CPUs.
    Proportional,
    /// Those in the endpoint's zone; by the name that the service calls it.
    SameZone(&'a str),
    /// Those on the endpoint's node, else those in its zone.
    SameNode,
}

impl<'a> Distribution<'a> {
    /// The annotation goes before the field.
    pub(super) fn of(service: &'a Service) -> Self {
        let mode = MODES.iter().find_map(|name| service.annotations().get(*name));
        if mode.is_some_and(|mode| mode == "Auto" || mode == "auto") {
            return Self::Proportional;
        }
        match service.spec.as_ref().and_then(|spec| spec.traffic_distribution.as_deref()) {
            Some(name @ ("PreferClose" | "PreferSameZone")) => Self::SameZone(name),
            Some("PreferSameNode") => Self::SameNode,
            _ => Self::Everywhere,
        }
    }

    /// The name that monitoring knows it by.
    pub(super) fn name(self) -> &'a str {
        match self {
            Self::Everywhere | Self::Proportional => "",
            Self::SameZone(name) => name,
            Self::SameNode => "PreferSameNode",
        }
    }
}

/// Endpoints meant for each zone.
pub(super) type ByZone = BTreeMap<String, usize>;

/// Gives every endpoint of the plan the hint that follows from it alone.
pub(super) fn near(plan: &mut Plan, distribution: Distribution<'_>) {
    apply(plan, |endpoint| {
        if !is_ready(endpoint) || distribution == Distribution::Everywhere {
            return None;
        }
        let for_zones = endpoint.zone.as_ref().map(|name| vec![ForZone { name: name.clone() }]);
        let node = endpoint.node_name.as_ref().filter(|_| distribution == Distribution::SameNode);
        let for_nodes = node.map(|name| vec![ForNode { name: name.clone() }]);
        (for_zones.is_some() || for_nodes.is_some()).then_some(EndpointHints { for_zones, for_nodes })
    });
}

/// Takes the hints from all endpoints.
pub(super) fn none(plan: &mut Plan) {
    near(plan, Distribution::Everywhere);
}

fn apply(plan: &mut Plan, hints: impl Fn(&Endpoint) -> Option<EndpointHints>) {
    let differs = |slice: &EndpointSlice| slice.endpoints.iter().flatten().any(|one| one.hints != hints(one));
    rewrite(plan, |slice| differs(slice));
    for slice in plan.written() {
        for endpoint in slice.endpoints.iter_mut().flatten() {
            endpoint.hints = hints(endpoint);
        }
    }
}

/// Makes unchanged slices be written.
fn rewrite(plan: &mut Plan, mut is_to_be: impl FnMut(&EndpointSlice) -> bool) {
    let (update, unchanged): (Vec<_>, Vec<_>) =
        std::mem::take(&mut plan.unchanged).into_iter().partition(|s| is_to_be(s));
    plan.unchanged = unchanged;
    plan.update.extend(update.into_iter().map(Arc::unwrap_or_clone));
}

/// Means endpoints for zones in proportion to the zones' CPUs, or says why that cannot be; then nothing is changed. Slices
/// that are not written anyway stay as they are as long as no zone has more than it may.
pub(super) fn proportional(plan: &mut Plan, ratios: Option<&Ratios>) -> Result<ByZone, String> {
    let slices = plan.create.iter().chain(&plan.update).chain(plan.unchanged.iter().map(AsRef::as_ref));
    let ready: Vec<_> = slices.flat_map(|slice| slice.endpoints.iter().flatten()).filter(|one| is_ready(one)).collect();
    let allocations = topology::allocations(ratios, ready.len())?;
    if ready.iter().any(|endpoint| endpoint.zone.as_ref().is_none_or(String::is_empty)) {
        return Err("One or more endpoints do not have a zone specified".to_owned());
    }
    let mut meant = ByZone::new();
    rewrite(plan, |slice| match hints_by_zone(slice, &meant, &allocations) {
        Some(hints) => {
            hints.into_iter().for_each(|(zone, count)| *meant.entry(zone).or_default() += count);
            false
        }
        None => true,
    });
    for endpoint in plan.written().flat_map(|slice| slice.endpoints.iter_mut().flatten()) {
        endpoint.hints = None;
        if let Some(zone) = endpoint.zone.clone().filter(|_| is_ready(endpoint)) {
            *meant.entry(zone.clone()).or_default() += 1;
            endpoint.hints = Some(for_zone(zone));
        }
    }
    let (mut giving, mut receiving) = topology::exchange(&allocations, &meant);
    for endpoint in plan.written().flat_map(|slice| slice.endpoints.iter_mut().flatten()) {
        let Some(from) = endpoint.zone.clone().filter(|_| is_ready(endpoint)) else { continue };
        let Some(give) = giving.get_mut(&from).filter(|left| **left > 0) else { continue };
        let Some((to, receive)) = receiving.iter_mut().find(|(_, left)| **left > 0) else { break };
        *give -= 1;
        *receive -= 1;
        meant.entry(from).and_modify(|count| *count -= 1);
        *meant.entry(to.clone()).or_default() += 1;
        endpoint.hints = Some(for_zone(to.clone()));
    }
    Ok(meant)
}

fn for_zone(name: String) -> EndpointHints {
    EndpointHints { for_zones: Some(vec![ForZone { name }]), for_nodes: None }
}

/// How many endpoints of an unchanged slice are meant for each zone; `None` when one is meant for none, or a zone would
/// have too many.
fn hints_by_zone(slice: &EndpointSlice, meant: &ByZone, allocations: &BTreeMap<String, Allocation>) -> Option<ByZone> {
    let mut hints = ByZone::new();
    for endpoint in slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint)) {
        let zones = endpoint.hints.as_ref()?.for_zones.as_ref().filter(|zones| !zones.is_empty())?;
        for zone in zones {
            allocations.get(&zone.name)?;
            *hints.entry(zone.name.clone()).or_default() += 1;
        }
    }
    let fits = |(zone, count): (&String, &usize)| {
        let already = meant.get(zone).copied().unwrap_or(0);
        allocations.get(zone).is_some_and(|allocation| count + already <= allocation.maximum)
    };
    hints.iter().all(fits).then_some(hints)
}

fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_some_and(|conditions| conditions.ready == Some(true))
}

#[cfg(test)]
mod tests;
