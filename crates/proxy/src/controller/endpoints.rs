//! From Services and EndpointSlices to the endpoints that requests are sent to.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use k8s_openapi::api::{
    core::v1::{Pod, Service},
    discovery::v1::{Endpoint, EndpointSlice},
};
use parking_lot::Mutex;
use reconcile::{Change, Index, Informer, Informers, Key};
use tokio_util::sync::CancellationToken;
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
    informers: Informers,
    /// The pods behind endpoints, watched once somebody asks for some of a Service's endpoints by labels.
    pods: OnceLock<Informer<Pod>>,
    parted: CancellationToken,
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
    /// Only endpoints whose pods have these labels.
    pub(crate) labels: BTreeMap<String, String>,
}

impl Endpoints {
    pub(crate) fn new(informers: &Informers) -> Self {
        let slices = informers.of::<EndpointSlice>();
        let by_service = slices.index("proxy/service", |slice| service_of(slice).iter().map(Key::to_string).collect());
        Endpoints {
            services: informers.of(),
            slices,
            by_service,
            backends: Mutex::default(),
            informers: informers.clone(),
            pods: OnceLock::new(),
            parted: CancellationToken::new(),
        }
    }

    /// Keeps parts of Services current when labels of pods change, once there are such parts, until the informers stop.
    pub(crate) async fn follow_pods(&self) {
        self.parted.cancelled().await;
        let mut changes = self.pods().subscribe();
        while let Some(change) = changes.next().await {
            let same = match &change {
                Change::Applied { old: Some(old), new } => old.metadata.labels == new.metadata.labels,
                Change::Applied { old: None, .. } | Change::Deleted(_) => false,
            };
            if !same {
                self.refresh_parts(change.object().metadata.namespace.as_deref().unwrap_or(""));
            }
        }
    }

    fn pods(&self) -> &Informer<Pod> {
        self.parted.cancel();
        self.pods.get_or_init(|| self.informers.of())
    }

    fn refresh_parts(&self, namespace: &str) {
        let backends = self.backends.lock();
        let here = backends.iter().filter(|(service, _)| service.namespace == namespace);
        for (service, backends) in here {
            for ((port, variant), backend) in backends.iter().filter(|((_, variant), _)| !variant.labels.is_empty()) {
                self.fill(service, *port, variant, backend);
            }
        }
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

    /// Whether the pod behind an endpoint has labels; one that is not known yet has none.
    fn has_labels(&self, namespace: &str, endpoint: &Endpoint, labels: &BTreeMap<String, String>) -> bool {
        if labels.is_empty() {
            return true;
        }
        let target = endpoint.target_ref.as_ref().filter(|target| target.kind.as_deref() == Some("Pod"));
        let pod = target.and_then(|target| self.pods().get(namespace, target.name.as_deref()?));
        pod.is_some_and(|pod| is_labelled(&pod, labels))
    }

    fn fill(&self, service: &Key, port: i32, variant: &Variant, backend: &Backend) {
        let addresses = match self.services.get(&service.namespace, &service.name) {
            Some(object) if variant.by_service_address => own_address(&object, port).into_iter().collect(),
            Some(object) => {
                let has = |endpoint: &Endpoint| self.has_labels(&service.namespace, endpoint, &variant.labels);
                endpoints(&object, port, &self.by_service.get(&service.to_string()), has)
            }
            None => Vec::new(),
        };
        if backend.set_endpoints(addresses) {
            debug!(backend = backend.name(), endpoints = ?backend.endpoints(), "endpoints changed");
        }
    }
}

/// Whether a pod has labels.
fn is_labelled(pod: &Pod, labels: &BTreeMap<String, String>) -> bool {
    let own = pod.metadata.labels.as_ref();
    labels.iter().all(|(name, value)| own.is_some_and(|own| own.get(name) == Some(value)))
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
pub(crate) fn endpoints(
    service: &Service,
    port: i32,
    slices: &[Arc<EndpointSlice>],
    wanted_pod: impl Fn(&Endpoint) -> bool,
) -> Vec<SocketAddr> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let Some(declared) = ports.into_iter().flatten().find(|p| p.port == port) else { return Vec::new() };
    let wanted = declared.name.as_deref().unwrap_or("");
    let mut addresses = Vec::new();
    for slice in slices {
        let ports = slice.ports.iter().flatten();
        let number = ports.filter(|p| p.name.as_deref().unwrap_or("") == wanted).find_map(|p| p.port);
        let Some(number) = number.and_then(|n| u16::try_from(n).ok()) else { continue };
        for endpoint in slice.endpoints.iter().flatten().filter(|e| takes_traffic(e) && wanted_pod(e)) {
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
        let found =
            |port| endpoints(&service, port, &slices, |_| true).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found(80), ["10.0.0.1:8080", "10.0.0.4:8080"]);
        assert_eq!(found(81), ["10.0.0.1:9090", "10.0.0.4:9090"]);
        assert_eq!(found(82), Vec::<String>::new());
    }
}
