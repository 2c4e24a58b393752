//! Which listeners of which Gateways are served.

use std::{collections::BTreeMap, sync::Arc};

use kinds::gateway::{self, AllowedRoutes, FromNamespaces, Gateway, Listener, RouteGroupKind, TlsMode};

use super::{
    verdict::Fault,
    world::{Lookup, Referrer, World, is, namespace, selects},
};
use crate::routing::{Certificate, PortBuilder};

/// A Gateway of ours.
pub(crate) struct GatewayPlan {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) listeners: Vec<ListenerPlan>,
}

/// One of its listeners.
pub(crate) struct ListenerPlan {
    pub(crate) listener: Listener,
    pub(crate) port: u16,
    /// Whether it can be served at all.
    pub(crate) accepted: Result<(), Fault>,
    /// Whether it is the only one of its kind on its port.
    pub(crate) distinct: Result<(), Fault>,
    /// Whether everything that it refers to is there.
    pub(crate) references: Result<(), Fault>,
    pub(crate) kinds: Vec<RouteGroupKind>,
    /// Number of routes attached.
    pub(crate) attached: i32,
    /// Whether it is part of the table.
    pub(crate) served: bool,
}

impl ListenerPlan {
    pub(crate) fn hostname(&self) -> Option<&str> {
        hostname(&self.listener)
    }

    /// Whether HTTPRoutes of a namespace may attach.
    pub(crate) fn allows(&self, own: &str, from: &str, lookup: &dyn Lookup) -> bool {
        let namespaces = self.listener.allowed_routes.as_ref().and_then(|a| a.namespaces.as_ref());
        let allowed = match namespaces.and_then(|n| n.from).unwrap_or(FromNamespaces::Same) {
            FromNamespaces::All => true,
            FromNamespaces::Same => own == from,
            FromNamespaces::Selector => namespaces
                .and_then(|n| n.selector.as_ref())
                .is_some_and(|selector| selects(selector, &lookup.namespace_labels(from))),
        };
        allowed && !self.kinds.is_empty()
    }
}

/// Plans every Gateway whose class is ours, oldest first, and adds what is served to the ports.
pub(crate) fn plan(
    world: &World,
    lookup: &dyn Lookup,
    ours: &dyn Fn(&str) -> bool,
    ports: &mut BTreeMap<u16, PortBuilder>,
) -> Vec<GatewayPlan> {
    let gateways = world.gateways.iter().filter(|g| ours(&g.spec.gateway_class_name));
    let plans = gateways.map(|gateway| {
        let listeners = gateway.spec.listeners.iter();
        let listeners = listeners.map(|listener| plan_listener(world, lookup, gateway, listener, ports)).collect();
        GatewayPlan { gateway: Arc::clone(gateway), listeners }
    });
    plans.collect()
}

fn plan_listener(
    world: &World,
    lookup: &dyn Lookup,
    gateway: &Gateway,
    listener: &Listener,
    ports: &mut BTreeMap<u16, PortBuilder>,
) -> ListenerPlan {
    let tls = listener.protocol == "HTTPS";
    let (kinds, kinds_known) = kinds(listener.allowed_routes.as_ref());
    let certificate = if tls { certificates(world, lookup, gateway, listener) } else { Ok(None) };
    let mut plan = ListenerPlan {
        listener: listener.clone(),
        port: u16::try_from(listener.port).unwrap_or(0),
        accepted: protocol(listener),
        distinct: Ok(()),
        references: kinds_known.and(certificate.as_ref().map(|_| ()).map_err(Clone::clone)),
        kinds,
        attached: 0,
        served: false,
    };
    if plan.accepted.is_ok() {
        plan.distinct = distinct(gateway, listener, tls, ports.get(&plan.port));
    }
    if plan.accepted.is_ok()
        && plan.distinct.is_ok()
        && let Ok(certificate) = certificate
    {
        let port = ports.entry(plan.port).or_insert_with(|| PortBuilder::new(tls));
        port.listener(plan.hostname(), certificate);
        plan.served = true;
    }
    plan
}

