//! What scheduling needs to know of a pod, read once.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::{NodeSelectorTerm, Pod, PreferredSchedulingTerm, Toleration};
use reconcile::Key;

use crate::resources::{Resources, pod_requests};

/// A port of the node that a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Address; empty means all.
    pub ip: String,
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Number.
    pub port: i32,
}

impl HostPort {
    /// Whether both cannot be open on one node.
    pub(crate) fn conflicts(&self, other: &Self) -> bool {
        let any = |ip: &str| ip.is_empty() || ip == "0.0.0.0" || ip == "::";
        self.port == other.port
            && self.protocol == other.protocol
            && (any(&self.ip) || any(&other.ip) || self.ip == other.ip)
    }
}

/// A pod as the scheduler sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodInfo {
    /// Namespace and name.
    pub key: Key,
    /// Unique id.
    pub uid: String,
    /// What it asks for.
    pub requests: Resources,
    /// CPU (thousandths) and memory (bytes) as scoring counts them.
    pub score_requests: (i64, i64),
    /// The only node it accepts, when set.
    pub node_name: Option<String>,
    /// Labels its node must have.
    pub node_selector: BTreeMap<String, String>,
    /// Terms of which its node must match one; `None` accepts every node.
    pub node_affinity: Option<Vec<NodeSelectorTerm>>,
    /// Terms its node should match.
    pub node_preferences: Vec<PreferredSchedulingTerm>,
    /// Taints it tolerates.
    pub tolerations: Vec<Toleration>,
    /// Ports it opens on the node.
    pub host_ports: Vec<HostPort>,
    /// Stands for its controller (or, without one, for its app label): pods of one group are spread over nodes.
    pub group: Option<u64>,
    /// Pods of higher priority are placed first.
    pub priority: i32,
}

impl PodInfo {
    /// Reads a pod.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let mut info =
            Self { key: Key::of(pod), uid: meta.uid.clone().unwrap_or_default(), group: group(pod), ..Self::default() };
        let Some(spec) = &pod.spec else { return info };
        (info.requests, info.score_requests) = pod_requests(spec);
        info.node_name = spec.node_name.clone().filter(|name| !name.is_empty());
        info.node_selector = spec.node_selector.clone().unwrap_or_default();
        if let Some(affinity) = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref()) {
            let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
            info.node_affinity = required.map(|required| required.node_selector_terms.clone());
            info.node_preferences =
                affinity.preferred_during_scheduling_ignored_during_execution.clone().unwrap_or_default();
        }
        info.tolerations = spec.tolerations.clone().unwrap_or_default();
        let restartable = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.is_some());
        info.host_ports = spec
            .containers
            .iter()
            .chain(restartable)
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                Some(HostPort {
                    ip: port.host_ip.clone().unwrap_or_default(),
                    protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    port: port.host_port.filter(|port| *port > 0)?,
                })
            })
            .collect();
        info.priority = spec.priority.unwrap_or(0);
        info
    }
}

fn group(pod: &Pod) -> Option<u64> {
    let meta = &pod.metadata;
    let controller = meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true));
    let mut hasher = DefaultHasher::new();
    meta.namespace.hash(&mut hasher);
    match controller {
        Some(owner) => owner.uid.hash(&mut hasher),
        None => {
            let labels = meta.labels.as_ref()?;
            labels.get("app.kubernetes.io/name").or_else(|| labels.get("app"))?.hash(&mut hasher);
        }
    }
    Some(hasher.finish())
}
