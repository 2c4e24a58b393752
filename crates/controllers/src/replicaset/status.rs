//! The status of a ReplicaSet or ReplicationController, computed from its pods.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::facts::Fact;
use super::set::Set;
use crate::conditions;
use crate::pods::{self, Availability};
use crate::selector::{Labels, contains_all};

const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What could not be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Create,
    Delete,
}

/// The status, and when it changes without any event: a ready pod becomes available by the passing of time.
pub(super) fn compute<S: Set>(
    set: &S,
    owned: &[Fact],
    failure: Option<(Failure, String)>,
    now: Timestamp,
) -> (ReplicaSetStatus, Option<Duration>) {
    let (none, template) = (Labels::new(), set.template_labels());
    let template = template.unwrap_or(&none);
    let min_ready = set.min_ready_seconds();
    let (mut replicas, mut labelled, mut ready, mut available, mut terminating) = (0, 0, 0, 0, 0);
    let mut next: Option<Duration> = None;
    for pod in owned {
        if pod.is_leaving && !pod.is_terminal {
            terminating += 1;
        }
        if !pod.is_active() {
            continue;
        }
        replicas += 1;
        labelled += i32::from(contains_all(pod.labels(), template));
        ready += i32::from(pod.is_ready);
        match pods::availability_of(pod.is_ready, pod.ready_since, min_ready, now) {
            Availability::Available => available += 1,
            Availability::In(left) => next = Some(next.map_or(left, |next| next.min(left))),
            Availability::Unready => {}
        }
    }
    let some = |count: i32| (count != 0).then_some(count);
    let status = ReplicaSetStatus {
        replicas,
        fully_labeled_replicas: some(labelled),
        ready_replicas: some(ready),
        available_replicas: some(available),
        // Said also when it is zero: a Deployment wants to know that it was counted.
        terminating_replicas: S::COUNTS_TERMINATING.then_some(terminating),
        observed_generation: set.meta().generation,
        conditions: told(set, failure, now),
    };
    (status, next)
}

/// Of so many parts of a set one is enough to tell at once of its readiness.
const PARTS: i32 = 20;

/// Whether somebody waits for the change: a rollout goes on with pods that are available or gone, people look at conditions.
/// Of a large set not every single pod is told of.
pub(super) fn is_urgent(before: Option<&ReplicaSetStatus>, now: &ReplicaSetStatus, wanted: i32) -> bool {
    let count = |of: fn(&ReplicaSetStatus) -> Option<i32>| (before.and_then(of).unwrap_or(0), of(now).unwrap_or(0));
    let turned = |(before, now): (i32, i32)| {
        let part = before.max(now).max(wanted) / PARTS;
        before != now && (now == wanted || (before - now).abs() >= part || now < before.min(wanted))
    };
    let (replicas_before, replicas) = count(|status| Some(status.replicas));
    turned(count(|status| status.available_replicas))
        || turned(count(|status| status.ready_replicas))
        || (replicas < replicas_before && replicas <= wanted)
        || before.and_then(|before| before.conditions.as_ref()) != now.conditions.as_ref()
}

fn told<S: Set>(set: &S, failure: Option<(Failure, String)>, now: Timestamp) -> Option<Vec<ReplicaSetCondition>> {
    let current = set.status().and_then(|status| status.conditions).unwrap_or_default();
    let (before, mut conditions): (Vec<_>, Vec<_>) = current.into_iter().partition(|c| c.type_ == REPLICA_FAILURE);
    if let Some((kind, message)) = failure {
        let reason = match kind {
            Failure::Create => "FailedCreate",
            Failure::Delete => "FailedDelete",
        };
        // The first message stays, as upstream has it, so that a failure does not rewrite the status on each retry.
        let same = before.into_iter().find(|condition| condition.reason.as_deref() == Some(reason));
        conditions.push(same.unwrap_or_else(|| ReplicaSetCondition {
            type_: REPLICA_FAILURE.into(),
            status: "True".into(),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(Time(now)),
        }));
    }
    (!conditions.is_empty()).then_some(conditions)
}

/// Merge patch from the set's status to `status`; what is absent must be named to be removed.
pub(super) fn patch<S: Set>(set: &S, status: &ReplicaSetStatus) -> Value {
    let mut patch = json!({"metadata": {"uid": set.meta().uid}, "status": {
        "replicas": status.replicas,
        "fullyLabeledReplicas": status.fully_labeled_replicas,
        "readyReplicas": status.ready_replicas,
        "availableReplicas": status.available_replicas,
        "observedGeneration": status.observed_generation,
    }});
    let before = set.status().and_then(|status| status.conditions);
    conditions::write(&mut patch, set.meta(), before.as_ref(), status.conditions.as_ref());
    if S::COUNTS_TERMINATING {
        patch["status"]["terminatingReplicas"] = json!(status.terminating_replicas);
    }
    patch
}
