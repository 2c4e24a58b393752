//! Jobs: pods that are to run to their end, as often as asked for.
//!
//! A reconcile looks at the Job's pods ([`view`]), decides whether the Job is over ([`verdict`]) or which pods it needs
//! ([`scale`]), does that, and counts what has finished ([`tracking`]). All decisions are pure.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams, PostParams};
use parking_lot::Mutex;
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, run_controller};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, is_conflict, is_not_found, run_with_feeds, synced};
use crate::owners::{self, by_controller};
use crate::pending::{LAG_RETRY, PendingWrites};
use crate::pod_control::PodControl;
use crate::{batch, pods, selector};
use backoff::Backoff;
use scale::{NewPod, Operation};
use tracking::{Acted, Tracking};
use view::View;

pub(crate) use metrics::render as render_metrics;
pub(crate) use verdict::terminal;

mod backoff;
mod indexes;
mod metrics;
mod pod;
mod policy;
mod scale;
mod template;
#[cfg(test)]
mod tests;
mod tracking;
mod verdict;
mod view;

/// Jobs reconciled at once, upstream's default is 5; in process a few more cost nothing.
const WORKERS: usize = 32;
/// Changes of pods are gathered for this long, so that many pods that end together are counted together. Upstream gathers
/// for a second; the cost of a status write here is a fraction of its.
const GATHER: Duration = Duration::from_millis(50);
/// Who manages Jobs that do not say so.
const JOB_CONTROLLER: &str = "kubernetes.io/job-controller";

/// What the queue holds.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Work {
    Job(Key),
    /// A pod that no Job will count any more, but that has a Job's finalizer.
    Orphan(Key),
}

struct Controller {
    context: Context,
    recorder: Recorder,
    jobs: Informer<Job>,
    pods: Informer<Pod>,
    pods_by_owner: Index<Pod>,
    /// Writes of pods, and of the Jobs' status.
    pending: PendingWrites,
    written: PendingWrites,
    /// Of Jobs that are not over.
    backoffs: Mutex<HashMap<Key, (String, Backoff)>>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let jobs = context.informers.of::<Job>();
    let pods = context.informers.of::<Pod>();
    if !synced(&stop, async { jobs.synced().await && pods.synced().await }).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "job-controller"),
        pods_by_owner: pods.index("controller", by_controller),
        pending: PendingWrites::default(),
        written: PendingWrites::default(),
        backoffs: Mutex::default(),
        jobs: jobs.clone(),
        pods: pods.clone(),
        context,
    });
    let adopting = jobs.index("adopting", adopting);
    let queue: Queue<Work> = Queue::new();
    let from_jobs = async {
        let mut changes = jobs.subscribe();
        while let Some(change) = changes.next().await {
            controller.job_changed(&change, &queue);
        }
    };
    let from_pods = async {
        let mut changes = pods.subscribe();
        while let Some(change) = changes.next().await {
            if let Change::Applied { old, new } = &change {
                metrics::tracked(old.as_deref(), new);
            }
            for work in affected(&jobs, &adopting, &change) {
                queue.add_after(work, GATHER);
            }
        }
    };
    let reconcile = |work: Work| {
        let controller = Arc::clone(&controller);
        async move {
            match work {
                Work::Job(key) => controller.reconcile(&key).await,
                Work::Orphan(key) => controller.let_go(&key).await.map(|()| None),
            }
        }
    };
    let run = run_controller("job", queue.clone(), WORKERS, stop, reconcile);
    run_with_feeds(run, futures::future::join(from_jobs, from_pods)).await;
}

/// Index values under which a pod without a controller finds the Jobs that may adopt it: a label that the API server gives
/// to a Job's pods, or for Jobs with a selector by hand the namespace.
fn adopting(job: &Job) -> Vec<String> {
    match job.spec.as_ref().and_then(|spec| spec.manual_selector) {
        Some(true) => vec![by_hand(job.metadata.namespace.as_deref().unwrap_or_default())],
        _ => job.uid().into_iter().collect(),
    }
}

fn by_hand(namespace: &str) -> String {
    format!("by-hand:{namespace}")
}

