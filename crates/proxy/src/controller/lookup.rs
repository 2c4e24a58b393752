//! What the compiler sees of the cluster, and the record of what it looked at.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::{
    api::{
        core::v1::{ConfigMap, Secret, Service},
        networking::v1::{Ingress, IngressClass},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kinds::gateway::{
    self, BackendTLSPolicy, GRPCRoute, Gateway, GatewayClass, HTTPRoute, ListenerSet, ParentReference, ReferenceGrant,
    RouteStatus, TCPRoute, TLSRoute, UDPRoute,
};
use kinds::istio::{DestinationRule, VirtualService};
use kube::Resource;
use reconcile::Key;
use rustls::RootCertStore;

use super::{
    attachment::{AnyPolicy, PolicyId},
    declared::Declared,
    endpoints::Variant,
    extensions::{Extension, ExtensionKind},
    item::{Dependency, RouteKind},
    verdict::Fault,
};
use crate::{
    answers::Stores,
    routing::{Backend, Certificate, Rank, RemoteKeys, Wire},
};

/// The cluster by name.
pub(crate) trait Lookup {
    fn class(&self, name: &str) -> Option<Arc<GatewayClass>>;
    fn gateway(&self, key: &Key) -> Option<Arc<Gateway>>;
    /// The ListenerSets of a Gateway.
    fn sets(&self, gateway: &Key) -> Vec<Arc<ListenerSet>>;
    fn set(&self, key: &Key) -> Option<Arc<ListenerSet>>;
    fn route(&self, kind: RouteKind, key: &Key) -> Option<Route>;
    fn grants(&self, namespace: &str) -> Vec<Arc<ReferenceGrant>>;
    fn service(&self, key: &Key) -> Option<Arc<Service>>;
    /// The certificate in a Secret.
    fn certificate(&self, key: &Key) -> Result<Certificate, String>;
    /// The roots in a ConfigMap.
    fn roots(&self, key: &Key) -> Result<Arc<RootCertStore>, String>;
    fn namespace_labels(&self, name: &str) -> BTreeMap<String, String>;
    /// The BackendTLSPolicies about a Service.
    fn policies(&self, service: &Key) -> Vec<Arc<BackendTLSPolicy>>;
    fn policy(&self, key: &Key) -> Option<Arc<BackendTLSPolicy>>;
    /// A policy that attaches to Gateways and routes.
    fn attached(&self, id: &PolicyId) -> Option<Arc<dyn AnyPolicy>>;
    fn ingress(&self, key: &Key) -> Option<Arc<Ingress>>;
    /// The Ingresses with a rule for a host and path, as [`super::ingresses::paths`] writes them.
    fn ingresses_at(&self, place: &str) -> Vec<Arc<Ingress>>;
    fn secret(&self, key: &Key) -> Option<Arc<Secret>>;
    fn config_map(&self, key: &Key) -> Option<Arc<ConfigMap>>;
    fn ingress_classes(&self) -> Vec<Arc<IngressClass>>;
    fn virtual_service(&self, key: &Key) -> Option<Arc<VirtualService>>;
    fn destination_rule(&self, key: &Key) -> Option<Arc<DestinationRule>>;
    /// The DestinationRules about a Service.
    fn destinations(&self, service: &Key) -> Vec<Arc<DestinationRule>>;
    /// The shared backend for a port of a Service.
    fn backend(&self, service: &Key, port: i32) -> Arc<Backend>;
    /// The same, spoken to in another way than the Service says.
    fn variant(&self, service: &Key, port: i32, variant: &Variant, wire: &dyn Fn() -> Wire) -> Arc<Backend>;
    /// What a rule refers to by `ExtensionRef`.
    fn extension(&self, kind: ExtensionKind, key: &Key) -> Option<Extension>;
    /// Where answers by idempotency key are kept.
    fn stores(&self) -> &Stores;
    /// A backend that is an object of its own.
    fn declared(&self, key: &Key) -> Option<Arc<kinds::envoy_gateway::Backend>>;
    /// Such backends as tables refer to them.
    fn declarations(&self) -> &Declared;
    /// The keys that somebody fetches from a place, with what is known of them.
    fn keys(&self, place: &str, make: &dyn Fn() -> RemoteKeys) -> Arc<RemoteKeys>;
    /// The backends of a Service that somebody refers to, by port.
    fn backends(&self, service: &Key) -> Vec<(i32, Arc<Backend>)>;
}

/// A lookup that remembers what was looked at.
pub(crate) struct Seen<'a> {
    cluster: &'a dyn Lookup,
    dependencies: RefCell<BTreeSet<Dependency>>,
}

impl<'a> Seen<'a> {
    pub(crate) fn new(cluster: &'a dyn Lookup) -> Self {
        Seen { cluster, dependencies: RefCell::default() }
    }

