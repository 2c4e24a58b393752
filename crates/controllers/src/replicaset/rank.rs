//! Which pods to delete first when there are too many. The order is upstream's: what would be missed least goes first.

use std::cmp::Reverse;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use crate::pods;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Positions of the `count` pods to delete.
pub(crate) fn to_delete(active: &[Arc<Pod>], related: &[usize], count: usize, now: Timestamp) -> Vec<usize> {
    let mut order: Vec<usize> = (0..active.len()).collect();
    order.sort_by_cached_key(|at| Rank::of(&active[*at], related.get(*at).copied().unwrap_or(0), now));
    order.truncate(count);
    order
}

/// How old the chosen pods are that are ready, in ages of the youngest ready pod. Beyond two the order is no longer that of
/// their ages.
pub(crate) fn age_ratios(active: &[Arc<Pod>], chosen: &[usize], now: Timestamp) -> Vec<f64> {
    let age = |pod: &Arc<Pod>| {
        let created = pod.metadata.creation_timestamp.as_ref().filter(|_| pods::is_ready(pod))?;
        Some(now.duration_since(created.0).as_secs_f64())
    };
    let Some(youngest) = active.iter().filter_map(age).reduce(f64::min).filter(|age| *age > 0.0) else {
        return Vec::new();
    };
    chosen.iter().filter_map(|at| age(active.get(*at)?)).map(|age| age / youngest).collect()
}

/// Smaller is deleted first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    assigned: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    crowd: Reverse<usize>,
    /// Ready for longer is worth more; ages are compared by powers of two, so that similar ones do not pin the choice to
    /// the newest pods and thereby to one zone.
    ready_age_log2: u32,
    restarts: Reverse<i32>,
    sidecar_restarts: Reverse<i32>,
    age_log2: u32,
    uid: String,
}

impl Rank {
    fn of(pod: &Pod, related: usize, now: Timestamp) -> Self {
        let annotations = pod.metadata.annotations.as_ref();
        let cost = annotations.and_then(|annotations| annotations.get(DELETION_COST)?.parse().ok()).unwrap_or(0);
        let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
        let initial = pod.status.iter().flat_map(|status| status.init_container_statuses.iter().flatten());
        let sidecars = initial.filter(|status| is_sidecar(pod, &status.name));
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        Self {
            assigned: pods::node_name(pod).is_some(),
            phase: match pods::phase(pod) {
                "Running" => 2,
                "Unknown" => 1,
                _ => 0,
            },
            ready: pods::is_ready(pod),
            cost,
            crowd: Reverse(related),
            ready_age_log2: age_log2(pods::ready_since(pod), now),
            restarts: Reverse(statuses.map(|status| status.restart_count).max().unwrap_or(0)),
            sidecar_restarts: Reverse(sidecars.map(|status| status.restart_count).max().unwrap_or(0)),
            age_log2: age_log2(created, now),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
        }
    }
}

fn is_sidecar(pod: &Pod, name: &str) -> bool {
    let mut containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    containers.any(|container| container.name == name && container.restart_policy.as_deref() == Some("Always"))
}

fn age_log2(since: Option<Timestamp>, now: Timestamp) -> u32 {
    let seconds = since.map_or(0, |since| now.duration_since(since).as_secs().max(0));
    seconds.unsigned_abs().checked_ilog2().map_or(0, |log| log + 1)
}
