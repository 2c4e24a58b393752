//! ReplicaSets and their elder form, ReplicationControllers: keep as many pods of a template as asked for.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::ResourceExt;
use reconcile::{Change, Facts, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};
use crate::metrics::Histogram;
use crate::owners::{self, by_controller};
use crate::pending::{LAG_RETRY, PendingWrites};
use crate::pod_control::PodControl;
use crate::unwritten::Unwritten;
use crate::{batch, gather, pods};
use facts::Fact;
use set::Set;
use status::Failure;

mod facts;
pub(crate) mod rank;
mod set;
mod status;
#[cfg(test)]
mod tests;

/// Pods created or deleted in one reconcile, upstream's value: other sets get their turn.
const BURST: usize = 500;
/// Sets reconciled at once. Upstream's default is 5; in process what is written together is also committed together. More
/// would not be faster, but have everybody else wait longer.
const WORKERS: usize = 16;

/// What to do about the number of pods.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Create so many.
    Create(usize),
    /// Delete so many.
    Delete(usize),
    /// Nothing.
    Keep,
}

/// Decides how to get from so many active pods to the wanted number.
pub(crate) fn decide(wanted: i32, active: usize) -> Scale {
    let wanted = usize::try_from(wanted).unwrap_or(0);
    match active.cmp(&wanted) {
        Ordering::Less => Scale::Create((wanted - active).min(BURST)),
        Ordering::Equal => Scale::Keep,
        Ordering::Greater => Scale::Delete((active - wanted).min(BURST)),
    }
}

/// Decides which pods to delete. `related` says for each active pod how many pods of the same workload its node runs.
pub(crate) fn choose(active: &[Arc<Pod>], related: &[usize], surplus: usize, now: Timestamp) -> Vec<usize> {
    let chosen = rank::to_delete(active, related, surplus, now);
    for ratio in rank::age_ratios(active, &chosen, now) {
        DELETION_AGE_RATIO.observe(&[], ratio);
    }
    chosen
}

/// Whether two states of a pod look alike to its set.
fn alike(old: &Pod, new: &Pod) -> bool {
    old.metadata.labels == new.metadata.labels
        && old.metadata.owner_references == new.metadata.owner_references
        && old.metadata.deletion_timestamp.is_some() == new.metadata.deletion_timestamp.is_some()
        && pods::is_terminal(old) == pods::is_terminal(new)
        && pods::is_ready(old) == pods::is_ready(new)
        && pods::ready_since(old) == pods::ready_since(new)
}

static DELETION_AGE_RATIO: Histogram = Histogram::new(
    "replicaset_controller_sorting_deletion_age_ratio",
    "Age of a ready pod that is deleted, in ages of the youngest ready one.",
    &[],
    &[0.25, 0.5, 1.0, 2.0, 4.0, 8.0],
);

/// Appends the metrics in Prometheus' text format.
pub(crate) fn render_metrics(out: &mut String) {
    DELETION_AGE_RATIO.render(out);
}

struct Controller<S: Set> {
    context: Context,
    recorder: Recorder,
    sets: Informer<S>,
    pods: Informer<Pod>,
    pods_by_owner: Index<Pod>,
    facts: Facts<Pod, Fact>,
    sets_by_owner: Index<S>,
    pending: PendingWrites,
    /// Writes of the status.
    written: PendingWrites,
    unwritten: Unwritten,
    queue: Queue<Key>,
}

/// Runs ReplicaSets.
pub(crate) async fn run(context: Context, stop: CancellationToken) {
    run_sets::<ReplicaSet>(context, stop).await;
}

/// Runs ReplicationControllers.
pub(crate) async fn run_replication_controllers(context: Context, stop: CancellationToken) {
    run_sets::<ReplicationController>(context, stop).await;
}

