//! Backends that are objects of their own (Envoy Gateway's `Backend`): addresses, names and sockets that no Service stands
//! for.
//!
//! Whoever may write one decides where the gateway connects to. So that this is not a way into the machine that the gateway
//! runs on, its loopback addresses and those of its links are no endpoints, whether written or resolved, and sockets only in
//! a directory that an administrator has made for it.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use http::HeaderValue;
use jiff::Timestamp;
use kinds::envoy_gateway::{self, BackendEndpoint, BackendSpec};
use parking_lot::Mutex;
use reconcile::Key;

use super::{
    Controller,
    item::RouteKind,
    lookup::{Referrer, Seen},
    status,
    verdict::{Fault, Verdict},
};
use crate::routing::{Backend, Security, Target, Wire, own_range};

pub(crate) mod resolve;
mod tls;

use resolve::Resolved;

/// How a backendRef names one.
pub(super) const NAME: (Option<&str>, Option<&str>) = (Some(envoy_gateway::GROUP), Some("Backend"));

/// Where sockets may be.
const SOCKETS: &str = "/run/keelson/backends";

/// Backends by object, kept up to date by it.
#[derive(Default)]
pub(crate) struct Declared {
    backends: Mutex<HashMap<Key, Arc<Backend>>>,
    pub(crate) resolved: Resolved,
}

impl Declared {
    /// The backend of an object, made when it is new.
    pub(crate) fn backend(&self, key: &Key) -> Arc<Backend> {
        let mut backends = self.backends.lock();
        Arc::clone(backends.entry(key.clone()).or_insert_with(|| Backend::new(key.to_string())))
    }

    /// Follows what became of an object; forgets the backend of one that is gone and that nobody refers to.
    pub(crate) fn put(&self, key: &Key, plan: Option<&DeclaredPlan>) {
        let Some(plan) = plan else {
            self.resolved.forget(key);
            let mut backends = self.backends.lock();
            if let Some(backend) = backends.get(key) {
                backend.set_endpoints(Vec::new());
                if Arc::strong_count(backend) == 1 {
                    backends.remove(key);
                }
            }
            return;
        };
        let backend = self.backend(key);
        let shape = plan.shape.clone().unwrap_or_default();
        let security = plan.security.clone().unwrap_or(Security::Broken);
        backend.set_wire(Wire {
            host: shape.host.as_deref().and_then(|host| HeaderValue::from_str(host).ok()),
            sockets: shape.sockets.into(),
            ..Wire::new(shape.http2, security)
        });
        backend.set_fallback(plan.fallback);
        if shape.names.is_empty() {
            self.resolved.forget(key);
            backend.set_endpoints(shape.addresses);
        } else {
            self.resolved.resolve(key, shape.names, backend);
        }
    }
}

impl Controller {
    /// Writes the status of an object.
    pub(super) async fn tell_declared(&self, key: &Key, now: Timestamp) -> Result<(), kube::Error> {
        let Some(object) = self.view.declared.get(&key.namespace, &key.name) else { return Ok(()) };
        let known = object.status.as_ref();
        let status = self.core.lock().declared(key).map(|plan| status::declared(known, plan, now));
        let Some(status) = status else { return Ok(()) };
        self.write(&*object, known, &status).await.map(drop)
    }
}

/// An object, and what became of it.
pub(crate) struct DeclaredPlan {
    pub(crate) object: Arc<envoy_gateway::Backend>,
    shape: Result<Shape, Fault>,
    security: Result<Security, Fault>,
    fallback: bool,
    warnings: Vec<String>,
}

impl DeclaredPlan {
    /// What is said about it.
    pub(crate) fn verdicts(&self) -> Vec<Verdict> {
        let fault = self.shape.as_ref().err().or(self.security.as_ref().err());
        let accepted = match fault {
            Some(fault) => {
                Verdict::no("Accepted", "Invalid", format!("The Backend was not accepted: {}", fault.message))
            }
            None => Verdict { message: "The Backend was accepted".to_owned(), ..Verdict::yes("Accepted", "Accepted") },
        };
        let warning = (!self.warnings.is_empty())
            .then(|| Verdict { message: self.warnings.join("; "), ..Verdict::yes("Warning", "UnsupportedField") });
        std::iter::once(accepted).chain(warning).collect()
    }
}

/// Where requests go, as far as the object alone says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    addresses: Vec<SocketAddr>,
    /// Names to resolve.
    names: Vec<(Box<str>, u16)>,
    sockets: Vec<PathBuf>,
    /// The name that all endpoints have.
    host: Option<Box<str>>,
    http2: bool,
    websocket: bool,
}

/// Judges an object.
pub(crate) fn plan(seen: &Seen<'_>, object: Arc<envoy_gateway::Backend>) -> DeclaredPlan {
    let spec = &object.spec;
    let shape = shape(seen, spec);
    let security = match (&spec.tls, &shape) {
        (None, _) | (_, Err(_)) => Ok(Security::Plain),
        (Some(tls), Ok(shape)) => tls::security(seen, super::lookup::namespace(&object.metadata), tls, shape),
    };
    let mut warnings = Vec::new();
    if spec.endpoints.iter().any(|endpoint| endpoint.zone.is_some()) {
        warnings.push("spec.endpoints.zone is not followed".to_owned());
    }
    let unread = spec.tls.iter().flat_map(|tls| tls.unread.keys());
    warnings.extend(unread.map(|field| format!("spec.tls.{field} is not followed")));
    DeclaredPlan { fallback: spec.fallback.unwrap_or(false), shape, security, warnings, object }
}

