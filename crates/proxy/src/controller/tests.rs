//! What the specification says about attaching, references, conflicts and status, as tables over a cluster in memory.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use ::http::{HeaderMap, Method};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::{api::networking::v1::IngressClass, apimachinery::pkg::apis::meta::v1::Condition};
use kinds::gateway::{BackendTLSPolicy, Gateway, GatewayClass, ListenerSet, ListenerSetStatus, ReferenceGrant};
use kinds::istio::{DestinationRule, VirtualService};
use rustls::RootCertStore;
use serde_json::json;

use super::{
    attachment::{AnyPolicy, KINDS, PolicyId},
    declared::Declared,
    endpoints::Variant,
    extensions::{Extension, ExtensionKind},
    listeners::ListenerId,
    lookup::Lookup,
    *,
};
use crate::{
    answers::Stores,
    routing::{Backend, Certificate, Decision, Guard, Place, RemoteKeys, RequestHead, Site, Target, Transport, Wire},
    server::{Bindings, certificate, roots},
};

mod annotations;
mod attachment;
mod clients;
mod cost;
mod extensions;
mod gateways;
mod ingress;
mod istio_kinds;
mod live;
mod policies;
mod routes;
mod security;
mod services;
mod streams;

/// A cluster: objects by kind and name, as JSON. Secrets called `cert` hold a certificate, ConfigMaps called `roots` the
/// root of one.
pub(super) struct Cluster {
    objects: BTreeMap<(String, Key), Value>,
    backends: Mutex<HashMap<(Key, i32), Arc<Backend>>>,
    declarations: Declared,
    stores: Stores,
    certificate: Certificate,
    roots: Arc<RootCertStore>,
}

impl Cluster {
    /// A class of ours and one of somebody else's, Services `web` and `api` in `shop` and `other`.
    pub(super) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["shop.test".to_owned()]).unwrap();
        let certificate = certificate(made.cert.pem().as_bytes(), made.signing_key.serialize_pem().as_bytes()).unwrap();
        let mut cluster = Cluster {
            objects: BTreeMap::new(),
            backends: Mutex::default(),
            declarations: Declared::default(),
            stores: Stores::new(PathBuf::new()),
            certificate,
            roots: Arc::new(roots(made.cert.pem().as_bytes()).unwrap()),
        };
        for (name, controller) in [("keelson", CONTROLLER_NAME), ("foreign", "example.com/gateway")] {
            cluster.put("GatewayClass", "", name, json!({"spec": {"controllerName": controller}}));
        }
        for (namespace, name) in [("shop", "web"), ("shop", "api"), ("other", "web"), ("other", "api")] {
            let ports = json!([{"name": "http", "port": 80}, {"name": "h2", "port": 81, "appProtocol": "kubernetes.io/h2c"},
                {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "ws", "port": 82, "appProtocol": "kubernetes.io/ws"}]);
            cluster.put("Service", namespace, name, json!({"spec": {"ports": ports}}));
        }
        for namespace in ["shop", "other"] {
            cluster.put("Namespace", "", namespace, json!({"metadata": {"labels": {"name": namespace}}}));
        }
        cluster.put("Secret", "shop", "cert", json!({}));
        cluster.put("ConfigMap", "shop", "roots", json!({}));
        cluster
    }

    pub(super) fn put(&mut self, kind: &str, namespace: &str, name: &str, mut object: Value) {
        object["metadata"]["name"] = name.into();
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = namespace.into();
        }
        if object["metadata"]["generation"].is_null() {
            object["metadata"]["generation"] = 1.into();
        }
        self.objects.insert((kind.to_owned(), Key::new(namespace, name)), object);
    }

    pub(super) fn remove(&mut self, kind: &str, namespace: &str, name: &str) {
        self.objects.remove(&(kind.to_owned(), Key::new(namespace, name)));
    }

    /// Gateway `shop/edge`.
    pub(super) fn listen(&mut self, listeners: Value) {
        self.put("Gateway", "shop", "edge", json!({"spec": {"gatewayClassName": "keelson", "listeners": listeners}}));
    }

    /// HTTPRoute `shop/route` to `shop/edge` and `web`, with these fields besides.
    pub(super) fn http_route(&mut self, more: Value) {
        let mut spec =
            json!({"parentRefs": [{"name": "edge"}], "rules": [{"backendRefs": [{"name": "web", "port": 80}]}]});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        self.put("HTTPRoute", "shop", "route", json!({"spec": spec}));
    }

    fn get<K: DeserializeOwned>(&self, kind: &str, key: &Key) -> Option<Arc<K>> {
        let object = self.objects.get(&(kind.to_owned(), key.clone()))?;
        Some(Arc::new(serde_json::from_value(object.clone()).unwrap()))
    }

    fn all<K: DeserializeOwned>(&self, kind: &str) -> Vec<Arc<K>> {
        let keys = self.objects.keys().filter(|(of, _)| of == kind).map(|(_, key)| key);
        keys.filter_map(|key| self.get(kind, key)).collect()
    }

    /// Everything, as items.
    pub(super) fn items(&self) -> Vec<Item> {
        let item = |(kind, key): &(String, Key)| match kind.as_str() {
            "GatewayClass" => Some(Item::Class(key.name.clone())),
            "Gateway" => Some(Item::Gateway(key.clone())),
            "BackendTLSPolicy" => Some(Item::Policy(key.clone())),
            "Backend" => Some(Item::Declared(key.clone())),
            "Ingress" => Some(Item::Ingress(key.clone())),
            "VirtualService" => Some(Item::Virtual(key.clone())),
            "DestinationRule" => Some(Item::Destination(key.clone())),
            kind => match KINDS.iter().find(|known| known.name == kind) {
                Some(known) => Some(Item::Attached(PolicyId { kind: known.name, key: key.clone() })),
                None => RouteKind::of(kind).map(|kind| Item::Route(kind, key.clone())),
            },
        };
        self.objects.keys().filter_map(item).collect()
    }

    /// All of it compiled, on loopback only.
    pub(super) fn compile(&self) -> Core {
        let mut core = Core::new(Addresses::new(vec![LOCAL], None));
        core.apply(self.items(), self);
        core
    }
}

