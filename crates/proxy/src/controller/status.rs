//! What becomes of a plan in the status of its objects. Pure, but for the time it is given.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{Ingress, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressStatus};
use kinds::gateway::{
    GatewayAddress, GatewayClass, GatewayClassStatus, GatewayStatus, HTTPRouteStatus, ListenerStatus, RouteParentStatus,
};

use super::{
    compile::CONTROLLER_NAME,
    gateways::{GatewayPlan, ListenerPlan},
    ingresses::PORTS,
    routes::RouteReport,
    verdict::{Fault, Verdict, conditions},
};
use crate::server::Bindings;

pub(crate) fn class(class: &GatewayClass, verdict: &Verdict, now: Timestamp) -> GatewayClassStatus {
    let known = class.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let verdicts = std::slice::from_ref(verdict);
    GatewayClassStatus { conditions: conditions(known, verdicts, class.metadata.generation, now) }
}

/// A gateway's status, and what of it deserves an event.
pub(crate) fn gateway(plan: &GatewayPlan, bindings: &Bindings, now: Timestamp) -> (GatewayStatus, Vec<String>) {
    let generation = plan.gateway.metadata.generation;
    let known = plan.gateway.status.clone().unwrap_or_default();
    let mut warnings = Vec::new();
    let mut listeners = Vec::new();
    let mut programmed = false;
    for listener in &plan.listeners {
        let bound = Bound::of(listener.port, bindings);
        let verdicts = listener_verdicts(listener, &bound);
        programmed |= verdicts[1].holds;
        if listener.served && !bound.failed.is_empty() {
            warnings.push(format!("listener {}: {}", listener.listener.name, bound.message()));
        }
        let before = known.listeners.iter().find(|l| l.name == listener.listener.name);
        let before = before.map(|l| l.conditions.as_slice()).unwrap_or_default();
        listeners.push(ListenerStatus {
            name: listener.listener.name.clone(),
            supported_kinds: listener.kinds.clone(),
            attached_routes: listener.attached,
            conditions: conditions(before, &verdicts, generation, now),
        });
    }
    let addresses = addresses(plan.listeners.iter().filter(|l| l.served).map(|l| l.port), bindings);
    let verdicts = gateway_verdicts(plan, programmed, &addresses);
    let addresses = addresses
        .iter()
        .map(|ip| GatewayAddress { type_: Some("IPAddress".to_owned()), value: ip.to_string() })
        .collect();
    let status =
        GatewayStatus { addresses, conditions: conditions(&known.conditions, &verdicts, generation, now), listeners };
    (status, warnings)
}

fn listener_verdicts(listener: &ListenerPlan, bound: &Bound) -> [Verdict; 4] {
    let taken = listener.served && bound.open.is_empty() && !bound.failed.is_empty();
    let accepted = match (&listener.accepted, &listener.distinct) {
        (Err(fault), _) | (Ok(()), Err(fault)) => Err(fault.clone()),
        (Ok(()), Ok(())) if taken => Err(Fault::new("PortUnavailable", bound.message())),
        (Ok(()), Ok(())) => Ok(()),
    };
    let programmed = if accepted.is_err() || listener.references.is_err() && !listener.served {
        Verdict::no("Programmed", "Invalid", "the listener is not valid")
    } else if bound.open.is_empty() {
        Verdict::no("Programmed", "Pending", "the port is not open yet")
    } else {
        Verdict { message: bound.message(), ..Verdict::yes("Programmed", "Programmed") }
    };
    let conflicted = match &listener.distinct {
        Ok(()) => Verdict::no("Conflicted", "NoConflicts", ""),
        Err(fault) => Verdict { message: fault.message.clone(), ..Verdict::yes("Conflicted", fault.reason) },
    };
    [
        Verdict::of("Accepted", "Accepted", &accepted),
        programmed,
        conflicted,
        Verdict::of("ResolvedRefs", "ResolvedRefs", &listener.references),
    ]
}