fn selects(job: &Job, pod: &Pod) -> bool {
    job.spec.as_ref().and_then(|spec| spec.selector.as_ref()).is_some_and(|selector| {
        !selector::is_empty(selector) && selector::matches(selector, pod.metadata.labels.as_ref())
    })
}

/// The Job that controls the pod, if there is one of that name and uid.
fn job_of(jobs: &Informer<Job>, pod: &Pod) -> Option<Arc<Job>> {
    let owner = owners::controller_of(&pod.metadata).filter(|owner| is_job(owner))?;
    let job = jobs.get(pod.metadata.namespace.as_deref()?, &owner.name)?;
    (job.metadata.uid.as_ref() == Some(&owner.uid)).then_some(job)
}

fn is_job(owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference) -> bool {
    owner.kind == "Job" && owner.api_version == "batch/v1"
}

/// Whether nobody will count the pod although it waits for that.
fn is_orphan(jobs: &Informer<Job>, pod: &Pod) -> bool {
    if !pod::is_tracked(pod) {
        return false;
    }
    match owners::controller_of(&pod.metadata) {
        None => true,
        Some(owner) if !is_job(owner) => false,
        Some(_) => job_of(jobs, pod).is_none_or(|job| terminal(&job).is_some() && !is_managed_elsewhere(&job)),
    }
}

fn is_managed_elsewhere(job: &Job) -> bool {
    let by = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    by.is_some_and(|by| by != JOB_CONTROLLER)
}

/// What a pod change matters to.
fn affected(jobs: &Informer<Job>, adopting: &Index<Job>, change: &Change<Pod>) -> Vec<Work> {
    let (old, new) = match change {
        Change::Applied { old, new } => (old.as_ref(), new),
        Change::Deleted(last) => (None, last),
    };
    let namespace = new.metadata.namespace.as_deref().unwrap_or_default();
    let mut work = Vec::new();
    for pod in old.into_iter().chain([new]) {
        if let Some(owner) = owners::controller_of(&pod.metadata).filter(|owner| is_job(owner)) {
            let key = Work::Job(Key::new(namespace, &owner.name));
            if !work.contains(&key) {
                work.push(key);
            }
        }
    }
    if matches!(change, Change::Deleted(_)) {
        return work;
    }
    if is_orphan(jobs, new) {
        work.push(Work::Orphan(Key::of(new.as_ref())));
    }
    if owners::controller_of(&new.metadata).is_none() {
        let labels = new.metadata.labels.as_ref();
        let uid = labels.and_then(|l| l.get("batch.kubernetes.io/controller-uid").or_else(|| l.get("controller-uid")));
        let candidates = uid.into_iter().cloned().chain([by_hand(namespace)]).flat_map(|value| adopting.get(&value));
        work.extend(candidates.filter(|job| selects(job, new)).map(|job| Work::Job(Key::of(job.as_ref()))));
    }
    work
}

