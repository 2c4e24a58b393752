//! What a node may write: its own objects, and those of pods that run on it.

use std::{collections::BTreeSet, sync::Arc};

use serde_json::{Map, Value};
use strategy::tree::{self, at, flag, list, map, text, text_at};

use super::{
    AdmissionError, AdmissionRequest, ObjectReader, Operation,
    references::{self, Kind},
};

const MIRROR: &str = "kubernetes.io/config.mirror";
const LEASES: &str = "kube-node-lease";
/// Labels in Kubernetes' own domains that a node may set about itself.
const OWN_LABELS: [&str; 12] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
];
/// Domains whose labels are the node's.
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
/// Labels that a node can never set about itself, so that it cannot draw pods to it.
const RESTRICTED_DOMAIN: &str = "node-restriction.kubernetes.io";

/// A node's request.
struct Asked<'a> {
    node: &'a str,
    reader: &'a dyn ObjectReader,
    request: &'a AdmissionRequest<'a>,
}

/// Checks a request of a node; others' are not looked at.
pub(super) fn check(
    reader: &dyn ObjectReader,
    request: &AdmissionRequest<'_>,
    object: Option<&Value>,
) -> Result<(), AdmissionError> {
    let Some(node) = request.user.node_name() else { return Ok(()) };
    let asked = Asked { node, reader, request };
    if node.is_empty() {
        return asked.refuse(format!("could not determine node from user {:?}", request.user.name));
    }
    let nothing = Value::Null;
    let object = object.unwrap_or(&nothing);
    match (request.resource.group.as_str(), request.resource.plural.as_str(), request.subresource) {
        ("", "pods", None) => asked.pod(object),
        ("", "pods", Some("status")) => asked.pod_status(object),
        ("", "pods", Some("eviction")) => asked.own_pod(request.name, "evict"),
        ("", "pods", Some(other)) if request.operation != Operation::Connect => {
            asked.refuse(format!("unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"))
        }
        ("", "nodes", _) => asked.node(object),
        ("", "persistentvolumeclaims", Some("status")) => asked.claim_status(object),
        ("", "persistentvolumeclaims", _) => asked.refuse("may only update PVC status"),
        ("", "serviceaccounts", Some("token")) => asked.token(object),
        ("coordination.k8s.io", "leases", _) => asked.lease(),
        ("storage.k8s.io", "csinodes", _) if request.name != node => {
            asked.refuse("can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices", _) => asked.slice(object),
        _ => Ok(()),
    }
}

impl Asked<'_> {
    fn refuse(&self, why: impl Into<String>) -> Result<(), AdmissionError> {
        Err(AdmissionError::forbidden(self.request, why))
    }

    fn stored_pod(&self, name: &str) -> Result<Arc<Value>, AdmissionError> {
        let pod = self.reader.get("core/pods", &format!("{}/{name}", self.request.namespace));
        pod.ok_or_else(|| AdmissionError::NotFound { group_resource: "pods".to_owned(), name: name.to_owned() })
    }

    fn own_pod(&self, name: &str, verb: &str) -> Result<(), AdmissionError> {
        if text_at(&*self.stored_pod(name)?, &["spec", "nodeName"]) == self.node {
            return Ok(());
        }
        self.refuse(format!("node {:?} can only {verb} pods with spec.nodeName set to itself", self.node))
    }

    fn pod(&self, pod: &Value) -> Result<(), AdmissionError> {
        match self.request.operation {
            Operation::Create => self.new_pod(pod),
            Operation::Delete => self.own_pod(self.request.name, "delete"),
            other => self.refuse(format!(
                "unexpected operation {:?}, node {:?} can only create and delete mirror pods",
                other.name(),
                self.node
            )),
        }
    }

    /// A node writes down only what it runs from its own files, and nothing that would lead to anybody's secrets.
    fn new_pod(&self, pod: &Value) -> Result<(), AdmissionError> {
        let node = self.node;
        let spec = pod.get("spec").unwrap_or(&Value::Null);
        if at(pod, &["metadata", "annotations", MIRROR]).is_none() {
            return self
                .refuse(format!("pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"));
        }
        if text(spec, "nodeName") != node {
            return self.refuse(format!("node {node:?} can only create pods with spec.nodeName set to itself"));
        }
        self.owner(pod)?;
        let refers = |kind: Kind| references::of(spec).any(|reference| reference.kind == kind);
        for (kind, what) in [
            (Kind::ServiceAccount, "a service account"),
            (Kind::Secret, "secrets"),
            (Kind::ConfigMap, "configmaps"),
            (Kind::Claim, "persistentvolumeclaims"),
            (Kind::ResourceClaim, "resourceclaims"),
        ] {
            if refers(kind) {
                return self.refuse(format!("node {node:?} can not create pods that reference {what}"));
            }
        }
        Ok(())
    }

    fn owner(&self, pod: &Value) -> Result<(), AdmissionError> {
        let node = self.node;
        let owners = pod.get("metadata").map_or(&[][..], |metadata| list(metadata, "ownerReferences"));
        let itself = |owner: &Value| {
            text(owner, "apiVersion") == "v1" && text(owner, "kind") == "Node" && text(owner, "name") == node
        };
        let owner = match owners {
            [owner] if itself(owner) => owner,
            [] | [_] => {
                return self
                    .refuse(format!("node {node:?} can only create pods with an owner reference set to itself"));
            }
            _ => {
                let why = format!("node {node:?} can only create pods with a single owner reference set to itself");
                return self.refuse(why);
            }
        };
        if !flag(owner, "controller") {
            let why = format!("node {node:?} can only create pods with a controller owner reference set to itself");
            return self.refuse(why);
        }
        if flag(owner, "blockOwnerDeletion") {
            return self.refuse(format!("node {node:?} must not set blockOwnerDeletion on an owner reference"));
        }
        let Some(stored) = self.reader.get("core/nodes", node) else {
            return Err(AdmissionError::NotFound { group_resource: "nodes".to_owned(), name: node.to_owned() });
        };
        let (expected, given) = (text(owner, "uid"), text_at(&stored, &["metadata", "uid"]));
        if expected != given {
            return self.refuse(format!("node {node} UID mismatch: expected {expected} got {given}"));
        }
        Ok(())
    }

    fn pod_status(&self, pod: &Value) -> Result<(), AdmissionError> {
        let Some(old) = self.request.old else { return Ok(()) };
        if text_at(old, &["spec", "nodeName"]) != self.node {
            let why =
                format!("node {:?} can only update pod status for pods with spec.nodeName set to itself", self.node);
            return self.refuse(why);
        }
        if labels(pod) != labels(old) {
            return self.refuse(format!("node {:?} cannot update labels through pod status", self.node));
        }
        Ok(())
    }

    fn node(&self, object: &Value) -> Result<(), AdmissionError> {
        let (node, asked) = (self.node, self.request.name);
        if asked != node {
            return self.refuse(format!("node {node:?} is not allowed to modify node {asked:?}"));
        }
        let config = |object: &'_ Value| at(object, &["spec", "configSource"]).cloned();
        match (self.request.operation, self.request.old) {
            (Operation::Create, _) => {
                if config(object).is_some() {
                    let why = format!("node {node:?} is not allowed to create pods with a non-nil configSource");
                    return self.refuse(why);
                }
                let forbidden = forbidden_labels(labels(object), &Map::new());
                if !forbidden.is_empty() {
                    return self.refuse(format!(
                        "node {node:?} is not allowed to set the following labels: {}",
                        forbidden.join(", ")
                    ));
                }
            }
            (Operation::Update, Some(old)) => {
                if config(object).is_some() && config(object) != config(old) {
                    let why =
                        format!("node {node:?} is not allowed to update configSource to a new non-nil configSource");
                    return self.refuse(why);
                }
                let taints = |object: &'_ Value| {
                    object.get("spec").map(|spec| list(spec, "taints").to_vec()).unwrap_or_default()
                };
                if taints(object) != taints(old) {
                    return self.refuse(format!("node {node:?} is not allowed to modify taints"));
                }
                let forbidden = forbidden_labels(labels(object), labels(old));
                if !forbidden.is_empty() {
                    return self.refuse(format!("is not allowed to modify labels: {}", forbidden.join(", ")));
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn claim_status(&self, claim: &Value) -> Result<(), AdmissionError> {
        let Some(old) = self.request.old else { return Ok(()) };
        let others = |claim: &Value| {
            let mut claim = claim.clone();
            if let Some(metadata) = claim.get_mut("metadata") {
                tree::remove(metadata, "resourceVersion");
                tree::remove(metadata, "managedFields");
            }
            if let Some(status) = claim.get_mut("status") {
                for key in ["capacity", "conditions", "allocatedResources", "allocatedResourceStatuses"] {
                    tree::remove(status, key);
                }
            }
            claim
        };
        if others(claim) == others(old) {
            return Ok(());
        }
        self.refuse(format!(
            "node {:?} is not allowed to update fields other than status.quantity and status.conditions",
            self.node
        ))
    }

    /// Tokens are for pods that run here.
    fn token(&self, asked: &Value) -> Result<(), AdmissionError> {
        if self.request.operation != Operation::Create {
            return Ok(());
        }
        let none = Value::Null;
        let bound = at(asked, &["spec", "boundObjectRef"]).unwrap_or(&none);
        if text(bound, "apiVersion") != "v1" || text(bound, "kind") != "Pod" || text(bound, "name").is_empty() {
            return self.refuse("node requested token not bound to a pod");
        }
        let uid = text(bound, "uid");
        if uid.is_empty() {
            return self.refuse("node requested token with a pod binding without a uid");
        }
        let pod = self.stored_pod(text(bound, "name"))?;
        let stored = text_at(&pod, &["metadata", "uid"]);
        if uid != stored {
            return self.refuse(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record ({stored}). \
                 The object might have been deleted and then recreated"
            ));
        }
        if text_at(&pod, &["spec", "nodeName"]) != self.node {
            return self.refuse("node requested token bound to a pod scheduled on a different node");
        }
        Ok(())
    }

    fn lease(&self) -> Result<(), AdmissionError> {
        if self.request.namespace != LEASES {
            return self.refuse(format!("can only access leases in the {LEASES:?} system namespace"));
        }
        if self.request.name != self.node {
            return self.refuse("can only access node lease with the same name as the requesting node");
        }
        Ok(())
    }

    fn slice(&self, slice: &Value) -> Result<(), AdmissionError> {
        let object = if slice.is_null() { self.request.old.unwrap_or(slice) } else { slice };
        if text_at(object, &["spec", "nodeName"]) == self.node {
            return Ok(());
        }
        let verb = match self.request.operation {
            Operation::Create => "create",
            Operation::Delete => "delete",
            Operation::Update | Operation::Connect => "update",
        };
        self.refuse(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"))
    }
}

fn labels(object: &Value) -> &Map<String, Value> {
    map(object.get("metadata").unwrap_or(&Value::Null), "labels")
}

/// The labels that differ and that a node may not decide on, in order.
fn forbidden_labels(new: &Map<String, Value>, old: &Map<String, Value>) -> Vec<String> {
    let changed = |one: &Map<String, Value>, other: &Map<String, Value>| -> BTreeSet<String> {
        one.iter().filter(|(key, value)| other.get(*key) != Some(value)).map(|(key, _)| key.clone()).collect()
    };
    let mut all = changed(new, old);
    all.extend(changed(old, new));
    all.into_iter().filter(|key| is_forbidden(key)).collect()
}

fn is_forbidden(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |parent: &str| domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'));
    if within(RESTRICTED_DOMAIN) {
        return true;
    }
    let kubernetes = within("kubernetes.io") || within("k8s.io");
    let own = OWN_LABELS.contains(&label) || OWN_DOMAINS.iter().any(|domain| within(domain));
    kubernetes && !own
}

/// A new node takes no pods before it says that it is ready.
pub(super) fn taint_new_node(node: &mut Value) {
    const NOT_READY: &str = "node.kubernetes.io/not-ready";
    let Some(spec) = tree::child_mut(node, "spec") else { return };
    let tainted = list(spec, "taints")
        .iter()
        .any(|taint| text(taint, "key") == NOT_READY && text(taint, "effect") == "NoSchedule");
    if tainted || !spec.is_object() {
        return;
    }
    let taint = serde_json::json!({"key": NOT_READY, "effect": "NoSchedule"});
    match spec.get_mut("taints").and_then(Value::as_array_mut) {
        Some(taints) => taints.push(taint),
        None => spec["taints"] = vec![taint].into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::admission::tests::Cluster;
    use strategy::User;

    use crate::testing::resource;

    fn ask(
        what: (&str, &str, Option<&str>),
        operation: Operation,
        name: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(), String> {
        let pod = |node: &str| json!({"metadata": {"name": "p", "uid": "u1"}, "spec": {"nodeName": node}});
        let cluster = Cluster::default()
            .with("core/pods", "n/mine", pod("a"))
            .with("core/pods", "n/other", pod("b"))
            .with("core/nodes", "a", json!({"metadata": {"name": "a", "uid": "n1"}}));
        let (resource, user) = (resource(what.0, what.1), User::new("system:node:a", &["system:nodes"]));
        let mut request = crate::admission::tests::request(&resource, &user);
        request.operation = operation;
        request.subresource = what.2;
        (request.name, request.old) = (name, old);
        request.namespace = if what.1 == "leases" { "kube-node-lease" } else { "n" };
        let object = Some(object).filter(|object| !object.is_null());
        check(&cluster, &request, object).map_err(|error| match error {
            AdmissionError::Forbidden { reason, .. } => reason,
            other => other.to_string(),
        })
    }

    #[test]
    fn a_node_writes_its_own_node_without_taints_and_foreign_labels() {
        let node = |spec: Value, labels: Value| json!({"metadata": {"name": "a", "labels": labels}, "spec": spec});
        let create = |labels: Value| {
            ask(("", "nodes", None), Operation::Create, "a", &node(json!({"taints": [{}]}), labels), None)
        };
        assert_eq!(
            create(json!({"kubernetes.io/hostname": "a", "node.kubernetes.io/x": "y", "example.com/z": "1"})),
            Ok(())
        );
        assert_eq!(
            create(json!({"node-restriction.kubernetes.io/x": "y", "topology.k8s.io/z": "1"})).unwrap_err(),
            "node \"a\" is not allowed to set the following labels: node-restriction.kubernetes.io/x, topology.k8s.io/z"
        );
        let old = node(json!({}), json!({}));
        let update = |new: &Value| ask(("", "nodes", None), Operation::Update, "a", new, Some(&old));
        assert_eq!(
            update(&node(json!({"taints": [{"key": "x"}]}), json!({}))).unwrap_err(),
            "node \"a\" is not allowed to modify taints"
        );
        assert!(update(&node(json!({"unschedulable": true}), json!({}))).is_ok());
        let other = ask(("", "nodes", Some("status")), Operation::Update, "b", &old, Some(&old));
        assert_eq!(other.unwrap_err(), "node \"a\" is not allowed to modify node \"b\"");
    }

    #[test]
    fn a_node_touches_only_its_own_pods() {
        let nothing = Value::Null;
        assert!(ask(("", "pods", None), Operation::Delete, "mine", &nothing, None).is_ok());
        assert_eq!(
            ask(("", "pods", None), Operation::Delete, "other", &nothing, None).unwrap_err(),
            "node \"a\" can only delete pods with spec.nodeName set to itself"
        );
        assert!(ask(("", "pods", Some("eviction")), Operation::Create, "other", &json!({}), None).is_err());
        let plain = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "a"}});
        assert!(
            ask(("", "pods", None), Operation::Create, "p", &plain, None)
                .unwrap_err()
                .contains("can only create mirror pods")
        );
        let mut mirror = plain.clone();
        mirror["metadata"]["annotations"] = json!({MIRROR: "x"});
        mirror["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "v1", "kind": "Node", "name": "a", "uid": "n1", "controller": true}]);
        assert_eq!(ask(("", "pods", None), Operation::Create, "p", &mirror, None), Ok(()));
        mirror["spec"]["volumes"] = json!([{"secret": {"secretName": "s"}}]);
        assert!(
            ask(("", "pods", None), Operation::Create, "p", &mirror, None).unwrap_err().ends_with("reference secrets")
        );
        let old = json!({"metadata": {"labels": {}}, "spec": {"nodeName": "b"}});
        assert!(ask(("", "pods", Some("status")), Operation::Update, "p", &old, Some(&old)).is_err());
        assert!(ask(("", "pods", Some("resize")), Operation::Update, "mine", &old, Some(&old)).is_err());
    }

    #[test]
    fn tokens_and_leases_are_the_nodes_own() {
        let token = |reference: Value| {
            let asked = json!({"spec": {"boundObjectRef": reference}});
            ask(("", "serviceaccounts", Some("token")), Operation::Create, "robot", &asked, None)
        };
        let bound = |pod: &str, uid: &str| json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid});
        assert_eq!(token(bound("mine", "u1")), Ok(()));
        assert_eq!(token(Value::Null).unwrap_err(), "node requested token not bound to a pod");
        assert!(token(bound("mine", "")).unwrap_err().contains("without a uid"));
        assert!(token(bound("mine", "u2")).unwrap_err().starts_with("the UID in the bound object reference (u2)"));
        assert!(token(bound("other", "u1")).unwrap_err().ends_with("on a different node"));
        let lease =
            |name: &str| ask(("coordination.k8s.io", "leases", None), Operation::Update, name, &json!({}), None);
        assert!(lease("a").is_ok() && lease("b").is_err());
    }
}
