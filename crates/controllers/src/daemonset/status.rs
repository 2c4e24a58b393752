//! The status of a DaemonSet, counted over its nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use serde_json::{Value, json};

use super::plan::{Observed, Place, availability, is_updated};
use crate::pods::{self, Availability};

/// The status, and when it changes without any event: a ready pod becomes available by the passing of time.
pub(super) fn compute(
    observed: &Observed<'_>,
    places: &BTreeMap<&str, Place<'_>>,
    collisions: i32,
) -> (DaemonSetStatus, Option<Duration>) {
    let (mut desired, mut current, mut misscheduled, mut ready, mut updated, mut available) = (0, 0, 0, 0, 0, 0);
    let mut next: Option<Duration> = None;
    // A node that is gone counts for nothing.
    for place in places.values().filter(|place| place.eligibility.is_some()) {
        // The oldest pod stands for the node.
        let oldest = place.pods.first();
        if !place.runs() {
            misscheduled += i32::from(oldest.is_some());
            continue;
        }
        desired += 1;
        let Some(pod) = oldest else { continue };
        current += 1;
        updated += i32::from(is_updated(pod, observed.hash));
        ready += i32::from(pods::is_ready(pod));
        match availability(observed, pod) {
            Availability::Available => available += 1,
            Availability::In(left) => next = Some(next.map_or(left, |next| next.min(left))),
            Availability::Unready => {}
        }
    }
    let some = |count: i32| (count != 0).then_some(count);
    let before = observed.daemon.status.as_ref();
    let counted = before.and_then(|status| status.collision_count);
    let status = DaemonSetStatus {
        observed_generation: observed.daemon.metadata.generation,
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misscheduled,
        number_ready: ready,
        updated_number_scheduled: some(updated),
        number_available: some(available),
        number_unavailable: some(desired - available),
        collision_count: some(collisions).or(counted),
        conditions: before.and_then(|status| status.conditions.clone()),
    };
    (status, next)
}

/// Merge patch to `status`; what is absent must be named to be removed. Conditions are others' business.
pub(super) fn patch(daemon: &DaemonSet, status: &DaemonSetStatus) -> Value {
    json!({"metadata": {"uid": daemon.metadata.uid}, "status": {
        "observedGeneration": status.observed_generation,
        "desiredNumberScheduled": status.desired_number_scheduled,
        "currentNumberScheduled": status.current_number_scheduled,
        "numberMisscheduled": status.number_misscheduled,
        "numberReady": status.number_ready,
        "updatedNumberScheduled": status.updated_number_scheduled,
        "numberAvailable": status.number_available,
        "numberUnavailable": status.number_unavailable,
        "collisionCount": status.collision_count,
    }})
}
