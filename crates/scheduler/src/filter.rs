//! Filters: may this pod run on that node, and if not, why. Order, meaning and messages are upstream's.

use k8s_openapi::api::core::v1::Taint;

use crate::matching::{matches_any_term, tolerated};
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

/// What the node lifecycle controller puts on cordoned nodes.
const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// Which filter refused; a bit each, so that a set of them is a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Filter {
    NodeUnschedulable = 1,
    NodeName = 2,
    TaintToleration = 4,
    NodeAffinity = 8,
    NodePorts = 16,
    NodeResourcesFit = 32,
}

/// Why a node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reason {
    Unschedulable,
    NodeName,
    Taint { key: String, value: String },
    Affinity,
    Ports,
    TooManyPods,
    Insufficient { resource: String, ever: bool },
}

impl Reason {
    pub(crate) fn filter(&self) -> Filter {
        match self {
            Self::Unschedulable => Filter::NodeUnschedulable,
            Self::NodeName => Filter::NodeName,
            Self::Taint { .. } => Filter::TaintToleration,
            Self::Affinity => Filter::NodeAffinity,
            Self::Ports => Filter::NodePorts,
            Self::TooManyPods | Self::Insufficient { .. } => Filter::NodeResourcesFit,
        }
    }

    /// Whether the pod would fit if other pods left.
    pub(crate) fn resolvable_by_preemption(&self) -> bool {
        match self {
            Self::Ports | Self::TooManyPods => true,
            Self::Insufficient { ever, .. } => *ever,
            Self::Unschedulable | Self::NodeName | Self::Taint { .. } | Self::Affinity => false,
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::Unschedulable => "node(s) were unschedulable".into(),
            Self::NodeName => "node(s) didn't match the requested node name".into(),
            Self::Taint { key, value } => format!("node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Affinity => "node(s) didn't match Pod's node affinity/selector".into(),
            Self::Ports => "node(s) didn't have free ports for the requested pod ports".into(),
            Self::TooManyPods => "Too many pods".into(),
            Self::Insufficient { resource, .. } => format!("Insufficient {resource}"),
        }
    }
}

/// Whether `node` takes `pod`; asked for every node, so it allocates nothing.
pub(crate) fn feasible(node: &NodeInfo, pod: &PodInfo) -> bool {
    placement_filter(node, pod).is_none() && fits(node, pod)
}

/// All reasons of the first filter that refuses; empty when the node takes the pod.
pub(crate) fn reasons(node: &NodeInfo, pod: &PodInfo) -> Vec<Reason> {
    match placement_filter(node, pod) {
        Some(refusal) => vec![match refusal {
            Refusal::Unschedulable => Reason::Unschedulable,
            Refusal::NodeName => Reason::NodeName,
            Refusal::Taint(taint) => {
                Reason::Taint { key: taint.key.clone(), value: taint.value.clone().unwrap_or_default() }
            }
            Refusal::Affinity => Reason::Affinity,
            Refusal::Ports => Reason::Ports,
        }],
        None => missing(node, pod),
    }
}

enum Refusal<'a> {
    Unschedulable,
    NodeName,
    Taint(&'a Taint),
    Affinity,
    Ports,
}

fn placement_filter<'a>(node: &'a NodeInfo, pod: &PodInfo) -> Option<Refusal<'a>> {
    if node.unschedulable && !tolerates_unschedulable(pod) {
        return Some(Refusal::Unschedulable);
    }
    if pod.node_name.as_ref().is_some_and(|name| *name != node.name) {
        return Some(Refusal::NodeName);
    }
    let forbids = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    if let Some(taint) = node.taints.iter().filter(forbids).find(|taint| !tolerated(&pod.tolerations, taint)) {
        return Some(Refusal::Taint(taint));
    }
    let selected = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
    let affine = pod.node_affinity.as_ref().is_none_or(|terms| matches_any_term(terms, &node.name, &node.labels));
    if !selected || !affine {
        return Some(Refusal::Affinity);
    }
    let taken = pod.host_ports.iter().any(|port| node.host_ports.iter().any(|used| used.conflicts(port)));
    taken.then_some(Refusal::Ports)
}

fn tolerates_unschedulable(pod: &PodInfo) -> bool {
    !pod.tolerations.is_empty() && {
        let taint =
            Taint { key: UNSCHEDULABLE_TAINT.into(), effect: "NoSchedule".into(), time_added: None, value: None };
        tolerated(&pod.tolerations, &taint)
    }
}

fn fits(node: &NodeInfo, pod: &PodInfo) -> bool {
    let (have, used, want) = (&node.allocatable, &node.requested, &pod.requests);
    let fits = |have: i64, used: i64, want: i64| want == 0 || want <= have.saturating_sub(used);
    used.pods < have.pods
        && fits(have.cpu_milli, used.cpu_milli, want.cpu_milli)
        && fits(have.memory_bytes, used.memory_bytes, want.memory_bytes)
        && fits(have.ephemeral_storage_bytes, used.ephemeral_storage_bytes, want.ephemeral_storage_bytes)
        && want.extended.iter().all(|(name, want)| {
            let amount = |of: &std::collections::BTreeMap<String, i64>| of.get(name).copied().unwrap_or(0);
            fits(amount(&have.extended), amount(&used.extended), *want)
        })
}

fn missing(node: &NodeInfo, pod: &PodInfo) -> Vec<Reason> {
    let (have, used, want) = (&node.allocatable, &node.requested, &pod.requests);
    let mut reasons = Vec::new();
    if used.pods >= have.pods {
        reasons.push(Reason::TooManyPods);
    }
    let mut check = |resource: &str, have: i64, used: i64, want: i64| {
        if want > 0 && want > have.saturating_sub(used) {
            reasons.push(Reason::Insufficient { resource: resource.to_owned(), ever: want <= have });
        }
    };
    check("cpu", have.cpu_milli, used.cpu_milli, want.cpu_milli);
    check("memory", have.memory_bytes, used.memory_bytes, want.memory_bytes);
    check(
        "ephemeral-storage",
        have.ephemeral_storage_bytes,
        used.ephemeral_storage_bytes,
        want.ephemeral_storage_bytes,
    );
    for (name, want) in &want.extended {
        let amount = |of: &std::collections::BTreeMap<String, i64>| of.get(name).copied().unwrap_or(0);
        check(name, amount(&have.extended), amount(&used.extended), *want);
    }
    reasons
}
