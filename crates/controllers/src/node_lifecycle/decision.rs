//! What is to be written to one node: pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{NOT_READY, UNREACHABLE};

const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Condition and the taint it brings when it is true.
const CONDITION_TAINTS: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that only a living node can vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Labels, and the older ones that say the same.
const MIRRORED_LABELS: [(&str, &str); 2] =
    [("kubernetes.io/os", "beta.kubernetes.io/os"), ("kubernetes.io/arch", "beta.kubernetes.io/arch")];

/// The node's condition of a type.
pub(super) fn find<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Status of a condition; none where it is not there.
pub(super) fn status<'a>(node: &'a Node, type_: &str) -> Option<&'a str> {
    find(node, type_).map(|condition| condition.status.as_str())
}

/// Conditions to write to a node that has not been heard of for too long; none once all are written.
pub(super) fn silenced(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let mut conditions = Vec::new();
    for type_ in VOUCHED {
        let current = find(node, type_);
        if current.is_some_and(|current| current.status == "Unknown") {
            continue;
        }
        let (reason, message) = match current {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let heartbeat = match current {
            Some(current) => current.last_heartbeat_time.clone(),
            None => node.metadata.creation_timestamp.clone(),
        };
        conditions.push(NodeCondition {
            type_: type_.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: heartbeat,
            last_transition_time: Some(Time(now)),
        });
    }
    conditions
}

/// Whether pods of unready nodes may be driven out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// Of this node, now.
    Granted,
    /// Not before its turn has come.
    Pending,
    /// Of none.
    Halted,
}

/// What becomes of the taints.
#[derive(Debug, PartialEq)]
pub(super) struct Taints {
    /// The complete new list, when it differs.
    pub(super) changed: Option<Vec<Taint>>,
    /// The node's pods are to be driven out once its turn has come.
    pub(super) waits: bool,
}

/// Decides on the taints of a node.
pub(super) fn taints(node: &Node, permit: Permit, now: Timestamp) -> Taints {
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    let drives_out = |key: &str| current.iter().any(|taint| taint.key == key && taint.effect == "NoExecute");
    let mut waits = false;
    let target = match status(node, "Ready") {
        Some("True") => None,
        Some("False") => Some((NOT_READY, UNREACHABLE)),
        Some(_) => Some((UNREACHABLE, NOT_READY)),
        // A node that has just registered has not said anything yet: what it registered with stays.
        None => {
            let kept = [NOT_READY, UNREACHABLE].into_iter().flat_map(|key| [(key, "NoSchedule"), (key, "NoExecute")]);
            wanted.extend(kept.filter(|(key, effect)| current.iter().any(|t| t.key == *key && t.effect == *effect)));
            None
        }
    };
    if let Some((key, opposite)) = target {
        wanted.push((key, "NoSchedule"));
        // one that drives out already only changes its name
        match permit {
            Permit::Halted => {}
            _ if drives_out(key) || drives_out(opposite) => wanted.push((key, "NoExecute")),
            Permit::Granted => wanted.push((key, "NoExecute")),
            Permit::Pending => waits = true,
        }
        waits = waits || permit == Permit::Halted;
    }
    wanted.extend(
        CONDITION_TAINTS
            .iter()
            .filter(|(type_, _)| status(node, type_) == Some("True"))
            .map(|(_, taint)| (*taint, "NoSchedule")),
    );
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    Taints { changed: changed(&current, &wanted, now), waits }
}

/// Whether a taint is set and taken away here.
fn is_kept(taint: &Taint) -> bool {
    match taint.effect.as_str() {
        "NoExecute" => [NOT_READY, UNREACHABLE].contains(&taint.key.as_str()),
        "NoSchedule" => {
            let keys = [NOT_READY, UNREACHABLE, UNSCHEDULABLE].into_iter();
            keys.chain(CONDITION_TAINTS.map(|(_, key)| key)).any(|key| key == taint.key)
        }
        _ => false,
    }
}

/// The new list when the taints kept here are not exactly `wanted`.
fn changed(current: &[Taint], wanted: &[(&str, &str)], now: Timestamp) -> Option<Vec<Taint>> {
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = current.iter().filter(|taint| !is_kept(taint) || is_wanted(taint)).cloned().collect();
    let missing =
        wanted.iter().filter(|(key, effect)| !current.iter().any(|taint| taint.key == *key && taint.effect == *effect));
    let missing: Vec<Taint> = missing
        .map(|(key, effect)| Taint {
            key: (*key).into(),
            value: None,
            effect: (*effect).into(),
            time_added: Some(Time(now)),
        })
        .collect();
    if taints.len() == current.len() && missing.is_empty() {
        return None;
    }
    taints.extend(missing);
    Some(taints)
}

/// Labels to write, so that the older ones say what the newer ones do.
pub(super) fn labels(node: &Node) -> BTreeMap<&'static str, String> {
    let labels = node.labels();
    let stale = |(from, to): &(&'static str, &'static str)| {
        let value = labels.get(*from).filter(|value| labels.get(*to) != Some(value))?;
        Some((*to, value.clone()))
    };
    MIRRORED_LABELS.iter().filter_map(stale).collect()
}