    /// What was looked at.
    pub(crate) fn dependencies(self) -> BTreeSet<Dependency> {
        self.dependencies.into_inner()
    }

    /// The Services that were looked at.
    pub(crate) fn services(&self) -> BTreeSet<Key> {
        let service = |dependency: &Dependency| match dependency {
            Dependency::Service(key) => Some(key.clone()),
            _ => None,
        };
        self.dependencies.borrow().iter().filter_map(service).collect()
    }

    pub(crate) fn note(&self, dependency: Dependency) {
        self.dependencies.borrow_mut().insert(dependency);
    }

    pub(crate) fn class(&self, name: &str) -> Option<Arc<GatewayClass>> {
        self.note(Dependency::Class(name.to_owned()));
        self.cluster.class(name)
    }

    pub(crate) fn sets(&self, gateway: &Key) -> Vec<Arc<ListenerSet>> {
        self.note(Dependency::Sets(gateway.clone()));
        self.cluster.sets(gateway)
    }

    pub(crate) fn set(&self, key: &Key) -> Option<Arc<ListenerSet>> {
        self.note(Dependency::Set(key.clone()));
        self.cluster.set(key)
    }

    pub(crate) fn service(&self, key: &Key) -> Option<Arc<Service>> {
        self.note(Dependency::Service(key.clone()));
        self.cluster.service(key)
    }

    pub(crate) fn certificate(&self, key: &Key) -> Result<Certificate, String> {
        self.note(Dependency::Secret(key.clone()));
        self.cluster.certificate(key)
    }

    pub(crate) fn roots(&self, key: &Key) -> Result<Arc<RootCertStore>, String> {
        self.note(Dependency::ConfigMap(key.clone()));
        self.cluster.roots(key)
    }

    pub(crate) fn policies(&self, service: &Key) -> Vec<Arc<BackendTLSPolicy>> {
        self.note(Dependency::Policies(service.clone()));
        self.cluster.policies(service)
    }

    pub(crate) fn ingress_classes(&self) -> Vec<Arc<IngressClass>> {
        self.note(Dependency::IngressClasses);
        self.cluster.ingress_classes()
    }

    pub(crate) fn destinations(&self, service: &Key) -> Vec<Arc<DestinationRule>> {
        self.note(Dependency::Destinations(service.clone()));
        self.cluster.destinations(service)
    }

    /// Who compiles by what is found has to see to it that it is compiled again.
    pub(crate) fn ingresses_at(&self, place: &str) -> Vec<Arc<Ingress>> {
        self.cluster.ingresses_at(place)
    }

    pub(crate) fn secret(&self, key: &Key) -> Option<Arc<Secret>> {
        self.note(Dependency::Secret(key.clone()));
        self.cluster.secret(key)
    }

    pub(crate) fn config_map(&self, key: &Key) -> Option<Arc<ConfigMap>> {
        self.note(Dependency::ConfigMap(key.clone()));
        self.cluster.config_map(key)
    }

    pub(crate) fn extension(&self, kind: ExtensionKind, key: &Key) -> Option<Extension> {
        self.note(Dependency::Extension(kind, key.clone()));
        self.cluster.extension(kind, key)
    }

    pub(crate) fn stores(&self) -> &Stores {
        self.cluster.stores()
    }

    pub(crate) fn declared(&self, key: &Key) -> Option<Arc<kinds::envoy_gateway::Backend>> {
        self.note(Dependency::Declared(key.clone()));
        self.cluster.declared(key)
    }

    pub(crate) fn declared_backend(&self, key: &Key) -> Arc<Backend> {
        self.cluster.declarations().backend(key)
    }

    pub(crate) fn keys(&self, place: &str, make: &dyn Fn() -> RemoteKeys) -> Arc<RemoteKeys> {
        self.cluster.keys(place, make)
    }

    pub(crate) fn variant(&self, service: &Key, port: i32, variant: &Variant, wire: &dyn Fn() -> Wire) -> Arc<Backend> {
        self.cluster.variant(service, port, variant, wire)
    }

    pub(crate) fn backend(&self, service: &Key, port: i32) -> Arc<Backend> {
        self.cluster.backend(service, port)
    }

    /// Whether a namespace's labels satisfy a selector.
    pub(crate) fn selects(&self, selector: &LabelSelector, namespace: &str) -> bool {
        self.note(Dependency::Namespace(namespace.to_owned()));
        selects(selector, &self.cluster.namespace_labels(namespace))
    }

    /// Whether a reference is inside its namespace, or a grant there permits it.
    pub(crate) fn permit(&self, from: Referrer<'_>, kind: &str, to: &Key) -> Result<(), Fault> {
        if self.is_granted(from, ("", kind), to) {
            return Ok(());
        }
        let message = format!(
            "{kind} {to} may not be referenced from {} in namespace {}: no ReferenceGrant permits it",
            from.kind, from.namespace
        );
        Err(Fault::new("RefNotPermitted", message))
    }

