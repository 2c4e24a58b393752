//! Pods on their nodes: placed for good, or counted and taken off for a trial.

use std::sync::Arc;

use super::shapes::ShapeId;
use super::{Placed, Snapshot};
use crate::pod::PodInfo;
use crate::shape::{Shape, VolumeUse};

impl Snapshot {
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
            name: pod.key.name.as_str().into(),
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
        }
    }

    /// Undoes [`Snapshot::lift`].
    pub(crate) fn put_back(&mut self, number: u32) {
        if let Some((shape, slot)) = self.placed[number as usize].as_ref().map(|placed| (placed.shape, placed.slot)) {
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
        *entry.on.entry(slot).or_default() += 1;
        let node = &mut self.nodes[slot as usize];
        node.add(&entry.shape);
        node.pods_version = self.version;
        self.counters.add(&entry.counters, slot, 1);
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
        if let Some(pods) = entry.on.get_mut(&slot) {
            *pods -= 1;
            if *pods == 0 {
                entry.on.remove(&slot);
            }
        }
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

    /// How many placed pods use a claim.
    pub(crate) fn claim_users(&self, namespace: &str, claim: &str) -> u32 {
        self.claim_users.get(&(namespace.to_owned(), claim.to_owned())).copied().unwrap_or(0)
    }
}
