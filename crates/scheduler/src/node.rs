//! A node as the scheduler sees it, and what its pods take of it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use kinds::demand::HostPort;
use kinds::matching::Labels;

use crate::resources::Resources;
use crate::shape::{ShapeParts, VolumeUse};

/// A node.
#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    /// Name.
    pub name: String,
    /// Labels.
    pub labels: Labels,
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
    /// Disks, claims and CSI volumes of the pods placed here, with the namespace of each.
    pub(crate) volumes: Vec<(String, VolumeUse)>,
    /// Images that are here.
    pub(crate) images: Vec<Arc<str>>,
    /// The pods placed here, by their number in the snapshot.
    pub(crate) pods: Vec<u32>,
    /// The pods for which room is made here.
    pub(crate) nominated: Vec<Arc<str>>,
    /// The number of this node; stays the same while the node exists.
    pub(crate) slot: u32,
    /// The snapshot's version at the last change of the node itself.
    pub(crate) object_version: u64,
    /// The snapshot's version at the last change of its pods.
    pub(crate) pods_version: u64,
    /// Pods may be known before their node, and outlive it.
    pub(crate) exists: bool,
}

/// What of a node has changed, as far as scheduling is concerned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeChange {
    /// It is new.
    pub added: bool,
    /// Its labels.
    pub labels: bool,
    /// Its taints, or whether pods may come at all.
    pub taints: bool,
    /// What pods may use.
    pub allocatable: bool,
    /// Its images.
    pub images: bool,
}

impl NodeChange {
    /// Whether anything has.
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// The part of a node that its API object says.
pub(crate) struct NodeObject {
    pub(crate) labels: Labels,
    pub(crate) taints: Vec<Taint>,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Resources,
    pub(crate) images: Vec<(String, i64)>,
}

impl NodeObject {
    pub(crate) fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let status = node.status.as_ref();
        let images = status.and_then(|status| status.images.as_deref()).unwrap_or_default();
        let named = images.iter().flat_map(|image| {
            let size = image.size_bytes.unwrap_or(0);
            image.names.iter().flatten().map(move |name| (name.clone(), size))
        });
        Self {
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.and_then(|spec| spec.taints.clone()).unwrap_or_default(),
            unschedulable: spec.and_then(|spec| spec.unschedulable).unwrap_or(false),
            allocatable: status.and_then(|s| s.allocatable.as_ref()).map(Resources::of).unwrap_or_default(),
            images: named.collect(),
        }
    }
}

impl NodeInfo {
    /// Whether there is a node object, not just pods that name it.
    pub fn exists(&self) -> bool {
        self.exists
    }

    /// How many pods are placed here.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    pub(crate) fn add(&mut self, shape: &ShapeParts) {
        self.requested.add(&shape.requests.fit);
        self.score_requested.0 += shape.requests.score.0;
        self.score_requested.1 += shape.requests.score.1;
        self.host_ports.extend(shape.host_ports.iter().cloned());
        self.volumes.extend(shape.volumes.iter().map(|volume| (shape.namespace.clone(), volume.clone())));
    }

    pub(crate) fn remove(&mut self, shape: &ShapeParts) {
        self.requested.subtract(&shape.requests.fit);
        self.score_requested.0 -= shape.requests.score.0;
        self.score_requested.1 -= shape.requests.score.1;
        for port in &shape.host_ports {
            if let Some(at) = self.host_ports.iter().position(|taken| taken == port) {
                self.host_ports.swap_remove(at);
            }
        }
        for volume in &shape.volumes {
            let same = |(namespace, used): &(String, VolumeUse)| *namespace == shape.namespace && used == volume;
            if let Some(at) = self.volumes.iter().position(same) {
                self.volumes.swap_remove(at);
            }
        }
    }
}