pub(super) const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

impl Lookup for Cluster {
    fn class(&self, name: &str) -> Option<Arc<GatewayClass>> {
        self.get("GatewayClass", &Key::cluster(name))
    }

    fn gateway(&self, key: &Key) -> Option<Arc<Gateway>> {
        self.get("Gateway", key)
    }

    fn sets(&self, gateway: &Key) -> Vec<Arc<ListenerSet>> {
        self.all("ListenerSet").into_iter().filter(|set| gateway_of(set) == *gateway).collect()
    }

    fn set(&self, key: &Key) -> Option<Arc<ListenerSet>> {
        self.get("ListenerSet", key)
    }

    fn route(&self, kind: RouteKind, key: &Key) -> Option<Route> {
        match kind {
            RouteKind::Http => self.get(kind.name(), key).map(Route::Http),
            RouteKind::Grpc => self.get(kind.name(), key).map(Route::Grpc),
            RouteKind::Tls => self.get(kind.name(), key).map(Route::Tls),
            RouteKind::Tcp => self.get(kind.name(), key).map(Route::Tcp),
            RouteKind::Udp => self.get(kind.name(), key).map(Route::Udp),
        }
    }

    fn grants(&self, namespace: &str) -> Vec<Arc<ReferenceGrant>> {
        let grants = self.all::<ReferenceGrant>("ReferenceGrant").into_iter();
        grants.filter(|grant| grant.metadata.namespace.as_deref() == Some(namespace)).collect()
    }

    fn service(&self, key: &Key) -> Option<Arc<Service>> {
        self.get("Service", key)
    }

    fn certificate(&self, key: &Key) -> Result<Certificate, String> {
        self.get::<Value>("Secret", key).ok_or("not found")?;
        if key.name == "cert" { Ok(Arc::clone(&self.certificate)) } else { Err("has no tls.crt".to_owned()) }
    }

    fn roots(&self, key: &Key) -> Result<Arc<RootCertStore>, String> {
        self.get::<Value>("ConfigMap", key).ok_or("not found")?;
        if key.name == "roots" { Ok(Arc::clone(&self.roots)) } else { Err("has no ca.crt".to_owned()) }
    }

    fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        let namespace = self.get::<Namespace>("Namespace", &Key::cluster(name));
        namespace.and_then(|namespace| namespace.metadata.labels.clone()).unwrap_or_default()
    }

    fn policies(&self, service: &Key) -> Vec<Arc<BackendTLSPolicy>> {
        let policies = self.all::<BackendTLSPolicy>("BackendTLSPolicy").into_iter();
        policies.filter(|policy| super::policies::services(policy).contains(service)).collect()
    }

    fn policy(&self, key: &Key) -> Option<Arc<BackendTLSPolicy>> {
        self.get("BackendTLSPolicy", key)
    }

    fn attached(&self, id: &PolicyId) -> Option<Arc<dyn AnyPolicy>> {
        let object = self.objects.get(&(id.kind.to_owned(), id.key.clone()))?;
        KINDS.iter().find(|kind| kind.name == id.kind).map(|kind| (kind.read)(object.clone()))
    }

    fn ingress(&self, key: &Key) -> Option<Arc<Ingress>> {
        self.get("Ingress", key)
    }

    fn ingresses_at(&self, place: &str) -> Vec<Arc<Ingress>> {
        let ingresses = self.all::<Ingress>("Ingress").into_iter();
        ingresses.filter(|ingress| ingresses::paths(ingress).contains(place)).collect()
    }

    fn secret(&self, key: &Key) -> Option<Arc<Secret>> {
        self.get("Secret", key)
    }

    fn config_map(&self, key: &Key) -> Option<Arc<ConfigMap>> {
        self.get("ConfigMap", key)
    }

    fn extension(&self, kind: ExtensionKind, key: &Key) -> Option<Extension> {
        match kind {
            ExtensionKind::RouteFilter => self.get(kind.name().1, key).map(Extension::RouteFilter),
            ExtensionKind::Idempotency => self.get(kind.name().1, key).map(Extension::Idempotency),
            ExtensionKind::ApiVersion => self.get(kind.name().1, key).map(Extension::ApiVersion),
        }
    }

    fn stores(&self) -> &Stores {
        &self.stores
    }

    fn declared(&self, key: &Key) -> Option<Arc<kinds::envoy_gateway::Backend>> {
        self.get("Backend", key)
    }

    fn declarations(&self) -> &Declared {
        &self.declarations
    }

    fn variant(&self, service: &Key, port: i32, variant: &Variant, wire: &dyn Fn() -> Wire) -> Arc<Backend> {
        let backend = Backend::new(format!(
            "{service}:{port} {}",
            if variant.by_service_address {
                "itself"
            } else if variant.labels.is_empty() {
                ""
            } else {
                &*variant.name
            }
        ));
        backend.set_wire(wire());
        backend
    }

    fn virtual_service(&self, key: &Key) -> Option<Arc<VirtualService>> {
        self.get("VirtualService", key)
    }

    fn destination_rule(&self, key: &Key) -> Option<Arc<DestinationRule>> {
        self.get("DestinationRule", key)
    }

    fn destinations(&self, service: &Key) -> Vec<Arc<DestinationRule>> {
        let rules = self.all::<DestinationRule>("DestinationRule").into_iter();
        rules.filter(|rule| istio::about(rule).as_ref() == Some(service)).collect()
    }

    fn ingress_classes(&self) -> Vec<Arc<IngressClass>> {
        self.all("IngressClass")
    }

    fn backend(&self, service: &Key, port: i32) -> Arc<Backend> {
        let mut backends = self.backends.lock();
        let backend = backends.entry((service.clone(), port));
        Arc::clone(backend.or_insert_with(|| Backend::new(format!("{service}:{port}"))))
    }

    fn keys(&self, _place: &str, make: &dyn Fn() -> RemoteKeys) -> Arc<RemoteKeys> {
        Arc::new(make())
    }

    fn backends(&self, service: &Key) -> Vec<(i32, Arc<Backend>)> {
        let backends = self.backends.lock();
        let of = backends.iter().filter(|((key, _), _)| key == service);
        of.map(|((_, port), backend)| (*port, Arc::clone(backend))).collect()
    }
}

pub(super) fn http() -> Value {
    json!([{"name": "http", "port": 80, "protocol": "HTTP"}])
}

pub(super) fn edge() -> Key {
    Key::new("shop", "edge")
}

pub(super) fn shared(port: u16) -> Site {
    Site { place: Place::Shared, port, transport: Transport::Tcp }
}

