//! From backendRefs to the endpoints of Services and Backends.

use k8s_openapi::api::core::v1::{Service, ServicePort};
use kinds::gateway::HTTPBackendRef;
use reconcile::Key;

use super::{
    declared, filters,
    item::RouteKind,
    lookup::{Referrer, Route, Seen, is},
    services,
    verdict::Fault,
};
use crate::routing::{Filters, Share, Target};

/// The shares of a rule. References that lead nowhere are told through `broken` and keep their share.
pub(crate) fn shares(
    seen: &Seen<'_>,
    route: &Route,
    references: &[HTTPBackendRef],
    broken: &mut Vec<Fault>,
) -> Result<Vec<Share>, Fault> {
    let shares = references.iter().map(|reference| {
        let filters = match &*reference.filters {
            [] => Filters::default(),
            own => {
                let filtered = filters::compile(seen, route, own, broken)?;
                if !filtered.cookies.is_empty() {
                    return Err(filters::unsupported("a filter of a backendRef cannot have matches"));
                }
                if filtered.filters.once.is_some() || filtered.versions.is_some() {
                    let message =
                        "an IdempotencyFilter or ApiVersionFilter must be a filter of a rule, not of a backendRef";
                    return Err(filters::unsupported(message));
                }
                filtered.filters
            }
        };
        let target = resolve(seen, route, reference).unwrap_or_else(|fault| {
            broken.push(fault);
            Target::Invalid
        });
        let weight = u32::try_from(reference.weight.unwrap_or(1)).unwrap_or(0);
        Ok(Share { weight, target, filters })
    });
    shares.collect()
}

/// The backend that a reference of a route names.
pub(crate) fn resolve(seen: &Seen<'_>, route: &Route, reference: &HTTPBackendRef) -> Result<Target, Fault> {
    // Who routes a Service's traffic may send it to that Service: its clients can do so without a route.
    let is_own =
        |key: &Key| route.parents().iter().any(|parent| services::parent_of(route, parent).as_ref() == Some(key));
    resolve_for(seen, (route.referrer(), route.kind()), reference, &is_own)
}

/// The backend that a reference names, for requests of a kind; `is_own` says for which Services no grant is needed.
pub(crate) fn resolve_for(
    seen: &Seen<'_>,
    (referrer, kind): (Referrer<'_>, RouteKind),
    reference: &HTTPBackendRef,
    is_own: &dyn Fn(&Key) -> bool,
) -> Result<Target, Fault> {
    let key = Key::new(reference.namespace.as_deref().unwrap_or(referrer.namespace), &reference.name);
    if (reference.group.as_deref(), reference.kind.as_deref()) == declared::NAME {
        return declared::resolve(seen, (referrer, kind), &key);
    }
    if !is(reference.group.as_deref(), reference.kind.as_deref(), ("", "Service")) {
        let (other, name) = (reference.kind.as_deref().unwrap_or("Service"), &key.name);
        let message = format!("backendRef {name}: only a Service or a Backend can be a backend, not {other}");
        return Err(Fault::new("InvalidKind", message));
    }
    if !is_own(&key) {
        seen.permit(referrer, "Service", &key)?;
    }
    let missing = |message: String| Fault::new("BackendNotFound", message);
    let service = seen.service(&key).ok_or_else(|| missing(format!("Service {key} not found")))?;
    let number = reference.port.ok_or_else(|| missing(format!("backendRef {} names no port", key.name)))?;
    let wanted = if kind == RouteKind::Udp { "UDP" } else { "TCP" };
    let of_kind = |port: &&ServicePort| port.protocol.as_deref().unwrap_or("TCP") == wanted;
    let port = ports(&service).filter(|port| port.port == number).find(of_kind);
    let port = port.ok_or_else(|| missing(format!("Service {key} has no {wanted} port {number}")))?;
    let http2 = kind == RouteKind::Grpc;
    if http2 && port.app_protocol.as_deref().is_some_and(is_websocket) {
        let protocol = port.app_protocol.as_deref().unwrap_or_default();
        let message = format!("port {number} of Service {key} speaks {protocol}, which a GRPCRoute cannot");
        return Err(Fault::new("UnsupportedProtocol", message));
    }
    Ok(Target::Service { backend: seen.backend(&key, number), http2 })
}

pub(crate) fn ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.spec.iter().flat_map(|spec| spec.ports.iter().flatten())
}

/// Whether an `appProtocol` stands for HTTP/2 with prior knowledge.
pub(crate) fn is_http2(protocol: &str) -> bool {
    matches!(protocol, "kubernetes.io/h2c" | "grpc")
}

fn is_websocket(protocol: &str) -> bool {
    matches!(protocol, "kubernetes.io/ws" | "kubernetes.io/wss")
}
