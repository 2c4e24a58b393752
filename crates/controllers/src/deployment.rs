//! Deployment: moves pods from one template to the next through ReplicaSets.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::ObjectMeta;
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{
    Context, ReconcileError, cause, failed, gone_is_done, is_already_exists, is_namespace_terminating, run_with_feeds,
    synced,
};
use crate::owners::{self, by_controller};
use crate::pending::{LAG_RETRY, PendingWrites};
use crate::unwritten::Unwritten;
use crate::{pods, selector};
use plan::{Action, Plan};

mod history;
mod plan;
mod rollback;
mod rollout;
mod status;
#[cfg(test)]
mod tests;

/// Deployments reconciled at once. Upstream's default is 5; in process what is written together is also committed together.
/// More would not be faster, but have everybody else wait longer.
const WORKERS: usize = 16;

struct Controller {
    context: Context,
    recorder: Recorder,
    deployments: Informer<Deployment>,
    sets: Informer<ReplicaSet>,
    sets_by_owner: Index<ReplicaSet>,
    pods_by_owner: Index<Pod>,
    pending: PendingWrites,
    /// Writes of the deployments themselves.
    written: PendingWrites,
    unwritten: Unwritten,
    queue: Queue<Key>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let deployments = context.informers.of::<Deployment>();
    let sets = context.informers.of::<ReplicaSet>();
    let pods = context.informers.of::<Pod>();
    let all = async { deployments.synced().await && sets.synced().await && pods.synced().await };
    if !synced(&stop, all).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "deployment-controller"),
        sets_by_owner: sets.index("controller", by_controller),
        pods_by_owner: pods.index("controller", by_controller),
        pending: PendingWrites::default(),
        written: PendingWrites::default(),
        unwritten: Unwritten::default(),
        queue: Queue::new(),
        deployments: deployments.clone(),
        sets: sets.clone(),
        context,
    });
    let by_selector = deployments.index("selector", owners::by_selector);
    let queue = controller.queue.clone();
    let feeds = futures::future::join3(
        feed(&deployments, &queue, |change| [Key::of(change.object().as_ref())]),
        feed(&sets, &queue, |change| owners::affected(&by_selector, change, selects)),
        feed(&pods, &queue, |change| recreated_deployment(&sets, change)),
    );
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    };
    run_with_feeds(run_controller("deployment", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

/// A Recreate rollout waits for the last old pod, of whose end no ReplicaSet tells.
fn recreated_deployment(sets: &Informer<ReplicaSet>, change: &Change<Pod>) -> Option<Key> {
    let pod = change.object();
    if matches!(change, Change::Applied { .. }) && !pods::is_terminal(pod) {
        return None;
    }
    let owner = owners::controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")?;
    let namespace = pod.metadata.namespace.as_deref()?;
    let set = sets.get(namespace, &owner.name)?;
    let deployment = owners::controller_of(&set.metadata).filter(|owner| owner.kind == "Deployment")?;
    Some(Key::new(namespace, &deployment.name))
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    deployment.spec.as_ref().is_some_and(|spec| {
        !selector::is_empty(&spec.selector) && selector::matches(&spec.selector, set.metadata.labels.as_ref())
    })
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(deployment) = self.deployments.get(&key.namespace, &key.name) else {
            self.pending.forget(key);
            self.written.forget(key);
            self.unwritten.forget(key);
            return Ok(None);
        };
        if self.pending.lags(key, self.sets.revision(), |_, _| true)
            || self.written.lags(key, self.deployments.revision(), |_, _| true)
        {
            return Ok(Some(LAG_RETRY));
        }
        let Some(spec) = &deployment.spec else { return Ok(None) };
        if selector::is_empty(&spec.selector) {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.about(deployment.as_ref(), EventType::Warning, "SelectingAll", message);
            return Ok(None);
        }
        let (own, orphans) = owners::own_and_orphans(&self.sets_by_owner, deployment.as_ref());
        let candidates = own.into_iter().chain(orphans);
        let sets =
            owners::claim_all(&self.context, deployment.as_ref(), candidates, |set| selects(&deployment, set)).await?;
        let plan = plan::decide(&deployment, &sets, &|uid| self.pods_by_owner.get(uid), Timestamp::now());
        self.execute(key, &deployment, plan).await
    }

    async fn execute(
        &self,
        key: &Key,
        deployment: &Deployment,
        mut plan: Plan,
    ) -> Result<Option<Duration>, ReconcileError> {
        let mut meta = Cow::Borrowed(&deployment.metadata);
        for action in std::mem::take(&mut plan.actions) {
            if let Err(stopped) = self.act(key, deployment, action, &mut plan.status, &mut meta).await {
                // The status says what happened, also when the rollout cannot go on.
                let unwritten = self.write_status(key, deployment, &meta, &plan.status).await?;
                return stopped.map_or(Ok(unwritten), Err);
            }
        }
        let unwritten = self.write_status(key, deployment, &meta, &plan.status).await?;
        Ok([plan.next, unwritten].into_iter().flatten().min())
    }

    /// Carries one action out; `meta` is the deployment's after it. `Err(None)` ends this reconcile without a retry.
    async fn act(
        &self,
        key: &Key,
        deployment: &Deployment,
        action: Action,
        status: &mut DeploymentStatus,
        meta: &mut Cow<'_, ObjectMeta>,
    ) -> Result<(), Option<ReconcileError>> {
        let sets = self.context.brief::<ReplicaSet>(&key.namespace);
        match action {
            Action::Create(set) => self.create_set(key, deployment, &set, status).await,
            Action::Update { name, patch, event } => {
                let result = sets.patch(&name, patch).await;
                let updated =
                    result.map_err(|e| Some(failed("update replicaset", Key::new(&key.namespace, &name))(e)))?;
                self.pending.wrote(key, &updated);
                if let Some(message) = event {
                    self.recorder.about(deployment, EventType::Normal, "ScalingReplicaSet", message);
                }
                Ok(())
            }
            Action::Delete { name, uid } => {
                let preconditions = Some(Preconditions { uid: Some(uid), resource_version: None });
                let params = DeleteParams { preconditions, ..DeleteParams::background() };
                let result = gone_is_done(sets.delete(&name, &params).await);
                result.map_err(|e| Some(failed("delete replicaset", Key::new(&key.namespace, &name))(e)))
            }
            Action::RollBack(rollback) => {
                let api = self.context.api::<Deployment>(&key.namespace);
                let result = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(rollback.patch)).await;
                let (kind, reason, message) = rollback.event;
                if result.is_ok() || kind == EventType::Warning {
                    self.recorder.about(deployment, kind, reason, message);
                }
                gone_is_done(result).map_err(|e| Some(failed("roll back deployment", key)(e)))
            }
            Action::Annotate(annotations) => {
                // The status that follows was computed from this state, and can insist on what comes of it.
                let patch = json!({"metadata": {"uid": meta.uid, "resourceVersion": meta.resource_version,
                    "annotations": annotations}});
                let result = self.context.brief::<Deployment>(&key.namespace).patch(&key.name, patch).await;
                if let Ok(written) = &result {
                    self.written.wrote(key, written);
                    *meta = Cow::Owned(written.clone());
                }
                gone_is_done(result).map_err(|e| Some(failed("annotate deployment", key)(e)))
            }
        }
    }

    async fn create_set(
        &self,
        key: &Key,
        deployment: &Deployment,
        set: &ReplicaSet,
        status: &mut DeploymentStatus,
    ) -> Result<(), Option<ReconcileError>> {
        let name = set.name_any();
        let error = match self.context.brief::<ReplicaSet>(&key.namespace).create(set).await {
            Ok(created) => {
                self.pending.wrote(key, &created);
                let replicas = set.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
                if replicas > 0 {
                    let message = format!("Scaled up replica set {name} from 0 to {replicas}");
                    self.recorder.about(deployment, EventType::Normal, "ScalingReplicaSet", message);
                }
                return Ok(());
            }
            Err(error) => error,
        };
        status::drop_created(status, deployment);
        if is_namespace_terminating(&error) {
            return Err(None);
        }
        if is_already_exists(&error) {
            let existing = self.context.api::<ReplicaSet>(&key.namespace).get_opt(&name).await;
            let existing = existing.map_err(|e| Some(failed("read replicaset", &name)(e)))?;
            let ours = existing.as_ref().is_some_and(|existing| {
                let owner = owners::controller_of(&existing.metadata).map(|owner| owner.uid.as_str());
                owner == deployment.metadata.uid.as_deref() && plan::same_template(existing, deployment)
            });
            if !ours && existing.is_some() {
                // Another template has the same hash: the next try hashes with a different count.
                status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
            }
        } else {
            let message = format!("Failed to create new replica set \"{name}\": {}", cause(&error));
            self.recorder.about(deployment, EventType::Warning, "ReplicaSetCreateError", &message);
            status::set_progressing(status, "False", "ReplicaSetCreateError", message, Timestamp::now());
        }
        Err(Some(failed("create replicaset", Key::new(&key.namespace, &name))(error)))
    }

    /// Writes the status, or says how long that may wait.
    async fn write_status(
        &self,
        key: &Key,
        deployment: &Deployment,
        meta: &ObjectMeta,
        status: &DeploymentStatus,
    ) -> Result<Option<Duration>, ReconcileError> {
        if deployment.status.as_ref() == Some(status) {
            self.unwritten.forget(key);
            return Ok(None);
        }
        let (is_urgent, is_busy) = (status::is_urgent(deployment, status), self.queue.len() > WORKERS);
        if let Some(left) = self.unwritten.wait(key, is_urgent, is_busy) {
            return Ok(Some(left));
        }
        let patch = status::patch(deployment, meta, status);
        let result = self.context.brief::<Deployment>(&key.namespace).patch_status(&key.name, patch).await;
        if let Ok(written) = &result {
            self.written.wrote(key, written);
        }
        gone_is_done(result).map_err(failed("write status of deployment", key))?;
        Ok(None)
    }
}
