//! Services as parents of routes: what is said to their clients in the mesh (GAMMA).
//!
//! A route of the Service's namespace is for all its clients, one of another namespace for the clients of that namespace,
//! where it counts in place of the former. The hostnames of routes do not count: a client says by the address which Service
//! it means.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ServicePort;
use kinds::gateway::ParentReference;
use reconcile::Key;

use super::{
    attach::Placement,
    backends::ports,
    compiled::{Compiled, Rules},
    item::RouteKind,
    lookup::{Route, Seen, namespace, rank},
    verdict::Fault,
};
use crate::routing::{Entry, Frontend, Rank};

/// The Service that a parent reference names.
pub(crate) fn parent_of(route: &Route, parent: &ParentReference) -> Option<Key> {
    let named = parent.group.as_deref() == Some("") && parent.kind.as_deref() == Some("Service");
    let own = namespace(route.meta());
    named.then(|| Key::new(parent.namespace.as_deref().unwrap_or(own), &parent.name))
}

/// The ports of a Service that a route is for.
pub(crate) fn frontends(
    seen: &Seen<'_>,
    route: &Route,
    key: &Key,
    parent: &ParentReference,
) -> Result<Vec<Frontend>, Fault> {
    let kind = route.kind();
    let missing = |message: String| Fault::new("NoMatchingParent", message);
    match kind {
        RouteKind::Http | RouteKind::Grpc | RouteKind::Tcp => {}
        RouteKind::Tls => {
            let message = "a Service cannot be the parent of a TLSRoute: the mesh does not look into TLS";
            return Err(Fault::new("UnsupportedValue", message));
        }
        RouteKind::Udp => {
            let message = "a Service cannot be the parent of a UDPRoute: the mesh carries no datagrams";
            return Err(Fault::new("UnsupportedValue", message));
        }
    }
    let service = seen.service(key).ok_or_else(|| missing(format!("Service {key} not found")))?;
    let named = |port: &&ServicePort| {
        port.protocol.as_deref().unwrap_or("TCP") == "TCP"
            && parent.port.is_none_or(|number| number == port.port)
            && parent.section_name.as_ref().is_none_or(|name| port.name.as_ref() == Some(name))
    };
    // A port that the route names itself may call itself what it likes.
    let chosen = parent.port.is_some() || parent.section_name.is_some();
    let http = matches!(kind, RouteKind::Http | RouteKind::Grpc);
    let fitting = ports(&service).filter(named).filter(|port| chosen || !http || !is_opaque(port));
    let numbers: Vec<_> = fitting.filter_map(|port| u16::try_from(port.port).ok()).collect();
    if numbers.is_empty() {
        return Err(missing(format!("Service {key} has no port for a {} with this name and number", kind.name())));
    }
    let own = namespace(route.meta());
    let clients = Some(own).filter(|own| *own != key.namespace);
    let service = key.to_string();
    Ok(numbers.into_iter().map(|number| Frontend::new(&service, number, clients)).collect())
}

/// Whether a port says that it carries something else than clear HTTP.
pub(crate) fn is_opaque(port: &ServicePort) -> bool {
    let name = port.name.as_deref().unwrap_or_default();
    let said = port.app_protocol.as_deref().unwrap_or_else(|| name.split('-').next().unwrap_or_default());
    ["tcp", "tls", "https", "udp", "mongo", "mysql", "redis", "postgres", "kubernetes.io/wss"].contains(&said)
}

/// Where in the table the rules of a route are, for clients of Services.
pub(crate) fn place(placements: &mut Vec<Placement>, frontend: &Frontend, route: &Route, compiled: &Compiled) {
    let rank = rank(route.meta());
    match &compiled.rules {
        Rules::Stream(rule) => {
            let place = |rule| Placement::ServiceStream(frontend.clone(), rank.clone(), Arc::clone(rule));
            placements.extend(rule.iter().map(place));
        }
        Rules::Requests(rules) => {
            for (order, (matches, rule)) in rules.iter().enumerate() {
                for (index, condition) in matches.iter().enumerate() {
                    let rank = Rank { order: (order, index), ..rank.clone() };
                    let entry = Entry::new(condition.clone(), rank, Arc::clone(rule));
                    placements.push(Placement::Service(frontend.clone(), Arc::new(entry)));
                }
            }
        }
    }
}
