//! Whether this node takes a pod that was given to it: the last look before anything of it runs.
//!
//! The scheduler has looked already, but at what it knew then, and a pod may name its node itself. What the rules are, in
//! which order, and in which words they are told are upstream's (`pkg/kubelet/lifecycle/predicate.go`).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Pod};
use kinds::{
    demand::{HostPort, Resources, requests},
    matching::{NodeDemand, Toleration, tolerated},
};
use pod_lifecycle::view::Rejection;

/// Resources that every node has; any other is left out of account where the node knows nothing of it, because then it
/// is a resource of the cluster.
const NATIVE: [&str; 4] = ["pods", "cpu", "memory", "ephemeral-storage"];

/// The rejection by a rule of `NAME`, with upstream's reason and text.
fn failed(name: &str, why: &str) -> Rejection {
    Rejection { reason: name.to_owned(), message: format!("Predicate {name} failed: {why}") }
}

/// Whether a label of the node could make a refused pod acceptable, so that a look at the newest Node is worth it.
pub(crate) fn is_about_labels(rejection: &Rejection) -> bool {
    rejection.reason == "NodeAffinity"
}

/// Whether the pod still takes something of its node.
pub(crate) fn counts(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether the node was already taken by the pod when this process began to look after it.
pub(crate) fn was_admitted(pod: &Pod) -> bool {
    pod.status.as_ref().is_some_and(|status| status.start_time.is_some())
}

/// Checks `pod` against `node` and the other pods that live on it.
pub(crate) fn check<'a>(pod: &Pod, others: impl Iterator<Item = &'a Pod>, node: &Node) -> Result<(), Rejection> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return Err(Rejection {
            reason: "PodOSNotSupported".to_owned(),
            message: "Failed to admit pod as the OS field doesn't match node OS".to_owned(),
        });
    }
    let mut used = Resources::default();
    let mut taken: Vec<HostPort> = Vec::new();
    for other in others {
        used.add(&requests(other));
        taken.extend(other.spec.iter().flat_map(HostPort::of));
    }
    check_resources(&requests(pod), &used, node)?;
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let nothing = BTreeMap::new();
    if !NodeDemand::of(spec).accepts(name, node.metadata.labels.as_ref().unwrap_or(&nothing)) {
        return Err(failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector"));
    }
    if HostPort::of(spec).any(|wanted| taken.iter().any(|taken| taken.conflicts(&wanted))) {
        return Err(failed("NodePorts", "node(s) didn't have free ports for the requested pod ports"));
    }
    let tolerations: Vec<Toleration> = spec.tolerations.iter().flatten().map(Toleration::of).collect();
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    if taints.filter(|taint| taint.effect == "NoExecute").any(|taint| !tolerated(&tolerations, taint)) {
        return Err(failed("TaintToleration", "node(s) had taints that the pod didn't tolerate"));
    }
    Ok(())
}

fn check_resources(wanted: &Resources, used: &Resources, node: &Node) -> Result<(), Rejection> {
    let Some(allocatable) = node.status.as_ref().and_then(|status| status.allocatable.as_ref()) else { return Ok(()) };
    let capacity = Resources::of(allocatable);
    let others = wanted.extended.keys().map(String::as_str).filter(|name| allocatable.contains_key(*name));
    for name in NATIVE.into_iter().chain(others) {
        let (requested, used, capacity) = (wanted.amount(name), used.amount(name), capacity.amount(name));
        if requested > 0 && requested > capacity.saturating_sub(used) {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {requested}, used: {used}, capacity: {capacity}"
            );
            return Err(Rejection { reason: format!("OutOf{name}"), message });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value) -> Pod {
        let mut spec = spec;
        if spec.get("containers").is_none() {
            spec["containers"] = json!([]);
        }
        serde_json::from_value(json!({"spec": spec})).unwrap()
    }

    fn asking(requests: Value) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
    }

    fn listening(ip: &str) -> Value {
        json!({"containers": [{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "hostIP": ip}]}]})
    }

    #[test]
    fn a_pod_is_refused_in_upstreams_words() {
        let node = json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "broken", "effect": "NoExecute"}, {"key": "full", "effect": "NoSchedule"}]},
            "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3", "example.com/gpu": "1"}}});
        let node: Node = serde_json::from_value(node).unwrap();
        let calm = json!([{"key": "broken", "operator": "Exists"}]);
        let two = [pod(asking(json!({"cpu": "1", "example.com/gpu": "1"}))), pod(listening("127.0.0.1"))];
        for (what, spec, expected) in [
            ("everything fits", asking(json!({"cpu": "1", "memory": "1Gi"})), ""),
            (
                "too much CPU",
                asking(json!({"cpu": "1100m"})),
                "OutOfcpu: Node didn't have enough resource: cpu, requested: 1100, used: 1000, capacity: 2000",
            ),
            (
                "a device that is taken",
                asking(json!({"example.com/gpu": "1"})),
                "OutOfexample.com/gpu: Node didn't have enough resource: example.com/gpu, requested: 1, used: 1, \
                 capacity: 1",
            ),
            ("a resource that no node has", asking(json!({"example.com/licence": "1"})), ""),
            (
                "a label that the node has not",
                json!({"nodeSelector": {"disk": "tape"}}),
                "NodeAffinity: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
            ),
            ("a label that it has", json!({"nodeSelector": {"disk": "ssd"}}), ""),
            (
                "a port that is taken",
                listening(""),
                "NodePorts: Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports",
            ),
            ("the same port elsewhere", listening("127.0.0.2"), ""),
            (
                "another system",
                json!({"os": {"name": "windows"}}),
                "PodOSNotSupported: Failed to admit pod as the OS field doesn't match node OS",
            ),
        ] {
            let mut spec = spec;
            spec["tolerations"] = calm.clone();
            let found = check(&pod(spec), two.iter(), &node).err();
            assert_eq!(found.map_or(String::new(), |r| format!("{}: {}", r.reason, r.message)), expected, "{what}");
        }
        let untolerated = check(&pod(json!({})), two.iter(), &node).unwrap_err();
        assert_eq!(untolerated.reason, "TaintToleration");
        let three = [two[0].clone(), two[1].clone(), pod(json!({}))];
        assert_eq!(check(&pod(json!({"tolerations": calm})), three.iter(), &node).unwrap_err().reason, "OutOfpods");
    }
}
