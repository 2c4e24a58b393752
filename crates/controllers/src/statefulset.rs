//! StatefulSet: pods with names, claims and an order of their own.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{
    Context, ReconcileError, cause, failed, gone_is_done, is_already_exists, is_namespace_terminating, run_with_feeds,
    synced,
};
use crate::history::{self, DATA_HASH, Past, Revisions, Wanted};
use crate::metrics::Family;
use crate::owners::{self, by_controller};
use crate::pending::{LAG_RETRY, PendingWrites};
use crate::{batch, gather, pod_control, selector};
use plan::{Action, Observed, Plan, Revision};

mod identity;
mod plan;
mod retention;
mod status;
#[cfg(test)]
mod tests;

/// Sets reconciled at once, upstream's default is 5; in process a few more cost nothing.
const WORKERS: usize = 32;

/// Labels of metrics about one set.
const LABELS: &[&str] = &["statefulset_namespace", "statefulset_name", "pod_management_policy"];
static MAX_UNAVAILABLE: Family = Family::gauge(
    "statefulset_controller_statefulset_max_unavailable",
    "Pods that may be unavailable during a rolling update.",
    LABELS,
);
static UNAVAILABLE: Family = Family::gauge(
    "statefulset_controller_statefulset_unavailable_replicas",
    "Pods that are missing or not available.",
    LABELS,
);

/// Appends the metrics in Prometheus' text format.
pub(crate) fn render_metrics(out: &mut String) {
    MAX_UNAVAILABLE.render(out);
    UNAVAILABLE.render(out);
}

