//! The status of a StatefulSet, counted from its pods.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::identity;
use super::plan::Observed;
use crate::pods::{self, Availability};

pub(super) fn is_running_and_ready(pod: &Pod) -> bool {
    pods::phase(pod) == "Running" && pods::is_ready(pod)
}

pub(super) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    pods::availability(pod, min_ready_seconds, now) == Availability::Available
}

/// Whether the pod is not available, or will soon not be.
pub(super) fn is_unavailable(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    pod.metadata.deletion_timestamp.is_some() || !is_available(pod, min_ready_seconds, now)
}

/// A count as the API shows it: zero is absent.
pub(super) fn some(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// The status, and when it changes without any event: a ready pod becomes available by the passing of time.
pub(super) fn compute<'a>(
    set: &StatefulSet,
    observed: &Observed<'_>,
    pods: impl Iterator<Item = &'a Arc<Pod>>,
) -> (StatefulSetStatus, Option<Duration>) {
    let min_ready = set.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    let (mut replicas, mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0, 0);
    let mut next: Option<Duration> = None;
    for pod in pods {
        replicas += 1;
        if is_running_and_ready(pod) {
            ready += 1;
            match pods::availability(pod, min_ready, observed.now) {
                Availability::Available => available += 1,
                Availability::In(left) => next = Some(next.map_or(left, |next| next.min(left))),
                Availability::Unready => {}
            }
        }
        if pod.metadata.deletion_timestamp.is_none() {
            let revision = identity::revision(pod);
            current += i32::from(revision == observed.current.name);
            updated += i32::from(revision == observed.update.name);
        }
    }
    let status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas,
        ready_replicas: some(ready),
        // Shown also when it is zero, unlike the others.
        available_replicas: Some(available),
        current_replicas: some(current),
        updated_replicas: some(updated),
        current_revision: Some(observed.current.name.clone()),
        update_revision: Some(observed.update.name.clone()),
        collision_count: Some(observed.collisions),
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    (status, next)
}

/// When all pods have the new revision and are ready, it is the current one.
pub(super) fn complete_update(set: &StatefulSet, status: &mut StatefulSetStatus) {
    let Some(spec) = &set.spec else { return };
    let replicas = spec.replicas.unwrap_or(1);
    let strategy = spec.update_strategy.as_ref().and_then(|strategy| strategy.type_.as_deref());
    let all = [status.updated_replicas.unwrap_or(0), status.ready_replicas.unwrap_or(0), status.replicas];
    if strategy != Some("OnDelete") && all.iter().all(|count| *count == replicas) {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
}

/// Merge patch to `status`; what is absent must be named to be removed. Conditions are others' business.
pub(super) fn patch(set: &StatefulSet, status: &StatefulSetStatus) -> Value {
    json!({"metadata": {"uid": set.metadata.uid}, "status": {
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "readyReplicas": status.ready_replicas,
        "availableReplicas": status.available_replicas,
        "currentReplicas": status.current_replicas,
        "updatedReplicas": status.updated_replicas,
        "currentRevision": status.current_revision,
        "updateRevision": status.update_revision,
        "collisionCount": status.collision_count,
    }})
}
