//! PodDisruptionBudgets: how many of the pods they select may be evicted now.
//!
//! The eviction handler of the API server spends what the status allows and notes the pod there; the status is written
//! here with the resource version that was looked at, so what was spent meanwhile is never granted again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, is_not_found, run_with_feeds, synced};
use crate::pending::{LAG_RETRY, PendingWrites};
use crate::{endpointslice, owners, pods, selector};
use scale::{ScaleError, Scales};

mod scale;
mod status;
#[cfg(test)]
mod tests;

/// Budgets reconciled at once; upstream has one worker, in process a few more cost nothing.
const WORKERS: usize = 4;

/// When to look again at a budget whose pods' controllers have no size: it is not watched for.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

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
    });
    let queue: Queue<Work> = Queue::new();
    let feeds = futures::future::join(
        feed(&budgets, &queue, |change| [Work::Budget(Key::of(change.object().as_ref()))]),
        feed(&pods, &queue, |change| affected(&budgets, change)),
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

impl Controller {
    fn now(&self) -> Timestamp {
        self.context.config.clock.now()
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(budget) = self.budgets.get(&key.namespace, &key.name) else {
            self.written.forget(key);
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
                    // nothing is going to tell of it when this gets better
                    ScaleError::NoController(_) | ScaleError::NoScale(_) => Ok(Some(LOOK_AGAIN)),
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
            return Ok(0);
        }
        let wanted = match self.scales.of(&key.namespace, pods).await {
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
                "lastTransitionTime": self.now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()}]}});
        let api = self.context.api::<Pod>(&key.namespace);
        let result = api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        gone_is_done(result).map_err(failed("end disruption of pod", key))?;
        Ok(None)
    }
}
