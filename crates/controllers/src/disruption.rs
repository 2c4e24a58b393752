//! PodDisruptionBudgets: how many of the pods they select may be evicted now.
//!
//! The eviction handler of the API server spends what the status allows and notes the pod there; the status is written
//! here with the resource version that was looked at, so what was spent meanwhile is never granted again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec, ReplicationController};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use kube::core::ApiResource;
use parking_lot::Mutex;
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use serde_json::json;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, is_not_found, run_with_feeds, synced};
use crate::pending::{LAG_RETRY, PendingWrites};
use crate::{endpointslice, owners, pods, selector};
use followed::Followed;
use scale::{ScaleError, Scales};

mod followed;
mod scale;
mod status;
#[cfg(test)]
mod tests;

/// Budgets reconciled at once; upstream has one worker, in process a few more cost nothing.
const WORKERS: usize = 4;

/// What the queue holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Budget(Key),
    /// A pod that says it is about to be disrupted.
    Target(Key),
}

struct Controller {
    context: Context,
    recorder: Recorder,
    budgets: Informer<PodDisruptionBudget>,
    pods: Informer<Pod>,
    pods_by_label: Index<Pod>,
    scales: Scales,
    written: PendingWrites,
    queue: Queue<Work>,
    followed: Mutex<Followed>,
    /// There are kinds to be watched that are not yet.
    more: Notify,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let budgets = context.informers.of::<PodDisruptionBudget>();
    let pods = context.informers.of::<Pod>();
    let scales = Scales::new(&context);
    if !synced(&stop, async { budgets.synced().await && pods.synced().await && scales.synced().await }).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "controllermanager"),
        pods_by_label: endpointslice::pods_by_label(&pods),
        scales,
        written: PendingWrites::default(),
        budgets: budgets.clone(),
        pods: pods.clone(),
        context,
        queue: Queue::new(),
        followed: Mutex::default(),
        more: Notify::new(),
    });
    let queue = controller.queue.clone();
    let feeds = futures::future::join4(
        feed(&budgets, &queue, |change| [Work::Budget(Key::of(change.object().as_ref()))]),
        feed(&pods, &queue, |change| affected(&budgets, change)),
        controller.follow_workloads(),
        controller.follow_others(),
    );
    let reconcile = |work: Work| {
        let controller = Arc::clone(&controller);
        async move {
            match work {
                Work::Budget(key) => controller.reconcile(&key).await,
                Work::Target(key) => controller.end_disruption(&key).await,
            }
        }
    };
    run_with_feeds(run_controller("disruption", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| selector::matches(selector, pod.metadata.labels.as_ref()))
}

/// Whether two states of a pod look alike to every budget.
fn alike(old: &Pod, new: &Pod) -> bool {
    let owner = |pod: &Pod| owners::controller_of(&pod.metadata).map(|owner| owner.uid.clone());
    old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp.is_some() == new.metadata.deletion_timestamp.is_some()
        && pods::is_ready(old) == pods::is_ready(new)
        && owner(old) == owner(new)
}

/// The budgets of the pod's namespace that a change of the pod matters to.
fn affected(budgets: &Informer<PodDisruptionBudget>, change: &Change<Pod>) -> Vec<Work> {
    let (old, new) = match change {
        Change::Applied { old, new } => (old.as_ref(), new),
        Change::Deleted(last) => (None, last),
    };
    let mut work = Vec::new();
    if matches!(change, Change::Applied { .. }) && status::disruption_left(new, Timestamp::now()).is_some() {
        work.push(Work::Target(Key::of(new.as_ref())));
    }
    if old.is_some_and(|old| alike(old, new)) {
        return work;
    }
    let own = budgets.namespace(new.metadata.namespace.as_deref().unwrap_or_default());
    let own = own.iter().filter(|budget| selects(budget, new) || old.is_some_and(|old| selects(budget, old)));
    work.extend(own.map(|budget| Work::Budget(Key::of(budget.as_ref()))));
    work
}

/// Whether a change of a workload may change how many pods it wants.
fn is_resized<K: kube::Resource>(change: &Change<K>, replicas: impl Fn(&K) -> Option<i32>) -> bool {
    match change {
        Change::Applied { old: Some(old), new } => replicas(old) != replicas(new),
        Change::Applied { old: None, .. } | Change::Deleted(_) => true,
    }
}

