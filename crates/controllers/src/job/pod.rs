//! What a Job asks about one of its pods.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::JobSpec;
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

/// Keeps a pod until the Job has counted it.
pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
/// Annotation and label that name a pod's completion index.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// How often the pod's index has failed before it.
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
/// How often it has failed in ways that do not count.
pub(super) const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// The pod's uid.
pub(super) fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Whether the pod is still to be counted.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == FINALIZER)
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The completion index of an Indexed Job's pod.
pub(super) fn index(pod: &Pod) -> Option<u32> {
    annotation(pod, INDEX)?.parse().ok().filter(|index| i32::try_from(*index).is_ok())
}

fn count(pod: &Pod, name: &str) -> i32 {
    // people can write annotations: what is no count is none
    annotation(pod, name).and_then(|text| text.parse().ok()).filter(|count| *count >= 0).unwrap_or(0)
}

/// How often the pod's index has failed before it, and how often in ways that do not count.
pub(super) fn failures(pod: &Pod) -> (i32, i32) {
    (count(pod, FAILURES), count(pod, IGNORED_FAILURES))
}

/// Whether pods are replaced only once they have failed, not as soon as they are on their way out.
pub(super) fn only_failed_are_replaced(spec: &JobSpec) -> bool {
    spec.pod_replacement_policy.as_deref() == Some("Failed") || spec.pod_failure_policy.is_some()
}

/// Whether the pod succeeded.
pub(super) fn has_succeeded(pod: &Pod) -> bool {
    pods::phase(pod) == "Succeeded"
}

/// Whether the pod counts as failed: so does one that is being deleted, as it may never come to report it.
pub(super) fn has_failed(pod: &Pod, spec: &JobSpec) -> bool {
    match pods::phase(pod) {
        "Failed" => true,
        "Succeeded" => false,
        _ => !only_failed_are_replaced(spec) && pod.metadata.deletion_timestamp.is_some(),
    }
}

/// Whether the pod is on its way out and not there yet.
pub(super) fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some() && !pods::is_terminal(pod)
}

/// When the pod finished: its last container did, or else it stopped being ready, was deleted, or at worst began.
pub(super) fn finished_at(pod: &Pod) -> Timestamp {
    let containers = || {
        let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
        let ends = statuses.iter().map(|container| {
            let ended = container.state.as_ref()?.terminated.as_ref()?;
            ended.finished_at.as_ref().map(|time| time.0)
        });
        ends.collect::<Option<Vec<_>>>()?.into_iter().max()
    };
    let unready = || {
        let ready = pods::condition(pod, "Ready").filter(|ready| ready.status == "False")?;
        ready.last_transition_time.as_ref().map(|time| time.0)
    };
    let deleted = || {
        let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0).max(0).unsigned_abs();
        let at = pod.metadata.deletion_timestamp.as_ref()?.0;
        at.checked_sub(Duration::from_secs(grace)).ok()
    };
    let created = || pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    containers().or_else(unready).or_else(deleted).or_else(created).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(value: Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_pods_end_is_told_by_the_best_witness() {
        let ended = |at: &str| {
            json!({"name": at, "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 1, "finishedAt": format!("2026-01-01T00:00:{at}Z")}}})
        };
        let runs = json!({"name": "r", "image": "", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {}}});
        let unready = json!([{"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:30Z"}]);
        let meta = json!({"creationTimestamp": "2026-01-01T00:00:01Z", "deletionTimestamp": "2026-01-01T00:00:50Z",
            "deletionGracePeriodSeconds": 8});
        for (value, second) in [
            (json!({"metadata": meta, "status": {"containerStatuses": [ended("20"), ended("25")]}}), 25),
            (
                json!({"metadata": meta, "status": {"containerStatuses": [ended("20"), runs], "conditions": unready}}),
                30,
            ),
            (json!({"metadata": meta}), 42),
            (json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:01Z"}}), 1),
        ] {
            let expected: Timestamp = format!("2026-01-01T00:00:{second:02}Z").parse().unwrap();
            assert_eq!(finished_at(&pod(value.clone())), expected, "{value}");
        }
    }

    #[test]
    fn a_pod_being_deleted_has_failed_unless_only_failed_ones_are_replaced() {
        let spec = |value: Value| serde_json::from_value::<JobSpec>(value).unwrap();
        let eager = spec(json!({"template": {}}));
        let patient = spec(json!({"template": {}, "podReplacementPolicy": "Failed"}));
        let judged = spec(json!({"template": {}, "podFailurePolicy": {"rules": []}}));
        let leaving = |phase: &str| {
            pod(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "status": {"phase": phase}}))
        };
        for (phase, specs) in [("Running", [true, false, false]), ("Failed", [true; 3]), ("Succeeded", [false; 3])] {
            let failed = [&eager, &patient, &judged].map(|spec| has_failed(&leaving(phase), spec));
            assert_eq!(failed, specs, "{phase}");
        }
        assert!(is_terminating(&leaving("Running")) && !is_terminating(&leaving("Failed")));
    }

    #[test]
    fn indexes_and_counts_are_read_with_care() {
        let with = |name: &str, value: &str| pod(json!({"metadata": {"annotations": {name: value}}}));
        for (text, expected) in [("0", Some(0)), ("17", Some(17)), ("-1", None), ("x", None), ("4294967295", None)] {
            assert_eq!(index(&with(INDEX, text)), expected);
        }
        assert_eq!(failures(&with(FAILURES, "3")), (3, 0));
        assert_eq!(failures(&with(IGNORED_FAILURES, "-3")), (0, 0));
    }
}
