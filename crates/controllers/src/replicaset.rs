//! ReplicaSets and their elder form, ReplicationControllers: keep as many pods of a template as asked for.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{
    Context, ReconcileError, cause, failed, gone_is_done, is_namespace_terminating, is_not_found, run_with_feeds,
    synced,
};
use crate::owners::{self, Claim};
use crate::pending::{LAG_RETRY, PendingWrites};
use crate::pods;
use set::Set;
use status::Failure;

mod rank;
mod set;
mod status;
#[cfg(test)]
mod tests;

/// Pods created or deleted in one reconcile, upstream's value: other sets get their turn.
const BURST: usize = 500;
/// Creations in the first batch, upstream's value; batches double while all goes well, so a template that cannot be
/// created costs one request, not five hundred.
const FIRST_BATCH: usize = 1;
/// Creations under way at once within a batch.
const CREATES_AT_ONCE: usize = 32;
/// Sets reconciled at once, upstream's default is 5; in process a few more cost nothing.
const WORKERS: usize = 8;

/// What to do about the number of pods.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// Create so many.
    Create(usize),
    /// Delete these, of the given pods.
    Delete(Vec<usize>),
    /// Nothing.
    Keep,
}

/// Decides how to get from the active pods to the wanted number. `related` is asked only when
/// there are too many: for each pod, how many pods of the same workload its node runs.
pub(crate) fn decide(wanted: i32, active: &[Arc<Pod>], related: impl FnOnce() -> Vec<usize>, now: Timestamp) -> Scale {
    let wanted = usize::try_from(wanted).unwrap_or(0);
    if active.len() < wanted {
        return Scale::Create((wanted - active.len()).min(BURST));
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return Scale::Keep;
    }
    Scale::Delete(rank::to_delete(active, &related(), surplus, now))
}

struct Controller<S: Set> {
    context: Context,
    recorder: Recorder,
    sets: Informer<S>,
    pods: Informer<Pod>,
    pods_by_owner: Index<Pod>,
    sets_by_owner: Index<S>,
    pending: PendingWrites,
}

/// Index value of pods without a controller.
fn orphans_of(namespace: &str) -> String {
    format!("orphan:{namespace}")
}

