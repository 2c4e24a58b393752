//! What a node may do: what its role says, and read the objects that its pods refer to.
//!
//! Which pods run where is kept in an index that follows the store's watch and catches up when a node asks, so that
//! writers pay nothing for it; until a node asks for the first time there is no index. What a pod refers to is read from
//! the pod itself: a node has few of them.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use memchr::memmem;
use parking_lot::Mutex;
use schema::selector::FieldSelector;
use serde_json::Value;
use store::{Event, Snapshot, Store, Watch};
use strategy::tree::{list, text, text_at};

use super::{Attributes, Decision, Rule};
use crate::{
    admission::references::{self, Kind},
    codec,
};

const PODS: &str = "core/pods";
const CLAIMS: &str = "core/persistentvolumeclaims";
const VOLUMES: &str = "core/persistentvolumes";
const ATTACHMENTS: &str = "storage.k8s.io/volumeattachments";
const LEASES: &str = "kube-node-lease";
/// Events taken over at once.
const EVENTS_AT_ONCE: usize = 1024;

/// Decides about requests of nodes.
pub(crate) struct NodeAuthorizer {
    store: Store,
    rules: Arc<[Rule]>,
    pods: Mutex<Option<Placement>>,
}

impl std::fmt::Debug for NodeAuthorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeAuthorizer").finish_non_exhaustive()
    }
}

/// Which pods run on which node, and how far the store's events are in it.
struct Placement {
    nodes: HashMap<String, HashSet<Arc<str>>>,
    node_of: HashMap<Arc<str>, String>,
    watch: Watch,
}

impl Placement {
    fn new(store: &Store) -> Result<Self, store::WatchError> {
        let snapshot = store.snapshot();
        let watch = store.watch(&PODS.into(), "", snapshot.revision())?;
        let mut placement = Self { nodes: HashMap::new(), node_of: HashMap::new(), watch };
        for (path, object) in snapshot.range(PODS, "", None) {
            placement.place(path, node_of(&object.bytes));
        }
        Ok(placement)
    }

    /// Takes over what happened since; an error when the store does not know all of it any more.
    fn catch_up(&mut self) -> Result<(), store::WatchError> {
        loop {
            let events = self.watch.take(EVENTS_AT_ONCE)?;
            if events.is_empty() {
                return Ok(());
            }
            for event in events {
                self.take_over(&event);
            }
        }
    }

    fn take_over(&mut self, event: &Event) {
        let node = if event.deleted { None } else { node_of(&event.object.bytes) };
        self.place(&event.key.path, node);
    }

    fn place(&mut self, path: &Arc<str>, node: Option<String>) {
        if self.node_of.get(path) == node.as_ref() {
            return;
        }
        if let Some(before) = self.node_of.remove(path)
            && let Some(pods) = self.nodes.get_mut(&before)
        {
            pods.remove(path);
            if pods.is_empty() {
                self.nodes.remove(&before);
            }
        }
        if let Some(node) = node {
            self.nodes.entry(node.clone()).or_default().insert(path.clone());
            self.node_of.insert(path.clone(), node);
        }
    }
}

/// The node a stored pod is bound to. Most changes are of pods that are not, and looking for the word is cheaper than
/// decoding.
fn node_of(bytes: &[u8]) -> Option<String> {
    memmem::find(bytes, b"\"nodeName\":\"")?;
    let pod = codec::stored(bytes).ok()?;
    Some(text_at(&pod, &["spec", "nodeName"]).to_owned()).filter(|node| !node.is_empty())
}

fn no_opinion(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion { reason: reason.into() }
}

impl NodeAuthorizer {
    /// An authorizer that reads `store`; `rules` are those of the role `system:node`.
    pub(crate) fn new(store: Store, rules: Arc<[Rule]>) -> Self {
        Self { store, rules, pods: Mutex::new(None) }
    }