impl Controller {
    fn job_changed(&self, change: &Change<Job>, queue: &Queue<Work>) {
        let job = change.object();
        let key = Work::Job(Key::of(job.as_ref()));
        let same_spec = match change {
            Change::Applied { old: Some(old), new } => old.metadata.generation == new.metadata.generation,
            _ => false,
        };
        queue.add_after(key, if same_spec { GATHER } else { Duration::ZERO });
        let by = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
        if let (Change::Applied { old: None, .. }, Some(by)) = (change, by.filter(|by| *by != JOB_CONTROLLER)) {
            metrics::external(by);
        }
        let over = matches!(change, Change::Deleted(_)) || terminal(job).is_some();
        if over && !is_managed_elsewhere(job) {
            let left = self.pods_by_owner.get(job.metadata.uid.as_deref().unwrap_or_default());
            for pod in left.iter().filter(|pod| pod::is_tracked(pod)) {
                queue.add(Work::Orphan(Key::of(pod.as_ref())));
            }
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let found = self.jobs.get(&key.namespace, &key.name);
        let Some(job) = found.filter(|job| terminal(job).is_none() && !is_managed_elsewhere(job)) else {
            self.pending.forget(key);
            self.written.forget(key);
            self.backoffs.lock().remove(key);
            return Ok(None);
        };
        let Some(spec) = &job.spec else { return Ok(None) };
        let leaving = |name: &str, uid: &str| {
            self.pods
                .get(&key.namespace, name)
                .is_none_or(|pod| pod::uid(&pod) != uid || pod.metadata.deletion_timestamp.is_some())
        };
        if self.written.lags(key, self.jobs.revision(), |_, _| true)
            || self.pending.lags(key, self.pods.revision(), leaving)
        {
            return Ok(Some(LAG_RETRY));
        }
        if !matches!(spec.completion_mode.as_deref(), None | Some("NonIndexed" | "Indexed")) {
            let message = "Skipped Job sync because completion mode is unknown";
            self.recorder.about(job.as_ref(), EventType::Warning, "UnknownCompletionMode", message);
            return Ok(None);
        }
        let began = tokio::time::Instant::now();
        let pods = self.claim(&job).await?;
        let view = View::of(&job, spec, &pods, self.backoff_of(key, &job).as_ref(), self.context.config.clock.now());
        let (end, operation, mut wake) = decide(&view);
        let goes_on = end.is_none() && job.metadata.deletion_timestamp.is_none();
        let creates = matches!(operation, Operation::Create(_));
        let mut action = metrics::action(&operation, false);
        let (acted, outcome) = self.carry_out(key, &job, spec, operation).await;
        if creates {
            metrics::created(spec, &view.status, acted, outcome.is_ok());
        }
        if end.is_none() {
            wake = [wake, verdict::time_left(&view).filter(|left| !left.is_zero())].into_iter().flatten().min();
        }
        let tracking = tracking::settle(&view, end, goes_on, acted);
        if acted.is_nothing() {
            action = metrics::action(&Operation::Keep, !tracking.remove.is_empty());
        }
        let outcome = self.track(key, &view, tracking).await.and(outcome);
        metrics::synced(spec, action, outcome.is_ok(), began.elapsed());
        outcome.map(|()| wake)
    }

    fn backoff_of(&self, key: &Key, job: &Job) -> Option<Backoff> {
        let known = self.backoffs.lock();
        known.get(key).filter(|(uid, _)| job.metadata.uid.as_ref() == Some(uid)).map(|(_, backoff)| backoff.clone())
    }

    /// The pods that are the Job's, after taking over matching orphans and letting go of those that match no more.
    async fn claim(&self, job: &Job) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let (own, orphans) = owners::own_and_orphans(&self.pods_by_owner, job);
        let candidates = own.into_iter().chain(orphans);
        let matches = |pod: &Pod| selects(job, pod);
        owners::claim_all_holding(&self.context, job, candidates, matches, Some(pod::FINALIZER)).await
    }

    /// Makes or ends pods; says what was done, and what went wrong.
    async fn carry_out(
        &self,
        key: &Key,
        job: &Job,
        spec: &JobSpec,
        operation: Operation,
    ) -> (Acted, Result<(), ReconcileError>) {
        let control = PodControl::new(&self.context, job, key, &self.recorder, &self.pending);
        let (count, ready) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (pods, released) = match operation {
            Operation::Keep => return (Acted::default(), Ok(())),
            Operation::Create(new) => {
                let common = template::common(job, spec);
                let create = |new: NewPod| {
                    let (control, count, pod) = (&control, &count, template::pod(&common, job, &new));
                    async move {
                        control.create(&pod).await?;
                        count.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    }
                };
                let result = batch::slow_start(new, create).await.map_err(failed("create pods of job", key));
                return (Acted { created: count.into_inner(), ..Acted::default() }, result);
            }
            Operation::End(pods) => (pods, false),
            Operation::Release(pods) => (pods, true),
        };
        let delete = |pod: Arc<Pod>| {
            let (control, count, ready) = (&control, &count, &ready);
            async move {
                if released {
                    self.remove_finalizer(key, &pod).await?;
                }
                control.delete(&pod).await?;
                count.fetch_add(1, Ordering::Relaxed);
                ready.fetch_add(usize::from(pods::is_ready(&pod)), Ordering::Relaxed);
                Ok(())
            }
        };
        let result = batch::all(pods, delete).await.map_err(failed("delete pods of job", key));
        (Acted { deleted: count.into_inner(), deleted_ready: ready.into_inner(), created: 0 }, result)
    }

