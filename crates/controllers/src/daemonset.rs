//! DaemonSet: one pod on every node that fits.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod, PodTemplateSpec};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};
use crate::history::{self, Past, REVISION_HASH, Revisions, Wanted};
use crate::owners::{self, by_controller};
use crate::pending::{LAG_RETRY, PendingWrites};
use crate::pod_control::PodControl;
use crate::{batch, gather, pods, selector};
use back_off::BackOff;
use plan::{Observed, Plan};
use standing::Standings;

mod back_off;
mod eligibility;
mod plan;
mod standing;
mod status;
#[cfg(test)]
mod tests;

/// Sets reconciled at once, upstream's default is 2; in process a few more cost nothing.
const WORKERS: usize = 16;
/// Pods created and pods deleted in one reconcile, upstream's value: a registry may be behind each of them.
const BURST: usize = 250;

/// How many templates the set has had, as the API server counts them, and the label that pods have it in.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const POD_GENERATION: &str = "pod-template-generation";

struct Controller {
    context: Context,
    recorder: Recorder,
    daemons: Informer<DaemonSet>,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    pods_by_owner: Index<Pod>,
    revisions: Revisions,
    pending: PendingWrites,
    back_off: BackOff,
    standings: Standings,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let daemons = context.informers.of::<DaemonSet>();
    let nodes = context.informers.of::<Node>();
    let pods = context.informers.of::<Pod>();
    let revisions = context.informers.of::<ControllerRevision>();
    let all =
        async { daemons.synced().await && nodes.synced().await && pods.synced().await && revisions.synced().await };
    if !synced(&stop, all).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "daemonset-controller"),
        pods_by_owner: pods.index("controller", by_controller),
        revisions: Revisions::new(&context, &revisions),
        pending: PendingWrites::default(),
        back_off: BackOff::default(),
        standings: Standings::default(),
        daemons: daemons.clone(),
        nodes: nodes.clone(),
        pods: pods.clone(),
        context,
    });
    let by_selector = daemons.index("selector", owners::by_selector);
    let queue: Queue<Key> = Queue::new();
    let affected = |change: &Change<Pod>| owners::affected(&by_selector, change, selects);
    let feeds = futures::future::join4(
        feed(&daemons, &queue, |change| [Key::of(change.object().as_ref())]),
        gather::feed(&pods, &queue, affected, |key| owners::count(&daemons, &controller.pods_by_owner, key)),
        feed(&nodes, &queue, |change| controller.node_changed(change)),
        feed(&revisions, &queue, |change| owners::affected(&by_selector, change, selects)),
    );
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    };
    run_with_feeds(run_controller("daemonset", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

fn selects<K: kube::Resource>(daemon: &DaemonSet, object: &K) -> bool {
    daemon.spec.as_ref().is_some_and(|spec| {
        !selector::is_empty(&spec.selector) && selector::matches(&spec.selector, object.meta().labels.as_ref())
    })
}

/// What pods of a revision are labelled with.
fn hash_of(revision: &ControllerRevision) -> String {
    revision.labels().get(REVISION_HASH).cloned().unwrap_or_else(|| revision.name_any())
}

impl Controller {
    /// The sets that have something else to do with a node than before.
    fn node_changed(&self, change: &Change<Node>) -> Vec<Key> {
        match change {
            Change::Applied { old: Some(old), new }
                if old.metadata.uid == new.metadata.uid
                    && old.spec == new.spec
                    && old.metadata.labels == new.metadata.labels =>
            {
                Vec::new()
            }
            Change::Applied { new, .. } => self.standings.changed(&new.name_any(), Some(new)),
            Change::Deleted(last) => self.standings.changed(&last.name_any(), None),
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(daemon) = self.daemons.get(&key.namespace, &key.name) else {
            self.pending.forget(key);
            self.revisions.forget(key);
            self.standings.forget(key);
            return Ok(None);
        };
        let Some(spec) = &daemon.spec else { return Ok(None) };
        if selector::is_empty(&spec.selector) {
            let message = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.about(daemon.as_ref(), EventType::Warning, "SelectingAll", message);
            return Ok(None);
        }
        // Its revisions may go before its pods, and without them nothing can be said of the pods.
        if daemon.metadata.deletion_timestamp.is_some() {
            return Ok(None);
        }
        if self.lags(key) {
            return Ok(Some(LAG_RETRY));
        }
        let (own, orphans) = owners::own_and_orphans(&self.pods_by_owner, daemon.as_ref());
        let candidates = own.into_iter().chain(orphans);
        let pods = owners::claim_all(&self.context, daemon.as_ref(), candidates, |pod| selects(&daemon, pod)).await?;
        let (hash, past, collisions) = self.construct_history(key, &daemon, &spec.template, &pods).await?;

        let generation = daemon.status.as_ref().and_then(|status| status.observed_generation).unwrap_or(0);
        let uid = daemon.metadata.uid.clone().unwrap_or_default();
        let nodes = self.standings.of(key, &daemon, || self.nodes.list());
        let observed = Observed {
            daemon: &daemon,
            nodes: &nodes,
            pods: &pods,
            hash: &hash,
            back_off: &|node| self.back_off.left(&uid, generation, node),
            now: Timestamp::now(),
        };
        let (plan, status, available_in) = {
            let places = plan::places(&observed);
            let (status, available_in) = status::compute(&observed, &places, collisions);
            (plan::decide(&observed, &places), status, available_in)
        };
        for ended in &plan.ended {
            self.tell_of_end(&daemon, ended, (&uid, generation));
        }
        let next = [plan.next, available_in].into_iter().flatten().min();
        let done = self.execute(key, &daemon, &hash, plan).await;
        let truncated = match done {
            Ok(()) => self.truncate(key, &daemon, &past, &pods).await,
            Err(error) => Err(error),
        };
        let written = self.write_status(key, &daemon, &status).await;
        truncated.and(written).map(|()| next)
    }

    fn lags(&self, key: &Key) -> bool {
        let leaving = |name: &str, uid: &str| {
            self.pods
                .get(&key.namespace, name)
                .is_none_or(|pod| pod.metadata.uid.as_deref() != Some(uid) || pod.metadata.deletion_timestamp.is_some())
        };
        self.pending.lags(key, self.pods.revision(), leaving) || self.revisions.lag(key)
    }

    /// The hash of the current revision, the others, and how many names were taken. Of several revisions of the current
    /// template one is kept, and pods of the others become its pods.
    async fn construct_history(
        &self,
        key: &Key,
        daemon: &DaemonSet,
        template: &PodTemplateSpec,
        pods: &[Arc<Pod>],
    ) -> Result<(String, Past, i32), ReconcileError> {
        let data = history::data_of(template);
        let past = self.revisions.past(daemon, &data, |revision| selects(daemon, revision)).await?;
        let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        let collisions = daemon.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let wanted = Wanted { data: &data, labels, hash_label: REVISION_HASH, collisions };
        let (current, collisions) = self.revisions.current(key, daemon, &past, &wanted).await?;
        let hash = hash_of(&current);
        for duplicate in &past.duplicates {
            let of_duplicate = hash_of(duplicate);
            let api = self.context.api::<Pod>(&key.namespace);
            for pod in pods.iter().filter(|pod| plan::is_updated(pod, &of_duplicate)) {
                let patch = json!({"metadata": {"uid": pod.metadata.uid, "labels": {REVISION_HASH: hash}}});
                let result = api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
                if let Ok(changed) = &result {
                    self.pending.wrote(key, &changed.metadata);
                }
                gone_is_done(result).map_err(failed("relabel pod", Key::of(pod.as_ref())))?;
            }
            self.revisions.delete(key, duplicate).await?;
        }
        Ok((hash, past, collisions))
    }

    fn tell_of_end(&self, daemon: &DaemonSet, ended: &plan::Ended, (uid, generation): (&str, i64)) {
        let (pod, node) = (Key::of(ended.pod.as_ref()), &ended.node);
        if ended.failed {
            self.back_off.failed(uid, generation, node);
            let message = format!("Found failed daemon pod {pod} on node {node}, will try to kill it");
            self.recorder.about(daemon, EventType::Warning, "FailedDaemonPod", message);
        } else {
            let message = format!("Found succeeded daemon pod {pod} on node {node}, will try to delete it");
            self.recorder.about(daemon, EventType::Normal, "SucceededDaemonPod", message);
        }
    }

    async fn execute(&self, key: &Key, daemon: &DaemonSet, hash: &str, plan: Plan) -> Result<(), ReconcileError> {
        let template = daemon.spec.as_ref().map(|spec| spec.template.clone()).unwrap_or_default();
        let mut pod = pods::from_template(template, daemon);
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.insert(REVISION_HASH.into(), hash.to_owned());
        let generation = daemon.annotations().get(TEMPLATE_GENERATION).filter(|count| count.parse::<i64>().is_ok());
        labels.extend(generation.map(|count| (POD_GENERATION.to_owned(), count.clone())));
        let (pod, spec) = (&pod, &eligibility::daemon_spec(daemon));
        let control = &PodControl::new(&self.context, daemon, key, &self.recorder, &self.pending);
        let created = batch::slow_start(plan.create.into_iter().take(BURST), |node| async move {
            let mut pinned = spec.clone();
            eligibility::pin(&mut pinned, &node);
            control.create(&Pod { spec: Some(pinned), ..pod.clone() }).await
        })
        .await;
        let surplus = plan.delete.into_iter().take(BURST);
        let deleted = batch::all(surplus, |pod| async move { control.delete(&pod).await }).await;
        created.and(deleted).map_err(failed("place pods of daemonset", key))
    }

    /// Deletes revisions above the history limit that no pod has.
    async fn truncate(
        &self,
        key: &Key,
        daemon: &DaemonSet,
        past: &Past,
        pods: &[Arc<Pod>],
    ) -> Result<(), ReconcileError> {
        let limit = daemon.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let is_live = |revision: &ControllerRevision| {
            let hash = hash_of(revision);
            pods.iter().any(|pod| plan::is_updated(pod, &hash))
        };
        for revision in history::beyond_limit(&past.old, is_live, past.old.len(), limit) {
            self.revisions.delete(key, &revision).await?;
        }
        Ok(())
    }

    async fn write_status(
        &self,
        key: &Key,
        daemon: &DaemonSet,
        status: &DaemonSetStatus,
    ) -> Result<(), ReconcileError> {
        if daemon.status.as_ref() == Some(status) {
            return Ok(());
        }
        let api = self.context.api::<DaemonSet>(&key.namespace);
        let patch = Patch::Merge(status::patch(daemon, status));
        let result = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
        gone_is_done(result).map_err(failed("write status of daemonset", key))
    }
}