fn gateway_verdicts(plan: &GatewayPlan, programmed: bool, addresses: &[IpAddr]) -> [Verdict; 2] {
    let invalid = plan.listeners.iter().filter(|l| l.accepted.is_err() || l.distinct.is_err()).count();
    let foreign = plan
        .gateway
        .spec
        .addresses
        .iter()
        .find(|asked| !asked.value.is_empty() && !addresses.iter().any(|ip| ip.to_string() == asked.value));
    let accepted = match (invalid, plan.listeners.len()) {
        (0, _) => Verdict::yes("Accepted", "Accepted"),
        (invalid, all) => Verdict {
            holds: invalid < all,
            ..Verdict::no("Accepted", "ListenersNotValid", format!("{invalid} of {all} listeners are not valid"))
        },
    };
    let programmed = match foreign {
        Some(address) => {
            Verdict::no("Programmed", "AddressNotUsable", format!("cannot listen on address {}", address.value))
        }
        None if programmed => Verdict::yes("Programmed", "Programmed"),
        None => Verdict::no("Programmed", "Invalid", "no listener is open"),
    };
    [accepted, programmed]
}

/// A route's status: what others say of it stays.
pub(crate) fn route(report: &RouteReport, now: Timestamp) -> HTTPRouteStatus {
    let known = report.route.status.clone().unwrap_or_default();
    let generation = report.route.metadata.generation;
    let mut parents: Vec<_> = known.parents.iter().filter(|p| p.controller_name != CONTROLLER_NAME).cloned().collect();
    for parent in &report.parents {
        let before =
            known.parents.iter().find(|p| p.controller_name == CONTROLLER_NAME && p.parent_ref == parent.parent);
        let before = before.map(|p| p.conditions.as_slice()).unwrap_or_default();
        parents.push(RouteParentStatus {
            parent_ref: parent.parent.clone(),
            controller_name: CONTROLLER_NAME.to_owned(),
            conditions: conditions(before, &parent.verdicts, generation, now),
        });
    }
    HTTPRouteStatus { parents }
}

pub(crate) fn ingress(ingress: &Ingress, bindings: &Bindings) -> IngressStatus {
    let tls = ingress.spec.as_ref().is_some_and(|spec| spec.tls.as_ref().is_some_and(|tls| !tls.is_empty()));
    let ports = std::iter::once(PORTS.0).chain(tls.then_some(PORTS.1));
    let addresses = addresses(ports, bindings).into_iter();
    let points: Vec<_> = addresses
        .map(|ip| IngressLoadBalancerIngress { ip: Some(ip.to_string()), ..IngressLoadBalancerIngress::default() })
        .collect();
    let points = if points.is_empty() { None } else { Some(points) };
    IngressStatus { load_balancer: Some(IngressLoadBalancerStatus { ingress: points }) }
}

/// The addresses on which at least one of the ports is open.
fn addresses(ports: impl Iterator<Item = u16>, bindings: &Bindings) -> Vec<IpAddr> {
    let mut addresses: Vec<_> = ports.flat_map(|port| Bound::of(port, bindings).open).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Where a port is open, and where and why it is not.
struct Bound {
    port: u16,
    open: Vec<IpAddr>,
    failed: Vec<(IpAddr, String)>,
}

impl Bound {
    fn of(port: u16, bindings: &Bindings) -> Bound {
        let mut bound = Bound { port, open: Vec::new(), failed: Vec::new() };
        for ((address, _), result) in bindings.iter().filter(|((_, p), _)| *p == port) {
            match result {
                Ok(_) => bound.open.push(*address),
                Err(error) => bound.failed.push((*address, error.to_string())),
            }
        }
        bound
    }

    /// What is wrong; empty when nothing is.
    fn message(&self) -> String {
        let failed =
            self.failed.iter().map(|(address, error)| format!("cannot listen on {address}:{}: {error}", self.port));
        failed.collect::<Vec<_>>().join(", ")
    }
}