    /// Writes what was counted, lets counted pods go, and writes what that comes to.
    async fn track(&self, key: &Key, view: &View<'_>, mut tracking: Tracking) -> Result<(), ReconcileError> {
        let mut job = Cow::Borrowed(view.job);
        self.write_status(key, &mut job, &tracking.status).await?;
        if let Some(uid) = view.job.uid() {
            self.backoffs.lock().insert(key.clone(), (uid, view.backoff.clone()));
        }
        for (kind, reason, message) in std::mem::take(&mut tracking.events) {
            self.recorder.about(view.job, kind, &reason, message);
        }
        let removed = Mutex::new(Vec::new());
        let remove = |pod: Arc<Pod>| {
            let removed = &removed;
            async move {
                self.remove_finalizer(key, &pod).await?;
                metrics::judged(view.spec, &pod);
                removed.lock().push(pod::uid(&pod).to_owned());
                Ok(())
            }
        };
        let result = batch::all(std::mem::take(&mut tracking.remove), remove).await;
        let result = result.map_err(failed("remove finalizers of pods of job", key));
        tracking.removed(removed.into_inner());
        let told = match result {
            Ok(()) => tracking.finish(view.spec.completions, view.now),
            Err(_) => Vec::new(),
        };
        self.write_status(key, &mut job, &tracking.status).await?;
        for (kind, reason, message) in told {
            if reason != verdict::TOO_MANY {
                metrics::finished(view.spec, &reason);
            }
            self.recorder.about(view.job, kind, &reason, message);
        }
        metrics::counted(view.spec, &view.status, &tracking.status);
        result
    }

    /// Writes the status where it is another; the write is refused where the Job is not the one that was looked at.
    async fn write_status(&self, key: &Key, job: &mut Cow<'_, Job>, status: &JobStatus) -> Result<(), ReconcileError> {
        if job.status.as_ref() == Some(status) {
            return Ok(());
        }
        let mut changed = job.as_ref().clone();
        changed.status = Some(status.clone());
        let api = self.context.api::<Job>(&key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => {
                self.written.wrote(key, &written.metadata);
                changed.metadata.resource_version = written.metadata.resource_version;
                *job = Cow::Owned(changed);
                Ok(())
            }
            Err(error) => Err(failed("write status of job", key)(error)),
        }
    }

    /// Lets a pod go; one that is gone already has been let go.
    async fn remove_finalizer(&self, key: &Key, pod: &Pod) -> Result<(), kube::Error> {
        if !pod::is_tracked(pod) {
            return Ok(());
        }
        let patch = owners::without_finalizer(json!({"metadata": {"uid": pod.metadata.uid}}), pod::FINALIZER);
        let api = self.context.api::<Pod>(&key.namespace);
        match api.patch(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(patched) => {
                self.pending.wrote(key, &patched.metadata);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes the finalizer off a pod that nobody counts. The patch holds for the state that was seen: a Job that takes the
    /// pod over meanwhile gives it a finalizer that has to stay.
    async fn let_go(&self, key: &Key) -> Result<(), ReconcileError> {
        let found = self.pods.get(&key.namespace, &key.name);
        let Some(pod) = found.filter(|pod| is_orphan(&self.jobs, pod)) else { return Ok(()) };
        let seen = json!({"metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version}});
        let patch = owners::without_finalizer(seen, pod::FINALIZER);
        let api = self.context.api::<Pod>(&key.namespace);
        match api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            // a pod that changed comes here again with its change
            Err(error) if !is_not_found(&error) && !is_conflict(&error) => {
                Err(failed("remove finalizer of pod", key)(error))
            }
            _ => Ok(()),
        }
    }
}

/// What ends the Job, what to do about its pods, and when to look again.
fn decide(view: &View<'_>) -> (Option<k8s_openapi::api::batch::v1::JobCondition>, Operation, Option<Duration>) {
    if let Some(end) = verdict::end(view) {
        let active = view.active.clone();
        return (Some(end), if active.is_empty() { Operation::Keep } else { Operation::End(active) }, None);
    }
    if view.job.metadata.deletion_timestamp.is_some() {
        return (None, Operation::Keep, None);
    }
    let (operation, wake) = scale::decide(view);
    (None, operation, wake)
}