    /// Whether `node` may make the request; `fields` is the field selector of a list or watch.
    pub(crate) fn authorize(&self, node: &str, attributes: &Attributes<'_>, fields: &str) -> Decision {
        if attributes.path.is_none() {
            let verb = attributes.verb;
            match (attributes.group, attributes.resource) {
                ("", "secrets") => return self.read(node, Kind::Secret, attributes),
                ("", "configmaps") => return self.read(node, Kind::ConfigMap, attributes),
                ("", "persistentvolumeclaims") if attributes.subresource == "status" => {
                    return match verb {
                        "update" | "patch" => self.related(node, Object::Named(Kind::Claim), attributes),
                        _ => no_opinion("can only get/update/patch this type"),
                    };
                }
                ("", "persistentvolumeclaims") => return self.get(node, Object::Named(Kind::Claim), attributes),
                ("", "persistentvolumes") => return self.get(node, Object::Volume, attributes),
                ("resource.k8s.io", "resourceclaims") => {
                    return self.get(node, Object::Named(Kind::ResourceClaim), attributes);
                }
                ("storage.k8s.io", "volumeattachments") => return self.get(node, Object::Attachment, attributes),
                ("", "serviceaccounts") => return self.token(node, attributes),
                ("coordination.k8s.io", "leases") => return lease(node, attributes),
                ("storage.k8s.io", "csinodes") => return csi_node(node, attributes),
                ("resource.k8s.io", "resourceslices") => return slices(node, attributes, fields),
                ("", "nodes") => return nodes(node, attributes),
                ("", "pods") => return self.pods(node, attributes, fields),
                _ => {}
            }
        }
        match self.rules.iter().any(|rule| rule.allows(attributes)) {
            true => Decision::Allow,
            false => no_opinion(""),
        }
    }

