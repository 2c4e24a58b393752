//! What is known about nodes, pods and what they refer to, kept current by one change at a time.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use reconcile::Key;

use crate::node::{NodeChange, NodeInfo, NodeObject};
use crate::pod::PodInfo;
use crate::preemption::Budget;
use crate::shape::{Shape, VolumeUse};
use counters::{Counted, Counter, CounterId, CounterKey, Counters, Eligibility, bonds};
use kinds::matching::Labels;
use shapes::{ShapeId, Shapes};
use volumes::Volumes;
use workloads::Workloads;

pub(crate) mod counters;
mod shapes;
#[cfg(test)]
mod tests;
pub(crate) mod volumes;
pub(crate) mod workloads;

/// A pod that has its node.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) key: Key,
    pub(crate) uid: Arc<str>,
    pub(crate) shape: ShapeId,
    pub(crate) slot: u32,
    pub(crate) started: i64,
    pub(crate) preempted: bool,
}

/// An image that some nodes have.
#[derive(Clone, Debug)]
struct Image {
    bytes: i64,
    nodes: u32,
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
    /// Pods counted, and placed pods not counted, for a trial.
    guests: Vec<(ShapeId, u32)>,
    lifted: Vec<u32>,
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

    /// The pod with its shape shared; pods that wait are kept like this.
    pub fn share(&mut self, mut pod: PodInfo) -> PodInfo {
        let id = self.shapes.id(&pod.shape);
        if let Some(entry) = self.shapes.get(id) {
            pod.shape = Arc::clone(&entry.shape);
        }
        pod
    }

