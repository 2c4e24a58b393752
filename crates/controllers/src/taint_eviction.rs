//! Taint eviction: deletes pods from nodes with `NoExecute` taints that they do not tolerate, or not for so long.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kinds::matching;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use parking_lot::Mutex;
use reconcile::{Change, EventType, Informer, Key, Queue, Recorder, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, is_not_found, run_with_feeds, synced};
use crate::metrics::{Family, Histogram};
use crate::node_lifecycle::by_node;
use crate::pods;

/// Evictions at once, upstream's number of update workers.
const WORKERS: usize = 8;

static DELETIONS: Family =
    Family::counter("taint_eviction_controller_pod_deletions_total", "Pods that had to leave a tainted node.", &[]);
static DELETION_DURATION: Histogram = Histogram::new(
    "taint_eviction_controller_pod_deletion_duration_seconds",
    "How long after its time was over a pod was deleted.",
    &[],
    &[0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0, 120.0, 180.0, 240.0],
);

/// Appends the metrics in Prometheus' text format.
pub(crate) fn render_metrics(out: &mut String) {
    DELETIONS.render(out);
    DELETION_DURATION.render(out);
}

/// How long a pod may stay.
#[derive(Debug, PartialEq, Eq)]
enum Stay {
    Forever,
    For(Duration),
    /// Not any longer; so long ago its time was over.
    Over(Duration),
}

/// Decides how long a pod may stay; `seen` is since when it has been known to have to leave, for taints that do not say
/// since when they are there. Of the tolerations for a taint the first one counts.
fn decide(taints: &[Taint], tolerations: &[Toleration], seen: Option<Timestamp>, now: Timestamp) -> Stay {
    let mut until: Option<Timestamp> = None;
    for taint in taints.iter().filter(|taint| taint.effect == "NoExecute") {
        let since = taint.time_added.as_ref().map(|time| time.0).or(seen).unwrap_or(now);
        let covering = tolerations.iter().find(|given| matching::Toleration::of(given).covers(taint));
        let allowed = match covering.map(|toleration| toleration.toleration_seconds) {
            Some(None) => continue,
            Some(Some(seconds)) => seconds.max(0),
            None => 0,
        };
        // beyond what can be told is forever
        let Ok(end) = since.checked_add(SignedDuration::from_secs(allowed)) else { continue };
        until = Some(until.map_or(end, |until| until.min(end)));
    }
    let Some(until) = until else { return Stay::Forever };
    match Duration::try_from(until.duration_since(now)) {
        Ok(left) if !left.is_zero() => Stay::For(left),
        Ok(_) | Err(_) => Stay::Over(Duration::try_from(now.duration_since(until)).unwrap_or_default()),
    }
}

