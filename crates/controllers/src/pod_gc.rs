//! Pod garbage collection: pods of nodes that are gone, pods being deleted that no node will ever end, and the oldest of
//! too many finished pods. Pods of nodes that are declared to be off are removed as soon as they are deleted.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use reconcile::{Change, Index, Informer, Key, Queue, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};
use crate::metrics::Family;
use crate::node_lifecycle::by_node;
use crate::{batch, pods};

/// A node must be gone for this long before its pods are, upstream's quarantine: it may be registering again.
const NODE_QUARANTINE: Duration = Duration::from_secs(40);
const WORKERS: usize = 4;
/// Index value of finished pods.
const TERMINAL: &str = "terminal";

/// Taint of a node that an administrator declares to be off: what ran there does not run any more.
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

static DELETIONS: Family =
    Family::counter("pod_gc_collector_force_delete_pods_total", "Pods removed at once.", &["namespace", "reason"]);
static FAILURES: Family = Family::counter(
    "pod_gc_collector_force_delete_pod_errors_total",
    "Pods that could not be removed.",
    &["namespace", "reason"],
);

/// Appends the metrics in Prometheus' text format.
pub(crate) fn render_metrics(out: &mut String) {
    DELETIONS.render(out);
    FAILURES.render(out);
}

/// Why a pod is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reason {
    /// Its node is missing: ask the server, then delete.
    Orphaned,
    /// It is being deleted and its node is off.
    OutOfService,
    /// It is being deleted and has no node that could end it.
    Unscheduled,
    /// There are too many finished pods, and it is one of the oldest.
    Terminated,
}

impl Reason {
    /// As monitoring knows it.
    fn label(self) -> &'static str {
        match self {
            Self::Orphaned => "orphaned",
            Self::OutOfService => "out-of-service",
            Self::Unscheduled => "unscheduled",
            Self::Terminated => "terminated",
        }
    }
}

/// What is known of a pod's node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NodeState {
    Missing,
    /// It is unready, and declared to be off.
    Off,
    There,
}

fn state(node: Option<&Node>) -> NodeState {
    let Some(node) = node else { return NodeState::Missing };
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let off = taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE);
    let ready = conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if off && !ready { NodeState::Off } else { NodeState::There }
}

/// Why a pod is to be removed, if it is; `node` is the state of the node it is bound to.
fn decide(pod: &Pod, node: NodeState) -> Option<Reason> {
    let leaves = pod.metadata.deletion_timestamp.is_some();
    match (pods::node_name(pod), node) {
        (None, _) => leaves.then_some(Reason::Unscheduled),
        (Some(_), NodeState::Missing) => Some(Reason::Orphaned),
        (Some(_), NodeState::Off) => leaves.then_some(Reason::OutOfService),
        (Some(_), NodeState::There) => None,
    }
}

/// Finished pods in the order in which they go: those that were evicted, then the oldest.
fn order(pod: &Pod) -> (bool, Option<Timestamp>, String) {
    let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
    let evicted = pods::phase(pod) == "Failed" && reason == Some("Evicted");
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (!evicted, created, pod.metadata.name.clone().unwrap_or_default())
}

struct Collector {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_node: Index<Pod>,
    terminal: Index<Pod>,
    queue: Queue<Key>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    if !synced(&stop, async { nodes.synced().await && pods.synced().await }).await {
        return;
    }
    let terminal =
        pods.index(TERMINAL, |pod| pods::is_terminal(pod).then(|| TERMINAL.to_owned()).into_iter().collect());
    let collector = Arc::new(Collector {
        context,
        nodes: nodes.clone(),
        pods_by_node: pods.index("node", by_node),
        pods: pods.clone(),
        terminal,
        queue: Queue::new(),
    });
    let from_nodes = async {
        let mut changes = nodes.subscribe();
        while let Some(change) = changes.next().await {
            collector.node_changed(&change);
        }
    };
    let from_pods = async {
        let mut changes = pods.subscribe();
        while let Some(change) = changes.next().await {
            if let Change::Applied { old, new } = change {
                collector.pod_changed(old.as_deref(), &new);
            }
        }
    };
    let reconcile = |key: Key| {
        let collector = Arc::clone(&collector);
        async move { if key == Key::default() { collector.limit_terminal().await } else { collector.reconcile(&key).await } }
    };
    let run = run_controller("pod-gc", collector.queue.clone(), WORKERS, stop, reconcile);
    run_with_feeds(run, futures::future::join(from_nodes, from_pods)).await;
}

impl Collector {
    fn node_changed(&self, change: &Change<Node>) {
        let after = match change {
            Change::Deleted(_) => NodeState::Missing,
            Change::Applied { new, .. } => state(Some(new)),
        };
        let pause = match after {
            NodeState::There => return,
            NodeState::Off => Duration::ZERO,
            NodeState::Missing => NODE_QUARANTINE,
        };
        for pod in self.pods_by_node.get(&change.object().name_any()) {
            if decide(&pod, after).is_some() {
                self.queue.add_after(Key::of(pod.as_ref()), pause);
            }
        }
    }