/// Name of the backend that takes a request at the shared addresses, or the status, or where it is sent.
pub(super) fn taken(core: &Core, port: u16, host: &str, path: &str) -> String {
    taken_at(core, shared(port), host, path)
}

pub(super) fn taken_at(core: &Core, site: Site, host: &str, path: &str) -> String {
    let (headers, method) = (HeaderMap::new(), Method::GET);
    let head = RequestHead { host, method: &method, path, query: None, headers: &headers };
    let table = core.table();
    let Some(port) = table.port(site) else { return "closed".to_owned() };
    let decision = match port.find(site.port, None, &head, 0) {
        Ok(found) => {
            let inherited = found.inherited();
            let guards = found.guards(inherited.as_deref());
            if let Some(Guard::Refuse(status)) = guards.and_then(|guards| guards.steps.first()) {
                return status.as_u16().to_string();
            }
            found.decide(&head, None, 0)
        }
        Err(decision) => decision,
    };
    match decision {
        Decision::Forward(way) => way.backend.name().to_owned(),
        Decision::Redirect { location, .. } => location,
        Decision::Fail(status) => status.as_u16().to_string(),
        Decision::Answer { direct, .. } => format!("answer {}", direct.status.as_u16()),
        Decision::NotFound => "404".to_owned(),
        Decision::Misdirected => "421".to_owned(),
        Decision::Preflight(_) => "preflight".to_owned(),
    }
}

/// Name of the backend that takes a connection or datagrams.
pub(super) fn carried(core: &Core, site: Site, server_name: &str) -> Option<String> {
    let table = core.table();
    match &table.port(site)?.listener(server_name)?.stream(server_name, 0)?.target {
        Target::Service { backend, .. } => Some(backend.name().to_owned()),
        Target::Invalid => None,
    }
}

/// The reasons of the conditions of a route's parents, `Accepted` and `ResolvedRefs` of each.
pub(super) fn reasons(core: &Core, kind: RouteKind) -> Vec<&'static str> {
    let plan = core.route(kind, &Key::new("shop", "route")).unwrap();
    let verdicts = plan.parents.iter().flat_map(|parent| &parent.verdicts[..2]);
    verdicts
        .map(|verdict| {
            let good = ["Accepted", "ResolvedRefs"].contains(&verdict.reason);
            assert_eq!(verdict.holds, good, "{verdict:?}");
            verdict.reason
        })
        .collect()
}

/// Every port of the table open on loopback.
pub(super) fn open(core: &Core) -> Bindings {
    let address = |site: Site| match site.place {
        Place::Shared => LOCAL,
        Place::Own(own) => own,
    };
    let table = core.table();
    let sites = table.sites().map(|site| {
        let address = address(site);
        ((address, site.port, site.transport), Ok((address, site.port).into()))
    });
    sites.collect()
}

/// What is told about Gateway `shop/edge` with these ports open.
pub(super) fn told(core: &Core, bindings: &Bindings, now: Timestamp) -> status::Told {
    let scene = status::Scene { core, shared: &[LOCAL], bindings, now };
    let known = core.gateway(&edge()).unwrap().gateway.status.clone().unwrap_or_default();
    status::gateway(scene, &edge(), &known, &|_| ListenerSetStatus::default()).unwrap()
}

/// Type, status and reason of each condition.
pub(super) fn brief(conditions: &[Condition]) -> Vec<String> {
    conditions.iter().map(|c| format!("{}={} {}", c.type_, c.status, c.reason)).collect()
}

/// Those of one listener of `shop/edge`.
pub(super) fn brief_listener(core: &Core, name: &str) -> Vec<String> {
    let told = told(core, &open(core), Timestamp::now());
    brief(&told.status.listeners.iter().find(|listener| listener.name == name).unwrap().conditions)
}

pub(super) fn attached(core: &Core, listener: &str) -> usize {
    core.attached(&ListenerId { gateway: edge(), source: listeners::Source::Gateway, name: listener.to_owned() })
}

#[test]
fn what_a_status_no_longer_has_is_taken_away() {
    let known = json!({"addresses": [1], "conditions": [2]});
    let status = json!({"conditions": [3], "listeners": []});
    let expected = json!({"addresses": null, "conditions": [3], "listeners": []});
    assert_eq!((replacing(Some(&known), &status), replacing(None, &status)), (expected, status));
}