    fn read(&self, node: &str, kind: Kind, attributes: &Attributes<'_>) -> Decision {
        if !matches!(attributes.verb, "get" | "list" | "watch") {
            return no_opinion("can only read resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return no_opinion("cannot read subresource");
        }
        if attributes.namespace.is_empty() {
            return no_opinion("can only read namespaced object of this type");
        }
        self.related(node, Object::Named(kind), attributes)
    }

    fn get(&self, node: &str, object: Object, attributes: &Attributes<'_>) -> Decision {
        if attributes.verb != "get" {
            return no_opinion("can only get individual resources of this type");
        }
        if !attributes.subresource.is_empty() {
            return no_opinion("cannot get subresource");
        }
        self.related(node, object, attributes)
    }

    fn token(&self, node: &str, attributes: &Attributes<'_>) -> Decision {
        if attributes.verb == "get" && attributes.subresource.is_empty() {
            return self.related(node, Object::Named(Kind::ServiceAccount), attributes);
        }
        if attributes.verb != "create" || attributes.name.is_empty() {
            return no_opinion("can only create tokens for individual service accounts");
        }
        if attributes.subresource != "token" {
            return no_opinion("can only create token subresource of serviceaccount");
        }
        self.related(node, Object::Named(Kind::ServiceAccount), attributes)
    }

    fn pods(&self, node: &str, attributes: &Attributes<'_>, fields: &str) -> Decision {
        match (attributes.subresource, attributes.verb) {
            // which pods a node may write, NodeRestriction decides
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Decision::Allow,
            ("" | "status", "get") => self.related(node, Object::Pod, attributes),
            ("", "list" | "watch") if selects(fields, "spec.nodeName", node) => Decision::Allow,
            ("", "list" | "watch") => no_opinion("can only list/watch pods with spec.nodeName field selector"),
            _ => no_opinion(""),
        }
    }

    fn related(&self, node: &str, object: Object, attributes: &Attributes<'_>) -> Decision {
        if attributes.name.is_empty() {
            return no_opinion("No Object name found");
        }
        let (namespace, name) = (attributes.namespace, attributes.name);
        let snapshot = self.store.snapshot();
        let related = match object {
            Object::Attachment => stored(&snapshot, ATTACHMENTS, name)
                .is_some_and(|attachment| text_at(&attachment, &["spec", "nodeName"]) == node),
            Object::Pod => self.pods_of(node).contains(&*format!("{namespace}/{name}")),
            Object::Volume => stored(&snapshot, VOLUMES, name).is_some_and(|volume| {
                let claim = |key: &str| text_at(&volume, &["spec", "claimRef", key]).to_owned();
                self.refers(&snapshot, node, &claim("namespace"), Kind::Claim, &claim("name"))
            }),
            Object::Named(kind) => self.refers(&snapshot, node, namespace, kind, name),
        };
        if related {
            return Decision::Allow;
        }
        no_opinion(format!("no relationship found between node '{node}' and this object"))
    }

    /// Paths of the pods that are bound to the node.
    fn pods_of(&self, node: &str) -> HashSet<Arc<str>> {
        let mut placement = self.pods.lock();
        if placement.as_mut().is_none_or(|placement| placement.catch_up().is_err()) {
            *placement = Placement::new(&self.store).ok();
        }
        placement.as_ref().and_then(|placement| placement.nodes.get(node)).cloned().unwrap_or_default()
    }

    /// Whether a pod of the node refers to the object.
    fn refers(&self, snapshot: &Snapshot, node: &str, namespace: &str, kind: Kind, name: &str) -> bool {
        self.pods_of(node)
            .iter()
            .filter(|path| path.strip_prefix(namespace).is_some_and(|rest| rest.starts_with('/')))
            .filter_map(|path| stored(snapshot, PODS, path))
            .filter(|pod| text_at(pod, &["spec", "nodeName"]) == node)
            .any(|pod| pod_refers(snapshot, &pod, namespace, kind, name))
    }
}

/// How an object is related to a node.
#[derive(Clone, Copy)]
enum Object {
    /// A pod of the node names it.
    Named(Kind),
    /// It is bound to a claim that a pod of the node names.
    Volume,
    /// It names the node.
    Attachment,
    /// It is a pod of the node.
    Pod,
}

fn stored(snapshot: &Snapshot, collection: &str, path: &str) -> Option<Value> {
    codec::stored(&snapshot.get(collection, path)?.bytes).ok()
}

fn pod_refers(snapshot: &Snapshot, pod: &Value, namespace: &str, kind: Kind, name: &str) -> bool {
    let spec = pod.get("spec").unwrap_or(&Value::Null);
    if references::of(spec).any(|reference| reference.kind == kind && reference.name == name) {
        return true;
    }
    let own = text_at(pod, &["metadata", "name"]);
    // claims made from a template in the pod carry the pod's name
    let templated = || {
        let ephemeral =
            list(spec, "volumes").iter().filter(|volume| volume.get("ephemeral").is_some_and(|e| !e.is_null()));
        ephemeral.map(|volume| format!("{own}-{}", text(volume, "name"))).collect::<Vec<_>>()
    };
    match kind {
        Kind::Claim => templated().iter().any(|claim| claim == name),
        Kind::ResourceClaim => {
            let made = pod.get("status").map_or(&[][..], |status| list(status, "resourceClaimStatuses"));
            made.iter().any(|status| text(status, "resourceClaimName") == name)
        }
        // volumes name the secrets of their drivers
        Kind::Secret => {
            let mut claims: Vec<String> = references::of(spec)
                .filter(|reference| reference.kind == Kind::Claim)
                .map(|reference| reference.name.to_owned())
                .collect();
            claims.extend(templated());
            claims.iter().any(|claim| claim_needs_secret(snapshot, namespace, claim, name))
        }
        Kind::ConfigMap | Kind::ServiceAccount => false,
    }
}

fn claim_needs_secret(snapshot: &Snapshot, namespace: &str, claim: &str, secret: &str) -> bool {
    let Some(claim) = stored(snapshot, CLAIMS, &format!("{namespace}/{claim}")) else { return false };
    let Some(volume) = stored(snapshot, VOLUMES, text_at(&claim, &["spec", "volumeName"])) else { return false };
    const REFERENCES: [&[&str]; 7] = [
        &["csi", "nodePublishSecretRef"],
        &["csi", "nodeStageSecretRef"],
        &["csi", "nodeExpandSecretRef"],
        &["cephfs", "secretRef"],
        &["rbd", "secretRef"],
        &["iscsi", "secretRef"],
        &["flexVolume", "secretRef"],
    ];
    let spec = volume.get("spec").unwrap_or(&Value::Null);
    REFERENCES.iter().filter_map(|keys| strategy::tree::at(spec, keys)).any(|reference| {
        let own = text(reference, "namespace");
        text(reference, "name") == secret && (own.is_empty() || own == namespace)
    })
}

/// Whether a field selector asks for exactly this value of a field.
fn selects(fields: &str, field: &str, value: &str) -> bool {
    let Ok(selector) = FieldSelector::parse(fields) else { return false };
    selector.requires_exact(field) == Some(value)
}

fn nodes(node: &str, attributes: &Attributes<'_>) -> Decision {
    match (attributes.subresource, attributes.verb) {
        // which node a node may write, NodeRestriction decides
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Decision::Allow,
        ("", "get" | "list" | "watch") if attributes.name == node => Decision::Allow,
        ("", "get" | "list" | "watch") => {
            no_opinion(format!("node '{node}' cannot read '{}', only its own Node object", attributes.name))
        }
        _ => no_opinion(""),
    }
}

fn lease(node: &str, attributes: &Attributes<'_>) -> Decision {
    let verb = attributes.verb;
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return no_opinion("can only get, create, update, patch, or delete a node lease");
    }
    if attributes.namespace != LEASES {
        return no_opinion(format!("can only access leases in the {LEASES:?} system namespace"));
    }
    if verb != "create" && attributes.name != node {
        return no_opinion("can only access node lease with the same name as the requesting node");
    }
    Decision::Allow
}