fn no_execute(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// A pod that is to leave when its time is over.
struct Waiting {
    uid: Option<String>,
    since: Timestamp,
}

struct Controller {
    context: Context,
    recorder: Recorder,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    /// Pods of tainted nodes that have some time left.
    waiting: Mutex<HashMap<Key, Waiting>>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    if !synced(&stop, async { nodes.synced().await && pods.synced().await }).await {
        return;
    }
    let pods_by_node = pods.index("node", by_node);
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "taint-eviction-controller"),
        nodes: nodes.clone(),
        pods: pods.clone(),
        waiting: Mutex::default(),
        context,
    });
    let queue: Queue<Key> = Queue::new();
    let feeds = futures::future::join(
        feed(&nodes, &queue, |change| {
            let changed = match change {
                Change::Applied { old: Some(old), new } => no_execute(old) != no_execute(new),
                Change::Applied { old: None, new } => !no_execute(new).is_empty(),
                Change::Deleted(_) => true,
            };
            let of_node = if changed { pods_by_node.get(&change.object().name_any()) } else { Vec::new() };
            of_node.into_iter().map(|pod| Key::of(pod.as_ref()))
        }),
        feed(&pods, &queue, |change| controller.concerned(change)),
    );
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.evict(&key).await }
    };
    run_with_feeds(run_controller("taint-eviction", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

impl Controller {
    /// The pod, if a change of it may matter.
    fn concerned(&self, change: &Change<Pod>) -> Option<Key> {
        let pod = change.object();
        let key = Key::of(pod.as_ref());
        match change {
            Change::Applied { .. } => {
                let node = pods::node_name(pod).and_then(|name| self.nodes.get("", name));
                node.is_some_and(|node| !no_execute(&node).is_empty()).then_some(key)
            }
            Change::Deleted(last) => {
                self.cancel(&key, last);
                None
            }
        }
    }

    async fn evict(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(None) };
        if !pods::is_active(&pod) {
            self.waiting.lock().remove(key);
            return Ok(None);
        }
        let node = pods::node_name(&pod).and_then(|name| self.nodes.get("", name));
        let taints = node.map(|node| no_execute(&node)).unwrap_or_default();
        let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
        let (seen, now) = (self.waits_since(key, &pod), Timestamp::now());
        match decide(&taints, tolerations, seen, now) {
            Stay::Forever => {
                self.cancel(key, &pod);
                Ok(None)
            }
            Stay::For(left) => {
                let waiting = || Waiting { uid: pod.metadata.uid.clone(), since: seen.unwrap_or(now) };
                self.waiting.lock().insert(key.clone(), waiting());
                Ok(Some(left))
            }
            Stay::Over(late) => {
                let message = format!("Marking for deletion Pod {key}");
                self.recorder.about(pod.as_ref(), EventType::Normal, "TaintManagerEviction", message);
                self.delete(key, &pod).await?;
                self.waiting.lock().remove(key);
                DELETIONS.increase(&[]);
                DELETION_DURATION.observe_time(&[], late);
                Ok(None)
            }
        }
    }

    /// Since when exactly this pod has been waiting for its end.
    fn waits_since(&self, key: &Key, pod: &Pod) -> Option<Timestamp> {
        let waiting = self.waiting.lock();
        waiting.get(key).filter(|waiting| waiting.uid == pod.metadata.uid).map(|waiting| waiting.since)
    }

    /// The pod may stay, or is gone for other reasons: tells so if it was to leave.
    fn cancel(&self, key: &Key, pod: &Pod) {
        if self.waiting.lock().remove(key).is_some() {
            let message = format!("Cancelling deletion of Pod {key}");
            self.recorder.about(pod, EventType::Normal, "TaintManagerEviction", message);
        }
    }

    async fn delete(&self, key: &Key, pod: &Pod) -> Result<(), ReconcileError> {
        let api = self.context.api::<Pod>(&key.namespace);
        let why = pods::DisruptionTarget {
            reason: "DeletionByTaintManager",
            message: "Taint manager: deleting due to NoExecute taint",
        };
        let patch = why.patch(pod, Timestamp::now());
        match api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(error) if is_not_found(&error) => return Ok(()),
            result => result.map_err(failed("mark pod for eviction", key))?,
        };
        let preconditions = Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::default() };
        gone_is_done(api.delete(&key.name, &params).await).map_err(failed("evict pod", key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-01-01T12:00:00Z";

    fn taint(key: &str, effect: &str, added: Option<&str>) -> Taint {
        serde_json::from_value(json!({"key": key, "effect": effect, "timeAdded": added})).unwrap()
    }

    fn tolerate(key: &str, seconds: Option<i64>) -> Toleration {
        serde_json::from_value(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
            "tolerationSeconds": seconds}))
        .unwrap()
    }

    #[test]
    fn pods_stay_as_long_as_they_tolerate() {
        let now: Timestamp = NOW.parse().unwrap();
        let minute_ago = Some("2026-01-01T11:59:00Z");
        let (a, b) = (taint("a", "NoExecute", minute_ago), taint("b", "NoExecute", minute_ago));
        let secs = Duration::from_secs;
        for (taints, tolerations, expected) in [
            (vec![], vec![], Stay::Forever),
            (vec![taint("a", "NoSchedule", minute_ago)], vec![], Stay::Forever),
            (vec![a.clone()], vec![], Stay::Over(secs(60))),
            (vec![a.clone()], vec![tolerate("a", None)], Stay::Forever),
            (vec![a.clone()], vec![tolerate("a", Some(300))], Stay::For(secs(240))),
            (vec![a.clone()], vec![tolerate("a", Some(60))], Stay::Over(secs(0))),
            (vec![a.clone()], vec![tolerate("a", Some(-5))], Stay::Over(secs(60))),
            (vec![a.clone()], vec![tolerate("a", Some(i64::MAX))], Stay::Forever),
            (vec![a.clone()], vec![tolerate("a", Some(300)), tolerate("a", Some(70))], Stay::For(secs(240))),
            (vec![a.clone()], vec![tolerate("a", None), tolerate("a", Some(1))], Stay::Forever),
            (vec![a.clone(), b.clone()], vec![tolerate("a", None)], Stay::Over(secs(60))),
            (vec![a.clone(), b.clone()], vec![tolerate("a", Some(300)), tolerate("b", Some(100))], Stay::For(secs(40))),
            (vec![a, b], vec![tolerate("a", Some(300)), tolerate("b", None)], Stay::For(secs(240))),
        ] {
            assert_eq!(decide(&taints, &tolerations, None, now), expected, "{taints:?} {tolerations:?}");
        }
    }

    #[test]
    fn where_a_taint_does_not_say_since_when_the_time_runs_since_it_was_seen() {
        let now: Timestamp = NOW.parse().unwrap();
        let (taints, tolerations) = ([taint("a", "NoExecute", None)], [tolerate("a", Some(30))]);
        let seen = |seconds| Some(now - SignedDuration::from_secs(seconds));
        let secs = Duration::from_secs;
        for (seen, expected) in
            [(None, Stay::For(secs(30))), (seen(20), Stay::For(secs(10))), (seen(31), Stay::Over(secs(1)))]
        {
            assert_eq!(decide(&taints, &tolerations, seen, now), expected);
        }
    }
}
