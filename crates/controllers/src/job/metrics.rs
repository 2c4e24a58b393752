//! What the Job controller tells monitoring, under upstream's names.

use std::time::Duration;

use k8s_openapi::api::batch::v1::{JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::Indexes;
use super::pod;
use super::policy;
use super::scale::Operation;
use super::tracking::Acted;
use super::view::number;
use crate::metrics::{Family, Histogram};
use crate::pods;

static FINISHED: Family =
    Family::counter("job_controller_jobs_finished_total", "Finished Jobs.", &["completion_mode", "result", "reason"]);
static PODS_FINISHED: Family = Family::counter(
    "job_controller_job_pods_finished_total",
    "Finished pods that Jobs have counted.",
    &["completion_mode", "result"],
);
static SYNCS: Family = Family::counter(
    "job_controller_job_syncs_total",
    "Times Jobs were looked at.",
    &["completion_mode", "result", "action"],
);
static SYNC_DURATION: Histogram = Histogram::new(
    "job_controller_job_sync_duration_seconds",
    "How long it took to look at a Job and do what follows.",
    &["completion_mode", "result", "action"],
    &[0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 2.048, 4.096, 8.192, 16.384, 32.768, 65.536],
);
static FINISHED_INDEXES: Family = Family::counter(
    "job_controller_job_finished_indexes_total",
    "Indexes of Jobs that are finished.",
    &["status", "backoffLimit"],
);
static CREATIONS: Family =
    Family::counter("job_controller_job_pods_creation_total", "Pods made for Jobs.", &["reason", "status"]);
static HANDLED_BY_POLICY: Family = Family::counter(
    "job_controller_pod_failures_handled_by_failure_policy_total",
    "Failed pods that a rule of a failure policy was for.",
    &["action"],
);
static TRACKED: Family = Family::counter(
    "job_controller_terminated_pods_tracking_finalizer_total",
    "Finished pods that came to wait to be counted, or were let go.",
    &["event"],
);
static EXTERNAL: Family = Family::counter(
    "job_controller_jobs_by_external_controller_total",
    "Jobs that another controller is responsible for.",
    &["controller_name"],
);

/// Appends the metrics in Prometheus' text format.
pub(crate) fn render(out: &mut String) {
    for family in
        [&FINISHED, &PODS_FINISHED, &SYNCS, &FINISHED_INDEXES, &CREATIONS, &HANDLED_BY_POLICY, &TRACKED, &EXTERNAL]
    {
        family.render(out);
    }
    SYNC_DURATION.render(out);
}

fn mode(spec: &JobSpec) -> &'static str {
    if spec.completion_mode.as_deref() == Some("Indexed") { "Indexed" } else { "NonIndexed" }
}

/// What the look at a Job came to in the main.
pub(super) fn action(operation: &Operation, removes: bool) -> &'static str {
    match operation {
        Operation::Create(_) => "pods_created",
        Operation::End(_) | Operation::Release(_) => "pods_deleted",
        Operation::Keep if removes => "tracking",
        Operation::Keep => "reconciling",
    }
}

/// Notes a look at a Job.
pub(super) fn synced(spec: &JobSpec, action: &str, ok: bool, took: Duration) {
    let labels = [mode(spec), if ok { "success" } else { "error" }, action];
    SYNCS.increase(&labels);
    SYNC_DURATION.observe_time(&labels, took);
}

/// Notes pods that were made, and one that could not be.
pub(super) fn created(spec: &JobSpec, status: &JobStatus, acted: Acted, ok: bool) {
    let failed = number(status.failed) > 0;
    let reason = match spec.pod_replacement_policy.as_deref() {
        Some("Failed") if failed => "recreate_failed",
        Some("TerminatingOrFailed") | None if failed || number(status.terminating) > 0 => {
            "recreate_terminating_or_failed"
        }
        _ => "new",
    };
    CREATIONS.add(&[reason, "succeeded"], acted.created as u64);
    CREATIONS.add(&[reason, "failed"], u64::from(!ok));
}

