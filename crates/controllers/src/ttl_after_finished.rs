//! TTL after finished: Jobs that wish so are deleted some time after they have finished.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::api::{DeleteParams, Preconditions};
use reconcile::{Informer, Key, Queue, feed, run_controller};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, ReconcileError, failed, gone_is_done, run_with_feeds, synced};
use crate::job;
use crate::metrics::Histogram;

/// Jobs looked at at once, upstream's default.
const WORKERS: usize = 5;

/// How long the Job is kept yet; `None` while it is not to be deleted at all.
fn left(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let ttl = Duration::from_secs(u64::try_from(ttl).ok()?);
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let finished = job::terminal(job)?.last_transition_time.as_ref()?.0;
    // a finish in the future (another machine's clock) keeps the Job no longer than its time
    let elapsed = Duration::try_from(now.duration_since(finished)).unwrap_or(Duration::ZERO);
    Some(ttl.saturating_sub(elapsed))
}

static DELETION_DURATION: Histogram = Histogram::new(
    "ttl_after_finished_controller_job_deletion_duration_seconds",
    "How long after its time was over a finished Job was deleted.",
    &[],
    &[0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 51.2, 102.4, 204.8, 409.6, 819.2],
);

/// Appends the metrics in Prometheus' text format.
pub(crate) fn render_metrics(out: &mut String) {
    DELETION_DURATION.render(out);
}

/// How long ago the Job's time was over.
fn overdue(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = SignedDuration::from_secs(job.spec.as_ref()?.ttl_seconds_after_finished?.into());
    let finished = job::terminal(job)?.last_transition_time.as_ref()?.0;
    Duration::try_from(now.duration_since(finished) - ttl).ok()
}

struct Controller {
    context: Context,
    jobs: Informer<Job>,
}

pub(crate) async fn run(context: Context, stop: CancellationToken) {
    let jobs = context.informers.of::<Job>();
    if !synced(&stop, jobs.synced()).await {
        return;
    }
    let controller = Arc::new(Controller { jobs: jobs.clone(), context });
    let queue: Queue<Key> = Queue::new();
    let clock = controller.context.config.clock.clone();
    let wanted = |job: &Arc<Job>| left(job, clock.now()).map(|_| Key::of(job.as_ref()));
    let feeds = feed(&jobs, &queue, |change| wanted(change.object()));
    let reconcile = |key: Key| {
        let controller = Arc::clone(&controller);
        async move { controller.reconcile(&key).await }
    };
    run_with_feeds(run_controller("ttl-after-finished", queue.clone(), WORKERS, stop, reconcile), feeds).await;
}

impl Controller {
    async fn reconcile(&self, key: &Key) -> Result<Option<Duration>, ReconcileError> {
        let Some(job) = self.jobs.get(&key.namespace, &key.name) else { return Ok(None) };
        match left(&job, self.context.config.clock.now()) {
            None => Ok(None),
            Some(left) if !left.is_zero() => Ok(Some(left)),
            Some(_) => {
                self.delete(key, &job).await?;
                let late = overdue(&job, self.context.config.clock.now());
                DELETION_DURATION.observe_time(&[], late.unwrap_or_default());
                Ok(None)
            }
        }
    }

    /// Deletes the Job as it was looked at: one that was given more time meanwhile, or is another, is looked at again.
    async fn delete(&self, key: &Key, job: &Job) -> Result<(), ReconcileError> {
        let preconditions =
            Preconditions { uid: job.metadata.uid.clone(), resource_version: job.metadata.resource_version.clone() };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::foreground() };
        let result = gone_is_done(self.context.api::<Job>(&key.namespace).delete(&key.name, &params).await);
        result.map_err(failed("delete finished job", key))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_finished_jobs_with_a_time_are_deleted_and_not_before() {
        let now: Timestamp = "2026-01-01T12:00:00Z".parse().unwrap();
        let job = |ttl: Value, condition: &str, at: &str, leaving: bool| -> Job {
            let deletion = leaving.then_some("2026-01-01T11:00:00Z");
            serde_json::from_value(json!({"metadata": {"deletionTimestamp": deletion},
                "spec": {"ttlSecondsAfterFinished": ttl, "template": {}},
                "status": {"conditions": [{"type": condition, "status": "True", "lastTransitionTime": at}]}}))
            .unwrap()
        };
        for (job, expected) in [
            (job(json!(100), "Complete", "2026-01-01T11:59:00Z", false), Some(40)),
            (job(json!(60), "Failed", "2026-01-01T11:59:00Z", false), Some(0)),
            (job(json!(0), "Complete", "2026-01-01T12:00:00Z", false), Some(0)),
            (job(json!(10), "Complete", "2026-01-01T12:30:00Z", false), Some(10)),
            (job(json!(10), "FailureTarget", "2026-01-01T11:59:00Z", false), None),
            (job(json!(null), "Complete", "2026-01-01T11:59:00Z", false), None),
            (job(json!(10), "Complete", "2026-01-01T11:59:00Z", true), None),
        ] {
            assert_eq!(left(&job, now).map(|left| left.as_secs()), expected);
        }
    }
}
