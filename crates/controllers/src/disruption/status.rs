//! What a PodDisruptionBudget allows: pure arithmetic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::percentage::{self, Round};
use crate::pods;

/// A pod whose eviction was allowed must be on its way out this long after, upstream's value: then the eviction counts as
/// failed, and the pod as healthy again.
const DELETION_MAX: Duration = Duration::from_secs(120);
/// The condition that says whether pods may be evicted.
const ALLOWED: &str = "DisruptionAllowed";

/// Whether it must be known how many pods their controllers want.
pub(super) fn needs_scale(spec: &PodDisruptionBudgetSpec) -> bool {
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(_), _) => true,
        (None, Some(IntOrString::String(_))) => true,
        (None, Some(IntOrString::Int(_)) | None) => false,
    }
}

/// How many pods there should be, and how many of them healthy. `wanted` is what the pods' controllers want, where that
/// [is needed](needs_scale).
fn expected(spec: &PodDisruptionBudgetSpec, pods: usize, wanted: i32) -> (i32, i32) {
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => (wanted, (wanted - percentage::resolve(most, wanted, Round::Up)).max(0)),
        (None, Some(IntOrString::Int(least))) => (i32::try_from(pods).unwrap_or(i32::MAX), *least),
        (None, Some(least)) => (wanted, percentage::resolve(least, wanted, Round::Up)),
        (None, None) => (0, 0),
    }
}

/// The status, and what else there is to say.
pub(super) struct Outcome {
    pub(super) status: PodDisruptionBudgetStatus,
    /// Pods that were to be evicted and were not.
    pub(super) not_deleted: Vec<Arc<Pod>>,
    /// When to look again.
    pub(super) wake: Option<Duration>,
}

/// Computes the status from the pods that the budget selects.
pub(super) fn compute(
    budget: &PodDisruptionBudget,
    spec: &PodDisruptionBudgetSpec,
    pods: &[Arc<Pod>],
    wanted: i32,
    now: Timestamp,
) -> Outcome {
    let known = budget.status.clone().unwrap_or_default();
    let evicted = known.disrupted_pods.clone().unwrap_or_default();
    let (mut disrupted, mut not_deleted, mut wake) = (BTreeMap::new(), Vec::new(), None);
    let mut healthy = 0;
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        if let Some(at) = evicted.get(&name) {
            let elapsed = Duration::try_from(now.duration_since(at.0)).unwrap_or(Duration::ZERO);
            match DELETION_MAX.checked_sub(elapsed).filter(|left| !left.is_zero()) {
                Some(left) => {
                    disrupted.insert(name, at.clone());
                    wake = Some(wake.map_or(left, |wake: Duration| wake.min(left)));
                    continue;
                }
                None => not_deleted.push(Arc::clone(pod)),
            }
        }
        healthy += i32::from(pods::is_ready(pod));
    }
    let (expected, desired) = expected(spec, pods.len(), wanted);
    let allowed = if expected <= 0 { 0 } else { (healthy - desired).max(0) };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: budget.metadata.generation,
        conditions: known.conditions,
    };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    set_allowed(&mut status, allowed > 0, reason, "", now);
    Outcome { status, not_deleted, wake }
}

/// The status when nothing can be computed: no disruption is allowed. What it was computed from stays, as does the
/// generation that was understood last.
pub(super) fn fail_safe(budget: &PodDisruptionBudget, why: &str, now: Timestamp) -> PodDisruptionBudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    status.disruptions_allowed = Some(0);
    set_allowed(&mut status, false, "SyncFailed", why, now);
    status
}

fn set_allowed(status: &mut PodDisruptionBudgetStatus, allowed: bool, reason: &str, message: &str, now: Timestamp) {
    let value = if allowed { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let mut wanted = Condition {
        type_: ALLOWED.to_owned(),
        status: value.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: status.observed_generation,
        last_transition_time: Time(now),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == ALLOWED) {
        Some(known) => {
            if known.status == wanted.status {
                wanted.last_transition_time = known.last_transition_time.clone();
            }
            *known = wanted;
        }
        None => conditions.push(wanted),
    }
}

/// How much longer a pod may say that it is about to be disrupted without being deleted; `None` when it does not say so.
pub(super) fn disruption_left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let target = pods::condition(pod, "DisruptionTarget").filter(|target| target.status == "True")?;
    if pod.metadata.deletion_timestamp.is_some() || pods::is_terminal(pod) {
        return None;
    }
    let since = target.last_transition_time.as_ref().map_or(now, |time| time.0);
    let elapsed = Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO);
    Some(DELETION_MAX.saturating_sub(elapsed))
}