struct Controller {
    context: Context,
    recorder: Recorder,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    pods_by_owner: Index<Pod>,
    revisions: Revisions,
    pending_pods: PendingWrites,
    pending_claims: PendingWrites,
    pending_status: PendingWrites,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let sets = context.informers.of::<StatefulSet>();
    let pods = context.informers.of::<Pod>();
    let claims = context.informers.of::<PersistentVolumeClaim>();
    let revisions = context.informers.of::<ControllerRevision>();
    let all = async { sets.synced().await && pods.synced().await && claims.synced().await && revisions.synced().await };
    if !synced(&stop, all).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "statefulset-controller"),
        pods_by_owner: pods.index("controller", by_controller),
        revisions: Revisions::new(&context, &revisions),
        pending_pods: PendingWrites::default(),
        pending_claims: PendingWrites::default(),
        pending_status: PendingWrites::default(),
        sets: sets.clone(),
        pods: pods.clone(),
        claims: claims.clone(),
        context,
    });
    let by_selector = sets.index("selector", owners::by_selector);
    let queue: Queue<Key> = Queue::new();
    let affected = |change: &Change<Pod>| owners::affected(&by_selector, change, selects_pod);
    let feeds = futures::future::join4(
        feed(&sets, &queue, |change| [Key::of(change.object().as_ref())]),
        gather::feed(&pods, &queue, affected, |key| owners::count(&sets, &controller.pods_by_owner, key)),
        feed(&claims, &queue, |change| claiming_sets(&sets, change)),
        feed(&revisions, &queue, |change| owners::affected(&by_selector, change, selects_revision)),
    );
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    };
    run_with_feeds(run_controller("statefulset", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

fn selects_pod(set: &StatefulSet, pod: &Pod) -> bool {
    identity::ordinal_of(set, pod).is_some()
        && set.spec.as_ref().is_some_and(|spec| selector::matches(&spec.selector, pod.metadata.labels.as_ref()))
}

fn selects_revision(set: &StatefulSet, revision: &ControllerRevision) -> bool {
    set.spec.as_ref().is_some_and(|spec| selector::matches(&spec.selector, revision.metadata.labels.as_ref()))
}

/// The sets a claim was made for, when it goes or changes owners: a pod may wait for that.
fn claiming_sets(sets: &Informer<StatefulSet>, change: &Change<PersistentVolumeClaim>) -> Vec<Key> {
    let claim = change.object();
    let matters = match change {
        Change::Applied { old, new } => old.as_ref().is_none_or(|old| {
            let owners = |claim: &PersistentVolumeClaim| claim.metadata.owner_references.clone();
            owners(old) != owners(new) || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        }),
        Change::Deleted(_) => true,
    };
    let (Some(name), Some(namespace)) = (&claim.metadata.name, &claim.metadata.namespace) else { return Vec::new() };
    let makers = identity::makers_of_claim(name).filter(|(template, set)| {
        matters && sets.get(namespace, set).is_some_and(|set| identity::has_template(&set, template))
    });
    makers.map(|(_, set)| Key::new(namespace, set)).collect()
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(set) = self.sets.get(&key.namespace, &key.name) else {
            self.revisions.forget(key);
            for family in [&MAX_UNAVAILABLE, &UNAVAILABLE] {
                family.forget(&[&key.namespace, &key.name]);
            }
            for pending in [&self.pending_pods, &self.pending_claims, &self.pending_status] {
                pending.forget(key);
            }
            return Ok(None);
        };
        if self.lags(key) {
            return Ok(Some(LAG_RETRY));
        }
        let Some(spec) = &set.spec else { return Ok(None) };
        if selector::is_empty(&spec.selector) {
            return Ok(None);
        }
        let (own, orphans) = owners::own_and_orphans(&self.pods_by_owner, set.as_ref());
        let candidates = own.into_iter().chain(orphans);
        let selects = |pod: &Pod| selects_pod(&set, pod);
        let pods = owners::claim_all(&self.context, set.as_ref(), candidates, selects).await?;
        let data = history::data_of(&spec.template);
        let past = self.revisions.past(set.as_ref(), &data, |revision| selects_revision(&set, revision)).await?;
        let Some((current, update, collisions)) = self.current_and_update(key, &set, spec, &past, &data).await? else {
            return Ok(None);
        };
        let plan = plan::decide(
            &set,
            &Observed {
                pods: &pods,
                claim: &|name| self.claims.get(&key.namespace, name),
                current: &current,
                update: &update,
                collisions,
                now: Timestamp::now(),
            },
        );
        if let Some(judged) = plan.judged {
            let policy = spec.pod_management_policy.as_deref().unwrap_or("OrderedReady");
            let labels = [&key.namespace, &key.name, policy];
            MAX_UNAVAILABLE.set(&labels, f64::from(judged.max_unavailable));
            UNAVAILABLE.set(&labels, f64::from(judged.unavailable));
        }
        let next = plan.next;
        // The status says what happened, and old revisions go, also when the rest has to wait.
        let written = self.execute(key, &set, plan).await;
        let truncated = self.truncate(key, spec, &pods, &past, [&current.name, &update.name]).await;
        written.and(truncated).map(|()| next)
    }

    fn lags(&self, key: &Key) -> bool {
        let leaving = |name: &str, uid: &str| {
            self.pods
                .get(&key.namespace, name)
                .is_none_or(|pod| pod.metadata.uid.as_deref() != Some(uid) || pod.metadata.deletion_timestamp.is_some())
        };
        self.pending_pods.lags(key, self.pods.revision(), leaving)
            || self.pending_claims.lags(key, self.claims.revision(), |_, _| true)
            || self.pending_status.lags(key, self.sets.revision(), |_, _| true)
            || self.revisions.lag(key)
    }

    /// The revision that updates start from, the one they lead to, and how many names were taken. A set that is being
    /// deleted gets no new one.
    async fn current_and_update(
        &self,
        key: &Key,
        set: &StatefulSet,
        spec: &StatefulSetSpec,
        past: &Past,
        data: &serde_json::Value,
    ) -> Result<Option<(Revision, Revision, i32)>, ReconcileError> {
        let collisions = set.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
        let labels = spec.template.metadata.as_ref().and_then(|meta| meta.labels.as_ref());
        let (update, collisions) = match &past.current {
            Some(current) if set.metadata.deletion_timestamp.is_some() => (Arc::clone(current), collisions),
            None if set.metadata.deletion_timestamp.is_some() => return Ok(None),
            _ => {
                let wanted = Wanted { data, labels, hash_label: DATA_HASH, collisions };
                self.revisions.current(key, set, past, &wanted).await?
            }
        };
        let update = Revision { name: update.name_any(), template: spec.template.clone() };
        let name = set.status.as_ref().and_then(|status| status.current_revision.as_deref()).unwrap_or_default();
        let current = match past.old.iter().chain(&past.duplicates).find(|revision| revision.name_any() == name) {
            Some(current) => Revision { name: name.to_owned(), template: history::template_of(current)? },
            None => update.clone(),
        };
        Ok(Some((current, update, collisions)))
    }

    async fn execute(&self, key: &Key, set: &StatefulSet, plan: Plan) -> Result<(), ReconcileError> {
        let mut result = Ok(());
        for phase in plan.phases {
            result = batch::slow_start(phase, |action| self.act(key, set, action)).await;
            if result.is_err() {
                break;
            }
        }
        let status = self.write_status(key, set, &plan.status).await;
        result.and(status)
    }

    async fn act(&self, key: &Key, set: &StatefulSet, action: Action) -> Result<(), ReconcileError> {
        match action {
            Action::Create { pod, claims } => self.create_pod(key, set, &pod, &claims).await,
            Action::Blocked { pod, claim } => {
                let error = format!("pvc {claim} is being deleted");
                self.tell_failure(set, "create", &pod, &error);
                Err(ReconcileError::Blocked(error))
            }
            Action::Claims { pod, claims } => self.create_claims(key, set, &pod, &claims).await,
            Action::Own { claim, owners } => {
                let patch = json!({"metadata": {"uid": claim.metadata.uid,
                    "resourceVersion": claim.metadata.resource_version, "ownerReferences": owners}});
                let api = self.context.api::<PersistentVolumeClaim>(&key.namespace);
                let result = api.patch(&claim.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await;
                if let Ok(changed) = &result {
                    self.pending_claims.wrote(key, &changed.metadata);
                }
                gone_is_done(result).map_err(failed("own claim", Key::of(claim.as_ref())))
            }
            Action::Repair { pod, patch, claims } => {
                let name = pod.name_any();
                self.create_claims(key, set, &name, &claims).await?;
                let api = self.context.api::<Pod>(&key.namespace);
                let result = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
                self.tell(set, "update", &name, result.as_ref().err());
                let changed = result.map_err(failed("update pod", Key::of(pod.as_ref())))?;
                self.pending_pods.wrote(key, &changed.metadata);
                Ok(())
            }
            Action::Delete(pod) => {
                let name = pod.name_any();
                let api = self.context.api::<Pod>(&key.namespace);
                let result = gone_is_done(api.delete(&name, &pod_control::deletion(&pod)).await);
                self.tell(set, "delete", &name, result.as_ref().err());
                result.map_err(failed("delete pod", Key::of(pod.as_ref())))?;
                self.pending_pods.deleted(key, &pod.metadata);
                Ok(())
            }
        }
    }

    async fn create_pod(
        &self,
        key: &Key,
        set: &StatefulSet,
        pod: &Pod,
        claims: &[PersistentVolumeClaim],
    ) -> Result<(), ReconcileError> {
        let name = pod.name_any();
        self.create_claims(key, set, &name, claims).await?;
        let error = match self.context.api::<Pod>(&key.namespace).create(&PostParams::default(), pod).await {
            Ok(created) => {
                self.pending_pods.wrote(key, &created.metadata);
                self.tell(set, "create", &name, None);
                return Ok(());
            }
            Err(error) if is_namespace_terminating(&error) => return Ok(()),
            Err(error) => error,
        };
        // A pod of that name is somebody else's, or still going: its end brings us back.
        if !is_already_exists(&error) {
            self.tell(set, "create", &name, Some(&error));
        }
        Err(failed("create pod", Key::new(&key.namespace, &name))(error))
    }

    async fn create_claims(
        &self,
        key: &Key,
        set: &StatefulSet,
        pod: &str,
        claims: &[PersistentVolumeClaim],
    ) -> Result<(), ReconcileError> {
        let api = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        for claim in claims {
            let (name, of) = (claim.name_any(), set.name_any());
            match api.create(&PostParams::default(), claim).await {
                Ok(created) => {
                    self.pending_claims.wrote(key, &created.metadata);
                    let message = format!("create Claim {name} Pod {pod} in StatefulSet {of} success");
                    self.recorder.about(set, EventType::Normal, "SuccessfulCreate", message);
                }
                Err(error) => {
                    let quiet = is_already_exists(&error) || is_namespace_terminating(&error);
                    let why = cause(&error);
                    if !quiet {
                        let message =
                            format!("create Claim {name} for Pod {pod} in StatefulSet {of} failed error: {why}");
                        self.recorder.about(set, EventType::Warning, "FailedCreate", message);
                        self.tell_failure(set, "create", pod, &format!("failed to create PVC {name}: {why}"));
                    }
                    return Err(failed("create claim", Key::new(&key.namespace, &name))(error));
                }
            }
        }
        Ok(())
    }

    /// The event about a write of a pod.
    fn tell(&self, set: &StatefulSet, verb: &str, pod: &str, error: Option<&kube::Error>) {
        match error {
            None => {
                let message = format!("{verb} Pod {pod} in StatefulSet {} successful", set.name_any());
                self.recorder.about(set, EventType::Normal, &format!("Successful{}", capital(verb)), message);
            }
            Some(error) => self.tell_failure(set, verb, pod, &cause(error)),
        }
    }

    fn tell_failure(&self, set: &StatefulSet, verb: &str, pod: &str, why: &str) {
        let message = format!("{verb} Pod {pod} in StatefulSet {} failed error: {why}", set.name_any());
        self.recorder.about(set, EventType::Warning, &format!("Failed{}", capital(verb)), message);
    }

    async fn write_status(
        &self,
        key: &Key,
        set: &StatefulSet,
        status: &StatefulSetStatus,
    ) -> Result<(), ReconcileError> {
        if set.status.as_ref() == Some(status) {
            return Ok(());
        }
        let api = self.context.api::<StatefulSet>(&key.namespace);
        let patch = Patch::Merge(status::patch(set, status));
        let result = api.patch_status(&key.name, &PatchParams::default(), &patch).await;
        if let Ok(written) = &result {
            self.pending_status.wrote(key, &written.metadata);
        }
        gone_is_done(result).map_err(failed("write status of statefulset", key))
    }

    /// Deletes revisions above the history limit that no pod has.
    async fn truncate(
        &self,
        key: &Key,
        spec: &StatefulSetSpec,
        pods: &[Arc<Pod>],
        past: &Past,
        in_use: [&String; 2],
    ) -> Result<(), ReconcileError> {
        let is_live = |revision: &ControllerRevision| {
            let name = revision.name_any();
            in_use.contains(&&name) || pods.iter().any(|pod| identity::revision(pod) == name)
        };
        let mut all: Vec<_> = past.old.iter().chain(&past.duplicates).cloned().collect();
        all.sort_by_key(|revision| revision.revision);
        let dead = all.iter().filter(|revision| !is_live(revision)).count();
        for revision in history::beyond_limit(&all, is_live, dead, spec.revision_history_limit) {
            self.revisions.delete(key, &revision).await?;
        }
        Ok(())
    }
}

fn capital(verb: &str) -> &'static str {
    match verb {
        "create" => "Create",
        "update" => "Update",
        _ => "Delete",
    }
}
