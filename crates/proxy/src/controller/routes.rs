//! Attaching HTTPRoutes to listeners.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use kinds::gateway::{HTTPRoute, ParentReference};

use super::{
    gateways::GatewayPlan,
    rules::{self, Rules},
    verdict::{Fault, Verdict},
    world::{GATEWAY, Lookup, World, full_name, is, namespace, rank},
};
use crate::routing::{PortBuilder, Rank, intersect};

/// What is said about a route and its parents that are ours.
pub(crate) struct RouteReport {
    pub(crate) route: Arc<HTTPRoute>,
    pub(crate) parents: Vec<ParentReport>,
}

/// What is said about one of them.
pub(crate) struct ParentReport {
    pub(crate) parent: ParentReference,
    pub(crate) verdicts: [Verdict; 2],
}

/// A listener that a route attaches to, and the hostnames under which it does.
struct Attachment {
    listener: usize,
    hosts: Vec<Option<String>>,
}

/// Attaches every route to the listeners that its parents name and that admit it.
pub(crate) fn attach(
    world: &World,
    lookup: &dyn Lookup,
    gateways: &mut [GatewayPlan],
    ports: &mut BTreeMap<u16, PortBuilder>,
) -> Vec<RouteReport> {
    let by_name: HashMap<String, usize> =
        gateways.iter().enumerate().map(|(at, plan)| (full_name(&plan.gateway.metadata), at)).collect();
    let mut reports = Vec::new();
    for route in &world.routes {
        let mut parents = Vec::new();
        let mut attached = HashSet::new();
        let mut compiled = None;
        for parent in &route.spec.parent_refs {
            let Some(&at) = gateway_of(route, parent).and_then(|name| by_name.get(&name)) else { continue };
            let compiled = compiled.get_or_insert_with(|| rules::compile(world, lookup, route));
            let found = compiled.as_ref().map_err(Clone::clone).and_then(|rules| {
                let attachments = attachments(&gateways[at], route, parent, lookup)?;
                Ok((rules, attachments))
            });
            let accepted = found.as_ref().map(|_| ()).map_err(Clone::clone);
            if let Ok((rules, attachments)) = found {
                for attachment in attachments {
                    if attached.insert((at, attachment.listener)) {
                        serve(&mut gateways[at], &attachment, route, rules, ports);
                    }
                }
            }
            let references = compiled.as_ref().map_or(Ok(()), |rules| rules.references.clone());
            let verdicts = [
                Verdict::of("Accepted", "Accepted", &accepted),
                Verdict::of("ResolvedRefs", "ResolvedRefs", &references),
            ];
            parents.push(ParentReport { parent: parent.clone(), verdicts });
        }
        reports.push(RouteReport { route: Arc::clone(route), parents });
    }
    reports
}

/// `namespace/name` of the Gateway that a parent reference names.
fn gateway_of(route: &HTTPRoute, parent: &ParentReference) -> Option<String> {
    if !is(parent.group.as_deref(), parent.kind.as_deref(), GATEWAY) {
        return None;
    }
    let namespace = parent.namespace.as_deref().unwrap_or(namespace(&route.metadata));
    Some(format!("{namespace}/{}", parent.name))
}

/// The listeners of a gateway that a route attaches to; each step of the way has its own reason when none is left.
fn attachments(
    plan: &GatewayPlan,
    route: &HTTPRoute,
    parent: &ParentReference,
    lookup: &dyn Lookup,
) -> Result<Vec<Attachment>, Fault> {
    let named = plan.listeners.iter().enumerate().filter(|(_, l)| {
        parent.section_name.as_ref().is_none_or(|section| *section == l.listener.name)
            && parent.port.is_none_or(|port| port == l.listener.port)
    });
    let named: Vec<_> = named.collect();
    if named.is_empty() {
        return Err(Fault::new("NoMatchingParent", "no listener of the gateway has this sectionName and port"));
    }
    let (own, from) = (namespace(&plan.gateway.metadata), namespace(&route.metadata));
    let admitting: Vec<_> = named.into_iter().filter(|(_, l)| l.allows(own, from, lookup)).collect();
    if admitting.is_empty() {
        let message = format!("no listener admits HTTPRoutes of namespace {from}");
        return Err(Fault::new("NotAllowedByListeners", message));
    }
    let attachments = admitting.into_iter().map(|(listener, plan)| {
        let hosts = intersect(plan.hostname(), &route.spec.hostnames);
        Attachment { listener, hosts }
    });
    let attachments: Vec<_> = attachments.filter(|attachment| !attachment.hosts.is_empty()).collect();
    if attachments.is_empty() {
        return Err(Fault::new("NoMatchingListenerHostname", "no hostname of the route is one of a listener"));
    }
    Ok(attachments)
}

/// Adds the route's rules to the table behind one listener.
fn serve(
    plan: &mut GatewayPlan,
    attachment: &Attachment,
    route: &HTTPRoute,
    rules: &Rules,
    ports: &mut BTreeMap<u16, PortBuilder>,
) {
    let listener = &mut plan.listeners[attachment.listener];
    listener.attached += 1;
    if !listener.served {
        return;
    }
    let Some(port) = ports.get_mut(&listener.port) else { return };
    for host in &attachment.hosts {
        for (order, (matches, rule)) in rules.rules.iter().enumerate() {
            for (index, condition) in matches.iter().enumerate() {
                let rank = Rank { order: (order, index), ..rank(route) };
                port.rule(listener.hostname(), host.as_deref(), condition.clone(), rank, Arc::clone(rule));
            }
        }
    }
}