    fn pod_changed(&self, old: Option<&Pod>, new: &Pod) {
        let node = pods::node_name(new).and_then(|name| self.nodes.get("", name));
        match decide(new, state(node.as_deref())) {
            None => {}
            Some(Reason::Orphaned) => self.queue.add_after(Key::of(new), NODE_QUARANTINE),
            Some(Reason::OutOfService | Reason::Unscheduled | Reason::Terminated) => self.queue.add(Key::of(new)),
        }
        if pods::is_terminal(new) && !old.is_some_and(pods::is_terminal) {
            // The empty key stands for the number of finished pods.
            self.queue.add(Key::default());
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(None) };
        let name = pods::node_name(&pod).unwrap_or_default();
        let Some(reason) = decide(&pod, state(self.nodes.get("", name).as_deref())) else { return Ok(None) };
        if reason == Reason::Orphaned {
            let found = self.context.api_all::<Node>().get_metadata_opt(name).await;
            if found.map_err(failed("look up node", name))?.is_some() {
                return Ok(None);
            }
        }
        self.force_delete(&pod, reason).await?;
        Ok(None)
    }

    /// Deletes the oldest finished pods above the limit; a limit of zero is none.
    async fn limit_terminal(&self) -> Result<Option<Duration>, ReconcileError> {
        let most = self.context.config.terminated_pods_max;
        let surplus = self.terminal.count(TERMINAL).saturating_sub(most);
        if surplus == 0 || most == 0 {
            return Ok(None);
        }
        let mut finished = self.terminal.get(TERMINAL);
        finished.sort_by_cached_key(|pod| order(pod));
        let oldest = finished.into_iter().take(surplus);
        batch::all(oldest, |pod| async move { self.force_delete(&pod, Reason::Terminated).await }).await?;
        Ok(None)
    }

    async fn force_delete(&self, pod: &Pod, reason: Reason) -> Result<(), ReconcileError> {
        let labels = [pod.metadata.namespace.as_deref().unwrap_or_default(), reason.label()];
        DELETIONS.increase(&labels);
        let result = self.try_force_delete(pod, reason).await;
        if result.is_err() {
            FAILURES.increase(&labels);
        }
        result
    }

    /// Nobody will report how the pod ends, so it is marked as failed and removed at once.
    async fn try_force_delete(&self, pod: &Pod, reason: Reason) -> Result<(), ReconcileError> {
        let key = Key::of(pod);
        let api = self.context.api::<Pod>(&key.namespace);
        if !pods::is_terminal(pod) {
            let mut patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed"}});
            if reason == Reason::Orphaned {
                let why = pods::DisruptionTarget { reason: "DeletionByPodGC", message: "PodGC: node no longer exists" };
                patch["status"]["conditions"] = json!([why.condition(pod, Timestamp::now())]);
            }
            let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            gone_is_done(result).map_err(failed("mark pod failed", &key))?;
        }
        let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        let params = DeleteParams { grace_period_seconds: Some(0), preconditions, ..DeleteParams::default() };
        gone_is_done(api.delete(&key.name, &params).await).map_err(failed("delete pod", &key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_without_a_future_are_collected() {
        let pod = |node: &str, leaving: bool| -> Pod {
            let at = leaving.then_some("2026-01-01T00:00:00Z");
            serde_json::from_value(json!({"metadata": {"deletionTimestamp": at},
                "spec": {"nodeName": node, "containers": []}}))
            .unwrap()
        };
        use NodeState::{Missing, Off, There};
        for (pod, node, expected) in [
            (pod("a", false), There, None),
            (pod("a", true), There, None),
            (pod("a", false), Missing, Some(Reason::Orphaned)),
            (pod("a", true), Missing, Some(Reason::Orphaned)),
            (pod("a", false), Off, None),
            (pod("a", true), Off, Some(Reason::OutOfService)),
            (pod("", false), Missing, None),
            (pod("", true), Missing, Some(Reason::Unscheduled)),
        ] {
            assert_eq!(decide(&pod, node), expected, "{pod:?} {node:?}");
        }
    }

    #[test]
    fn a_node_is_off_when_it_is_said_to_be_and_does_not_contradict() {
        let node = |ready: &str, taint: &str| -> Node {
            serde_json::from_value(json!({"spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap()
        };
        for (node, expected) in [
            (Some(node("Unknown", OUT_OF_SERVICE)), NodeState::Off),
            (Some(node("True", OUT_OF_SERVICE)), NodeState::There),
            (Some(node("False", "other")), NodeState::There),
            (None, NodeState::Missing),
        ] {
            assert_eq!(state(node.as_ref()), expected, "{node:?}");
        }
    }

    #[test]
    fn evicted_pods_go_before_the_oldest() {
        let pod = |name: &str, created: &str, reason: Option<&str>| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": created},
                "status": {"phase": "Failed", "reason": reason}}))
            .unwrap()
        };
        let (early, late) = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z");
        let mut pods =
            [pod("d", late, None), pod("c", early, None), pod("b", early, None), pod("a", late, Some("Evicted"))];
        pods.sort_by_cached_key(order);
        let names: Vec<String> = pods.iter().map(|pod| pod.name_any()).collect();
        assert_eq!(names, ["a", "b", "c", "d"]);
    }
}