    /// Whether a reference is inside its namespace, or a grant there permits it to objects of a group and kind.
    pub(crate) fn is_granted(&self, from: Referrer<'_>, (group, kind): (&str, &str), to: &Key) -> bool {
        if to.namespace == from.namespace {
            return true;
        }
        self.note(Dependency::Grants(to.namespace.clone()));
        self.cluster.grants(&to.namespace).iter().any(|grant| {
            let trusted = grant.spec.from.iter();
            let opened = grant.spec.to.iter();
            { trusted }.any(|f| f.group == from.group && f.kind == from.kind && f.namespace == from.namespace) && {
                opened
            }
            .any(|t| {
                let named = t.name.as_deref().is_none_or(|name| name.is_empty() || name == to.name);
                t.group == group && t.kind == kind && named
            })
        })
    }
}

/// Who refers to something that may be in another namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Referrer<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
}

/// A route of any kind.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    Http(Arc<HTTPRoute>),
    Grpc(Arc<GRPCRoute>),
    Tls(Arc<TLSRoute>),
    Tcp(Arc<TCPRoute>),
    Udp(Arc<UDPRoute>),
}

impl Route {
    pub(crate) fn kind(&self) -> RouteKind {
        match self {
            Route::Http(_) => RouteKind::Http,
            Route::Grpc(_) => RouteKind::Grpc,
            Route::Tls(_) => RouteKind::Tls,
            Route::Tcp(_) => RouteKind::Tcp,
            Route::Udp(_) => RouteKind::Udp,
        }
    }

    pub(crate) fn meta(&self) -> &ObjectMeta {
        match self {
            Route::Http(route) => &route.metadata,
            Route::Grpc(route) => &route.metadata,
            Route::Tls(route) => &route.metadata,
            Route::Tcp(route) => &route.metadata,
            Route::Udp(route) => &route.metadata,
        }
    }

    pub(crate) fn parents(&self) -> &[ParentReference] {
        match self {
            Route::Http(route) => &route.spec.parent_refs,
            Route::Grpc(route) => &route.spec.parent_refs,
            Route::Tls(route) => &route.spec.parent_refs,
            Route::Tcp(route) => &route.spec.parent_refs,
            Route::Udp(route) => &route.spec.parent_refs,
        }
    }

    pub(crate) fn hostnames(&self) -> &[String] {
        match self {
            Route::Http(route) => &route.spec.hostnames,
            Route::Grpc(route) => &route.spec.hostnames,
            Route::Tls(route) => &route.spec.hostnames,
            Route::Tcp(_) | Route::Udp(_) => &[],
        }
    }

    /// The names of its rules.
    pub(crate) fn sections(&self) -> Vec<&str> {
        match self {
            Route::Http(route) => route.spec.rules.iter().filter_map(|rule| rule.name.as_deref()).collect(),
            Route::Grpc(route) => route.spec.rules.iter().filter_map(|rule| rule.name.as_deref()).collect(),
            Route::Tls(_) | Route::Tcp(_) | Route::Udp(_) => Vec::new(),
        }
    }

    pub(crate) fn status(&self) -> Option<&RouteStatus> {
        match self {
            Route::Http(route) => route.status.as_ref(),
            Route::Grpc(route) => route.status.as_ref(),
            Route::Tls(route) => route.status.as_ref(),
            Route::Tcp(route) => route.status.as_ref(),
            Route::Udp(route) => route.status.as_ref(),
        }
    }

    pub(crate) fn referrer(&self) -> Referrer<'_> {
        Referrer { group: gateway::GROUP, kind: self.kind().name(), namespace: namespace(self.meta()) }
    }
}

/// What decides between objects that are otherwise equal: the oldest first, then by name.
pub(crate) fn rank(meta: &ObjectMeta) -> Rank {
    let created = meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    Rank { created, name: format!("{}/{}", namespace(meta), name(meta)), order: (0, 0) }
}

pub(crate) fn key_of(meta: &ObjectMeta) -> Key {
    Key::new(namespace(meta), name(meta))
}

pub(crate) fn rank_of<K: Resource>(object: &K) -> Rank {
    rank(object.meta())
}

pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or("")
}

fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or("")
}

/// Whether a group and kind name what they should; absent ones take their defaults.
pub(crate) fn is(group: Option<&str>, kind: Option<&str>, expected: (&str, &str)) -> bool {
    group.unwrap_or(expected.0) == expected.0 && kind.unwrap_or(expected.1) == expected.1
}

/// Whether labels satisfy a selector.
pub(crate) fn selects(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let mut expressions = selector.match_expressions.iter().flatten();
    equal
        && expressions.all(|expression| {
            let value = labels.get(&expression.key);
            let listed = value.is_some_and(|v| expression.values.iter().flatten().any(|listed| listed == v));
            match expression.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
