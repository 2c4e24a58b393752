//! Changes of pods and nodes.

use k8s_openapi::api::core::v1::{Node, Pod};
use reconcile::{Change, Key};
use tokio::time::Instant;

use super::Scheduler;
use crate::SCHEDULER_NAME;
use crate::plugin::Event;
use crate::pod::PodInfo;
use crate::profile::Profile;

impl Scheduler {
    pub(super) fn pod(&mut self, change: Change<Pod>) {
        let now = Instant::now();
        let (pod, old) = match &change {
            Change::Applied { new, old } => (new, old.as_ref()),
            Change::Deleted(last) => return self.gone(last, now),
        };
        if is_terminal(pod) {
            return self.gone(pod, now);
        }
        if old.is_some_and(|old| same_for_scheduling(old, pod)) {
            return;
        }
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.ungate(pod);
        if let Some(node) = node_of(pod) {
            self.assumed.remove(uid);
            self.explanations.forget(uid);
            self.queue.remove(&Key::of(pod.as_ref()), now);
            if self.snapshot.node_of(uid) == Some(node) && old.is_some_and(|old| only_bound(old, pod)) {
                return;
            }
            let info = PodInfo::of(pod);
            let before = self.snapshot.placed_shape(uid);
            let node = node.to_owned();
            if self.snapshot.place(&info, &node) {
                let slot = self.snapshot.node(&node).map(|node| node.slot);
                if let Some(shape) = before {
                    self.happened(&Event::PodGone { shape, slot }, now);
                }
                self.happened(&Event::PodPlaced { shape: info.shape }, now);
            }
        } else if !self.is_ours(pod) {
            self.queue.remove(&Key::of(pod.as_ref()), now);
            self.snapshot.denominate(uid);
            if self.is_gated(pod) {
                self.queue.gated(old.is_none());
                self.gated.insert(Key::of(pod.as_ref()));
            }
        } else if self.snapshot.node_of(uid).is_none() {
            let info = self.snapshot.share(PodInfo::of(pod));
            if self.snapshot.nomination(uid).is_none()
                && let Some(node) = &info.nominated
            {
                self.snapshot.nominate(&info, node);
            }
            self.queue.update(info, now);
        }
    }

    fn gone(&mut self, pod: &Pod, now: Instant) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.ungate(pod);
        self.explanations.forget(uid);
        self.queue.remove(&Key::of(pod), now);
        if let Some((slot, shape)) = self.snapshot.nominated_as(uid) {
            self.snapshot.denominate(uid);
            // the room that was kept for it is free for others
            self.happened(&Event::PodGone { shape, slot: Some(slot) }, now);
        }
        if let Some(gone) = self.waiting_pods.get(uid) {
            gone.cancel();
        }
        self.release(uid, now);
    }

    fn ungate(&mut self, pod: &Pod) {
        if !self.gated.is_empty() {
            self.gated.remove(&Key::of(pod));
        }
    }

    /// Takes a pod off its node, where it has one.
    pub(super) fn release(&mut self, uid: &str, now: Instant) {
        self.assumed.remove(uid);
        let Some(shape) = self.snapshot.placed_shape(uid) else { return };
        if let Some(name) = self.snapshot.remove_pod(uid) {
            let slot = self.snapshot.node(&name).map(|node| node.slot);
            self.happened(&Event::PodGone { shape, slot }, now);
        }
    }

    pub(super) fn node(&mut self, change: Change<Node>) {
        let now = Instant::now();
        match change {
            Change::Applied { new, .. } => {
                let change = self.snapshot.set_node(&new);
                let name = new.metadata.name.as_deref().unwrap_or_default();
                if let Some(node) = self.snapshot.node(name).filter(|_| change.any()) {
                    let event = Event::Node { slot: node.slot, change };
                    self.happened(&event, now);
                }
            }
            Change::Deleted(last) => {
                self.snapshot.remove_node(last.metadata.name.as_deref().unwrap_or_default());
                self.happened(&Event::NodeGone, now);
            }
        }
    }

    /// Whether a pod without a node is for one of the profiles, and may be tried.
    fn is_ours(&self, pod: &Pod) -> bool {
        self.profile_of(pod).is_some() && pod.metadata.deletion_timestamp.is_none() && !self.is_gated(pod)
    }

    fn profile_of(&self, pod: &Pod) -> Option<&Profile> {
        let scheduler = pod.spec.as_ref()?.scheduler_name.as_deref().filter(|name| !name.is_empty());
        self.planner.profile(scheduler.unwrap_or(SCHEDULER_NAME))
    }

    /// Whether gates keep a pod of ours from being tried.
    fn is_gated(&self, pod: &Pod) -> bool {
        let has_gates = |pod: &Pod| pod.spec.as_ref()?.scheduling_gates.as_ref().map(|gates| !gates.is_empty());
        has_gates(pod).unwrap_or(false) && self.profile_of(pod).is_some_and(|profile| profile.gates)
    }
}

/// Whether a change of a pod changes nothing that the scheduler looks at; most are of its status.
fn same_for_scheduling(old: &Pod, new: &Pod) -> bool {
    let (was, is) = (&old.metadata, &new.metadata);
    let given = |pod: &Pod| {
        let status = pod.status.as_ref();
        status.and_then(|s| s.container_statuses.as_ref()).is_some_and(|statuses| {
            statuses.iter().any(|status| status.allocated_resources.is_some() || status.resources.is_some())
        })
    };
    let nominated = |pod: &Pod| pod.status.as_ref().and_then(|status| status.nominated_node_name.clone());
    was.uid == is.uid
        && was.labels == is.labels
        && was.deletion_timestamp == is.deletion_timestamp
        && !is_terminal(old)
        && nominated(old) == nominated(new)
        && !given(new)
        && old.spec == new.spec
}

/// Whether all that has happened to a pod is that it got its node: of the rest of its spec little can change at all.
fn only_bound(old: &Pod, new: &Pod) -> bool {
    let (Some(was), Some(is)) = (&old.spec, &new.spec) else { return false };
    node_of(old).is_none()
        && old.metadata.uid == new.metadata.uid
        && old.metadata.labels == new.metadata.labels
        && new.metadata.deletion_timestamp.is_none()
        && was.containers == is.containers
        && was.init_containers == is.init_containers
        && was.resources == is.resources
        && was.tolerations == is.tolerations
}

pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

fn is_terminal(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