/// The budgets that rest on the size of a workload whose pods are made from `template`.
fn sized_by<K: kube::Resource>(
    budgets: &Informer<PodDisruptionBudget>,
    workload: &K,
    template: Option<&PodTemplateSpec>,
) -> Vec<Work> {
    let Some(template) = template else { return Vec::new() };
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
    let own = budgets.namespace(workload.meta().namespace.as_deref().unwrap_or_default());
    let rests = |budget: &PodDisruptionBudget| {
        let Some(spec) = budget.spec.as_ref().filter(|spec| status::needs_scale(spec)) else { return false };
        spec.selector.as_ref().is_some_and(|selector| selector::matches(selector, labels))
    };
    own.iter().filter(|budget| rests(budget)).map(|budget| Work::Budget(Key::of(budget.as_ref()))).collect()
}

impl Controller {
    /// Queues the budgets of workloads of the usual kinds that come, go, or want another number of pods.
    async fn follow_workloads(&self) {
        let informers = &self.context.informers;
        let (queue, budgets) = (&self.queue, &self.budgets);
        futures::future::join4(
            feed(&informers.of::<Deployment>(), queue, |change| {
                let resized = is_resized(change, |set| set.spec.as_ref().map(|spec| spec.replicas.unwrap_or(1)));
                let template = change.object().spec.as_ref().filter(|_| resized).map(|spec| &spec.template);
                sized_by(budgets, change.object().as_ref(), template)
            }),
            feed(&informers.of::<ReplicaSet>(), queue, |change| {
                let resized = is_resized(change, |set| set.spec.as_ref().map(|spec| spec.replicas.unwrap_or(1)));
                let template =
                    change.object().spec.as_ref().filter(|_| resized).and_then(|spec| spec.template.as_ref());
                sized_by(budgets, change.object().as_ref(), template)
            }),
            feed(&informers.of::<StatefulSet>(), queue, |change| {
                let resized = is_resized(change, |set| set.spec.as_ref().map(|spec| spec.replicas.unwrap_or(1)));
                let template = change.object().spec.as_ref().filter(|_| resized).map(|spec| &spec.template);
                sized_by(budgets, change.object().as_ref(), template)
            }),
            feed(&informers.of::<ReplicationController>(), queue, |change| {
                let resized = is_resized(change, |set| set.spec.as_ref().map(|spec| spec.replicas.unwrap_or(1)));
                let template =
                    change.object().spec.as_ref().filter(|_| resized).and_then(|spec| spec.template.as_ref());
                sized_by(budgets, change.object().as_ref(), template)
            }),
        )
        .await;
    }

    /// Queues the budgets of workloads of other kinds that change, and those that had no size when kinds change.
    async fn follow_others(&self) {
        let definition = ApiResource::erase::<CustomResourceDefinition>(&());
        let mut definitions = self.context.informers.metadata(&definition).subscribe();
        let mut following = FuturesUnordered::new();
        loop {
            following.extend(self.followed.lock().take_new().into_iter().map(|resource| self.follow(resource)));
            tokio::select! {
                () = self.more.notified() => {}
                Some(kind) = following.next(), if !following.is_empty() => self.followed.lock().ended(&kind),
                change = definitions.next() => {
                    if change.is_none() {
                        return;
                    }
                    self.scales.forget_kinds();
                    for budget in self.followed.lock().take_sizeless() {
                        self.queue.add(Work::Budget(budget));
                    }
                }
            }
        }
    }

    /// Follows a kind until it is not served any more.
    async fn follow(&self, resource: ApiResource) -> String {
        let kind = followed::identity(&resource);
        let mut changes = self.context.informers.metadata(&resource).subscribe();
        while let Some(change) = changes.next().await {
            let object = change.object();
            if let Change::Applied { old: Some(old), new } = &change
                && new.metadata.generation.is_some()
                && old.metadata.generation == new.metadata.generation
            {
                continue;
            }
            for budget in self.followed.lock().of(&kind, Key::of(object.as_ref())) {
                self.queue.add(Work::Budget(budget));
            }
        }
        kind
    }