fn protocol(listener: &Listener) -> Result<(), Fault> {
    let passthrough = listener.tls.as_ref().is_some_and(|tls| tls.mode == Some(TlsMode::Passthrough));
    match listener.protocol.as_str() {
        "HTTP" => Ok(()),
        "HTTPS" if !passthrough => Ok(()),
        "HTTPS" => Err(Fault::new("UnsupportedProtocol", "an HTTPS listener cannot pass TLS through")),
        other => Err(Fault::new("UnsupportedProtocol", format!("protocol {other} is not served, only HTTP and HTTPS"))),
    }
}

/// The kinds of routes that may attach, and whether all that were asked for can.
fn kinds(allowed: Option<&AllowedRoutes>) -> (Vec<RouteGroupKind>, Result<(), Fault>) {
    let http = RouteGroupKind { group: Some(gateway::GROUP.to_owned()), kind: "HTTPRoute".to_owned() };
    let asked = allowed.map(|a| a.kinds.as_slice()).unwrap_or_default();
    if asked.is_empty() {
        return (vec![http], Ok(()));
    }
    let supported = |k: &&RouteGroupKind| is(k.group.as_deref(), Some(&k.kind), (gateway::GROUP, "HTTPRoute"));
    let known = match asked.iter().find(|k| !supported(k)) {
        Some(other) => Err(Fault::new("InvalidRouteKinds", format!("routes of kind {} are not served", other.kind))),
        None => Ok(()),
    };
    (if asked.iter().any(|k| supported(&k)) { vec![http] } else { Vec::new() }, known)
}

fn hostname(listener: &Listener) -> Option<&str> {
    listener.hostname.as_deref().filter(|h| !h.is_empty())
}

/// Hostnames may be there once per port and Gateway, and a port has one protocol. Within a Gateway all that conflict
/// lose, as the API demands; between Gateways the older one decides the protocol.
fn distinct(gateway: &Gateway, listener: &Listener, tls: bool, taken: Option<&PortBuilder>) -> Result<(), Fault> {
    let others = gateway
        .spec
        .listeners
        .iter()
        .filter(|other| other.name != listener.name && other.port == listener.port && protocol(other).is_ok());
    let other_protocol = others.clone().any(|other| other.protocol != listener.protocol);
    if other_protocol || taken.is_some_and(|port| port.tls() != tls) {
        let message = format!("another listener on port {} speaks another protocol", listener.port);
        return Err(Fault::new("ProtocolConflict", message));
    }
    match others.clone().find(|other| hostname(other) == hostname(listener)) {
        Some(other) => {
            let message = format!("listener {} has the same port, protocol and hostname", other.name);
            Err(Fault::new("HostnameConflict", message))
        }
        None => Ok(()),
    }
}

/// The listener's certificate; the first of several.
fn certificates(
    world: &World,
    lookup: &dyn Lookup,
    gateway: &Gateway,
    listener: &Listener,
) -> Result<Option<Certificate>, Fault> {
    let own = namespace(&gateway.metadata);
    let invalid = |message: String| Fault::new("InvalidCertificateRef", message);
    let references = listener.tls.as_ref().map(|tls| tls.certificate_refs.as_slice()).unwrap_or_default();
    let mut first = None;
    for reference in references {
        let (target, name) = (reference.namespace.as_deref().unwrap_or(own), reference.name.as_str());
        if !is(reference.group.as_deref(), reference.kind.as_deref(), ("", "Secret")) {
            return Err(invalid(format!("certificateRef {name}: only a Secret can hold a certificate")));
        }
        world.permit(Referrer { group: gateway::GROUP, kind: "Gateway", namespace: own }, "Secret", target, name)?;
        let certificate = lookup.certificate(target, name);
        first = first.or(Some(certificate.map_err(|e| invalid(format!("Secret {target}/{name}: {e}")))?));
    }
    first.map(Some).ok_or_else(|| invalid("an HTTPS listener needs a certificateRef".to_owned()))
}