fn csi_node(node: &str, attributes: &Attributes<'_>) -> Decision {
    let verb = attributes.verb;
    if !matches!(verb, "get" | "create" | "update" | "patch" | "delete") {
        return no_opinion("can only get, create, update, patch, or delete a CSINode");
    }
    if !attributes.subresource.is_empty() {
        return no_opinion("cannot authorize CSINode subresources");
    }
    if verb != "create" && attributes.name != node {
        return no_opinion("can only access CSINode with the same name as the requesting node");
    }
    Decision::Allow
}

fn slices(node: &str, attributes: &Attributes<'_>, fields: &str) -> Decision {
    if !attributes.subresource.is_empty() {
        return no_opinion("cannot authorize ResourceSlice subresources");
    }
    match attributes.verb {
        "get" | "create" | "update" | "patch" | "delete" => Decision::Allow,
        "list" | "watch" | "deletecollection" if selects(fields, "spec.nodeName", node) => Decision::Allow,
        "list" | "watch" | "deletecollection" => {
            no_opinion("can only list/watch/deletecollection resourceslices with spec.nodeName field selector")
        }
        _ => no_opinion(
            "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use store::{Key, Mutation, Precondition, Write};

    use super::*;
    use crate::{
        bootstrap_policy,
        testing::{self, put},
    };
    use strategy::User;

    fn pod(name: &str, spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "n"}, "spec": spec})
    }

    fn ask(authorizer: &NodeAuthorizer, request: (&str, &str, &str, &str, &str), fields: &str) -> Result<(), String> {
        let (verb, group, resource, namespace, name) = request;
        let user = User::new("system:node:a", &["system:nodes"]);
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let attributes = Attributes { user: &user, verb, group, resource, subresource, namespace, name, path: None };
        match authorizer.authorize("a", &attributes, fields) {
            Decision::Allow => Ok(()),
            Decision::NoOpinion { reason } => Err(reason),
        }
    }

    #[tokio::test]
    async fn a_node_reads_what_its_pods_refer_to_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let store = testing::store(directory.path());
        let authorizer = NodeAuthorizer::new(store.clone(), bootstrap_policy::node_rules());
        let unrelated = Err("no relationship found between node 'a' and this object".to_owned());
        let secret = ("get", "", "secrets", "n", "s");
        assert_eq!(ask(&authorizer, secret, ""), unrelated);
        let spec = |node: &str| {
            json!({"nodeName": node, "serviceAccountName": "robot", "volumes": [
            {"name": "v", "secret": {"secretName": "s"}}, {"name": "d", "persistentVolumeClaim": {"claimName": "c"}},
            {"name": "e", "ephemeral": {}}]})
        };
        put(&store, PODS, "n/p", &pod("p", spec("b"))).await;
        assert_eq!(ask(&authorizer, secret, ""), unrelated, "it runs elsewhere");
        put(&store, PODS, "n/q", &pod("q", spec("a"))).await;
        let claim = json!({"metadata": {"name": "c", "namespace": "n"}, "spec": {"volumeName": "pv"}});
        put(&store, CLAIMS, "n/c", &claim).await;
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "n", "name": "c"},
            "csi": {"nodePublishSecretRef": {"name": "driver", "namespace": "n"}}}});
        put(&store, VOLUMES, "pv", &volume).await;
        for request in [
            secret,
            ("watch", "", "secrets", "n", "s"),
            ("get", "", "secrets", "n", "driver"),
            ("get", "", "persistentvolumeclaims", "n", "c"),
            ("get", "", "persistentvolumeclaims", "n", "q-e"),
            ("patch", "", "persistentvolumeclaims/status", "n", "c"),
            ("get", "", "persistentvolumes", "", "pv"),
            ("create", "", "serviceaccounts/token", "n", "robot"),
            ("get", "", "pods", "n", "q"),
            ("get", "", "services", "n", "x"),
        ] {
            assert_eq!(ask(&authorizer, request, ""), Ok(()), "{request:?}");
        }
        for request in [
            ("get", "", "secrets", "other", "s"),
            ("get", "", "secrets", "n", "t"),
            ("update", "", "secrets", "n", "s"),
            ("list", "", "secrets", "n", ""),
            ("create", "", "serviceaccounts/token", "n", "other"),
            ("get", "", "pods", "n", "p"),
            ("list", "", "persistentvolumes", "", ""),
            ("delete", "", "services", "n", "x"),
        ] {
            assert!(ask(&authorizer, request, "").is_err(), "{request:?}");
        }
        let key = Key { collection: PODS.into(), path: "n/q".into() };
        let revision = store.snapshot().get(PODS, "n/q").unwrap().revision;
        let mutation = Mutation::Delete(codec::encode(&pod("q", spec("a"))));
        store.commit(vec![Write { key, precondition: Precondition::Revision(revision), mutation }]).await.unwrap();
        assert_eq!(ask(&authorizer, secret, ""), unrelated, "it is gone");
    }

    #[tokio::test]
    async fn lists_are_of_the_nodes_own_objects() {
        let directory = tempfile::tempdir().unwrap();
        let authorizer = NodeAuthorizer::new(testing::store(directory.path()), bootstrap_policy::node_rules());
        let pods = ("list", "", "pods", "", "");
        assert_eq!(ask(&authorizer, pods, "spec.nodeName=a"), Ok(()));
        assert!(
            ask(&authorizer, pods, "spec.nodeName=b").is_err() && ask(&authorizer, pods, "spec.nodeName!=a").is_err()
        );
        assert!(ask(&authorizer, pods, "").unwrap_err().contains("spec.nodeName field selector"));
        assert_eq!(ask(&authorizer, ("watch", "", "nodes", "", "a"), ""), Ok(()));
        assert!(ask(&authorizer, ("get", "", "nodes", "", "b"), "").is_err());
        let lease =
            |verb, namespace, name| ask(&authorizer, (verb, "coordination.k8s.io", "leases", namespace, name), "");
        assert_eq!(lease("update", LEASES, "a"), Ok(()));
        assert!(lease("update", LEASES, "b").is_err() && lease("update", "default", "a").is_err());
        assert!(lease("list", LEASES, "").is_err());
    }
}