    fn now(&self) -> Timestamp {
        self.context.config.clock.now()
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else {
            self.written.forget(key);
            self.followed.lock().forget(key);
            return Ok(None);
        };
        let Some(spec) = &budget.spec else { return Ok(None) };
        if self.written.lags(key, self.budgets.revision(), |_, _| true) {
            return Ok(Some(LAG_RETRY));
        }
        let pods = self.pods_of(key, spec);
        if pods.is_empty() {
            self.recorder.about(budget.as_ref(), EventType::Normal, "NoPods", "No matching pods found");
        }
        let wanted = match self.wanted(&budget, spec, key, &pods).await {
            Ok(wanted) => wanted,
            Err(error) => {
                let status = status::fail_safe(&budget, &error.to_string(), self.now());
                self.write_status(key, &budget, status).await?;
                return match error {
                    ScaleError::Api(source) => Err(failed("count the wanted pods of poddisruptionbudget", key)(source)),
                    // what they rest on is watched, and so are the kinds
                    ScaleError::NoController(_) | ScaleError::NoScale(_) => Ok(None),
                };
            }
        };
        let outcome = status::compute(&budget, spec, &pods, wanted, self.now());
        for pod in &outcome.not_deleted {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.recorder.about(pod.as_ref(), EventType::Warning, "NotDeleted", message);
        }
        self.write_status(key, &budget, outcome.status).await?;
        Ok(outcome.wake)
    }

    /// The pods the budget selects, found through its rarest label.
    fn pods_of(&self, key: &Key, spec: &PodDisruptionBudgetSpec) -> Vec<Arc<Pod>> {
        let Some(selector) = &spec.selector else { return Vec::new() };
        let none = BTreeMap::new();
        let labels = selector.match_labels.as_ref().unwrap_or(&none);
        let mut pods = endpointslice::with_rarest(&self.pods_by_label, &key.namespace, labels)
            .unwrap_or_else(|| self.pods.namespace(&key.namespace));
        pods.retain(|pod| selector::matches(selector, pod.metadata.labels.as_ref()));
        pods
    }

    /// How many pods their controllers want, where the budget depends on that.
    async fn wanted(
        &self,
        budget: &PodDisruptionBudget,
        spec: &PodDisruptionBudgetSpec,
        key: &Key,
        pods: &[Arc<Pod>],
    ) -> Result<i32, ScaleError> {
        if !status::needs_scale(spec) {
            self.followed.lock().forget(key);
            return Ok(0);
        }
        let mut asked = Vec::new();
        let wanted = self.scales.of(&key.namespace, pods, &mut asked).await;
        if self.followed.lock().note(key, asked, wanted.is_ok()) {
            self.more.notify_one();
        }
        let wanted = match wanted {
            Ok(wanted) => wanted,
            Err(error) => {
                if let ScaleError::NoController(_) = &error {
                    self.recorder.about(budget, EventType::Warning, "NoControllers", error.to_string());
                }
                let message = format!("Failed to calculate the number of expected pods: {error}");
                self.recorder.about(budget, EventType::Warning, "CalculateExpectedPodCountFailed", message);
                return Err(error);
            }
        };
        if !wanted.unmanaged.is_empty() {
            let labels = spec.selector.as_ref().map(selector::text).unwrap_or_default();
            let message = format!(
                "Pods selected by this PodDisruptionBudget (selector: {labels}) were found to be unmanaged. As a result, \
                 the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account \
                 for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
            );
            self.recorder.about(budget, EventType::Warning, "UnmanagedPods", message);
        }
        Ok(wanted.pods)
    }

    /// Writes the status where it is another. A budget that was changed meanwhile, also by an eviction, is looked at again.
    async fn write_status(
        &self,
        key: &Key,
        budget: &PodDisruptionBudget,
        status: PodDisruptionBudgetStatus,
    ) -> Result<(), ReconcileError> {
        if budget.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = budget.clone();
        changed.status = Some(status);
        let api = self.context.api::<PodDisruptionBudget>(&key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => {
                self.written.wrote(key, &written.metadata);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(failed("write status of poddisruptionbudget", key)(error)),
        }
    }

    /// Takes back that a pod is about to be disrupted, when nobody has deleted it for so long.
    async fn end_disruption(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(pod) = self.pods.get(&key.namespace, &key.name) else { return Ok(None) };
        match status::disruption_left(&pod, self.now()) {
            None => return Ok(None),
            Some(left) if !left.is_zero() => return Ok(Some(left)),
            Some(_) => {}
        }
        let patch = json!({"metadata": {"uid": pod.uid(), "resourceVersion": pod.resource_version()},
            "status": {"conditions": [{"type": "DisruptionTarget", "status": "False",
                "lastTransitionTime": self.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "observedGeneration": pod.metadata.generation}]}});
        let api = self.context.api::<Pod>(&key.namespace);
        let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        gone_is_done(result).map_err(failed("end disruption of pod", key))?;
        Ok(None)
    }
}
