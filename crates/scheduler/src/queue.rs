//! Pods that wait for a node: ready to be tried, backing off after a failure, or parked until something changes that may
//! help them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use reconcile::Key;
use tokio::time::Instant;

use crate::filter::feasible;
use crate::pod::PodInfo;
use crate::snapshot::NodeInfo;

#[cfg(test)]
mod tests;

/// Pause after the first failed attempt, upstream's value; it doubles with each further one.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Longest pause, upstream's value.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// A parked pod is tried again after this long even if nothing seems to have changed, upstream's value.
const PARKED_MAX: Duration = Duration::from_secs(300);

type Order = (Reverse<i32>, u64);
type Slot = (Instant, u64);

enum Place {
    /// May be tried now.
    Active(Order),
    /// May be tried at a time.
    Backoff(Slot),
    /// No node takes it; at the latest tried again at a time.
    Parked(Slot),
    /// Tried successfully and being bound.
    Binding,
}

struct Entry {
    pod: Arc<PodInfo>,
    attempts: u32,
    /// When back-off from the last attempt ends.
    ready_at: Instant,
    place: Place,
}

/// The queue; bounded by the number of pods without a node.
pub(crate) struct PodQueue {
    entries: HashMap<Key, Entry>,
    active: BTreeMap<Order, Key>,
    /// Backing off and parked pods by the time they become active by themselves.
    timed: BTreeMap<Slot, Key>,
    parked: HashSet<Key>,
    sequence: u64,
}

impl PodQueue {
    pub(crate) fn new() -> Self {
        Self {
            entries: HashMap::new(),
            active: BTreeMap::new(),
            timed: BTreeMap::new(),
            parked: HashSet::new(),
            sequence: 0,
        }
    }

    /// Adds a pod, or takes over a change of it. A change of what scheduling looks at ends parking.
    pub(crate) fn update(&mut self, pod: PodInfo, now: Instant) {
        let key = pod.key.clone();
        match self.entries.get_mut(&key) {
            Some(entry) if entry.pod.uid == pod.uid => {
                if *entry.pod == pod {
                    return;
                }
                entry.pod = Arc::new(pod);
                if matches!(entry.place, Place::Parked(_)) {
                    self.unpark(&key, now);
                }
            }
            _ => {
                self.remove(&key);
                let place = Place::Binding;
                self.entries.insert(key.clone(), Entry { pod: Arc::new(pod), attempts: 0, ready_at: now, place });
                self.activate(&key);
            }
        }
    }

    /// Forgets a pod that has a node, is gone, or is not ours.
    pub(crate) fn remove(&mut self, key: &Key) {
        self.take_out(key);
        self.entries.remove(key);
    }

    /// Forgets a pod that was bound, unless a new pod has taken its name.
    pub(crate) fn bound(&mut self, pod: &PodInfo) {
        if self.entries.get(&pod.key).is_some_and(|entry| entry.pod.uid == pod.uid) {
            self.remove(&pod.key);
        }
    }

    /// The next pod to try: highest priority first, then the longest waiting.
    pub(crate) fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Binding;
        entry.attempts = entry.attempts.saturating_add(1);
        Some(Arc::clone(&entry.pod))
    }

    /// No node took the pod: parks it.
    pub(crate) fn park(&mut self, pod: &PodInfo, now: Instant) {
        let slot = self.slot(now + PARKED_MAX);
        let Some(entry) = self.entries.get_mut(&pod.key).filter(|entry| entry.pod.uid == pod.uid) else { return };
        entry.ready_at = now + backoff(entry.attempts);
        entry.place = Place::Parked(slot);
        self.timed.insert(slot, pod.key.clone());
        self.parked.insert(pod.key.clone());
    }

    /// Binding failed: tries again after the back-off.
    pub(crate) fn back_off(&mut self, pod: &PodInfo, now: Instant) {
        let Some(entry) = self.entries.get_mut(&pod.key).filter(|entry| entry.pod.uid == pod.uid) else { return };
        entry.ready_at = now + backoff(entry.attempts);
        let slot = (entry.ready_at, self.sequence);
        self.sequence += 1;
        entry.place = Place::Backoff(slot);
        self.timed.insert(slot, pod.key.clone());
    }

    /// A node has appeared, changed or got room: wakes the parked pods that it takes now.
    pub(crate) fn node_changed(&mut self, node: &NodeInfo, now: Instant) {
        let takes = |key: &&Key| self.entries.get(*key).is_some_and(|entry| feasible(node, &entry.pod));
        let helped: Vec<Key> = self.parked.iter().filter(takes).cloned().collect();
        for key in helped {
            self.unpark(&key, now);
        }
    }

    /// Makes pods active whose time has come.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some(first) = self.timed.first_entry() {
            if first.key().0 > now {
                return;
            }
            let key = first.remove();
            self.parked.remove(&key);
            self.activate(&key);
        }
    }

    /// When [`PodQueue::advance`] has something to do next.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.timed.first_key_value().map(|((at, _), _)| *at)
    }

    fn unpark(&mut self, key: &Key, now: Instant) {
        self.take_out(key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        if entry.ready_at <= now {
            self.activate(key);
        } else {
            let slot = (entry.ready_at, self.sequence);
            self.sequence += 1;
            entry.place = Place::Backoff(slot);
            self.timed.insert(slot, key.clone());
        }
    }

    fn activate(&mut self, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let order = (Reverse(entry.pod.priority), self.sequence);
        self.sequence += 1;
        entry.place = Place::Active(order);
        self.active.insert(order, key.clone());
    }

    fn take_out(&mut self, key: &Key) {
        match self.entries.get(key).map(|entry| &entry.place) {
            Some(Place::Active(order)) => {
                self.active.remove(order);
            }
            Some(Place::Backoff(slot) | Place::Parked(slot)) => {
                self.timed.remove(slot);
                self.parked.remove(key);
            }
            Some(Place::Binding) | None => {}
        }
    }

    fn slot(&mut self, at: Instant) -> Slot {
        self.sequence += 1;
        (at, self.sequence)
    }
}

fn backoff(attempts: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(BACKOFF_MAX)
}
