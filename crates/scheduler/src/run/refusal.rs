//! Pods that no node takes, or that could not be bound: what is said on them, and how room is made.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use reconcile::{EventType, Key};

use super::Scheduler;
use super::requests::{send_away, unscheduled};
use crate::pod::PodInfo;
use crate::preemption::Preemption;
use crate::unschedulable::Unschedulable;

/// Longest message of an event, and what ends one that was longer; upstream's values.
const MESSAGE_BYTES_MAX: usize = 1024;
const CUT: &str = " ...";

/// Why a pod has no node: the reason of its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// No node takes it.
    Unschedulable,
    /// It could not be bound.
    SchedulerError,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Unschedulable => "Unschedulable",
            Self::SchedulerError => "SchedulerError",
        }
    }
}

impl Scheduler {
    /// Says on the pod why it has no node, and makes room for it where that is possible.
    pub(super) fn refuse(&mut self, pod: &Arc<PodInfo>, why: &Unschedulable) {
        let message = why.to_string();
        let current = self.caches.pods.get(&pod.key.namespace, &pod.key.name);
        let status = current.as_ref().and_then(|current| current.status.as_ref());
        let nominated = status.and_then(|status| status.nominated_node_name.as_deref()).unwrap_or_default();
        let nominated = self.explanations.nominated(&pod.uid).unwrap_or(nominated).to_owned();
        let nominate = match why.preemption() {
            Some(preemption) => Some(preemption.node.as_str()),
            // It waits for the pods that are leaving.
            None if why.plugins != 0 && self.waits_for_victims(pod) => None,
            None => Some(""),
        };
        self.explain(
            pod,
            current.as_deref(),
            Reason::Unschedulable,
            &message,
            nominate.filter(|node| *node != nominated),
        );
        match why.preemption() {
            Some(preemption) => self.make_room(pod, preemption),
            None if nominate.is_some() => self.snapshot.denominate(&pod.uid),
            None => {}
        }
    }

    /// Says on the pod and in an event why it has no node; `nominate` changes for which node it waits.
    pub(super) fn explain(
        &mut self,
        pod: &PodInfo,
        current: Option<&Pod>,
        reason: Reason,
        message: &str,
        nominate: Option<&str>,
    ) {
        self.recorder.event(&reference(pod), EventType::Warning, "FailedScheduling", "Scheduling", cut(message));
        let conditions = match current {
            Some(current) if says(current, reason, message) => None,
            _ => Some(unscheduled(reason.as_str(), message, current.and_then(|current| current.metadata.generation))),
        };
        self.explanations.explain(pod, conditions, nominate);
    }

    /// Whether pods are leaving the node where room is made for this one.
    fn waits_for_victims(&self, pod: &PodInfo) -> bool {
        let Some(slot) = self.snapshot.nomination(&pod.uid) else { return false };
        let pods = self.snapshot.nodes()[slot as usize].pods.iter();
        pods.filter_map(|number| self.snapshot.placed(*number))
            .any(|(placed, shape)| placed.preempted && shape.terminating && shape.priority < pod.shape.priority)
    }

    fn make_room(&mut self, pod: &Arc<PodInfo>, preemption: &Preemption) {
        self.metrics.preempts(preemption.victims.len());
        self.snapshot.nominate(pod, &preemption.node);
        for displaced in &preemption.displaced {
            self.snapshot.denominate(&displaced.uid);
            self.explanations.nominate(&displaced.key, &displaced.uid, "");
        }
        if !preemption.victims.is_empty() {
            self.preempting.insert(Arc::clone(&pod.uid), preemption.victims.len());
        }
        for victim in &preemption.victims {
            let (client, node) = (self.client.clone(), preemption.node.clone());
            let known = self.caches.pods.get(&victim.key.namespace, &victim.key.name);
            let generation = known.and_then(|known| known.metadata.generation);
            self.request(send_away(client, victim.clone(), generation, Arc::clone(pod), node));
        }
    }
}

/// Whether the pod says so already.
fn says(pod: &Pod, reason: Reason, message: &str) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| {
        condition.type_ == "PodScheduled"
            && condition.reason.as_deref() == Some(reason.as_str())
            && condition.message.as_deref() == Some(message)
            && condition.observed_generation == pod.metadata.generation
    })
}

/// The message of an event, which has a limit.
fn cut(message: &str) -> String {
    if message.len() <= MESSAGE_BYTES_MAX {
        return message.to_owned();
    }
    let mut end = MESSAGE_BYTES_MAX - CUT.len();
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{CUT}", &message[..end])
}

pub(super) fn reference(pod: &PodInfo) -> ObjectReference {
    reference_to(&pod.key, &pod.uid)
}

pub(super) fn reference_to(key: &Key, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_of_events_are_cut() {
        assert_eq!(cut(&"x".repeat(1024)), "x".repeat(1024));
        let long = cut(&"ä".repeat(600));
        assert_eq!((long.len(), long.ends_with("ä ...")), (1024, true));
    }
}
