//! The status of a deployment: counts, and the conditions `Available` and `Progressing` with upstream's reasons.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::core::ObjectMeta;
use serde_json::{Value, json};

use super::plan::{Bounds, Member, Sets};
use crate::conditions;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const CREATED: &str = "NewReplicaSetCreated";
const FOUND: &str = "FoundNewReplicaSet";
const PAUSED: &str = "DeploymentPaused";

/// Counts and the `Available` and `ReplicaFailure` conditions; `Progressing` is carried over.
pub(super) fn compute(deployment: &Deployment, sets: &Sets, bounds: Bounds, now: Timestamp) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let sum = |of: fn(&Member) -> i32| sets.all().map(of).sum::<i32>();
    let replicas = sum(|m| m.set.status.as_ref().map_or(0, |s| s.replicas));
    let ready = sum(|m| m.set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0));
    let available = sum(Member::available);
    // Unknown as long as one set has not counted.
    let terminating = sets.all().map(|m| m.set.status.as_ref()?.terminating_replicas).sum();
    let updated = sets.new.as_ref().and_then(|new| new.set.status.as_ref()).map_or(0, |status| status.replicas);
    let unavailable = (sets.total() - available).max(0);
    let some = |count: i32| (count != 0).then_some(count);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(replicas),
        updated_replicas: some(updated),
        ready_replicas: some(ready),
        available_replicas: some(available),
        unavailable_replicas: some(unavailable),
        terminating_replicas: terminating,
        collision_count: before.collision_count,
        conditions: before.conditions,
    };
    let (value, reason, message) = if available >= bounds.replicas - bounds.max_unavailable {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set(&mut status, AVAILABLE, value, reason, message.into(), now);
    let failure = sets
        .new
        .iter()
        .chain(sets.old.iter().rev())
        .filter_map(|member| member.set.status.as_ref()?.conditions.as_ref())
        .flatten()
        .find(|condition| condition.type_ == REPLICA_FAILURE);
    match failure {
        Some(failure) => {
            let reason = failure.reason.clone().unwrap_or_default();
            let message = failure.message.clone().unwrap_or_default();
            set(&mut status, REPLICA_FAILURE, &failure.status, &reason, message, now);
        }
        None => remove(&mut status, REPLICA_FAILURE),
    }
    status
}

/// Notes that a new set is being created.
pub(super) fn created(status: &mut DeploymentStatus, deployment: &Deployment, name: &str, now: Timestamp) {
    if deadline(deployment).is_some() {
        set(status, PROGRESSING, "True", CREATED, format!("Created new replica set \"{name}\""), now);
    }
}

/// Notes that the set of the template was there already, when nothing has been said of progress before.
pub(super) fn found(status: &mut DeploymentStatus, deployment: &Deployment, name: &str, now: Timestamp) {
    if deadline(deployment).is_some() && find(status, PROGRESSING).is_none() {
        set(status, PROGRESSING, "True", FOUND, format!("Found new replica set \"{name}\""), now);
    }
}

/// Takes [`created`] back when the creation failed.
pub(super) fn drop_created(status: &mut DeploymentStatus, deployment: &Deployment) {
    let before = deployment.status.as_ref().and_then(|status| find(status, PROGRESSING)).cloned();
    remove(status, PROGRESSING);
    status.conditions.get_or_insert_default().extend(before);
}

/// Sets the `Progressing` condition.
pub(super) fn set_progressing(
    status: &mut DeploymentStatus,
    value: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    set(status, PROGRESSING, value, reason, message, now);
}

/// Notes that a deployment was paused or resumed, so that the pause does not count as lack of progress.
pub(super) fn paused(status: &mut DeploymentStatus, deployment: &Deployment, paused: bool, now: Timestamp) {
    let timed_out = find(status, PROGRESSING).is_some_and(|condition| condition.reason.as_deref() == Some(TIMED_OUT));
    if paused && deadline(deployment).is_some() && !timed_out {
        set(status, PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into(), now);
    }
}

/// Judges progress since the last status; returns when the deadline should be looked at.
pub(super) fn progress(
    status: &mut DeploymentStatus,
    deployment: &Deployment,
    sets: &Sets,
    now: Timestamp,
) -> Option<Duration> {
    let Some(deadline) = deadline(deployment) else {
        remove(status, PROGRESSING);
        return None;
    };
    let resumed = find(status, PROGRESSING).is_some_and(|condition| condition.reason.as_deref() == Some(PAUSED));
    if resumed {
        set(status, PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into(), now);
    }
    let subject = match &sets.new {
        Some(new) => format!("ReplicaSet \"{}\"", new.set.name_any()),
        None => format!("Deployment \"{}\"", deployment.name_any()),
    };
    let was_complete = find(status, PROGRESSING).is_some_and(|c| c.reason.as_deref() == Some(NEW_AVAILABLE))
        && status.replicas == status.updated_replicas;
    if !was_complete {
        if is_complete(deployment, status) {
            set(status, PROGRESSING, "True", NEW_AVAILABLE, format!("{subject} has successfully progressed."), now);
        } else if has_progressed(deployment, status) {
            let since =
                find(status, PROGRESSING).filter(|c| c.status == "True").and_then(|c| c.last_transition_time.clone());
            remove(status, PROGRESSING);
            set(status, PROGRESSING, "True", "ReplicaSetUpdated", format!("{subject} is progressing."), now);
            if let (Some(since), Some(condition)) = (since, find_mut(status, PROGRESSING)) {
                condition.last_transition_time = Some(since);
            }
        } else if is_timed_out(status, deadline, now) {
            set(status, PROGRESSING, "False", TIMED_OUT, format!("{subject} has timed out progressing."), now);
        }
    }
    time_to_deadline(status, deployment, deadline, now)
}

