//! Pod garbage collection: pods of nodes that are gone, pods being deleted that no node will ever end, and the oldest of
//! too many finished pods.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use reconcile::{Change, Index, Informer, Key, Queue, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};
use crate::node_lifecycle::by_node;
use crate::pods;

/// A node must be gone for this long before its pods are, upstream's quarantine: it may be registering again.
const NODE_QUARANTINE: Duration = Duration::from_secs(40);
const WORKERS: usize = 4;
/// Index value of finished pods.
const TERMINAL: &str = "terminal";

/// What to do about a pod.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep,
    /// Its node is missing: ask the server, then delete.
    Orphaned,
    /// It is being deleted and has no node that could end it.
    Unscheduled,
}

fn decide(pod: &Pod, node_exists: bool) -> Verdict {
    match pods::node_name(pod) {
        Some(_) if !node_exists => Verdict::Orphaned,
        None if pod.metadata.deletion_timestamp.is_some() => Verdict::Unscheduled,
        _ => Verdict::Keep,
    }
}

struct Collector {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    terminal: Index<Pod>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    if !synced(&stop, async { nodes.synced().await && pods.synced().await }).await {
        return;
    }
    let pods_by_node = pods.index("node", by_node);
    let terminal =
        pods.index(TERMINAL, |pod| pods::is_terminal(pod).then(|| TERMINAL.to_owned()).into_iter().collect());
    let collector = Arc::new(Collector { context, nodes: nodes.clone(), pods: pods.clone(), terminal });
    let queue: Queue<Key> = Queue::new();
    let from_nodes = async {
        let mut changes = nodes.subscribe();
        while let Some(change) = changes.next().await {
            if let Change::Deleted(node) = change {
                for pod in pods_by_node.get(&node.name_any()) {
                    queue.add_after(Key::of(pod.as_ref()), NODE_QUARANTINE);
                }
            }
        }
    };
    let from_pods = async {
        let mut changes = pods.subscribe();
        while let Some(change) = changes.next().await {
            let Change::Applied { old, new } = change else { continue };
            let node_exists = pods::node_name(&new).is_none_or(|name| nodes.get("", name).is_some());
            match decide(&new, node_exists) {
                Verdict::Keep => {}
                Verdict::Orphaned => queue.add_after(Key::of(new.as_ref()), NODE_QUARANTINE),
                Verdict::Unscheduled => queue.add(Key::of(new.as_ref())),
            }
            if pods::is_terminal(&new) && !old.is_some_and(|old| pods::is_terminal(&old)) {
                // The empty key stands for the number of finished pods.
                queue.add(Key::default());
            }
        }
    };
    let reconcile = |key: Key| {
        let collector = Arc::clone(&collector);
        async move { if key == Key::default() { collector.limit_terminal().await } else { collector.reconcile(&key).await } }
    };
    let run = run_controller("pod-gc", queue.clone(), WORKERS, stop, reconcile);
    run_with_feeds(run, futures::future::join(from_nodes, from_pods)).await;
}

impl Collector {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(None) };
        let node = pods::node_name(&pod);
        match decide(&pod, node.is_none_or(|name| self.nodes.get("", name).is_some())) {
            Verdict::Keep => return Ok(None),
            Verdict::Unscheduled => {}
            Verdict::Orphaned => {
                let name = node.unwrap_or_default();
                let found = self.context.api_all::<Node>().get_metadata_opt(name).await;
                if found.map_err(failed("look up node", name))?.is_some() {
                    return Ok(None);
                }
            }
        }
        self.force_delete(&pod).await?;
        Ok(None)
    }

    /// Deletes the oldest finished pods above the limit.
    async fn limit_terminal(&self) -> Result<Option<Duration>, ReconcileError> {
        let most = self.context.config.terminated_pods_max;
        let surplus = self.terminal.count(TERMINAL).saturating_sub(most);
        if surplus == 0 {
            return Ok(None);
        }
        let mut finished = self.terminal.get(TERMINAL);
        finished.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
        for pod in finished.into_iter().take(surplus) {
            self.force_delete(&pod).await?;
        }
        Ok(None)
    }

    /// Nobody will report how the pod ends, so it is marked as failed and removed at once.
    async fn force_delete(&self, pod: &Pod) -> Result<(), ReconcileError> {
        let key = Key::of(pod);
        let api = self.context.api::<Pod>(&key.namespace);
        if !pods::is_terminal(pod) {
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed"}});
            let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
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
        for (pod, node_exists, expected) in [
            (pod("a", false), true, Verdict::Keep),
            (pod("a", true), true, Verdict::Keep),
            (pod("a", false), false, Verdict::Orphaned),
            (pod("", false), true, Verdict::Keep),
            (pod("", true), true, Verdict::Unscheduled),
        ] {
            assert_eq!(decide(&pod, node_exists), expected);
        }
    }
}
