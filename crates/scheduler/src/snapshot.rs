//! What is known about nodes, pods and what they refer to, kept current by one change at a time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use reconcile::Key;

use crate::node::{NodeChange, NodeInfo, NodeObject};
use crate::pod::PodInfo;
use crate::preemption::Budget;
use counters::Counters;
use images::Image;
use kinds::matching::Labels;
use shapes::{ShapeId, Shapes};
use volumes::Volumes;
use workloads::Workloads;

pub(crate) mod counters;
mod counting;
mod images;
mod layouts;
mod marks;
mod nominations;
mod placement;
mod shapes;
#[cfg(test)]
mod tests;
pub(crate) mod volumes;
pub(crate) mod workloads;

/// A pod that has its node.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    /// Its namespace is part of its shape.
    pub(crate) name: Box<str>,
    pub(crate) uid: Arc<str>,
    pub(crate) shape: ShapeId,
    pub(crate) slot: u32,
    pub(crate) started: i64,
    pub(crate) preempted: bool,
}

/// All nodes with the pods placed on them, and what placing pods depends on besides.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    by_name: HashMap<String, u32>,
    free_slots: Vec<u32>,
    existing: usize,
    placed: Vec<Option<Placed>>,
    by_uid: HashMap<Arc<str>, u32>,
    free_pods: Vec<u32>,
    shapes: Shapes,
    counters: Counters,
    namespaces: HashMap<String, Labels>,
    images: HashMap<Arc<str>, Image>,
    nominated: HashMap<Arc<str>, (u32, PodInfo)>,
    claim_users: HashMap<(String, String), u32>,
    budgets: BTreeMap<Key, Budget>,
    /// Pods counted for a trial.
    guests: Vec<(ShapeId, u32)>,
    pub(crate) volumes: Volumes,
    pub(crate) workloads: Workloads,
    pub(crate) images_version: u64,
    version: u64,
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

    /// How many nodes exist.
    pub fn node_count(&self) -> usize {
        self.existing
    }

    /// How many pods have a node.
    pub fn pod_count(&self) -> usize {
        self.by_uid.len()
    }

    /// The node of that name.
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.by_name.get(name).and_then(|slot| self.nodes.get(*slot as usize)).filter(|node| node.exists)
    }

    /// Changes with everything a decision can depend on.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    pub(crate) fn touch(&mut self) {
        self.version += 1;
    }

    /// Takes over a new or changed node; says what has changed for scheduling.
    pub fn set_node(&mut self, node: &Node) -> NodeChange {
        let name = node.metadata.name.clone().unwrap_or_default();
        let object = NodeObject::of(node);
        let slot = self.entry(&name);
        let info = &self.nodes[slot as usize];
        let same_images = info.images.len() == object.images.len()
            && info.images.iter().zip(&object.images).all(|(have, (name, _))| **have == **name);
        let change = NodeChange {
            added: !info.exists,
            labels: info.labels != object.labels,
            taints: info.taints != object.taints || info.unschedulable != object.unschedulable,
            allocatable: info.allocatable != object.allocatable,
            images: !same_images,
        };
        if !change.any() {
            return change;
        }
        self.version += 1;
        if change.images {
            self.set_images(slot, &object.images);
        }
        let regroup = change.added || change.labels || change.taints;
        if regroup {
            self.detach(slot);
        }
        let info = &mut self.nodes[slot as usize];
        self.existing += usize::from(!info.exists);
        info.exists = true;
        info.labels = object.labels;
        info.taints = object.taints;
        info.unschedulable = object.unschedulable;
        info.allocatable = object.allocatable;
        info.object_version = self.version;
        if regroup {
            self.attach(slot);
        }
        change
    }

    /// Forgets a node; what its pods take is remembered in case it comes back.
    pub fn remove_node(&mut self, name: &str) {
        if let Some(&slot) = self.by_name.get(name) {
            self.version += 1;
            self.set_images(slot, &[]);
            self.detach(slot);
            let info = &mut self.nodes[slot as usize];
            self.existing -= usize::from(info.exists);
            info.exists = false;
            info.object_version = self.version;
            self.attach(slot);
            self.drop_if_unused(slot);
        }
    }

    /// Takes over a disruption budget; none when it is gone.
    pub fn set_budget(&mut self, key: Key, budget: Option<Budget>) {
        self.version += 1;
        match budget {
            Some(budget) => self.budgets.insert(key, budget),
            None => self.budgets.remove(&key),
        };
    }

    /// All disruption budgets.
    pub(crate) fn budgets(&self) -> impl Iterator<Item = &Budget> {
        self.budgets.values()
    }

    fn entry(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let slot = match self.free_slots.pop() {
            Some(slot) => slot,
            None => {
                self.nodes.push(NodeInfo::default());
                u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX)
            }
        };
        let (name, version) = (name.to_owned(), self.version + 1);
        self.version = version;
        self.by_name.insert(name.clone(), slot);
        self.nodes[slot as usize] =
            NodeInfo { name, slot, object_version: version, pods_version: version, ..NodeInfo::default() };
        self.counters.join(&self.nodes[slot as usize]);
        slot
    }

    fn drop_if_unused(&mut self, slot: u32) {
        let node = &self.nodes[slot as usize];
        if node.exists || !node.pods.is_empty() || !node.nominated.is_empty() {
            return;
        }
        self.counters.leave(slot);
        self.by_name.remove(&node.name);
        self.nodes[slot as usize] = NodeInfo { slot, object_version: self.version, ..NodeInfo::default() };
        self.free_slots.push(slot);
    }
}
