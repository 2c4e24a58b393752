//! The cluster as the informers know it.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Weak},
};

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Namespace, Secret, Service},
        networking::v1::{Ingress, IngressClass},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kinds::istio::{DestinationRule, VirtualService};
use kinds::{
    envoy_gateway,
    gateway::{
        BackendTLSPolicy, GRPCRoute, Gateway, GatewayClass, HTTPRoute, ListenerSet, ReferenceGrant, TCPRoute, TLSRoute,
        UDPRoute,
    },
    gateway_extensions::{ApiVersionFilter, IdempotencyFilter},
};
use kube::core::ApiResource;
use parking_lot::Mutex;
use reconcile::{Index, Informer, Informers, Key, Metadata};
use rustls::RootCertStore;

use super::{
    attachment::{AnyPolicy, KINDS, PolicyId, Source},
    declared::Declared,
    endpoints::{Endpoints, Variant},
    extensions::{Extension, ExtensionKind},
    ingresses, istio,
    item::RouteKind,
    lookup::{Lookup, Route, namespace},
    policies,
    verdict::Verdict,
    versions,
};
use crate::{
    answers::Stores,
    routing::{Backend, Certificate, RemoteKeys, Wire},
    server::{certificate, roots},
};

/// Everything that is watched.
pub(crate) struct View {
    pub(crate) endpoints: Endpoints,
    pub(crate) classes: Informer<GatewayClass>,
    pub(crate) gateways: Informer<Gateway>,
    pub(crate) sets: Informer<ListenerSet>,
    pub(crate) http: Informer<HTTPRoute>,
    pub(crate) grpc: Informer<GRPCRoute>,
    pub(crate) tls: Informer<TLSRoute>,
    pub(crate) tcp: Informer<TCPRoute>,
    pub(crate) udp: Informer<UDPRoute>,
    pub(crate) grants: Informer<ReferenceGrant>,
    pub(crate) policies: Informer<BackendTLSPolicy>,
    /// The policies that attach to Gateways and routes, kind by kind.
    pub(crate) attached: Vec<Box<dyn Source>>,
    pub(crate) declared: Informer<envoy_gateway::Backend>,
    pub(crate) declarations: Declared,
    stores: Stores,
    pub(crate) idempotency: Informer<IdempotencyFilter>,
    pub(crate) versions: Informer<ApiVersionFilter>,
    pub(crate) route_filters: Informer<envoy_gateway::HTTPRouteFilter>,
    pub(crate) ingresses: Informer<Ingress>,
    pub(crate) ingress_classes: Informer<IngressClass>,
    pub(crate) secrets: Informer<Secret>,
    pub(crate) config_maps: Informer<ConfigMap>,
    pub(crate) namespaces: Informer<Namespace>,
    pub(crate) definitions: Informer<Metadata>,
    pub(crate) virtual_services: Informer<VirtualService>,
    pub(crate) destination_rules: Informer<DestinationRule>,
    destinations_by_service: Index<DestinationRule>,
    ingresses_by_path: Index<Ingress>,
    sets_by_gateway: Index<ListenerSet>,
    policies_by_service: Index<BackendTLSPolicy>,
    certificates: Parsed<Certificate>,
    roots: Parsed<Arc<RootCertStore>>,
    /// Keys that policies have fetched, by where they come from: a policy that changes keeps those that are known.
    keys: Mutex<HashMap<String, Weak<RemoteKeys>>>,
}

impl View {
    pub(crate) fn new(informers: &Informers, answers: PathBuf) -> Self {
        let (sets, policies) = (informers.of::<ListenerSet>(), informers.of::<BackendTLSPolicy>());
        let ingresses = informers.of::<Ingress>();
        let destination_rules = informers.of::<DestinationRule>();
        let service = |rule: &DestinationRule| istio::about(rule).map(|service| service.to_string());
        View {
            endpoints: Endpoints::new(informers),
            classes: informers.of(),
            gateways: informers.of(),
            http: informers.of(),
            grpc: informers.of(),
            tls: informers.of(),
            tcp: informers.of(),
            udp: informers.of(),
            grants: informers.of(),
            attached: KINDS.iter().map(|kind| (kind.open)(informers)).collect(),
            declared: informers.of(),
            declarations: Declared::default(),
            stores: Stores::new(answers),
            idempotency: informers.of(),
            versions: informers.of(),
            route_filters: informers.of(),
            ingress_classes: informers.of(),
            secrets: informers.of(),
            config_maps: informers.of(),
            namespaces: informers.of(),
            definitions: informers.metadata(&ApiResource::erase::<CustomResourceDefinition>(&())),
            virtual_services: informers.of(),
            destinations_by_service: destination_rules
                .index("proxy/service", move |rule| service(rule).into_iter().collect()),
            destination_rules,
            sets_by_gateway: sets.index("proxy/gateway", |set| vec![gateway_of(set).to_string()]),
            policies_by_service: policies
                .index("proxy/service", |policy| policies::services(policy).iter().map(Key::to_string).collect()),
            ingresses_by_path: ingresses.index("proxy/path", |ingress| ingresses::paths(ingress).into_iter().collect()),
            sets,
            policies,
            ingresses,
            certificates: Parsed::default(),
            roots: Parsed::default(),
            keys: Mutex::default(),
        }
    }

