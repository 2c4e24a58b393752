//! What controllers ask about pods.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Resource;
use serde_json::{Value, json};

use crate::owners;

/// A pod of `template` that `owner` controls; the API server completes its name.
pub(crate) fn from_template<O: Resource<DynamicType = ()>>(template: PodTemplateSpec, owner: &O) -> Pod {
    let from = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: owner.meta().name.as_ref().map(|name| format!("{name}-")),
            namespace: owner.meta().namespace.clone(),
            labels: from.labels,
            annotations: from.annotations,
            finalizers: from.finalizers,
            owner_references: Some(vec![owners::controller_reference(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The pod's phase; empty before anything is known.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether all containers have ended for good.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the pod counts as a running replica or will become one.
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && pod.metadata.deletion_timestamp.is_none()
}

/// The pod's condition of a type.
pub(crate) fn condition<'a>(pod: &'a Pod, type_: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.iter().flatten().find(|condition| condition.type_ == type_)
}

/// Whether the pod takes traffic.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|ready| ready.status == "True")
}

/// Since when the pod has been ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = condition(pod, "Ready").filter(|ready| ready.status == "True")?;
    ready.last_transition_time.as_ref().map(|time| time.0)
}

/// Whether a pod has been ready for long enough.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Availability {
    /// It has.
    Available,
    /// It will have after this time, if it stays ready.
    In(Duration),
    /// It is not ready.
    Unready,
}

/// Whether the pod has been ready for `min_ready_seconds`.
pub(crate) fn availability(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Availability {
    availability_of(is_ready(pod), ready_since(pod), min_ready_seconds, now)
}

/// Whether what is ready since then has been for `min_ready_seconds`.
pub(crate) fn availability_of(
    is_ready: bool,
    since: Option<Timestamp>,
    min_ready_seconds: i32,
    now: Timestamp,
) -> Availability {
    if !is_ready {
        return Availability::Unready;
    }
    let needed = Duration::from_secs(min_ready_seconds.max(0).unsigned_abs().into());
    let Some(since) = since else {
        return if needed.is_zero() { Availability::Available } else { Availability::Unready };
    };
    let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
    match needed.checked_sub(elapsed) {
        None | Some(Duration::ZERO) => Availability::Available,
        Some(left) => Availability::In(left),
    }
}

/// The name of the pod's node.
pub(crate) fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

/// Why a pod is about to be deleted by no fault of its own.
pub(crate) struct DisruptionTarget {
    pub(crate) reason: &'static str,
    pub(crate) message: &'static str,
}

impl DisruptionTarget {
    /// The condition of a pod that says so; one that said so already keeps the time.
    pub(crate) fn condition(&self, pod: &Pod, now: Timestamp) -> Value {
        let known = condition(pod, "DisruptionTarget").filter(|known| known.status == "True");
        let since = known.and_then(|known| known.last_transition_time.as_ref()).map_or(now, |time| time.0);
        json!({"type": "DisruptionTarget", "status": "True", "reason": self.reason, "message": self.message,
            "lastTransitionTime": Time(since), "observedGeneration": pod.metadata.generation})
    }

    /// A strategic merge patch of the status of exactly this pod that says so.
    pub(crate) fn patch(&self, pod: &Pod, now: Timestamp) -> Value {
        json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [self.condition(pod, now)]}})
    }
}
