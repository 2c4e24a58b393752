//! What is known about the nodes, kept current by one change at a time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod::{HostPort, PodInfo};
use crate::resources::Resources;

/// A node and what its pods take of it.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// What pods may use.
    pub allocatable: Resources,
    /// What the pods placed here ask for.
    pub requested: Resources,
    /// CPU (thousandths) and memory (bytes) of the pods placed here, as scoring counts them.
    pub(crate) score_requested: (i64, i64),
    /// Ports taken by pods.
    pub(crate) host_ports: Vec<HostPort>,
    /// Pods per group.
    pub(crate) groups: HashMap<u64, u32>,
    pod_count: usize,
    /// Pods may be known before their node, and outlive it.
    exists: bool,
}

impl NodeInfo {
    /// Whether there is a node object, not just pods that name it.
    pub fn exists(&self) -> bool {
        self.exists
    }

    fn add(&mut self, pod: &PodInfo) {
        self.pod_count += 1;
        self.requested.add(&pod.requests);
        self.score_requested.0 += pod.score_requests.0;
        self.score_requested.1 += pod.score_requests.1;
        self.host_ports.extend(pod.host_ports.iter().cloned());
        if let Some(group) = pod.group {
            *self.groups.entry(group).or_default() += 1;
        }
    }

    fn remove(&mut self, pod: &PodInfo) {
        self.pod_count -= 1;
        self.requested.subtract(&pod.requests);
        self.score_requested.0 -= pod.score_requests.0;
        self.score_requested.1 -= pod.score_requests.1;
        for port in &pod.host_ports {
            if let Some(at) = self.host_ports.iter().position(|taken| taken == port) {
                self.host_ports.swap_remove(at);
            }
        }
        if let Some(group) = pod.group
            && let Some(count) = self.groups.get_mut(&group)
        {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(&group);
            }
        }
    }
}

/// All nodes with the pods placed on them.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, usize>,
    /// Each placed pod by uid, with its node's name.
    placed: HashMap<String, (String, Arc<PodInfo>)>,
}

impl Snapshot {
    /// No nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// All entries; those without a node object do not [exist](NodeInfo::exists).
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).and_then(|at| self.nodes.get(*at)).filter(|node| node.exists)
    }

    /// Takes over a new or changed node.
    pub fn set_node(&mut self, node: &Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        let info = self.entry(&name);
        info.exists = true;
        info.labels = node.metadata.labels.clone().unwrap_or_default();
        let spec = node.spec.as_ref();
        info.taints = spec.and_then(|spec| spec.taints.clone()).unwrap_or_default();
        info.unschedulable = spec.and_then(|spec| spec.unschedulable).unwrap_or(false);
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        info.allocatable = allocatable.map(Resources::of).unwrap_or_default();
    }

    /// Forgets a node; what its pods take is remembered in case it comes back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(&at) = self.by_name.get(name) {
            self.nodes[at].exists = false;
            self.drop_if_unused(at);
        }
    }

    /// Counts a pod as placed on a node, whether assumed or seen; placing it again moves it.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        if let Some((before, known)) = self.placed.get(&pod.uid)
            && before == node
            && known.requests == pod.requests
            && known.host_ports == pod.host_ports
        {
            return;
        }
        self.remove_pod(&pod.uid);
        self.entry(node).add(&pod);
        self.placed.insert(pod.uid.clone(), (node.to_owned(), pod));
    }

    /// Gives back what a pod took; returns the name of its node.
    pub fn remove_pod(&mut self, uid: &str) -> Option<String> {
        let (name, pod) = self.placed.remove(uid)?;
        if let Some(&at) = self.by_name.get(&name) {
            self.nodes[at].remove(&pod);
            self.drop_if_unused(at);
        }
        Some(name)
    }

    /// The node a pod is placed on.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        self.placed.get(uid).map(|(name, _)| name.as_str())
    }

    fn entry(&mut self, name: &str) -> &mut NodeInfo {
        let at = match self.by_name.get(name) {
            Some(at) => *at,
            None => {
                self.nodes.push(NodeInfo { name: name.to_owned(), ..NodeInfo::default() });
                self.by_name.insert(name.to_owned(), self.nodes.len() - 1);
                self.nodes.len() - 1
            }
        };
        &mut self.nodes[at]
    }

    fn drop_if_unused(&mut self, at: usize) {
        if self.nodes[at].exists || self.nodes[at].pod_count > 0 {
            return;
        }
        let gone = self.nodes.swap_remove(at);
        self.by_name.remove(&gone.name);
        if let Some(moved) = self.nodes.get(at) {
            self.by_name.insert(moved.name.clone(), at);
        }
    }
}
