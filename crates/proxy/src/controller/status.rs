//! What becomes of plans in the status of their objects. Pure, but for the time it is given.
//!
//! Each function takes the plan and the status that is there: what others wrote in it stays.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::networking::v1::{Ingress, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressStatus},
    apimachinery::pkg::apis::meta::v1::Condition,
};
use kinds::envoy_gateway::BackendStatus;
use kinds::gateway::{GatewayClassStatus, ParentReference, PolicyAncestorStatus, PolicyStatus, RouteParentStatus};
use kinds::gateway::{RouteStatus, SupportedFeature};

use super::{
    CONTROLLER_NAME, MESH_CONTROLLER_NAME,
    attach::RoutePlan,
    declared::DeclaredPlan,
    features,
    ingresses::PORTS,
    policies::PolicyPlan,
    verdict::{Verdict, conditions},
};
use crate::{
    routing::{Place, Site, Transport},
    server::Bindings,
};

mod gateway;

pub(crate) use gateway::{Scene, Told, gateway};

/// Ancestors that a policy's status may list.
pub(crate) const ANCESTORS: usize = 16;

pub(crate) fn class(
    known: Option<&GatewayClassStatus>,
    verdicts: &[Verdict],
    generation: Option<i64>,
    now: Timestamp,
) -> GatewayClassStatus {
    let known = known.map(|s| s.conditions.as_slice()).unwrap_or_default();
    let supported = features::SUPPORTED.iter().map(|name| SupportedFeature { name: (*name).to_owned() });
    GatewayClassStatus {
        conditions: conditions(known, verdicts, generation, now),
        supported_features: supported.collect(),
    }
}

/// As whom something is said about routes.
const OURS: [&str; 2] = [CONTROLLER_NAME, MESH_CONTROLLER_NAME];

/// A route's status. A parent that the route no longer names loses its entry.
pub(crate) fn route(known: Option<&RouteStatus>, plan: &RoutePlan, now: Timestamp) -> RouteStatus {
    let known = known.map(|known| known.parents.as_slice()).unwrap_or_default();
    let generation = plan.route.meta().generation;
    let mut parents: Vec<_> = known.iter().filter(|p| !OURS.contains(&&*p.controller_name)).cloned().collect();
    for parent in &plan.parents {
        let before = known.iter().find(|p| p.controller_name == parent.controller && p.parent_ref == parent.parent);
        let before = before.map(|p| p.conditions.as_slice()).unwrap_or_default();
        parents.push(RouteParentStatus {
            parent_ref: parent.parent.clone(),
            controller_name: parent.controller.to_owned(),
            conditions: conditions(before, &parent.verdicts, generation, now),
        });
    }
    RouteStatus { parents }
}

/// A policy's status: the same for each Gateway that it has an effect on.
pub(crate) fn policy(known: Option<&PolicyStatus>, plan: &PolicyPlan, now: Timestamp) -> PolicyStatus {
    let known = known.map(|known| known.ancestors.as_slice()).unwrap_or_default();
    let generation = plan.policy.metadata.generation;
    let mut ancestors: Vec<_> = known.iter().filter(|a| a.controller_name != CONTROLLER_NAME).cloned().collect();
    for gateway in &plan.gateways {
        if ancestors.len() == ANCESTORS {
            break;
        }
        let ancestor_ref = ParentReference {
            group: Some(kinds::gateway::GROUP.to_owned()),
            kind: Some("Gateway".to_owned()),
            namespace: Some(gateway.namespace.clone()),
            name: gateway.name.clone(),
            ..ParentReference::default()
        };
        let before = known.iter().find(|a| a.controller_name == CONTROLLER_NAME && a.ancestor_ref == ancestor_ref);
        let before: &[Condition] = before.map(|a| a.conditions.as_slice()).unwrap_or_default();
        ancestors.push(PolicyAncestorStatus {
            conditions: conditions(before, &plan.verdicts, generation, now),
            ancestor_ref,
            controller_name: CONTROLLER_NAME.to_owned(),
        });
    }
    PolicyStatus { ancestors }
}

/// The status of a backend that is an object of its own.
pub(crate) fn declared(known: Option<&BackendStatus>, plan: &DeclaredPlan, now: Timestamp) -> BackendStatus {
    let known = known.map(|known| known.conditions.as_slice()).unwrap_or_default();
    BackendStatus { conditions: conditions(known, &plan.verdicts(), plan.object.metadata.generation, now) }
}

pub(crate) fn ingress(ingress: &Ingress, shared: &[IpAddr], bindings: &Bindings) -> IngressStatus {
    let tls = ingress.spec.as_ref().is_some_and(|spec| spec.tls.as_ref().is_some_and(|tls| !tls.is_empty()));
    let ports = std::iter::once(PORTS.0).chain(tls.then_some(PORTS.1));
    let sites = ports.map(|port| Site { place: Place::Shared, port, transport: Transport::Tcp });
    let points = addresses(sites, shared, bindings).into_iter();
    let points: Vec<_> = points
        .map(|ip| IngressLoadBalancerIngress { ip: Some(ip.to_string()), ..IngressLoadBalancerIngress::default() })
        .collect();
    let points = if points.is_empty() { None } else { Some(points) };
    IngressStatus { load_balancer: Some(IngressLoadBalancerStatus { ingress: points }) }
}

/// The addresses on which at least one of the sites is open, Gateways' own first.
fn addresses(sites: impl Iterator<Item = Site>, shared: &[IpAddr], bindings: &Bindings) -> Vec<IpAddr> {
    let mut sites: Vec<_> = sites.collect();
    sites.sort_by_key(|site| matches!(site.place, Place::Shared));
    let mut addresses = Vec::new();
    for address in sites.into_iter().flat_map(|site| Bound::of(site, shared, bindings).open) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// Where a site is open, and where and why it is not.
struct Bound {
    port: u16,
    open: Vec<IpAddr>,
    failed: Vec<(IpAddr, String)>,
    /// Whether something was not tried yet.
    pending: bool,
}

impl Bound {
    fn of(site: Site, shared: &[IpAddr], bindings: &Bindings) -> Bound {
        let mut bound = Bound { port: site.port, open: Vec::new(), failed: Vec::new(), pending: false };
        let own;
        let wanted = match site.place {
            Place::Shared => shared,
            Place::Own(address) => {
                own = [address];
                &own
            }
        };
        for address in wanted {
            match bindings.get(&(*address, site.port, site.transport)) {
                Some(Ok(_)) => bound.open.push(*address),
                Some(Err(error)) => bound.failed.push((*address, error.to_string())),
                None => bound.pending = true,
            }
        }
        bound
    }

    fn all(sites: &[Site], shared: &[IpAddr], bindings: &Bindings) -> Bound {
        let port = sites.first().map_or(0, |site| site.port);
        let mut all = Bound { port, open: Vec::new(), failed: Vec::new(), pending: false };
        for bound in sites.iter().map(|site| Bound::of(*site, shared, bindings)) {
            all.open.extend(bound.open);
            all.failed.extend(bound.failed);
            all.pending |= bound.pending;
        }
        all
    }

    /// What is wrong; empty when nothing is.
    fn message(&self) -> String {
        let failed =
            self.failed.iter().map(|(address, error)| format!("cannot listen on {address}:{}: {error}", self.port));
        failed.collect::<Vec<_>>().join(", ")
    }
}