    /// Counts a pod as placed on a node, whether assumed or seen; placing it again moves it. Says whether anything changed.
    pub fn place(&mut self, pod: &PodInfo, node: &str) -> bool {
        if let Some(&number) = self.by_uid.get(&pod.uid) {
            let known = self.shapes.known(&pod.shape);
            if let Some(placed) = &mut self.placed[number as usize]
                && self.nodes[placed.slot as usize].name == node
                && Some(placed.shape) == known
            {
                placed.started = pod.started;
                placed.preempted = pod.preempted;
                return false;
            }
            self.remove_pod(&pod.uid);
        }
        self.denominate(&pod.uid);
        let shape = self.shapes.id(&pod.shape);
        let slot = self.entry(node);
        let placed = Placed {
            key: pod.key.clone(),
            uid: Arc::clone(&pod.uid),
            shape,
            slot,
            started: pod.started,
            preempted: pod.preempted,
        };
        let number = match self.free_pods.pop() {
            Some(number) => number,
            None => {
                self.placed.push(None);
                u32::try_from(self.placed.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.by_uid.insert(Arc::clone(&pod.uid), number);
        self.placed[number as usize] = Some(placed);
        self.nodes[slot as usize].pods.push(number);
        self.count(shape, slot);
        true
    }

    /// Gives back what a pod took; returns the name of its node.
    pub fn remove_pod(&mut self, uid: &str) -> Option<String> {
        let number = self.by_uid.remove(uid)?;
        let placed = self.placed[number as usize].take()?;
        self.free_pods.push(number);
        let node = &mut self.nodes[placed.slot as usize];
        node.pods.retain(|other| *other != number);
        let name = node.name.clone();
        self.discount(placed.shape, placed.slot);
        self.drop_if_unused(placed.slot);
        Some(name)
    }

    /// The node a pod is placed on.
    pub fn node_of(&self, uid: &str) -> Option<&str> {
        let placed = self.placed[*self.by_uid.get(uid)? as usize].as_ref()?;
        Some(&self.nodes[placed.slot as usize].name)
    }

    /// The shape of a placed pod.
    pub(crate) fn placed_shape(&self, uid: &str) -> Option<Arc<Shape>> {
        let placed = self.placed[*self.by_uid.get(uid)? as usize].as_ref()?;
        self.shapes.get(placed.shape).map(|entry| Arc::clone(&entry.shape))
    }

    /// A placed pod by its number, with its shape.
    pub(crate) fn placed(&self, number: u32) -> Option<(&Placed, &Arc<Shape>)> {
        let placed = self.placed.get(number as usize)?.as_ref()?;
        Some((placed, &self.shapes.get(placed.shape)?.shape))
    }

    /// Takes a pod off its node for a trial; [`Snapshot::put_back`] undoes it.
    pub(crate) fn lift(&mut self, number: u32) {
        if let Some((shape, slot)) = self.placed[number as usize].as_ref().map(|placed| (placed.shape, placed.slot)) {
            // The node's list of pods keeps its order; what fits follows from what is requested.
            self.discount(shape, slot);
            self.lifted.push(number);
        }
    }

    /// Undoes [`Snapshot::lift`].
    pub(crate) fn put_back(&mut self, number: u32) {
        if let Some((shape, slot)) = self.placed[number as usize].as_ref().map(|placed| (placed.shape, placed.slot)) {
            self.lifted.retain(|other| *other != number);
            self.count(shape, slot);
        }
    }

    /// Counts a pod that is not placed on a node for a trial; [`Snapshot::unguest`] undoes it.
    pub(crate) fn guest(&mut self, pod: &Arc<Shape>, slot: u32) {
        let shape = self.shapes.id(pod);
        self.count(shape, slot);
        self.guests.push((shape, slot));
    }

    /// Undoes [`Snapshot::guest`].
    pub(crate) fn unguest(&mut self, pod: &Arc<Shape>, slot: u32) {
        if let Some(shape) = self.shapes.known(pod)
            && let Some(at) = self.guests.iter().position(|guest| *guest == (shape, slot))
        {
            self.guests.swap_remove(at);
            self.discount(shape, slot);
        }
    }

    fn count(&mut self, id: ShapeId, slot: u32) {
        self.version += 1;
        self.welcome(id);
        let Some(entry) = self.shapes.get_mut(id) else { return };
        entry.placed += 1;
        let node = &mut self.nodes[slot as usize];
        node.add(&entry.shape);
        node.pods_version = self.version;
        self.counters.add(&entry.counters, slot);
        for volume in &entry.shape.volumes {
            if let VolumeUse::Claim { name, .. } = volume {
                *self.claim_users.entry((entry.shape.namespace.clone(), name.clone())).or_default() += 1;
            }
        }
    }

    fn discount(&mut self, id: ShapeId, slot: u32) {
        self.version += 1;
        let Some(entry) = self.shapes.get_mut(id) else { return };
        entry.placed -= 1;
        let node = &mut self.nodes[slot as usize];
        node.remove(&entry.shape);
        node.pods_version = self.version;
        self.counters.subtract(&entry.counters, slot);
        for volume in &entry.shape.volumes {
            if let VolumeUse::Claim { name, .. } = volume {
                let claim = (entry.shape.namespace.clone(), name.clone());
                if let Some(users) = self.claim_users.get_mut(&claim) {
                    *users -= 1;
                    if *users == 0 {
                        self.claim_users.remove(&claim);
                    }
                }
            }
        }
    }

    /// A shape of which no pod was placed: finds out which counters count it, and makes those for its terms.
    fn welcome(&mut self, id: ShapeId) {
        let Some(entry) = self.shapes.get(id).filter(|entry| entry.placed == 0) else { return };
        let shape = Arc::clone(&entry.shape);
        for (bond, term) in bonds(&shape) {
            let topology_key = term.topology_key.clone();
            let counted = Counted::Bearing(bond, term.clone());
            self.counter(CounterKey { counted, topology_key, eligibility: Eligibility::default() });
        }
        let counters = self.counters.counting(&shape, &self.namespaces);
        if let Some(entry) = self.shapes.get_mut(id) {
            entry.counters = counters;
        }
    }

    /// The number of the counter for `key`, made and filled when it does not exist.
    pub(crate) fn counter(&mut self, key: CounterKey) -> CounterId {
        if let Some(id) = self.counters.find(&key) {
            return id;
        }
        if self.counters.is_full() {
            self.counters.sweep();
            let counters = &self.counters;
            for (_, entry) in self.shapes.placed_mut() {
                entry.counters.retain(|id| counters.get(*id).is_some());
            }
        }
        let id = self.counters.insert(key, self.nodes.iter());
        let mut counted = Vec::new();
        for (shape, entry) in self.shapes.placed_mut() {
            if self.counters.counts(id, &entry.shape, &self.namespaces) {
                entry.counters.push(id);
                counted.push(shape);
            }
        }
        if !counted.is_empty() {
            let there = (0..).zip(&self.placed).filter(|(number, _)| !self.lifted.contains(number));
            let there = there.filter_map(|(_, placed)| placed.as_ref().map(|placed| (placed.shape, placed.slot)));
            for (_, slot) in there.chain(self.guests.iter().copied()).filter(|(shape, _)| counted.contains(shape)) {
                self.counters.add(&[id], slot);
            }
        }
        id
    }

    /// A counter by its number.
    pub(crate) fn count_of(&self, id: CounterId) -> Option<&Counter> {
        self.counters.get(id)
    }

    /// All counters with their numbers.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes a node's pods out of all counts.
    fn detach(&mut self, slot: u32) {
        self.recount(slot, Counters::subtract);
        self.counters.leave(slot);
    }

    /// Counts a node's pods where the node belongs now.
    fn attach(&mut self, slot: u32) {
        self.counters.join(&self.nodes[slot as usize]);
        self.recount(slot, Counters::add);
    }

    fn recount(&mut self, slot: u32, change: fn(&mut Counters, &[CounterId], u32)) {
        for number in &self.nodes[slot as usize].pods {
            let placed = self.placed.get(*number as usize).and_then(Option::as_ref);
            if let Some(entry) = placed.and_then(|placed| self.shapes.get(placed.shape)) {
                change(&mut self.counters, &entry.counters, slot);
            }
        }
    }

    /// Takes over the labels of a namespace; says whether they changed.
    pub fn set_namespace(&mut self, name: &str, labels: Labels) -> bool {
        let known = self.namespaces.insert(name.to_owned(), labels);
        let changed = known.as_ref() != self.namespaces.get(name);
        // A namespace without pods and labels is no news to any counter.
        if changed && (known.is_some() || !self.namespaces[name].is_empty()) {
            self.recount_all();
        }
        changed
    }

    /// Forgets a namespace.
    pub fn remove_namespace(&mut self, name: &str) {
        if self.namespaces.remove(name).is_some_and(|labels| !labels.is_empty()) {
            self.recount_all();
        }
    }

    /// The labels of a namespace.
    pub(crate) fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// Begins all counts anew, after a change that no count can follow.
    fn recount_all(&mut self) {
        self.version += 1;
        self.counters.clear();
        let mut terms = Vec::new();
        for (_, entry) in self.shapes.placed_mut() {
            entry.counters.clear();
            terms.extend(bonds(&entry.shape).map(|(bond, term)| (bond, term.clone())));
        }
        for (bond, term) in terms {
            let topology_key = term.topology_key.clone();
            let counted = Counted::Bearing(bond, term);
            self.counter(CounterKey { counted, topology_key, eligibility: Eligibility::default() });
        }
    }

    fn set_images(&mut self, slot: u32, images: &[(String, i64)]) {
        self.images_version += 1;
        let before = std::mem::take(&mut self.nodes[slot as usize].images);
        for (name, bytes) in images {
            let name = match self.images.get_key_value(name.as_str()) {
                Some((name, _)) => Arc::clone(name),
                None => Arc::from(name.as_str()),
            };
            let image = self.images.entry(Arc::clone(&name)).or_insert(Image { bytes: *bytes, nodes: 0 });
            image.bytes = *bytes;
            image.nodes += 1;
            self.nodes[slot as usize].images.push(name);
        }
        for name in before {
            if let Some(image) = self.images.get_mut(&name) {
                image.nodes -= 1;
                if image.nodes == 0 {
                    self.images.remove(&name);
                }
            }
        }
    }

    /// Size of an image, and how many nodes have it.
    pub(crate) fn image(&self, name: &str) -> Option<(&Arc<str>, i64, u32)> {
        self.images.get_key_value(name).map(|(name, image)| (name, image.bytes, image.nodes))
    }

    /// How many placed pods use a claim.
    pub(crate) fn claim_users(&self, namespace: &str, claim: &str) -> u32 {
        self.claim_users.get(&(namespace.to_owned(), claim.to_owned())).copied().unwrap_or(0)
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

    /// Remembers that room is made for a pod on a node.
    pub fn nominate(&mut self, pod: &PodInfo, node: &str) {
        self.denominate(&pod.uid);
        let slot = self.entry(node);
        self.version += 1;
        self.nodes[slot as usize].nominated.push(Arc::clone(&pod.uid));
        self.nominated.insert(Arc::clone(&pod.uid), (slot, pod.clone()));
    }

    /// Forgets that room was made for a pod.
    pub fn denominate(&mut self, uid: &str) {
        if let Some((slot, _)) = self.nominated.remove(uid) {
            self.version += 1;
            self.nodes[slot as usize].nominated.retain(|other| **other != *uid);
            self.drop_if_unused(slot);
        }
    }

    /// The pods for which room is made on a node.
    pub(crate) fn nominated(&self, slot: u32) -> impl Iterator<Item = &PodInfo> {
        let uids = self.nodes[slot as usize].nominated.iter();
        uids.filter_map(|uid| self.nominated.get(uid).map(|(_, pod)| pod))
    }

    /// The node where room is made for a pod.
    pub(crate) fn nomination(&self, uid: &str) -> Option<u32> {
        self.nominated.get(uid).map(|(slot, _)| *slot)
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
