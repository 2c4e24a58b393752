//! The kinds of policies.

use std::{fmt::Debug, future::Future, pin::Pin, sync::Arc};

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kinds::{
    envoy_gateway::{BackendTrafficPolicy, ClientTrafficPolicy, PolicyTargets, SecurityPolicy},
    gateway::PolicyStatus,
};
use kube::{Api, Resource};
use reconcile::{Change, Informer, Informers, Key};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{ClientTerms, TargetKind};
use crate::{
    controller::{lookup::Seen, patch, verdict::Fault},
    routing::{Guards, Policies, Traffic},
};

/// A kind of policy.
pub(crate) trait Policy:
    k8s_openapi::Resource
    + Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// What messages call several of them.
    const PLURAL: &'static str;

    /// What it is about.
    fn targets(&self) -> &PolicyTargets;

    /// What is said about it.
    fn status(&self) -> Option<&PolicyStatus>;

    /// Whether it can be followed where it is attached.
    fn suits(&self, target: TargetKind) -> Result<(), Fault>;

    /// What it amounts to, wherever it is attached.
    fn compile(&self, seen: &Seen<'_>) -> Effect;
}

/// What a policy amounts to.
#[derive(Clone, Debug)]
pub(crate) struct Effect {
    /// What requests have to pass.
    pub(crate) guards: Option<Arc<Guards>>,
    /// How requests are forwarded.
    pub(crate) traffic: Option<Arc<Traffic>>,
    /// How listeners treat their clients.
    pub(crate) client: Option<Arc<ClientTerms>>,
    /// Whether it can be followed. One that cannot may still have an effect: that nothing passes.
    pub(crate) accepted: Result<(), Fault>,
    /// What of it is not followed, each as a sentence that names the field.
    pub(crate) warnings: Vec<String>,
}

impl Default for Effect {
    /// Of a policy without an effect.
    fn default() -> Self {
        Effect { guards: None, traffic: None, client: None, accepted: Ok(()), warnings: Vec::new() }
    }
}

impl Effect {
    /// Adds what another kind of policy amounts to.
    pub(super) fn join(&mut self, other: &Effect) {
        self.guards = self.guards.take().or_else(|| other.guards.clone());
        self.traffic = self.traffic.take().or_else(|| other.traffic.clone());
        self.client = self.client.take().or_else(|| other.client.clone());
    }

    /// What of it is for rules.
    pub(super) fn policies(&self) -> Policies {
        Policies { guards: self.guards.clone(), traffic: self.traffic.clone() }
    }
}

/// A policy of any kind.
pub(crate) trait AnyPolicy: Send + Sync {
    fn group(&self) -> &'static str;
    fn kind(&self) -> &'static str;
    fn plural(&self) -> &'static str;
    fn meta(&self) -> &ObjectMeta;
    fn targets(&self) -> &PolicyTargets;
    fn status(&self) -> Option<&PolicyStatus>;
    fn suits(&self, target: TargetKind) -> Result<(), Fault>;
    fn compile(&self, seen: &Seen<'_>) -> Effect;
    /// Its specification.
    fn spec(&self) -> Value;
    /// This policy where it only changes what a parent's specification says.
    fn merged(&self, parent: &Value) -> Result<Arc<dyn AnyPolicy>, serde_json::Error>;
    /// Writes its status where it differs from the one that is there.
    fn write<'a>(&'a self, client: &'a kube::Client, status: &'a PolicyStatus) -> Pending<'a, Result<(), kube::Error>>;
}

/// A boxed future.
pub(crate) type Pending<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

impl<K: Policy> AnyPolicy for K {
    fn group(&self) -> &'static str {
        K::GROUP
    }

    fn kind(&self) -> &'static str {
        K::KIND
    }

    fn plural(&self) -> &'static str {
        K::PLURAL
    }

    fn meta(&self) -> &ObjectMeta {
        Resource::meta(self)
    }

    fn targets(&self) -> &PolicyTargets {
        Policy::targets(self)
    }

    fn status(&self) -> Option<&PolicyStatus> {
        Policy::status(self)
    }

    fn suits(&self, target: TargetKind) -> Result<(), Fault> {
        Policy::suits(self, target)
    }

    fn compile(&self, seen: &Seen<'_>) -> Effect {
        Policy::compile(self, seen)
    }

    fn spec(&self) -> Value {
        json!(self)["spec"].take()
    }

    fn merged(&self, parent: &Value) -> Result<Arc<dyn AnyPolicy>, serde_json::Error> {
        let mut object = json!(self);
        let own = object["spec"].take();
        let mut spec = parent.clone();
        merge(&mut spec, own);
        object["spec"] = spec;
        Ok(Arc::new(serde_json::from_value::<K>(object)?))
    }

    fn write<'a>(&'a self, client: &'a kube::Client, status: &'a PolicyStatus) -> Pending<'a, Result<(), kube::Error>> {
        Box::pin(async move {
            let known = Policy::status(self);
            if known == Some(status) || known.is_none() && status.ancestors.is_empty() {
                return Ok(());
            }
            let namespace = Resource::meta(self).namespace.as_deref().unwrap_or_default();
            patch(&Api::namespaced(client.clone(), namespace), self, known, status).await
        })
    }
}

