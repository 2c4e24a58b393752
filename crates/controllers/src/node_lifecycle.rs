//! Node lifecycle: notices nodes that fall silent, and taints nodes by their conditions.
//!
//! What then happens to the pods of such a node is decided in `taint_eviction`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use reconcile::{EventType, Index, Informer, Queue, Recorder, feed, run_controller};
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};
use crate::pods;

#[cfg(test)]
mod tests;

const WORKERS: usize = 4;
const LEASE_NAMESPACE: &str = "kube-node-lease";
pub(crate) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(crate) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Condition, the status that brings the taint, and the taint.
const CONDITION_TAINTS: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that only a living node can vouch for.
const VOUCHED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What to write.
#[derive(Debug, Default, PartialEq)]
struct Decision {
    /// Conditions to set.
    conditions: Vec<NodeCondition>,
    /// The complete new list of taints, when it differs.
    taints: Option<Vec<Taint>>,
    /// The node has just stopped being ready.
    became_unready: bool,
}

fn find<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Decides on a node; `silent` says that it has not been heard of for too long.
fn decide(node: &Node, silent: bool, now: Timestamp) -> Decision {
    let mut decision = Decision::default();
    if silent {
        for type_ in VOUCHED {
            let current = find(node, type_);
            if current.is_some_and(|current| current.status == "Unknown") {
                continue;
            }
            let (reason, message) = match current {
                Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
                None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
            };
            decision.conditions.push(NodeCondition {
                type_: type_.into(),
                status: "Unknown".into(),
                reason: Some(reason.into()),
                message: Some(message.into()),
                last_heartbeat_time: current.and_then(|current| current.last_heartbeat_time.clone()),
                last_transition_time: Some(Time(now)),
            });
        }
    }
    let status_of = |type_: &str| {
        let decided = decision.conditions.iter().find(|condition| condition.type_ == type_);
        decided.or_else(|| find(node, type_)).map(|condition| condition.status.as_str())
    };
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let by_readiness = |taint: &&Taint| [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match status_of("Ready") {
        Some("True") => {}
        Some("False") => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        Some(_) => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        // A node that has just registered has not said anything yet: what it registered with stays.
        None => wanted.extend(current.iter().filter(by_readiness).map(|t| (t.key.as_str(), t.effect.as_str()))),
    }
    for (type_, status, taint) in CONDITION_TAINTS {
        if status_of(type_) == Some(status) {
            wanted.push((taint, "NoSchedule"));
        }
    }
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    if unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ready = status_of("Ready");
    let was_ready = find(node, "Ready").is_some_and(|ready| ready.status == "True");
    let tainted = current.iter().filter(by_readiness).any(|taint| taint.effect == "NoExecute");
    let became_unready = ready.is_some_and(|ready| ready != "True") && (was_ready || !tainted);
    let taints = changed_taints(&current, &wanted, now);
    decision.became_unready = became_unready;
    decision.taints = taints;
    decision
}

/// The new list when the taints kept here are not exactly `wanted`.
fn changed_taints(current: &[Taint], wanted: &[(&str, &str)], now: Timestamp) -> Option<Vec<Taint>> {
    let managed = |taint: &Taint| {
        let kept = [NOT_READY, UNREACHABLE, UNSCHEDULABLE].into_iter().chain(CONDITION_TAINTS.map(|(_, _, key)| key));
        kept.into_iter().any(|key| key == taint.key)
    };
    let is_wanted = |taint: &Taint| wanted.contains(&(taint.key.as_str(), taint.effect.as_str()));
    let mut taints: Vec<Taint> = current.iter().filter(|taint| !managed(taint) || is_wanted(taint)).cloned().collect();
    let missing: Vec<Taint> = wanted
        .iter()
        .filter(|(key, effect)| !taints.iter().any(|taint| taint.key == *key && taint.effect == *effect))
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

/// The last sign of life of a node, and when it was seen here: the node's own clock may be wrong.
#[derive(Debug, PartialEq)]
struct SignOfLife {
    lease: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
    seen: Instant,
}

struct Controller {
    context: Context,
    recorder: Recorder,
    nodes: Informer<Node>,
    leases: Informer<Lease>,
    pods_by_node: Index<Pod>,
    /// One per node.
    signs: Mutex<HashMap<String, SignOfLife>>,
}

/// Values of the shared index `node`.
pub(crate) fn by_node(pod: &Pod) -> Vec<String> {
    pods::node_name(pod).map(String::from).into_iter().collect()
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let nodes = context.informers.of::<Node>();
    let leases = context.informers.of::<Lease>();
    let pods = context.informers.of::<Pod>();
    if !synced(&stop, async { nodes.synced().await && leases.synced().await && pods.synced().await }).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "node-controller"),
        pods_by_node: pods.index("node", by_node),
        nodes: nodes.clone(),
        leases: leases.clone(),
        signs: Mutex::default(),
        context,
    });
    let queue: Queue<String> = Queue::new();
    let feeds = futures::future::join(
        feed(&nodes, &queue, |change| [change.object().name_any()]),
        feed(&leases, &queue, |change| {
            let lease = change.object();
            (lease.namespace().as_deref() == Some(LEASE_NAMESPACE)).then(|| lease.name_any())
        }),
    );
    let reconcile = |name: String| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&name).await }
    };
    run_with_feeds(run_controller("node-lifecycle", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

impl Controller {
    async fn reconcile(&self, name: &str) -> Result<Option<Duration>, ReconcileError> {
        let Some(node) = self.nodes.get("", name) else {
            self.signs.lock().remove(name);
            return Ok(None);
        };
        let silence = self.silence(name, &node);
        let grace = self.context.config.node_monitor_grace_period;
        let silent = silence >= grace;
        let decision = decide(&node, silent, Timestamp::now());
        let api = self.context.api_all::<Node>();
        if !decision.conditions.is_empty() {
            let patch = json!({"metadata": {"uid": node.metadata.uid}, "status": {"conditions": decision.conditions}});
            let result = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            gone_is_done(result).map_err(failed("write conditions of node", name))?;
        }
        if let Some(taints) = decision.taints {
            let written = !decision.conditions.is_empty();
            let mut patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"taints": taints}});
            if !written {
                patch["metadata"]["resourceVersion"] = json!(node.metadata.resource_version);
            }
            let result = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await;
            gone_is_done(result).map_err(failed("taint node", name))?;
        }
        if decision.became_unready {
            let message = format!("Node {name} status is now: NodeNotReady");
            self.recorder.about(node.as_ref(), EventType::Normal, "NodeNotReady", message);
            self.mark_pods_unready(name).await?;
        }
        Ok((!silent).then(|| grace - silence))
    }

    /// How long the node has not been heard of.
    fn silence(&self, name: &str, node: &Node) -> Duration {
        let lease = self.leases.get(LEASE_NAMESPACE, name);
        let lease = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let heartbeat = find(node, "Ready").and_then(|ready| ready.last_heartbeat_time.as_ref().map(|time| time.0));
        let mut signs = self.signs.lock();
        let sign =
            signs.entry(name.to_owned()).or_insert_with(|| SignOfLife { lease, heartbeat, seen: Instant::now() });
        // This controller's own writes keep the heartbeat, so they are no sign of life.
        if sign.lease != lease || sign.heartbeat != heartbeat {
            *sign = SignOfLife { lease, heartbeat, seen: Instant::now() };
        }
        sign.seen.elapsed()
    }

    /// Takes the pods of a lost node out of their services.
    async fn mark_pods_unready(&self, node: &str) -> Result<(), ReconcileError> {
        for pod in self.pods_by_node.get(node).into_iter().filter(|pod| pods::is_ready(pod)) {
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
                "type": "Ready", "status": "False", "lastTransitionTime": Time(Timestamp::now())}]}});
            let api = self.context.api::<Pod>(&pod.namespace().unwrap_or_default());
            let result = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await;
            gone_is_done(result).map_err(failed("mark pod unready", pod.name_any()))?;
            self.recorder.about(pod.as_ref(), EventType::Warning, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }
}