    /// Whether the cluster's Gateway API is one that is known here; `None` while that is not known.
    pub(crate) fn supported_version(&self) -> Option<Verdict> {
        if !self.definitions.is_synced() {
            return None;
        }
        let definitions = self.definitions.list();
        Some(versions::verdict(definitions.iter().filter_map(|definition| release_of(definition))))
    }

    /// Waits for everything that traffic depends on.
    pub(crate) async fn synced(&self) {
        self.classes.synced().await;
        self.gateways.synced().await;
        self.sets.synced().await;
        self.http.synced().await;
        self.grpc.synced().await;
        self.tls.synced().await;
        self.tcp.synced().await;
        self.udp.synced().await;
        self.grants.synced().await;
        self.policies.synced().await;
        for source in &self.attached {
            source.synced().await;
        }
        self.declared.synced().await;
        self.route_filters.synced().await;
        self.idempotency.synced().await;
        self.versions.synced().await;
        self.virtual_services.synced().await;
        self.destination_rules.synced().await;
        self.ingresses.synced().await;
        self.ingress_classes.synced().await;
        self.secrets.synced().await;
        self.config_maps.synced().await;
        self.namespaces.synced().await;
        self.endpoints.services().synced().await;
        self.endpoints.slices().synced().await;
    }
}

/// A definition of Gateway API, and the release it says it belongs to.
pub(crate) fn release_of(definition: &Metadata) -> Option<(&str, Option<&str>)> {
    let meta = &definition.metadata;
    versions::release(meta.name.as_deref()?, |key| meta.annotations.as_ref()?.get(key).map(String::as_str))
}

/// The Gateway that a ListenerSet names.
pub(crate) fn gateway_of(set: &ListenerSet) -> Key {
    let reference = &set.spec.parent_ref;
    Key::new(reference.namespace.as_deref().unwrap_or(namespace(&set.metadata)), &reference.name)
}

impl Lookup for View {
    fn class(&self, name: &str) -> Option<Arc<GatewayClass>> {
        self.classes.get("", name)
    }

    fn gateway(&self, key: &Key) -> Option<Arc<Gateway>> {
        self.gateways.get(&key.namespace, &key.name)
    }

    fn sets(&self, gateway: &Key) -> Vec<Arc<ListenerSet>> {
        self.sets_by_gateway.get(&gateway.to_string())
    }

    fn set(&self, key: &Key) -> Option<Arc<ListenerSet>> {
        self.sets.get(&key.namespace, &key.name)
    }

    fn route(&self, kind: RouteKind, key: &Key) -> Option<Route> {
        let (namespace, name) = (&key.namespace, &key.name);
        match kind {
            RouteKind::Http => self.http.get(namespace, name).map(Route::Http),
            RouteKind::Grpc => self.grpc.get(namespace, name).map(Route::Grpc),
            RouteKind::Tls => self.tls.get(namespace, name).map(Route::Tls),
            RouteKind::Tcp => self.tcp.get(namespace, name).map(Route::Tcp),
            RouteKind::Udp => self.udp.get(namespace, name).map(Route::Udp),
        }
    }

    fn grants(&self, namespace: &str) -> Vec<Arc<ReferenceGrant>> {
        self.grants.namespace(namespace)
    }

    fn service(&self, key: &Key) -> Option<Arc<Service>> {
        self.endpoints.services().get(&key.namespace, &key.name)
    }

    fn certificate(&self, key: &Key) -> Result<Certificate, String> {
        let secret = self.secrets.get(&key.namespace, &key.name);
        let version = secret.as_ref().and_then(|secret| secret.metadata.resource_version.clone());
        self.certificates.get(key, version, || {
            let secret = secret.ok_or("not found")?;
            let data = |key: &str| {
                let value = secret.data.as_ref().and_then(|data| data.get(key));
                value.map(|bytes| bytes.0.as_slice()).ok_or_else(|| format!("has no {key}"))
            };
            certificate(data("tls.crt")?, data("tls.key")?).map_err(|error| error.to_string())
        })
    }

    fn roots(&self, key: &Key) -> Result<Arc<RootCertStore>, String> {
        let map = self.config_maps.get(&key.namespace, &key.name);
        let version = map.as_ref().and_then(|map| map.metadata.resource_version.clone());
        self.roots.get(key, version, || {
            let map = map.ok_or("not found")?;
            let pem = map.data.as_ref().and_then(|data| data.get("ca.crt")).ok_or("has no ca.crt")?;
            roots(pem.as_bytes()).map(Arc::new).map_err(|error| error.to_string())
        })
    }

