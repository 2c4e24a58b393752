//! Pods carry the zone and the region of their node, so that what runs in them can read where it is.
//!
//! A Binding brings the node's labels along and the pod takes over what its Binding has; a pod that is made for a node has
//! them from the beginning. What is there already stays.

use serde_json::Value;
use strategy::tree::{at, map, text, text_at};

use super::ObjectReader;

/// Labels of a node that its pods carry too.
const LABELS: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Gives a Binding the labels of the node it binds to.
pub(super) fn complete_binding(reader: &dyn ObjectReader, binding: &mut Value) {
    let target = at(binding, &["target"]).unwrap_or(&Value::Null);
    if text(target, "kind") == "Node" {
        let node = text(target, "name").to_owned();
        copy(reader, &node, binding);
    }
}

/// Gives a new pod the labels of the node it is made for.
pub(super) fn complete_pod(reader: &dyn ObjectReader, pod: &mut Value) {
    let node = text_at(pod, &["spec", "nodeName"]);
    if !node.is_empty() {
        let node = node.to_owned();
        copy(reader, &node, pod);
    }
}

fn copy(reader: &dyn ObjectReader, node: &str, object: &mut Value) {
    let Some(node) = reader.get("core/nodes", node) else { return };
    let labels = map(node.get("metadata").unwrap_or(&Value::Null), "labels");
    for label in LABELS {
        let Some(value) = labels.get(label) else { continue };
        let labels = &mut object["metadata"]["labels"];
        if labels.get(label).is_none() {
            labels[label] = value.clone();
        }
    }
}
