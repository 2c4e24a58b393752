//! Why a pod must end, and how long it has.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

use crate::view::Ending;

/// The grace a pod has when its spec names none, as upstream.
pub const GRACE_SECONDS: i64 = 30;

/// When a pod that began at `start_time` has run for as long as it may.
pub fn deadline(pod: &Pod, start_time: Timestamp) -> Option<Timestamp> {
    let seconds = pod.spec.as_ref()?.active_deadline_seconds?;
    start_time.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Why the pod must end, as far as the API says.
pub fn ending(pod: &Pod, start_time: Timestamp, now: Timestamp) -> Option<Ending> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some(Ending::Deleted);
    }
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Some(Ending::AlreadyFinal);
    }
    deadline(pod, start_time).filter(|deadline| *deadline <= now).map(|_| Ending::DeadlineExceeded)
}

/// Seconds the pod's containers have to end by themselves.
pub fn grace_seconds(pod: &Pod) -> i64 {
    let spec = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(spec).unwrap_or(GRACE_SECONDS)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn deletion_goes_before_a_final_phase_and_that_before_the_deadline() {
        let cases = [
            (json!({}), json!({}), None),
            (json!({}), json!({"phase": "Failed"}), Some(Ending::AlreadyFinal)),
            (json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}), json!({"phase": "Failed"}), Some(Ending::Deleted)),
        ];
        let at = |second| Timestamp::from_second(second).unwrap();
        for (metadata, status, expected) in cases {
            let spec = json!({"containers": [], "activeDeadlineSeconds": 10});
            let pod = serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap();
            assert_eq!(ending(&pod, at(100), at(109)), expected);
            assert_eq!(ending(&pod, at(100), at(110)), expected.or(Some(Ending::DeadlineExceeded)));
        }
    }

    #[test]
    fn the_grace_of_the_deletion_goes_before_that_of_the_spec() {
        let grace = |value| grace_seconds(&serde_json::from_value(value).unwrap());
        assert_eq!(grace(json!({"spec": {"containers": []}})), 30);
        let spec = json!({"containers": [], "terminationGracePeriodSeconds": 5});
        assert_eq!(grace(json!({"spec": spec})), 5);
        assert_eq!(grace(json!({"metadata": {"deletionGracePeriodSeconds": 1}, "spec": spec})), 1);
    }
}
