//! From Services and EndpointSlices to the endpoints that requests are sent to.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use k8s_openapi::api::{
    core::v1::Service,
    discovery::v1::{Endpoint, EndpointSlice},
};
use parking_lot::Mutex;
use reconcile::{Index, Informer, Informers, Key};
use tracing::debug;

use crate::routing::{Backend, Wire};

/// The label by which a slice names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The backends that tables refer to, kept up to date by their Service.
pub(crate) struct Endpoints {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    by_service: Index<EndpointSlice>,
    backends: Mutex<HashMap<Key, Backends>>,
}

/// The backends of a Service, by port and by how they are reached.
type Backends = HashMap<(i32, Variant), Arc<Backend>>;

/// How a backend is reached, where that is not as its Service says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Variant {
    /// Different for each way to speak.
    pub(crate) name: String,
    /// Through the Service's own address instead of its endpoints'.
    pub(crate) by_service_address: bool,
}

impl Endpoints {
    pub(crate) fn new(informers: &Informers) -> Self {
        let slices = informers.of::<EndpointSlice>();
        let by_service = slices.index("proxy/service", |slice| service_of(slice).iter().map(Key::to_string).collect());
        Endpoints { services: informers.of(), slices, by_service, backends: Mutex::default() }
    }

    pub(crate) fn slices(&self) -> &Informer<EndpointSlice> {
        &self.slices
    }

    pub(crate) fn services(&self) -> &Informer<Service> {
        &self.services
    }

    /// The backend for a port of a Service, made and filled when it is new.
    pub(crate) fn backend(&self, service: &Key, port: i32) -> Arc<Backend> {
        self.make(service, port, &Variant::default(), None)
    }

    /// The same, reached in another way.
    pub(crate) fn variant(&self, service: &Key, port: i32, variant: &Variant, wire: &dyn Fn() -> Wire) -> Arc<Backend> {
        self.make(service, port, variant, Some(wire))
    }

    fn make(&self, service: &Key, port: i32, variant: &Variant, wire: Option<&dyn Fn() -> Wire>) -> Arc<Backend> {
        let mut backends = self.backends.lock();
        let backend =
            backends.entry(service.clone()).or_default().entry((port, variant.clone())).or_insert_with(|| {
                let backend = Backend::new(format!("{service}:{port}"));
                if let Some(wire) = wire {
                    backend.set_wire(wire());
                }
                self.fill(service, port, variant, &backend);
                backend
            });
        Arc::clone(backend)
    }

    /// The backends of a Service that somebody refers to; forgets those that nobody refers to any more.
    pub(crate) fn backends(&self, service: &Key) -> Vec<(i32, Arc<Backend>)> {
        let mut backends = self.backends.lock();
        let Some(ports) = backends.get_mut(service) else { return Vec::new() };
        ports.retain(|_, backend| Arc::strong_count(backend) > 1);
        let said = ports.iter().filter(|((_, variant), _)| *variant == Variant::default());
        let known = said.map(|((port, _), backend)| (*port, Arc::clone(backend))).collect();
        if ports.is_empty() {
            backends.remove(service);
        }
        known
    }

    /// Brings the backends of a Service up to date.
    pub(crate) fn refresh(&self, service: &Key) {
        let backends = self.backends.lock();
        for ((port, variant), backend) in backends.get(service).into_iter().flatten() {
            self.fill(service, *port, variant, backend);
        }
    }

    fn fill(&self, service: &Key, port: i32, variant: &Variant, backend: &Backend) {
        let addresses = match self.services.get(&service.namespace, &service.name) {
            Some(object) if variant.by_service_address => own_address(&object, port).into_iter().collect(),
            Some(object) => endpoints(&object, port, &self.by_service.get(&service.to_string())),
            None => Vec::new(),
        };
        if backend.set_endpoints(addresses) {
            debug!(backend = backend.name(), endpoints = ?backend.endpoints(), "endpoints changed");
        }
    }
}

/// The address of a Service itself, which leads to its endpoints.
fn own_address(service: &Service, port: i32) -> Option<SocketAddr> {
    let address = service.spec.as_ref()?.cluster_ip.as_ref()?.parse().ok()?;
    Some(SocketAddr::new(address, u16::try_from(port).ok()?))
}

/// The Service that a slice belongs to.
pub(crate) fn service_of(slice: &EndpointSlice) -> Option<Key> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(Key::new(slice.metadata.namespace.as_deref().unwrap_or(""), name))
}

/// The ready endpoints behind a port of a Service.
pub(crate) fn endpoints(service: &Service, port: i32, slices: &[Arc<EndpointSlice>]) -> Vec<SocketAddr> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let Some(declared) = ports.into_iter().flatten().find(|p| p.port == port) else { return Vec::new() };
    let wanted = declared.name.as_deref().unwrap_or("");
    let mut addresses = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let number = ports.filter(|p| p.name.as_deref().unwrap_or("") == wanted).find_map(|p| p.port);
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten().filter(|e| takes_traffic(e)) {
            // Every address of one endpoint leads to the same pod; the first is enough.
            let address = endpoint.addresses.first().and_then(|a| a.parse::<IpAddr>().ok());
            addresses.extend(address.map(|ip| SocketAddr::new(ip, number)));
        }
    }
    addresses
}

/// Ready (unknown counts as ready) and not on its way out.
fn takes_traffic(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().is_none_or(|c| c.ready.unwrap_or(true) && !c.terminating.unwrap_or(false))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_endpoints_of_the_named_port_count() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]},
        }))
        .unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"name": "web-x", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.3"], "conditions": {"ready": true, "terminating": true}},
                {"addresses": ["10.0.0.4"]},
            ],
        }))
        .unwrap();
        assert_eq!(service_of(&slice), Some(Key::new("shop", "web")));
        let slices = [Arc::new(slice)];
        let found = |port| endpoints(&service, port, &slices).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found(80), ["10.0.0.1:8080", "10.0.0.4:8080"]);
        assert_eq!(found(81), ["10.0.0.1:9090", "10.0.0.4:9090"]);
        assert_eq!(found(82), Vec::<String>::new());
    }
}