/// Notes what a written status counts more than the one before.
pub(super) fn counted(spec: &JobSpec, before: &JobStatus, after: &JobStatus) {
    let more = |before, after| number(after).saturating_sub(number(before)) as u64;
    // an elastic Job that shrank has fewer
    PODS_FINISHED.add(&[mode(spec), "succeeded"], more(before.succeeded, after.succeeded));
    PODS_FINISHED.add(&[mode(spec), "failed"], more(before.failed, after.failed));
    if let Some(completions) = spec.completions.filter(|_| mode(spec) == "Indexed") {
        let completions = completions.max(0).unsigned_abs();
        let limit = if spec.backoff_limit_per_index.is_some() { "perIndex" } else { "global" };
        let total = |text: Option<&String>| text.map_or(0, |text| Indexes::parse(text, completions).total());
        let more = |before, after| total(after).saturating_sub(total(before)) as u64;
        let succeeded = more(before.completed_indexes.as_ref(), after.completed_indexes.as_ref());
        FINISHED_INDEXES.add(&["succeeded", limit], succeeded);
        FINISHED_INDEXES.add(&["failed", limit], more(before.failed_indexes.as_ref(), after.failed_indexes.as_ref()));
    }
}

/// Notes a failed pod that is let go.
pub(super) fn judged(spec: &JobSpec, pod: &Pod) {
    if pods::phase(pod) != "Failed" {
        return;
    }
    if let Some(action) = policy::judge(spec.pod_failure_policy.as_ref(), pod).action {
        HANDLED_BY_POLICY.increase(&[action.name()]);
    }
}

/// Notes that a Job ended; `reason` is that of its event.
pub(super) fn finished(spec: &JobSpec, reason: &str) {
    let (result, reason) = if reason == "Completed" { ("succeeded", "") } else { ("failed", reason) };
    FINISHED.increase(&[mode(spec), result, reason]);
}

/// Notes that a finished pod waits to be counted, or does not any more.
pub(super) fn tracked(old: Option<&Pod>, new: &Pod) {
    let waits = |pod: &Pod| pods::is_terminal(pod) && pod::is_tracked(pod);
    match (old.is_some_and(waits), waits(new)) {
        (false, true) => TRACKED.increase(&["add"]),
        (true, false) => TRACKED.increase(&["delete"]),
        _ => {}
    }
}

/// Notes a Job of another controller.
pub(super) fn external(controller: &str) {
    EXTERNAL.increase(&[controller]);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn jobs_and_pods_are_counted_by_mode_and_result() {
        let spec: JobSpec = serde_json::from_value(json!({"completionMode": "Indexed", "completions": 5,
            "template": {}}))
        .unwrap();
        let acted = Acted { created: 3, ..Acted::default() };
        let retried = JobStatus { failed: Some(1), ..JobStatus::default() };
        let status = |succeeded, failed, indexes: &str| JobStatus {
            succeeded,
            failed,
            completed_indexes: Some(indexes.to_owned()),
            ..JobStatus::default()
        };
        counted(&spec, &status(Some(1), None, "0"), &status(Some(3), Some(1), "0-2"));
        counted(&spec, &status(Some(3), Some(1), "0-2"), &status(Some(1), Some(1), "0"));
        created(&spec, &JobStatus::default(), acted, true);
        created(&spec, &retried, acted, false);
        finished(&spec, "Completed");
        finished(&JobSpec::default(), "DeadlineExceeded");
        synced(&spec, action(&Operation::Create(Vec::new()), false), true, Duration::from_millis(3));
        synced(&spec, action(&Operation::Keep, true), false, Duration::from_millis(3));
        external("example.com/own");
        let mut out = String::new();
        render(&mut out);
        // other tests of this process count too
        for start in [
            "job_controller_jobs_finished_total{completion_mode=\"Indexed\",result=\"succeeded\",reason=\"\"} ",
            "job_controller_jobs_finished_total{completion_mode=\"NonIndexed\",result=\"failed\",reason=\"DeadlineExceeded\"} ",
            "job_controller_job_pods_finished_total{completion_mode=\"Indexed\",result=\"succeeded\"} ",
            "job_controller_job_finished_indexes_total{status=\"succeeded\",backoffLimit=\"global\"} ",
            "job_controller_job_pods_creation_total{reason=\"new\",status=\"succeeded\"} ",
            "job_controller_job_pods_creation_total{reason=\"recreate_terminating_or_failed\",status=\"failed\"} ",
            "job_controller_job_syncs_total{completion_mode=\"Indexed\",result=\"success\",action=\"pods_created\"} ",
            "job_controller_job_sync_duration_seconds_bucket{completion_mode=\"Indexed\",result=\"error\",action=\"tracking\",le=\"0.004\"} ",
            "job_controller_jobs_by_external_controller_total{controller_name=\"example.com/own\"} ",
        ] {
            assert!(out.lines().any(|known| known.starts_with(start)), "{start}\n{out}");
        }
    }
}
