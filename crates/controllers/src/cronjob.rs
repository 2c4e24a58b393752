//! CronJobs: start a Job whenever the schedule says so.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Resource, ResourceExt};
use reconcile::{Change, EventType, Index, Informer, Key, Queue, Recorder, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{
    Context, ReconcileError, cause, failed, gone_is_done, is_already_exists, is_namespace_terminating, is_not_found,
    run_with_feeds, synced,
};
use crate::metrics::Histogram;
use crate::owners::{self, by_controller};
use crate::pending::{LAG_RETRY, PendingWrites};

mod plan;
#[cfg(test)]
mod tests;
mod timing;

/// CronJobs reconciled at once, upstream's default.
const WORKERS: usize = 5;

static CREATION_SKEW: Histogram = Histogram::new(
    "cronjob_controller_job_creation_skew_duration_seconds",
    "How long after its time in the schedule a Job was made.",
    &[],
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0],
);

/// Appends the metrics in Prometheus' text format.
pub(crate) fn render_metrics(out: &mut String) {
    CREATION_SKEW.render(out);
}

struct Controller {
    context: Context,
    recorder: Recorder,
    crons: Informer<CronJob>,
    jobs: Informer<Job>,
    jobs_by_owner: Index<Job>,
    /// Writes of Jobs, and of the CronJobs' status.
    pending: PendingWrites,
    written: PendingWrites,
    /// Of CronJobs that name none.
    zone: TimeZone,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let crons = context.informers.of::<CronJob>();
    let jobs = context.informers.of::<Job>();
    if !synced(&stop, async { crons.synced().await && jobs.synced().await }).await {
        return;
    }
    let controller = Arc::new(Controller {
        recorder: Recorder::new(context.client.clone(), "cronjob-controller"),
        jobs_by_owner: jobs.index("controller", by_controller),
        pending: PendingWrites::default(),
        written: PendingWrites::default(),
        zone: TimeZone::system(),
        crons: crons.clone(),
        jobs: jobs.clone(),
        context,
    });
    let queue: Queue<Key> = Queue::new();
    let from_crons = async {
        let mut changes = crons.subscribe();
        while let Some(change) = changes.next().await {
            let after = controller.first_look(&change);
            queue.add_after(Key::of(change.object().as_ref()), after);
        }
    };
    let feeds = futures::future::join(from_crons, feed(&jobs, &queue, affected));
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    };
    run_with_feeds(run_controller("cronjob", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

/// The CronJobs that a Job had and has.
fn affected(change: &Change<Job>) -> Vec<Key> {
    let (old, new) = match change {
        Change::Applied { old, new } => (old.as_ref(), new),
        Change::Deleted(last) => (None, last),
    };
    let mut keys = Vec::new();
    for job in old.into_iter().chain([new]) {
        if let Some(owner) = owners::controller_of(&job.metadata).filter(|owner| owner.kind == "CronJob") {
            let key = Key::new(job.metadata.namespace.as_deref().unwrap_or_default(), &owner.name);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
    }
    keys
}

impl Controller {
    fn now(&self) -> Timestamp {
        self.context.config.clock.now()
    }

    /// A new schedule begins with its next run: what it would have started before is not made up for.
    fn first_look(&self, change: &Change<CronJob>) -> Duration {
        let Change::Applied { old: Some(old), new } = change else { return Duration::ZERO };
        let (before, spec) = (&old.spec, &new.spec);
        if (&before.schedule, &before.time_zone) == (&spec.schedule, &spec.time_zone) {
            return Duration::ZERO;
        }
        match plan::timetable(spec, &self.zone) {
            Ok(timetable) => timetable.wait(new, self.now()),
            Err(_) => Duration::ZERO,
        }
    }

    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(cron) = self.crons.get(&key.namespace, &key.name) else {
            self.pending.forget(key);
            self.written.forget(key);
            return Ok(None);
        };
        let leaving = |name: &str, uid: &str| {
            let job = self.jobs.get(&key.namespace, name);
            job.is_none_or(|job| job.metadata.uid.as_deref() != Some(uid) || job.metadata.deletion_timestamp.is_some())
        };
        if self.written.lags(key, self.crons.revision(), |_, _| true)
            || self.pending.lags(key, self.jobs.revision(), leaving)
        {
            return Ok(Some(LAG_RETRY));
        }
        let jobs = self.jobs_by_owner.get(cron.metadata.uid.as_deref().unwrap_or_default());
        let mut plan = plan::decide(&cron, &jobs, &self.zone, self.now());
        for (kind, reason, message) in std::mem::take(&mut plan.events) {
            self.recorder.about(cron.as_ref(), kind, reason, message);
        }
        let mut result = Ok(());
        for job in &plan.replaced {
            result = self.delete(key, &cron, job).await;
            if result.is_err() {
                plan.start = None;
                break;
            }
            forget(&mut plan.status, job);
        }
        if let Some(run) = plan.start {
            match self.start(key, &cron, run).await {
                Ok(Some(job)) => {
                    plan.status.active.get_or_insert_default().push(reference(&job));
                    plan.status.last_schedule_time = Some(Time(run));
                }
                Ok(None) => {}
                Err(error) => result = Err(error),
            }
        }
        for job in &plan.expired {
            if let Err(error) = self.delete(key, &cron, job).await {
                result = Err(error);
            } else {
                forget(&mut plan.status, job);
            }
        }
        if plan.status.active.as_ref().is_some_and(Vec::is_empty) {
            plan.status.active = None;
        }
        self.write_status(key, Cow::Borrowed(&cron), plan.status).await?;
        result.map(|()| plan.wake)
    }

    /// Makes the Job of a run. It may be there already, if the status could not be written then: it is taken for this
    /// run's, unless it is somebody else's.
    async fn start(&self, key: &Key, cron: &CronJob, run: Timestamp) -> Result<Option<Job>, ReconcileError> {
        let wanted = plan::job_of(cron, run);
        let api = self.context.api::<Job>(&key.namespace);
        match api.create(&PostParams::default(), &wanted).await {
            Ok(job) => {
                self.pending.wrote(key, &job.metadata);
                let late = self.context.config.clock.now().duration_since(run);
                CREATION_SKEW.observe_time(&[], Duration::try_from(late).unwrap_or_default());
                let message = format!("Created job {}", job.name_any());
                self.recorder.about(cron, EventType::Normal, "SuccessfulCreate", message);
                Ok(Some(job))
            }
            Err(error) if is_already_exists(&error) => {
                let found = api.get_opt(&wanted.name_any()).await.map_err(failed("read job of cronjob", key))?;
                let own = |job: &Job| {
                    owners::controller_of(&job.metadata).map(|owner| &owner.uid) == cron.metadata.uid.as_ref()
                };
                Ok(found.filter(own))
            }
            Err(error) if is_namespace_terminating(&error) => Ok(None),
            Err(error) => {
                let message = format!("Error creating job: {}", cause(&error));
                self.recorder.about(cron, EventType::Warning, "FailedCreate", message);
                Err(failed("create job of cronjob", key)(error))
            }
        }
    }

    async fn delete(&self, key: &Key, cron: &CronJob, job: &Job) -> Result<(), ReconcileError> {
        let preconditions = Some(Preconditions { uid: job.metadata.uid.clone(), resource_version: None });
        let params = DeleteParams { preconditions, ..DeleteParams::background() };
        let deleted = gone_is_done(self.context.api::<Job>(&key.namespace).delete(&job.name_any(), &params).await);
        match deleted {
            Ok(()) => {
                self.pending.deleted(key, &job.metadata);
                let message = format!("Deleted job {}", job.name_any());
                self.recorder.about(cron, EventType::Normal, "SuccessfulDelete", message);
                Ok(())
            }
            Err(error) => {
                let message = format!("Deleted job: {}", cause(&error));
                self.recorder.about(cron, EventType::Warning, "FailedDelete", message);
                Err(failed("delete job of cronjob", key)(error))
            }
        }
    }

    async fn write_status(
        &self,
        key: &Key,
        cron: Cow<'_, CronJob>,
        status: k8s_openapi::api::batch::v1::CronJobStatus,
    ) -> Result<(), ReconcileError> {
        if cron.status.clone().unwrap_or_default() == status {
            return Ok(());
        }
        let mut changed = cron.into_owned();
        changed.status = Some(status);
        let api = self.context.api::<CronJob>(&key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &changed).await {
            Ok(written) => {
                self.written.wrote(key, &written.metadata);
                Ok(())
            }
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(failed("write status of cronjob", key)(error)),
        }
    }
}

fn forget(status: &mut k8s_openapi::api::batch::v1::CronJobStatus, job: &Job) {
    if let Some(active) = &mut status.active {
        active.retain(|active| active.uid != job.metadata.uid);
    }
}

fn reference(job: &Job) -> ObjectReference {
    let mut reference = job.object_ref(&());
    reference.resource_version.clone_from(&job.metadata.resource_version);
    reference
}
