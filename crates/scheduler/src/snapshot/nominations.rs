//! Pods for which room is made on a node.

use std::sync::Arc;

use super::Snapshot;
use crate::pod::PodInfo;
use crate::shape::Shape;

impl Snapshot {
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

    /// Where room is made for a pod, and for what.
    pub(crate) fn nominated_as(&self, uid: &str) -> Option<(u32, Arc<Shape>)> {
        self.nominated.get(uid).map(|(slot, pod)| (*slot, Arc::clone(&pod.shape)))
    }

    /// The node where room is made for a pod.
    pub(crate) fn nomination(&self, uid: &str) -> Option<u32> {
        self.nominated.get(uid).map(|(slot, _)| *slot)
    }
}
