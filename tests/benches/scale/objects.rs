//! What is written: objects of the sizes that real ones have.

use serde_json::{Map, Value, json};

/// Nodes that the pods are bound to: 100 pods on each, as upstream counts a large cluster.
pub(crate) const NODES: usize = 100;
/// Groups that the definitions are spread over.
pub(crate) const GROUPS: usize = 25;

pub(crate) fn namespace(number: usize) -> String {
    format!("scale-{number:04}")
}

pub(crate) fn node(number: usize) -> String {
    format!("scale-node-{:03}", number % NODES)
}

pub(crate) fn node_object(number: usize) -> Value {
    let name = node(number);
    let room = json!({"cpu": "32", "memory": "128Gi", "pods": "250"});
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
        "lastHeartbeatTime": "2030-01-01T00:00:00Z", "lastTransitionTime": "2030-01-01T00:00:00Z"});
    json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "scale": "yes"}},
        "status": {"capacity": room, "allocatable": room, "conditions": [ready]}})
}

/// The pod of a number: they go round the namespaces and the nodes.
pub(crate) fn pod(number: usize, namespaces: usize) -> Value {
    let env: Vec<Value> = (0..12).map(|i| json!({"name": format!("VAR_{i}"), "value": format!("value-{i}")})).collect();
    let app = number % 100;
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": pod_name(number, namespaces), "namespace": namespace(number % namespaces),
            "labels": {"app": format!("app-{app:02}"), "scale": "yes"}, "annotations": {"note": "n".repeat(120)}},
        "spec": {"nodeName": node(number), "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "registry.example/app:v1", "env": env,
                "ports": [{"containerPort": 8080, "name": "http"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/healthz", "port": 8080}},
                "volumeMounts": [{"name": "cfg", "mountPath": "/etc/cfg"}]}],
            "volumes": [{"name": "cfg", "configMap": {"name": "cfg"}}]}})
}

pub(crate) fn pod_name(number: usize, namespaces: usize) -> String {
    format!("pod-{:05}", number / namespaces)
}

pub(crate) fn pod_path(number: usize, namespaces: usize) -> String {
    let name = pod_name(number, namespaces);
    format!("/api/v1/namespaces/{}/pods/{name}", namespace(number % namespaces))
}

/// What a kubelet writes about a pod.
pub(crate) fn pod_status(round: usize) -> Value {
    json!({"status": {"phase": "Running", "message": format!("round {round}"), "hostIP": "10.0.0.1"}})
}

/// About 1 KB.
pub(crate) fn config_map(name: &str, round: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "labels": {"scale": "yes"}},
        "data": {"round": round, "payload": "x".repeat(900)}})
}

pub(crate) fn config_maps(namespace_number: usize) -> String {
    format!("/api/v1/namespaces/{}/configmaps", namespace(namespace_number))
}

/// The names of a definition.
pub(crate) struct Kind {
    pub(crate) group: String,
    pub(crate) plural: String,
    pub(crate) kind: String,
}

pub(crate) fn kind(number: usize) -> Kind {
    Kind {
        group: format!("g{:02}.scale.example.com", number % GROUPS),
        plural: format!("resource{number:04}s"),
        kind: format!("Resource{number:04}"),
    }
}

impl Kind {
    pub(crate) fn name(&self) -> String {
        format!("{}.{}", self.plural, self.group)
    }

    /// An object of the kind.
    pub(crate) fn object(&self, name: &str) -> Value {
        let part = json!({"name": "a", "replicas": 3, "mode": "Fast", "labels": {"a": "b"}});
        json!({"apiVersion": format!("{}/v1", self.group), "kind": self.kind, "metadata": {"name": name},
            "spec": {"part0": {"items": [part]}, "part1": {"name": "b"}}})
    }
}

/// A definition of about 30 KB, with what operators' definitions consist of: nested objects, lists with keys, maps,
/// enumerations, defaults, a rule, printer columns and a long description of everything.
pub(crate) fn definition(number: usize) -> Value {
    let Kind { group, plural, kind } = kind(number);
    let parts: Map<String, Value> = (0..PARTS).map(|part| (format!("part{part}"), part_schema(part))).collect();
    let condition = json!({"type": "object", "required": ["type", "status"], "properties": {
        "type": {"type": "string"}, "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
        "lastTransitionTime": {"type": "string", "format": "date-time"}, "reason": {"type": "string"},
        "message": {"type": "string", "maxLength": 32768}}});
    let conditions = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"],
        "items": condition});
    let schema = json!({"type": "object", "description": words("The resource", number), "properties": {
        "spec": {"type": "object", "properties": parts, "x-kubernetes-validations": [
            {"rule": "!has(self.part0) || !has(self.part0.items) || self.part0.items.size() < 100",
                "message": "too many items"}]},
        "status": {"type": "object", "properties": {"conditions": conditions,
            "observedGeneration": {"type": "integer", "format": "int64"}}}}});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.{group}"), "labels": {"scale": "yes"}},
        "spec": {"group": group, "scope": "Namespaced",
            "names": {"plural": plural, "singular": plural.trim_end_matches('s'), "kind": kind,
                "listKind": format!("{kind}List"), "categories": ["scale"]},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Ready", "type": "string",
                    "jsonPath": ".status.conditions[?(@.type==\"Ready\")].status"}],
                "schema": {"openAPIV3Schema": schema}}]}})
}

/// Parts of a spec; each is about 2.4 KB of schema.
const PARTS: usize = 12;

fn words(about: &str, number: usize) -> String {
    format!(
        "{about} number {number} says what the controller has to bring about, and is changed by nobody but its owner. \
         Where it is absent the controller takes what it finds; a change of it is carried out within seconds."
    )
}

fn part_schema(number: usize) -> Value {
    let text = |about: &str| json!({"type": "string", "description": words(about, number), "maxLength": 253});
    let item = json!({"type": "object", "required": ["name"], "properties": {
        "name": text("The name"), "image": text("The image"),
        "replicas": {"type": "integer", "format": "int32", "minimum": 0, "default": 1,
            "description": words("The count", number)},
        "mode": {"type": "string", "enum": ["Fast", "Safe", "Off"], "default": "Safe"},
        "port": {"x-kubernetes-int-or-string": true, "description": words("The port", number)},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "extra": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    json!({"type": "object", "description": words("The part", number), "properties": {
        "name": text("The name"), "class": text("The class"), "target": text("The target"),
        "enabled": {"type": "boolean", "default": true},
        "items": {"type": "array", "maxItems": 100, "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"], "items": item},
        "limits": {"type": "object", "properties": {"cpu": text("The limit"), "memory": text("The memory")}},
        "timeout": {"type": "string", "pattern": "^[0-9]+(s|m|h)$"}}})
}