async fn run_sets<S: Set>(context: Context, stop: CancellationToken) {
    let sets = context.informers.of::<S>();
    let pods = context.informers.of::<Pod>();
    if !synced(&stop, async { sets.synced().await && pods.synced().await }).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), S::COMPONENT),
        pods_by_owner: pods.index("controller", by_controller),
        facts: pods.facts(facts::controller_uid::<S>, Fact::of),
        sets_by_owner: sets.index("controller", by_controller),
        pending: PendingWrites::default(),
        written: PendingWrites::default(),
        unwritten: Unwritten::default(),
        queue: Queue::new(),
        sets: sets.clone(),
        pods: pods.clone(),
        context,
    });
    let by_selector = sets.index("selector", owners::by_selector);
    let queue = controller.queue.clone();
    let affected = |change: &Change<Pod>| match change {
        Change::Applied { old: Some(old), new } if alike(old, new) => Vec::new(),
        change => owners::affected(&by_selector, change, S::selects),
    };
    let feeds = futures::future::join(
        feed(&sets, &queue, |change| [Key::of(change.object().as_ref())]),
        gather::feed(&pods, &queue, affected, |key| owners::count(&sets, &controller.pods_by_owner, key)),
    );
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    };
    run_with_feeds(run_controller(S::QUEUE, queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

impl<S: Set> Controller<S> {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.pending.forget(key);
            self.written.forget(key);
            self.unwritten.forget(key);
            return Ok(None);
        };
        let leaving = |name: &str, uid: &str| {
            self.pods
                .get(&key.namespace, name)
                .is_none_or(|pod| pod.metadata.uid.as_deref() != Some(uid) || pod.metadata.deletion_timestamp.is_some())
        };
        if self.pending.lags(key, self.pods.revision(), leaving) {
            return Ok(Some(LAG_RETRY));
        }
        let now = Timestamp::now();
        let owned = match self.undisputed(&set) {
            Some(owned) => owned,
            None => self.claim(&set).await?.iter().map(|pod| Fact::of(pod, None)).collect(),
        };
        let active = owned.iter().filter(|pod| pod.is_active()).count();
        let mut failure = None;
        let mut result = Ok(());
        if set.meta().deletion_timestamp.is_none() {
            let outcome = match decide(set.replicas(), active) {
                Scale::Keep => Ok(()),
                Scale::Create(count) => self.create(key, &set, count).await.map_err(|e| (Failure::Create, e)),
                Scale::Delete(_) => {
                    let surplus = self.surplus(&set, now).await?;
                    self.delete(key, &set, surplus).await.map_err(|e| (Failure::Delete, e))
                }
            };
            if let Err((kind, error)) = outcome {
                failure = Some((kind, error.cause()));
                result = Err(error);
            }
        }
        let (status, next) = status::compute(set.as_ref(), &owned, failure, now);
        let unwritten = self.write_status(key, &set, status).await?;
        result.map(|()| [next, unwritten].into_iter().flatten().min())
    }

    /// What is known of the pods that are the set's, unless one is to be taken over or let go.
    fn undisputed(&self, set: &S) -> Option<Vec<Fact>> {
        let own = self.facts.get(set.meta().uid.as_deref().unwrap_or_default());
        let stay = own.iter().all(|pod| set.selects_labels(pod.labels()));
        let orphans = owners::orphans(&self.pods_by_owner, set);
        (stay && !orphans.iter().any(|pod| !pods::is_terminal(pod) && set.selects(pod))).then_some(own)
    }

    /// The pods that are too many.
    async fn surplus(&self, set: &S, now: Timestamp) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let active: Vec<Arc<Pod>> = self.claim(set).await?.into_iter().filter(|pod| pods::is_active(pod)).collect();
        let Scale::Delete(surplus) = decide(set.replicas(), active.len()) else { return Ok(Vec::new()) };
        let chosen = choose(&active, &self.related(set, &active), surplus, now);
        Ok(chosen.into_iter().filter_map(|at| active.get(at).cloned()).collect())
    }

    /// The pods that are the set's; what has ended is not worth taking over.
    async fn claim(&self, set: &S) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let (own, orphans) = owners::own_and_orphans(&self.pods_by_owner, set);
        let orphans = orphans.into_iter().filter(|pod| !pods::is_terminal(pod));
        owners::claim_all(&self.context, set, own.into_iter().chain(orphans), |pod| set.selects(pod)).await
    }

    /// For each pod, how many pods of the same workload run on its node.
    fn related(&self, set: &S, active: &[Arc<Pod>]) -> Vec<usize> {
        let siblings = match owners::controller_of(set.meta()) {
            Some(owner) => self.sets_by_owner.get(&owner.uid),
            None => Vec::new(),
        };
        let mut per_node = std::collections::HashMap::<String, usize>::new();
        let own = set.meta().uid.iter().cloned();
        let uids: std::collections::BTreeSet<String> = siblings.iter().filter_map(|s| s.uid()).chain(own).collect();
        for pod in uids.iter().flat_map(|uid| self.pods_by_owner.get(uid)).filter(|pod| pods::is_active(pod)) {
            if let Some(node) = pods::node_name(&pod) {
                *per_node.entry(node.to_owned()).or_default() += 1;
            }
        }
        active.iter().map(|pod| pods::node_name(pod).and_then(|n| per_node.get(n)).copied().unwrap_or(0)).collect()
    }

    async fn create(&self, key: &Key, set: &S, count: usize) -> Result<(), ReconcileError> {
        let pod = &pods::from_template(set.template(), set);
        let control = &PodControl::new(&self.context, set, key, &self.recorder, &self.pending);
        let result = batch::slow_start(0..count, |_| control.create(pod)).await;
        result.map_err(failed("create pods of", format!("{} {key}", S::QUEUE)))
    }

    async fn delete(&self, key: &Key, set: &S, surplus: Vec<Arc<Pod>>) -> Result<(), ReconcileError> {
        let control = &PodControl::new(&self.context, set, key, &self.recorder, &self.pending);
        let result = batch::all(surplus, |pod| async move { control.delete(&pod).await }).await;
        result.map_err(failed("delete pods of", format!("{} {key}", S::QUEUE)))
    }

    /// Writes the status, or says how long that may wait.
    async fn write_status(
        &self,
        key: &Key,
        set: &S,
        status: ReplicaSetStatus,
    ) -> Result<Option<Duration>, ReconcileError> {
        if self.written.lags(key, self.sets.revision(), |_, _| true) {
            return Ok(Some(LAG_RETRY));
        }
        let before = set.status();
        if before.as_ref() == Some(&status) {
            self.unwritten.forget(key);
            return Ok(None);
        }
        let is_urgent = status::is_urgent(before.as_ref(), &status, set.replicas());
        let is_busy = self.queue.len() > WORKERS;
        if let Some(left) = self.unwritten.wait(key, is_urgent, is_busy) {
            return Ok(Some(left));
        }
        let patch = status::patch(set, &status);
        let result = self.context.brief::<S>(&key.namespace).patch_status(&key.name, patch).await;
        if let Ok(written) = &result {
            self.written.wrote(key, written);
        }
        gone_is_done(result).map_err(failed("write status of", format!("{} {key}", S::QUEUE)))?;
        Ok(None)
    }
}