/// The backend that a reference to an object names.
pub(super) fn resolve(
    seen: &Seen<'_>,
    (referrer, kind): (Referrer<'_>, RouteKind),
    key: &Key,
) -> Result<Target, Fault> {
    if !seen.is_granted(referrer, (envoy_gateway::GROUP, "Backend"), key) {
        let message = format!(
            "Backend {key} may not be referenced from {} in namespace {}: no ReferenceGrant permits it",
            referrer.kind, referrer.namespace
        );
        return Err(Fault::new("RefNotPermitted", message));
    }
    let object = seen.declared(key).ok_or_else(|| Fault::new("BackendNotFound", format!("Backend {key} not found")))?;
    let shape = shape(seen, &object.spec)
        .map_err(|fault| Fault { message: format!("Backend {key}: {}", fault.message), ..fault })?;
    let told = |message: String| Err(Fault::new("UnsupportedProtocol", message));
    match kind {
        RouteKind::Grpc if shape.websocket => told(format!("Backend {key} speaks WebSocket, which a GRPCRoute cannot")),
        RouteKind::Udp if !shape.sockets.is_empty() => told(format!("Backend {key} is a socket, which takes no UDP")),
        kind => Ok(Target::Service { backend: seen.declared_backend(key), http2: kind == RouteKind::Grpc }),
    }
}

fn invalid(message: impl Into<String>) -> Fault {
    Fault::new("InvalidBackendRef", message)
}

fn address_fault(message: impl Into<String>) -> Fault {
    Fault::new("InvalidAddress", message)
}

fn shape(seen: &Seen<'_>, spec: &BackendSpec) -> Result<Shape, Fault> {
    if spec.type_.as_deref().is_some_and(|kind| kind != "Endpoints") {
        // To connect to whatever host a client names is an open proxy.
        return Err(invalid(format!("type {} is not served", spec.type_.as_deref().unwrap_or_default())));
    }
    let speaks = |protocols: &[&str]| {
        let named = spec.app_protocols.iter().filter_map(|protocol| protocol.strip_prefix("gateway.envoyproxy.io/"));
        { named }.any(|protocol| protocols.contains(&protocol))
    };
    let mut shape = Shape { http2: speaks(&["h2c"]), websocket: speaks(&["ws", "wss"]), ..Shape::default() };
    for endpoint in &spec.endpoints {
        add(seen, &mut shape, endpoint)?;
    }
    let host = |endpoint: &BackendEndpoint| {
        endpoint.fqdn.as_ref().map(|fqdn| fqdn.hostname.clone()).or_else(|| endpoint.hostname.clone())
    };
    let mut hosts = spec.endpoints.iter().map(host);
    if let Some(Some(first)) = hosts.next()
        && hosts.all(|host| host.as_ref() == Some(&first))
    {
        shape.host = Some(first.into());
    }
    Ok(shape)
}

fn add(seen: &Seen<'_>, shape: &mut Shape, endpoint: &BackendEndpoint) -> Result<(), Fault> {
    if let Some(hostname) = &endpoint.hostname {
        check_name(hostname, "hostname")?;
    }
    let port = |number: i32| match u16::try_from(number) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(address_fault(format!("{number} is no port"))),
    };
    match (&endpoint.fqdn, &endpoint.ip, &endpoint.unix) {
        (Some(fqdn), ..) => {
            check_name(&fqdn.hostname, "FQDN")?;
            let port = port(fqdn.port)?;
            match service_address(seen, &fqdn.hostname) {
                Some(address) => shape.addresses.push((address, port).into()),
                None => shape.names.push((fqdn.hostname.as_str().into(), port)),
            }
        }
        (_, Some(ip), _) => {
            let address: IpAddr =
                ip.address.parse().map_err(|_| address_fault(format!("IP address {} is invalid", ip.address)))?;
            if let Some(range) = own_range(address) {
                let message = format!("IP address {} in the {range} range is not supported", ip.address);
                return Err(address_fault(message));
            }
            shape.addresses.push(SocketAddr::new(address, port(ip.port)?));
        }
        (.., Some(unix)) => {
            let path = Path::new(&unix.path);
            let plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
            if !plain || !path.starts_with(SOCKETS) {
                return Err(address_fault(format!("unix path {} is not below {SOCKETS}", unix.path)));
            }
            let number = u16::try_from(shape.sockets.len()).map_err(|_| invalid("too many sockets"))?;
            shape.addresses.push(Wire::stand_in(number));
            shape.sockets.push(path.to_owned());
        }
        (None, None, None) => return Err(invalid("one of fqdn, ip or unix must be specified")),
    }
    Ok(())
}

/// The address of the Service that a name of the cluster stands for: the gateway is not a pod, and has the name servers of its
/// machine.
pub(super) fn service_address(seen: &Seen<'_>, name: &str) -> Option<IpAddr> {
    let name = name.trim_end_matches('.');
    let (service, namespace) =
        name.strip_suffix(".svc.cluster.local").or(name.strip_suffix(".svc"))?.split_once('.')?;
    seen.service(&Key::new(namespace, service))?.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()
}

fn check_name(name: &str, what: &str) -> Result<(), Fault> {
    let label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        inner && !label.is_empty() && label.len() <= 63 && !label.starts_with('-') && !label.ends_with('-')
    };
    let labels: Vec<_> = name.trim_end_matches('.').split('.').collect();
    if name.len() > 253 || !labels.iter().all(|one| label(one)) {
        return Err(address_fault(format!("hostname {name} is not a valid {what}")));
    }
    if labels.len() < 2 {
        let message = format!("hostname {name} should be a domain with at least two segments separated by dots");
        return Err(address_fault(message));
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err(address_fault(format!("hostname {name} is an IP address")));
    }
    Ok(())
}
