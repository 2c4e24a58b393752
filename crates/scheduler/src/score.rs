//! Scores: of the nodes that take a pod, which is best. Each score goes from 0 to 100; weights are upstream's.

use crate::matching::{matches_term, tolerated};
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

const BEST: i64 = 100;
/// Free room and balance count once each, as upstream.
const RESOURCES_WEIGHT: i64 = 1;
/// Spreading a group outweighs packing, as upstream's PodTopologySpread.
const SPREAD_WEIGHT: i64 = 2;
/// As upstream's NodeAffinity.
const PREFERENCE_WEIGHT: i64 = 2;
/// As upstream's TaintToleration.
const TAINT_WEIGHT: i64 = 3;

/// What is compared between nodes before it can be a score.
pub(crate) struct Raw {
    resources: i64,
    group: i64,
    preference: i64,
    taints: i64,
}

impl Raw {
    pub(crate) fn of(node: &NodeInfo, pod: &PodInfo) -> Self {
        let shunned = |taint: &&k8s_openapi::api::core::v1::Taint| {
            taint.effect == "PreferNoSchedule" && !tolerated(&pod.tolerations, taint)
        };
        let group = pod.group.and_then(|group| node.groups.get(&group)).copied().unwrap_or(0);
        let preference = pod
            .node_preferences
            .iter()
            .filter(|term| matches_term(&term.preference, &node.name, &node.labels))
            .map(|term| i64::from(term.weight))
            .sum();
        Self {
            resources: least_allocated(node, pod) + balanced_allocation(node, pod),
            group: i64::from(group),
            preference,
            taints: i64::try_from(node.taints.iter().filter(shunned).count()).unwrap_or(i64::MAX),
        }
    }
}

/// The largest of each raw value over all candidates, against which scores are measured.
pub(crate) struct Scale {
    group: i64,
    preference: i64,
    taints: i64,
}

impl Scale {
    pub(crate) fn of(raw: &[(usize, Raw)]) -> Self {
        let largest = |of: fn(&Raw) -> i64| raw.iter().map(|(_, raw)| of(raw)).max().unwrap_or(0);
        Self { group: largest(|r| r.group), preference: largest(|r| r.preference), taints: largest(|r| r.taints) }
    }

    pub(crate) fn total(&self, raw: &Raw) -> i64 {
        let fewer_is_better =
            |value: i64, largest: i64| if largest == 0 { BEST } else { BEST - BEST * value / largest };
        let more_is_better = |value: i64, largest: i64| if largest == 0 { 0 } else { BEST * value / largest };
        RESOURCES_WEIGHT * raw.resources
            + SPREAD_WEIGHT * fewer_is_better(raw.group, self.group)
            + PREFERENCE_WEIGHT * more_is_better(raw.preference, self.preference)
            + TAINT_WEIGHT * fewer_is_better(raw.taints, self.taints)
    }
}

fn used(node: &NodeInfo, pod: &PodInfo) -> [(i64, i64); 2] {
    let (cpu, memory) = node.score_requested;
    [
        (cpu.saturating_add(pod.score_requests.0), node.allocatable.cpu_milli),
        (memory.saturating_add(pod.score_requests.1), node.allocatable.memory_bytes),
    ]
}

fn least_allocated(node: &NodeInfo, pod: &PodInfo) -> i64 {
    let free = |(used, have): (i64, i64)| {
        if have <= 0 || used >= have {
            0
        } else {
            i64::try_from(i128::from(have - used) * 100 / i128::from(have)).unwrap_or(0)
        }
    };
    used(node, pod).map(free).iter().sum::<i64>() / 2
}

/// Best where CPU and memory are used in the same proportion.
fn balanced_allocation(node: &NodeInfo, pod: &PodInfo) -> i64 {
    let thousandths = |(used, have): (i64, i64)| {
        if have <= 0 {
            1000
        } else {
            i64::try_from(i128::from(used) * 1000 / i128::from(have)).unwrap_or(1000).min(1000)
        }
    };
    let [cpu, memory] = used(node, pod).map(thousandths);
    BEST - (cpu - memory).abs() / 20
}