/// Values of the shared index `controller`: the controller's uid, or the namespace's orphans.
pub(crate) fn by_controller<K: kube::Resource>(object: &K) -> Vec<String> {
    let meta = object.meta();
    match owners::controller_of(meta) {
        Some(owner) => vec![owner.uid.clone()],
        None => vec![orphans_of(meta.namespace.as_deref().unwrap_or_default())],
    }
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
        sets_by_owner: sets.index("controller", by_controller),
        pending: PendingWrites::default(),
        sets: sets.clone(),
        pods: pods.clone(),
        context,
    });
    let queue: Queue<Key> = Queue::new();
    let feeds = futures::future::join(
        feed(&sets, &queue, |change| [Key::of(change.object().as_ref())]),
        feed(&pods, &queue, |change| affected_sets(&sets, change)),
    );
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    };
    run_with_feeds(run_controller(S::QUEUE, queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

/// The sets a pod change matters to: its controller before and after, or for an orphan all that would take it.
fn affected_sets<S: Set>(sets: &Informer<S>, change: &Change<Pod>) -> Vec<Key> {
    let (old, new) = match change {
        Change::Applied { old, new } => (old.as_ref(), new),
        Change::Deleted(last) => (None, last),
    };
    let namespace = new.metadata.namespace.as_deref().unwrap_or_default();
    let mut keys = Vec::new();
    for pod in old.into_iter().chain([new]) {
        if let Some(owner) = owners::controller_of(&pod.metadata).filter(|owner| owner.kind == S::kind(&())) {
            let key = Key::new(namespace, &owner.name);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    let adoptable = matches!(change, Change::Applied { .. })
        && owners::controller_of(&new.metadata).is_none()
        && new.metadata.labels.as_ref().is_some_and(|labels| !labels.is_empty());
    if adoptable {
        let matching = sets.namespace(namespace).into_iter().filter(|set| set.selects(new));
        keys.extend(matching.map(|set| Key::of(set.as_ref())));
    }
    keys
}

impl<S: Set> Controller<S> {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.pending.forget(key);
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
        let owned = self.claim(&set).await?;
        let active: Vec<Arc<Pod>> = owned.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let mut failure = None;
        let mut result = Ok(());
        if set.meta().deletion_timestamp.is_none() {
            let wanted = set.replicas();
            let outcome = match decide(wanted, &active, || self.related(&set, &active), now) {
                Scale::Keep => Ok(()),
                Scale::Create(count) => self.create(key, &set, count).await.map_err(|e| (Failure::Create, e)),
                Scale::Delete(which) => {
                    let surplus = which.into_iter().filter_map(|at| active.get(at));
                    self.delete(key, &set, surplus).await.map_err(|e| (Failure::Delete, e))
                }
            };
            if let Err((kind, error)) = outcome {
                failure = Some((kind, error.to_string()));
                result = Err(error);
            }
        }
        let (status, next) = status::compute(set.as_ref(), &owned, failure, now);
        self.write_status(key, &set, status).await?;
        result.map(|()| next)
    }

    /// The pods that are the set's, after taking over matching orphans and letting go of those that match no more.
    async fn claim(&self, set: &S) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let namespace = set.namespace().unwrap_or_default();
        let uid = set.meta().uid.as_deref().unwrap_or_default();
        let api = self.context.api::<Pod>(&namespace);
        let mut owned = Vec::new();
        let candidates = self.pods_by_owner.get(uid).into_iter().chain(self.pods_by_owner.get(&orphans_of(&namespace)));
        for pod in candidates {
            let patch = match owners::claim(set.meta(), &pod.metadata, set.selects(&pod)) {
                Claim::Ignore => continue,
                Claim::Owned => {
                    owned.push(pod);
                    continue;
                }
                Claim::Adopt if pods::is_terminal(&pod) => continue,
                Claim::Adopt => owners::adoption_patch(&pod.metadata, &owners::controller_reference(set)),
                Claim::Release => owners::release_patch(&pod.metadata, uid),
            };
            let result = api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await;
            match result {
                Ok(claimed) if owners::controller_of(&claimed.metadata).is_some_and(|owner| owner.uid == uid) => {
                    owned.push(Arc::new(claimed));
                }
                Err(error) if !is_not_found(&error) => return Err(failed("claim", Key::of(pod.as_ref()))(error)),
                Ok(_) | Err(_) => {}
            }
        }
        Ok(owned)
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
        let pod = pod_from_template(set);
        let api = self.context.api::<Pod>(&key.namespace);
        let (mut left, mut batch) = (count, FIRST_BATCH);
        while left > 0 {
            let size = batch.min(left);
            let requests = (0..size).map(|_| async { api.create(&PostParams::default(), &pod).await });
            let mut results = futures::stream::iter(requests).buffer_unordered(CREATES_AT_ONCE);
            let mut first_error = None;
            while let Some(result) = results.next().await {
                match result {
                    Ok(created) => {
                        self.pending.wrote(key, &created.metadata);
                        let message = format!("Created pod: {}", created.name_any());
                        self.recorder.about(set, EventType::Normal, "SuccessfulCreate", message);
                    }
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                }
            }
            if let Some(error) = first_error {
                if is_namespace_terminating(&error) {
                    return Ok(());
                }
                let message = format!("Error creating: {}", cause(&error));
                self.recorder.about(set, EventType::Warning, "FailedCreate", message);
                return Err(failed("create pods of", format!("{} {key}", S::QUEUE))(error));
            }
            left -= size;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete<'a>(
        &self,
        key: &Key,
        set: &S,
        surplus: impl Iterator<Item = &'a Arc<Pod>>,
    ) -> Result<(), ReconcileError> {
        let api = self.context.api::<Pod>(&key.namespace);
        let mut requests: FuturesUnordered<_> = surplus
            .map(|pod| {
                let uid = pod.metadata.uid.clone();
                let params = DeleteParams {
                    preconditions: Some(Preconditions { uid, resource_version: None }),
                    ..DeleteParams::background()
                };
                let api = &api;
                async move { (pod, gone_is_done(api.delete(&pod.name_any(), &params).await)) }
            })
            .collect();
        let mut first_error = None;
        while let Some((pod, result)) = requests.next().await {
            match result {
                Ok(()) => {
                    self.pending.deleted(key, &pod.metadata);
                    let message = format!("Deleted pod: {}", pod.name_any());
                    self.recorder.about(set, EventType::Normal, "SuccessfulDelete", message);
                }
                Err(error) => {
                    let message = format!("Error deleting: {}", cause(&error));
                    self.recorder.about(set, EventType::Warning, "FailedDelete", message);
                    first_error.get_or_insert_with(|| failed("delete pod", Key::of(pod.as_ref()))(error));
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    async fn write_status(&self, key: &Key, set: &S, status: ReplicaSetStatus) -> Result<(), ReconcileError> {
        if set.status().as_ref() == Some(&status) {
            return Ok(());
        }
        let api = self.context.api::<S>(&key.namespace);
        let patch = status::patch(set, &status);
        let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
        gone_is_done(result).map_err(failed("write status of", format!("{} {key}", S::QUEUE)))
    }
}

fn pod_from_template<S: Set>(set: &S) -> Pod {
    let template = set.template();
    let from = template.metadata.unwrap_or_default();
    Pod {
        metadata: kube::core::ObjectMeta {
            generate_name: Some(format!("{}-", set.name_any())),
            namespace: set.namespace(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![owners::controller_reference(set)]),
            ..Default::default()
        },
        spec: template.spec,
        status: None,
    }
}
