//! Taint eviction: deletes pods from nodes with `NoExecute` taints that they do not tolerate, or not for so long.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kinds::matching;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use reconcile::{Change, EventType, Informer, Key, Queue, Recorder, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};
use crate::node_lifecycle::by_node;
use crate::pods;

/// Evictions at once, upstream's number of update workers.
const WORKERS: usize = 8;

/// How long a pod may stay.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Forever,
    For(Duration),
    Over,
}

fn decide(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Stay {
    let mut stay = Stay::Forever;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let mut covering = tolerations.iter().filter(|given| matching::Toleration::of(given).covers(taint)).peekable();
        if covering.peek().is_none() {
            return Stay::Over;
        }
        let Some(seconds) = covering.filter_map(|toleration| toleration.toleration_seconds).min() else { continue };
        let allowed = Duration::from_secs(seconds.max(0).unsigned_abs());
        let since = taint.time_added.as_ref().map_or(now, |time| time.0);
        let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
        let left = match allowed.checked_sub(elapsed) {
            None | Some(Duration::ZERO) => return Stay::Over,
            Some(left) => left,
        };
        stay = match stay {
            Stay::For(other) if other < left => Stay::For(other),
            _ => Stay::For(left),
        };
    }
    stay
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    if !synced(&stop, async { nodes.synced().await && pods.synced().await }).await {
        return;
    }
    let pods_by_node = pods.index("node", by_node);
    let recorder = Recorder::new(context.client.clone(), "taint-eviction-controller");
    let queue: Queue<Key> = Queue::new();
    let feeds = futures::future::join(
        feed(&nodes, &queue, |change| match change {
            Change::Applied { old, new } => {
                let changed = old.as_ref().is_none_or(|old| no_execute(old) != no_execute(new));
                let of_node = if changed { pods_by_node.get(&new.name_any()) } else { Vec::new() };
                of_node.into_iter().map(|pod| Key::of(pod.as_ref())).collect()
            }
            Change::Deleted(_) => Vec::new(),
        }),
        feed(&pods, &queue, |change| match change {
            Change::Applied { new, .. } => {
                let node = pods::node_name(new).and_then(|name| nodes.get("", name));
                let tainted = node.is_some_and(|node| !no_execute(&node).is_empty());
                tainted.then(|| Key::of(new.as_ref()))
            }
            Change::Deleted(_) => None,
        }),
    );
    let reconcile = |key: Key| evict(context.clone(), recorder.clone(), nodes.clone(), pods.clone(), key);
    run_with_feeds(run_controller("taint-eviction", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

async fn evict(
    context: Context,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    key: Key,
) -> Result<Option<Duration>, ReconcileError> {
    let Some(pod): Option<Arc<Pod>> = pods.get(&key.namespace, &key.name) else { return Ok(None) };
    let node = pods::node_name(&pod).and_then(|name| nodes.get("", name));
    let Some(node) = node.filter(|_| pods::is_active(&pod)) else { return Ok(None) };
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    match decide(&no_execute(&node), tolerations, Timestamp::now()) {
        Stay::Forever => Ok(None),
        Stay::For(left) => Ok(Some(left)),
        Stay::Over => {
            let message = format!("Marking for deletion Pod {key}");
            recorder.about(pod.as_ref(), EventType::Normal, "TaintManagerEviction", message);
            let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
            let params = DeleteParams { preconditions, ..DeleteParams::default() };
            let result = context.api::<Pod>(&key.namespace).delete(&key.name, &params).await;
            gone_is_done(result).map_err(failed("evict pod", &key))?;
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let taint = |key: &str, effect: &str| -> Taint {
            serde_json::from_value(json!({"key": key, "effect": effect, "timeAdded": "2026-01-01T11:59:00Z"})).unwrap()
        };
        let tolerate = |key: &str, seconds: Option<i64>| -> Toleration {
            serde_json::from_value(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}))
            .unwrap()
        };
        let a = taint("a", "NoExecute");
        for (taints, tolerations, expected) in [
            (vec![], vec![], Stay::Forever),
            (vec![taint("a", "NoSchedule")], vec![], Stay::Forever),
            (vec![a.clone()], vec![], Stay::Over),
            (vec![a.clone()], vec![tolerate("a", None)], Stay::Forever),
            (vec![a.clone()], vec![tolerate("a", Some(300))], Stay::For(Duration::from_secs(240))),
            (vec![a.clone()], vec![tolerate("a", Some(60))], Stay::Over),
            (vec![a.clone(), taint("b", "NoExecute")], vec![tolerate("a", None)], Stay::Over),
            (
                vec![a, taint("b", "NoExecute")],
                vec![tolerate("a", Some(300)), tolerate("b", Some(100))],
                Stay::For(Duration::from_secs(40)),
            ),
        ] {
            assert_eq!(decide(&taints, &tolerations, now), expected, "{taints:?} {tolerations:?}");
        }
    }
}