/// A JSON merge patch (RFC 7386).
fn merge(into: &mut Value, patch: Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                match value {
                    Value::Null => drop(into.remove(&name)),
                    value => merge(into.entry(name).or_insert(Value::Null), value),
                }
            }
        }
        (into, patch) => *into = patch,
    }
}

/// A policy by kind and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PolicyId {
    pub(crate) kind: &'static str,
    pub(crate) key: Key,
}

/// Where the policies of a kind come from.
pub(crate) trait Source: Send + Sync {
    fn kind(&self) -> &'static str;
    fn get(&self, key: &Key) -> Option<Arc<dyn AnyPolicy>>;
    fn ids(&self) -> Vec<PolicyId>;
    fn synced(&self) -> Pending<'_, bool>;
    /// Tells of every policy that changes, and whether more than its status did, until there are no more changes.
    fn watch<'a>(&'a self, told: &'a (dyn Fn(PolicyId, bool) + Send + Sync)) -> Pending<'a, ()>;
}

impl<K: Policy> Source for Informer<K> {
    fn kind(&self) -> &'static str {
        K::KIND
    }

    fn get(&self, key: &Key) -> Option<Arc<dyn AnyPolicy>> {
        Some(Informer::get(self, &key.namespace, &key.name)?)
    }

    fn ids(&self) -> Vec<PolicyId> {
        self.list().iter().map(|policy| PolicyId { kind: K::KIND, key: Key::of(&**policy) }).collect()
    }

    fn synced(&self) -> Pending<'_, bool> {
        Box::pin(Informer::synced(self))
    }

    fn watch<'a>(&'a self, told: &'a (dyn Fn(PolicyId, bool) + Send + Sync)) -> Pending<'a, ()> {
        Box::pin(async move {
            let mut changes = self.subscribe();
            while let Some(change) = changes.next().await {
                let generation = |policy: &K| Resource::meta(policy).generation;
                let more = match &change {
                    Change::Applied { old: Some(old), new } => {
                        generation(old).is_none() || generation(old) != generation(new)
                    }
                    Change::Applied { old: None, .. } | Change::Deleted(_) => true,
                };
                told(PolicyId { kind: K::KIND, key: Key::of(&**change.object()) }, more);
            }
        })
    }
}

/// A kind of policy, registered.
pub(crate) struct PolicyKind {
    #[cfg(test)]
    pub(crate) name: &'static str,
    /// Watches them.
    pub(crate) open: fn(&Informers) -> Box<dyn Source>,
    /// Reads one.
    #[cfg(test)]
    pub(crate) read: fn(Value) -> Arc<dyn AnyPolicy>,
}

/// Every kind of policy.
pub(crate) static KINDS: [PolicyKind; 3] = [
    PolicyKind::of::<BackendTrafficPolicy>(),
    PolicyKind::of::<ClientTrafficPolicy>(),
    PolicyKind::of::<SecurityPolicy>(),
];

impl PolicyKind {
    const fn of<K: Policy>() -> Self {
        PolicyKind {
            #[cfg(test)]
            name: K::KIND,
            open: |informers| Box::new(informers.of::<K>()),
            #[cfg(test)]
            read: |object| Arc::new(serde_json::from_value::<K>(object).expect("the test's object is one of the kind")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_keeps_what_the_patch_leaves_open() {
        let mut spec = json!({"a": {"b": 1, "c": 2}, "d": [1], "e": 5});
        merge(&mut spec, json!({"a": {"b": 3}, "d": [2, 3], "e": null}));
        assert_eq!(spec, json!({"a": {"b": 3, "c": 2}, "d": [2, 3]}));
    }
}
