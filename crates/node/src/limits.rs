//! Kernel resource limits and cgroup parent of a pod.

use k8s_openapi::api::core::v1::Container;
use kinds::quantity::units;
use pod_lifecycle::qos::{QosClass, amount};
use runtime::api::Resources;

/// Period of the CPU quota, the kernel's default.
const CPU_PERIOD_US: u64 = 100_000;
/// The kernel's least quota.
const CPU_QUOTA_US_MIN: i64 = 1000;
/// The kernel's bounds of CPU shares (cgroup v1).
const CPU_SHARES: (u64, u64) = (2, 262_144);
/// Processes a container may have: enough for any server, far from the machine's limit.
const PIDS_MAX: i64 = 4096;

/// The pod's cgroup below the instance's.
pub(crate) fn cgroup_parent(class: QosClass, uid: &str) -> String {
    match class {
        QosClass::Guaranteed => format!("pod{uid}"),
        QosClass::Burstable => format!("burstable/pod{uid}"),
        QosClass::BestEffort => format!("besteffort/pod{uid}"),
    }
}

/// The kernel's limits for one container.
pub(crate) fn resources(class: QosClass, container: &Container, node_memory_bytes: u64) -> Resources {
    let limits = container.resources.as_ref().map(|resources| &resources.limits);
    let requests = container.resources.as_ref().map(|resources| &resources.requests);
    let cpu_limit = amount(limits, "cpu");
    let cpu_request = amount(requests, "cpu").or(cpu_limit);
    let memory_limit = limits.and_then(|limits| limits.as_ref()?.get("memory")).and_then(|limit| units(&limit.0));
    let memory_request = requests
        .and_then(|requests| requests.as_ref()?.get("memory"))
        .and_then(|request| units(&request.0))
        .or(memory_limit);
    let shares = cpu_request.map_or(CPU_SHARES.0, |milli| {
        u64::try_from(milli.saturating_mul(1024) / 1000).unwrap_or(CPU_SHARES.1).clamp(CPU_SHARES.0, CPU_SHARES.1)
    });
    let quota = cpu_limit.map(|milli| (milli.saturating_mul(CPU_PERIOD_US as i64) / 1000).max(CPU_QUOTA_US_MIN));
    Resources {
        cpu_shares: Some(shares),
        cpu_quota_us: quota,
        cpu_period_us: quota.map(|_| CPU_PERIOD_US),
        memory_limit_bytes: memory_limit.filter(|limit| *limit > 0),
        pids_limit: Some(PIDS_MAX),
        oom_score_adj: Some(oom_score_adj(class, memory_request.unwrap_or(0), node_memory_bytes)),
    }
}

/// Upstream's scale: guaranteed pods go last, best-effort pods first, burstable ones by the share of memory they asked.
fn oom_score_adj(class: QosClass, memory_request: i64, node_memory_bytes: u64) -> i32 {
    match class {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let share = 1000 * i128::from(memory_request) / i128::from(node_memory_bytes.max(1));
            (1000 - share).clamp(3, 999) as i32
        }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::PodSpec;
    use pod_lifecycle::qos::qos_class;
    use serde_json::json;

    use super::*;

    fn pod(resources: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({"containers": [{"name": "a", "resources": resources}]})).unwrap()
    }

    #[test]
    fn classes_and_limits_follow_requests() {
        let cases = [
            (json!({}), QosClass::BestEffort, 2, None, 1000),
            (json!({"requests": {"cpu": "500m", "memory": "1Gi"}}), QosClass::Burstable, 512, None, 750),
            (json!({"limits": {"cpu": "2", "memory": "1Gi"}}), QosClass::Guaranteed, 2048, Some(200_000), -997),
            (json!({"limits": {"cpu": "1m"}}), QosClass::Burstable, 2, Some(1000), 999),
            (
                json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1", "memory": "512Mi"}}),
                QosClass::Burstable,
                1024,
                Some(100_000),
                875,
            ),
        ];
        for (wanted, class, shares, quota, oom) in cases {
            let spec = pod(wanted.clone());
            assert_eq!(qos_class(&spec), class, "{wanted}");
            let limits = resources(class, &spec.containers[0], 4 << 30);
            assert_eq!((limits.cpu_shares, limits.cpu_quota_us), (Some(shares), quota), "{wanted}");
            assert_eq!(limits.oom_score_adj, Some(oom), "{wanted}");
        }
    }
}