    fn namespace_labels(&self, name: &str) -> BTreeMap<String, String> {
        let namespace = self.namespaces.get("", name);
        namespace.and_then(|n| n.metadata.labels.clone()).unwrap_or_default()
    }

    fn policies(&self, service: &Key) -> Vec<Arc<BackendTLSPolicy>> {
        self.policies_by_service.get(&service.to_string())
    }

    fn policy(&self, key: &Key) -> Option<Arc<BackendTLSPolicy>> {
        self.policies.get(&key.namespace, &key.name)
    }

    fn attached(&self, id: &PolicyId) -> Option<Arc<dyn AnyPolicy>> {
        self.attached.iter().find(|source| source.kind() == id.kind)?.get(&id.key)
    }

    fn ingress(&self, key: &Key) -> Option<Arc<Ingress>> {
        self.ingresses.get(&key.namespace, &key.name)
    }

    fn ingresses_at(&self, place: &str) -> Vec<Arc<Ingress>> {
        self.ingresses_by_path.get(place)
    }

    fn secret(&self, key: &Key) -> Option<Arc<Secret>> {
        self.secrets.get(&key.namespace, &key.name)
    }

    fn config_map(&self, key: &Key) -> Option<Arc<ConfigMap>> {
        self.config_maps.get(&key.namespace, &key.name)
    }

    fn virtual_service(&self, key: &Key) -> Option<Arc<VirtualService>> {
        self.virtual_services.get(&key.namespace, &key.name)
    }

    fn destination_rule(&self, key: &Key) -> Option<Arc<DestinationRule>> {
        self.destination_rules.get(&key.namespace, &key.name)
    }

    fn destinations(&self, service: &Key) -> Vec<Arc<DestinationRule>> {
        self.destinations_by_service.get(&service.to_string())
    }

    fn ingress_classes(&self) -> Vec<Arc<IngressClass>> {
        self.ingress_classes.list()
    }

    fn extension(&self, kind: ExtensionKind, key: &Key) -> Option<Extension> {
        let (namespace, name) = (&key.namespace, &key.name);
        match kind {
            ExtensionKind::RouteFilter => self.route_filters.get(namespace, name).map(Extension::RouteFilter),
            ExtensionKind::Idempotency => self.idempotency.get(namespace, name).map(Extension::Idempotency),
            ExtensionKind::ApiVersion => self.versions.get(namespace, name).map(Extension::ApiVersion),
        }
    }

    fn stores(&self) -> &Stores {
        &self.stores
    }

    fn declared(&self, key: &Key) -> Option<Arc<envoy_gateway::Backend>> {
        self.declared.get(&key.namespace, &key.name)
    }

    fn declarations(&self) -> &Declared {
        &self.declarations
    }

    fn backend(&self, service: &Key, port: i32) -> Arc<Backend> {
        self.endpoints.backend(service, port)
    }

    fn variant(&self, service: &Key, port: i32, variant: &Variant, wire: &dyn Fn() -> Wire) -> Arc<Backend> {
        self.endpoints.variant(service, port, variant, wire)
    }

    fn keys(&self, place: &str, make: &dyn Fn() -> RemoteKeys) -> Arc<RemoteKeys> {
        let mut all = self.keys.lock();
        if let Some(known) = all.get(place).and_then(Weak::upgrade) {
            return known;
        }
        all.retain(|_, keys| keys.strong_count() > 0);
        let keys = Arc::new(make());
        all.insert(place.to_owned(), Arc::downgrade(&keys));
        keys
    }

    fn backends(&self, service: &Key) -> Vec<(i32, Arc<Backend>)> {
        self.endpoints.backends(service)
    }
}

/// What was parsed, by object and its resource version: parsing a key costs more than the rest of a compilation, and who
/// compares outcomes sees that nothing changed.
struct Parsed<T> {
    known: Mutex<HashMap<Key, Versioned<T>>>,
}

/// The resource version of an object, and what was parsed from it.
type Versioned<T> = (Option<String>, Result<T, String>);

impl<T> Default for Parsed<T> {
    fn default() -> Self {
        Parsed { known: Mutex::default() }
    }
}

impl<T: Clone> Parsed<T> {
    /// An object that is gone is parsed to an error, and not kept.
    fn get(&self, key: &Key, version: Option<String>, parse: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        let mut known = self.known.lock();
        if version.is_none() {
            known.remove(key);
            return parse();
        }
        if let Some((at, outcome)) = known.get(key)
            && *at == version
        {
            return outcome.clone();
        }
        let outcome = parse();
        known.insert(key.clone(), (version, outcome.clone()));
        outcome
    }
}