/// Whether all pods are of the current template and available, and no others are left.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    [status.updated_replicas, status.replicas, status.available_replicas]
        .iter()
        .all(|count| count.unwrap_or(0) == wanted)
}

/// Whether somebody waits for the change: for the deployment to be seen, to be complete, or to be in another condition.
/// Others see the counts a little later.
pub(super) fn is_urgent(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let nothing = DeploymentStatus::default();
    let before = deployment.status.as_ref().unwrap_or(&nothing);
    let said = |status: &DeploymentStatus| -> Vec<_> {
        let conditions = status.conditions.iter().flatten();
        conditions.map(|c| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.message.clone())).collect()
    };
    before.observed_generation != status.observed_generation
        || before.collision_count != status.collision_count
        || said(before) != said(status)
        || (is_complete(deployment, status) && !is_complete(deployment, before))
}

fn has_progressed(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let before = deployment.status.clone().unwrap_or_default();
    let count = |value: Option<i32>| value.unwrap_or(0);
    let old_ones = |status: &DeploymentStatus| count(status.replicas) - count(status.updated_replicas);
    count(status.updated_replicas) > count(before.updated_replicas)
        || old_ones(status) < old_ones(&before)
        || count(status.ready_replicas) > count(before.ready_replicas)
        || count(status.available_replicas) > count(before.available_replicas)
}

fn deadline(deployment: &Deployment) -> Option<Duration> {
    let seconds = deployment.spec.as_ref()?.progress_deadline_seconds.unwrap_or(600);
    // The largest number means no deadline.
    (seconds != i32::MAX).then(|| Duration::from_secs(seconds.max(0).unsigned_abs().into()))
}

fn since_update(condition: &DeploymentCondition, now: Timestamp) -> Duration {
    let updated = condition.last_update_time.as_ref().map_or(now, |time| time.0);
    Duration::try_from(now.duration_since(updated)).unwrap_or(Duration::ZERO)
}

fn is_timed_out(status: &DeploymentStatus, deadline: Duration, now: Timestamp) -> bool {
    find(status, PROGRESSING).is_some_and(|condition| match condition.reason.as_deref() {
        Some(TIMED_OUT) => true,
        Some(NEW_AVAILABLE) => false,
        _ => since_update(condition, now) > deadline,
    })
}

fn time_to_deadline(
    status: &DeploymentStatus,
    deployment: &Deployment,
    deadline: Duration,
    now: Timestamp,
) -> Option<Duration> {
    let condition = find(status, PROGRESSING)?;
    if is_complete(deployment, status) || matches!(condition.reason.as_deref(), Some(TIMED_OUT | NEW_AVAILABLE)) {
        return None;
    }
    // Times in objects are whole seconds.
    Some(deadline.saturating_sub(since_update(condition, now)) + Duration::from_secs(1))
}

fn find<'a>(status: &'a DeploymentStatus, type_: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

fn find_mut<'a>(status: &'a mut DeploymentStatus, type_: &str) -> Option<&'a mut DeploymentCondition> {
    status.conditions.iter_mut().flatten().find(|condition| condition.type_ == type_)
}

fn remove(status: &mut DeploymentStatus, type_: &str) {
    if let Some(conditions) = &mut status.conditions {
        conditions.retain(|condition| condition.type_ != type_);
    }
}

/// Sets a condition; nothing changes when status and reason are the same already.
fn set(status: &mut DeploymentStatus, type_: &str, value: &str, reason: &str, message: String, now: Timestamp) {
    let current = find(status, type_);
    if current.is_some_and(|current| current.status == value && current.reason.as_deref() == Some(reason)) {
        return;
    }
    let same_status = current.filter(|current| current.status == value);
    let since = same_status.and_then(|current| current.last_transition_time.clone()).unwrap_or(Time(now));
    let condition = DeploymentCondition {
        type_: type_.into(),
        status: value.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(since),
    };
    remove(status, type_);
    status.conditions.get_or_insert_default().push(condition);
}

/// Merge patch to `status` of the deployment, which is at `meta` by now; what is absent must be named to be removed.
pub(super) fn patch(deployment: &Deployment, meta: &ObjectMeta, status: &DeploymentStatus) -> Value {
    let mut patch = json!({"metadata": {"uid": meta.uid}, "status": {
        "observedGeneration": status.observed_generation,
        "replicas": status.replicas,
        "updatedReplicas": status.updated_replicas,
        "readyReplicas": status.ready_replicas,
        "availableReplicas": status.available_replicas,
        "unavailableReplicas": status.unavailable_replicas,
        "terminatingReplicas": status.terminating_replicas,
        "collisionCount": status.collision_count,
    }});
    let before = deployment.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions::write(&mut patch, meta, before, status.conditions.as_ref());
    patch
}
