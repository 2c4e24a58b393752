//! What the compiler sees of the cluster.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::Service,
        networking::v1::{Ingress, IngressClass},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kinds::gateway::{self, Gateway, GatewayClass, HTTPRoute, ReferenceGrant};
use kube::Resource;

use super::verdict::Fault;
use crate::routing::{Backend, Certificate, Rank};

/// The objects that make up a table.
#[derive(Clone, Default)]
pub(crate) struct World {
    pub(crate) classes: Vec<Arc<GatewayClass>>,
    pub(crate) gateways: Vec<Arc<Gateway>>,
    pub(crate) routes: Vec<Arc<HTTPRoute>>,
    pub(crate) grants: Vec<Arc<ReferenceGrant>>,
    pub(crate) ingresses: Vec<Arc<Ingress>>,
    pub(crate) ingress_classes: Vec<Arc<IngressClass>>,
}

/// What is looked up by name while compiling.
pub(crate) trait Lookup {
    fn service(&self, namespace: &str, name: &str) -> Option<Arc<Service>>;
    /// The certificate in a Secret.
    fn certificate(&self, namespace: &str, name: &str) -> Result<Certificate, String>;
    fn namespace_labels(&self, name: &str) -> BTreeMap<String, String>;
    /// The shared backend for a port of a Service.
    fn backend(&self, namespace: &str, service: &str, port: i32) -> Arc<Backend>;
}

/// One end of a reference that may cross namespaces.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Referrer<'a> {
    pub(crate) group: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
}

impl World {
    /// Whether a reference to a core object is inside its namespace, or a grant there permits it.
    pub(crate) fn permit(&self, from: Referrer<'_>, kind: &str, namespace: &str, name: &str) -> Result<(), Fault> {
        let granted = || {
            let grants = self.grants.iter().filter(|g| g.metadata.namespace.as_deref() == Some(namespace));
            grants.into_iter().any(|grant| {
                grant
                    .spec
                    .from
                    .iter()
                    .any(|f| f.group == from.group && f.kind == from.kind && f.namespace == from.namespace)
                    && grant.spec.to.iter().any(|t| {
                        t.group.is_empty()
                            && t.kind == kind
                            && t.name.as_deref().is_none_or(|n| n.is_empty() || n == name)
                    })
            })
        };
        if namespace == from.namespace || granted() {
            return Ok(());
        }
        let message = format!(
            "{kind} {namespace}/{name} may not be referenced from {} in namespace {}: no ReferenceGrant permits it",
            from.kind, from.namespace
        );
        Err(Fault::new("RefNotPermitted", message))
    }

    /// Puts everything in the order of precedence: the oldest first, then by name.
    pub(crate) fn sort(&mut self) {
        self.gateways.sort_by_cached_key(|o| rank(&**o));
        self.routes.sort_by_cached_key(|o| rank(&**o));
        self.ingresses.sort_by_cached_key(|o| rank(&**o));
    }
}

/// What decides between objects that are otherwise equal.
pub(crate) fn rank<K: Resource>(object: &K) -> Rank {
    let meta = object.meta();
    let created = meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    Rank { created, name: full_name(meta), order: (0, 0) }
}

/// `namespace/name`.
pub(crate) fn full_name(meta: &ObjectMeta) -> String {
    format!("{}/{}", namespace(meta), meta.name.as_deref().unwrap_or(""))
}

pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or("")
}

/// Whether a group and kind name what they should; absent ones take their defaults.
pub(crate) fn is(group: Option<&str>, kind: Option<&str>, expected: (&str, &str)) -> bool {
    group.unwrap_or(expected.0) == expected.0 && kind.unwrap_or(expected.1) == expected.1
}

/// Group and kind of a gateway, for references to it.
pub(crate) const GATEWAY: (&str, &str) = (gateway::GROUP, "Gateway");

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
