//! Pods that wait for a node: ready to be tried, backing off after a failure, or parked until something happens that may
//! help them.
//!
//! Parked pods are grouped by shape. Where one of a group finds no node none of the others does, so that an event that may
//! help a group wakes only its first pod; each pod that then finds a node wakes the next one. A woken pod that still backs off
//! is tried before its time when nothing else is to be done; one that could not be bound is not.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use reconcile::Key;
use tokio::time::Instant;

use crate::metrics::{Incoming, Refused, count_refusal};
use crate::plugins::PluginSet;
use crate::pod::PodInfo;
use crate::shape::Shape;

#[cfg(test)]
mod tests;

/// Why pods are put where they are, in upstream's words.
const POD_ADDED: &str = "UnschedulablePodAdd";
const POD_UPDATED: &str = "UnschedulablePodUpdate";
const ATTEMPT_FAILED: &str = "ScheduleAttemptFailure";
const BACKOFF_COMPLETE: &str = "BackoffComplete";
const PARKED_LONG: &str = "UnschedulableTimeout";

/// A parked pod is tried again after this long even if nothing seems to have happened, upstream's value.
const PARKED_MAX: Duration = Duration::from_secs(300);

/// How long pods pause after failed attempts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Backoff {
    /// After the first one; it doubles with each further one.
    pub(crate) initial: Duration,
    /// At most.
    pub(crate) max: Duration,
}

impl Default for Backoff {
    /// Upstream's values.
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(10) }
    }
}

impl Backoff {
    fn after(self, attempts: u32) -> Duration {
        self.initial.saturating_mul(1 << attempts.saturating_sub(1).min(10)).min(self.max)
    }
}

type Order = (Reverse<i32>, u64);
type Slot = (Instant, u64);

#[derive(Clone, Copy, Debug)]
enum Place {
    /// May be tried now.
    Active(Order),
    /// May be tried at a time, or earlier when there is nothing else to do.
    Backoff(Slot),
    /// May be tried at a time and not earlier.
    Error(Slot),
    /// No node takes it; at the latest tried again at a time.
    Parked(Slot),
    /// Being tried, or bound.
    Taken,
}

/// A pod that is to be tried.
#[derive(Clone, Debug)]
pub(crate) struct Attempt {
    pub(crate) pod: Arc<PodInfo>,
    /// How often it was tried, with this time.
    pub(crate) number: u32,
    /// When the pod came.
    pub(crate) since: Instant,
}

struct Entry {
    pod: Arc<PodInfo>,
    attempts: u32,
    since: Instant,
    /// Which plug-ins refused it the last time; none while it is tried.
    refused: PluginSet,
    /// When back-off from the last attempt ends.
    ready_at: Instant,
    place: Place,
    /// Whether it was woken for its group.
    leads: bool,
}

/// Parked pods of one shape.
#[derive(Default)]
struct Group {
    /// Which plug-ins refused them.
    plugins: PluginSet,
    /// By the end of their back-off.
    pods: BTreeMap<Slot, Key>,
    /// Whether one was woken and has not been tried yet.
    led: bool,
    /// What has woken it.
    cause: &'static str,
}

/// What monitoring is told.
#[derive(Default)]
struct Counts {
    parked: usize,
    incoming: Incoming,
    refused: Refused,
}

impl Counts {
    fn came(&mut self, queue: &'static str, cause: &'static str) {
        *self.incoming.entry((queue, cause)).or_default() += 1;
    }

    fn refuse(&mut self, entry: &mut Entry, plugins: PluginSet) {
        let scheduler = &entry.pod.shape.scheduler;
        count_refusal(&mut self.refused, scheduler, entry.refused, -1);
        count_refusal(&mut self.refused, scheduler, plugins, 1);
        entry.refused = plugins;
    }
}

/// The queue; bounded by the number of pods without a node.
pub(crate) struct PodQueue {
    backoff: Backoff,
    entries: HashMap<Key, Entry>,
    active: BTreeMap<Order, Key>,
    /// Backing off and parked pods by the time they become active by themselves.
    timed: BTreeMap<Slot, Key>,
    /// Those of them that may be tried earlier, the most important first.
    early: BTreeMap<Order, Key>,
    parked: HashMap<Arc<Shape>, Group>,
    /// The parked shapes by who refused them, so that an event that means nothing to those is over at once.
    by_plugins: BTreeMap<PluginSet, HashSet<Arc<Shape>>>,
    sequence: u64,
    counts: Counts,
}

impl PodQueue {
    pub(crate) fn new(backoff: Backoff) -> Self {
        Self {
            backoff,
            entries: HashMap::new(),
            active: BTreeMap::new(),
            timed: BTreeMap::new(),
            early: BTreeMap::new(),
            parked: HashMap::new(),
            by_plugins: BTreeMap::new(),
            sequence: 0,
            counts: Counts::default(),
        }
    }

    /// How many pods may be tried now, back off, and are parked.
    pub(crate) fn waiting(&self) -> (usize, usize, usize) {
        (self.active.len(), self.timed.len().saturating_sub(self.counts.parked), self.counts.parked)
    }

    /// Notes a pod that must not be queued yet.
    pub(crate) fn gated(&mut self, added: bool) {
        self.counts.came("gated", if added { POD_ADDED } else { POD_UPDATED });
    }

    /// What has come since this was asked the last time.
    pub(crate) fn take_incoming(&mut self) -> Incoming {
        std::mem::take(&mut self.counts.incoming)
    }

    /// Who waits because of which plug-in.
    pub(crate) fn refused(&self) -> &Refused {
        &self.counts.refused
    }

    /// Adds a pod, or takes over a change of it. A change of what scheduling looks at ends parking.
    pub(crate) fn update(&mut self, pod: PodInfo, now: Instant) {
        let key = pod.key.clone();
        let known = self.entries.get(&key).filter(|entry| entry.pod.uid == pod.uid);
        let Some(entry) = known else {
            self.remove(&key, now);
            let entry = Entry {
                pod: Arc::new(pod),
                attempts: 0,
                since: now,
                refused: 0,
                ready_at: now,
                place: Place::Taken,
                leads: false,
            };
            self.entries.insert(key.clone(), entry);
            self.activate(&key, POD_ADDED);
            return;
        };
        if entry.pod.shape == pod.shape && entry.pod.nominated == pod.nominated {
            return;
        }
        let reshaped = entry.pod.shape != pod.shape;
        let place = entry.place;
        if reshaped {
            self.take_out(&key, now);
        }
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.pod = Arc::new(pod);
        }
        match place {
            Place::Taken => {}
            Place::Error(_) if reshaped => self.resume(&key, now, POD_UPDATED, false),
            _ if reshaped => self.resume(&key, now, POD_UPDATED, true),
            _ => {}
        }
    }

    /// Forgets a pod that has a node, is gone, or is not ours.
    pub(crate) fn remove(&mut self, key: &Key, now: Instant) {
        self.take_out(key, now);
        if let Some(mut entry) = self.entries.remove(key) {
            self.counts.refuse(&mut entry, 0);
        }
    }

    /// Forgets a pod that was bound, unless a new pod has taken its name.
    pub(crate) fn bound(&mut self, pod: &PodInfo, now: Instant) {
        if self.entries.get(&pod.key).is_some_and(|entry| entry.pod.uid == pod.uid) {
            self.remove(&pod.key, now);
        }
    }

    /// The next pod to try: highest priority first, then the longest waiting. Where none is active, one that backs off.
    pub(crate) fn pop(&mut self) -> Option<Attempt> {
        let key = match self.active.pop_first() {
            Some((_, key)) => key,
            None => {
                let (_, key) = self.early.pop_first()?;
                if let Some(Place::Backoff(slot)) = self.entries.get(&key).map(|entry| entry.place) {
                    self.timed.remove(&slot);
                }
                key
            }
        };
        let entry = self.entries.get_mut(&key)?;
        entry.place = Place::Taken;
        entry.attempts = entry.attempts.saturating_add(1);
        self.counts.refuse(entry, 0);
        Some(Attempt { pod: Arc::clone(&entry.pod), number: entry.attempts, since: entry.since })
    }

    /// No node took the pod, refused by these plug-ins: parks it.
    pub(crate) fn park(&mut self, pod: &PodInfo, plugins: PluginSet, now: Instant) {
        let slot = self.slot(now + PARKED_MAX);
        let backoff = self.backoff;
        let Some(entry) = self.entries.get_mut(&pod.key).filter(|entry| entry.pod.uid == pod.uid) else { return };
        entry.ready_at = now + backoff.after(entry.attempts);
        entry.place = Place::Parked(slot);
        self.counts.refuse(entry, plugins);
        self.counts.came("unschedulable", ATTEMPT_FAILED);
        self.counts.parked += 1;
        let led = std::mem::take(&mut entry.leads);
        self.timed.insert(slot, pod.key.clone());
        let shape = Arc::clone(&entry.pod.shape);
        let known = self.parked.contains_key(&shape);
        let group = self.parked.entry(Arc::clone(&shape)).or_default();
        let before = group.plugins;
        group.plugins |= plugins;
        group.pods.insert((entry.ready_at, slot.1), pod.key.clone());
        group.led &= !led;
        let after = group.plugins;
        if !known || before != after {
            unlist(&mut self.by_plugins, before, &shape);
            self.by_plugins.entry(after).or_default().insert(shape);
        }
    }

    /// A node was found: the next of those alike may be lucky too.
    pub(crate) fn placed(&mut self, pod: &PodInfo, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&pod.key)
            && std::mem::take(&mut entry.leads)
        {
            let shape = Arc::clone(&entry.pod.shape);
            self.wake(&shape, now);
        }
    }

    /// Binding failed, or cannot be tried yet: tries again after the back-off, and not earlier.
    pub(crate) fn back_off(&mut self, pod: &PodInfo, now: Instant) {
        let backoff = self.backoff;
        let Some(entry) = self.entries.get_mut(&pod.key).filter(|entry| entry.pod.uid == pod.uid) else { return };
        entry.ready_at = now + backoff.after(entry.attempts);
        self.resume(&pod.key, now, ATTEMPT_FAILED, false);
    }

    /// Something has happened: wakes the first of each group that it may help. Only those are asked about that one of `hearing`
    /// has refused, or none at all.
    pub(crate) fn happened(
        &mut self,
        cause: &'static str,
        now: Instant,
        hearing: PluginSet,
        helps: impl Fn(&Shape, PluginSet) -> bool,
    ) {
        let mut helped = Vec::new();
        for (_, shapes) in self.by_plugins.iter().filter(|(plugins, _)| **plugins == 0 || **plugins & hearing != 0) {
            for shape in shapes {
                if let Some(group) = self.parked.get_mut(shape).filter(|group| !group.led)
                    && helps(shape, group.plugins)
                {
                    group.cause = cause;
                    helped.push(Arc::clone(shape));
                }
            }
        }
        for shape in helped {
            self.wake(&shape, now);
        }
    }

    /// Whether no pod is parked, so that no event is of interest.
    pub(crate) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Makes pods active whose time has come.
    pub(crate) fn advance(&mut self, now: Instant) {
        while let Some((slot, key)) = self.timed.first_key_value() {
            if slot.0 > now {
                return;
            }
            let key = key.clone();
            let (mut leads, mut cause) = (false, BACKOFF_COMPLETE);
            if let Some(entry) = self.entries.get_mut(&key) {
                leads = std::mem::take(&mut entry.leads);
                if matches!(entry.place, Place::Parked(_)) {
                    cause = PARKED_LONG;
                }
            }
            self.take_out(&key, now);
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.leads = leads;
            }
            self.activate(&key, cause);
        }
    }

    /// When [`PodQueue::advance`] has something to do next.
    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.timed.first_key_value().map(|((at, _), _)| *at)
    }

    /// Wakes the first of a group; forgets a group that has none left.
    fn wake(&mut self, shape: &Arc<Shape>, now: Instant) {
        let Some(group) = self.parked.get_mut(shape) else { return };
        let Some((_, key)) = group.pods.pop_first() else {
            self.forget(shape);
            return;
        };
        group.led = true;
        let cause = group.cause;
        if let Some(entry) = self.entries.get_mut(&key) {
            if let Place::Parked(slot) = entry.place {
                self.timed.remove(&slot);
                self.counts.parked -= 1;
            }
            entry.leads = true;
        }
        self.resume(&key, now, cause, true);
    }

    /// Forgets a group in which nobody is left.
    fn forget(&mut self, shape: &Arc<Shape>) {
        if let Some(group) = self.parked.remove(shape) {
            unlist(&mut self.by_plugins, group.plugins, shape);
        }
    }

    /// Lets a pod be tried as soon as its back-off has ended, or `early`.
    fn resume(&mut self, key: &Key, now: Instant, cause: &'static str, early: bool) {
        let Some(entry) = self.entries.get(key) else { return };
        if entry.ready_at <= now {
            self.activate(key, cause);
            return;
        }
        let slot = self.slot(entry.ready_at);
        self.counts.came("backoff", cause);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.place = if early { Place::Backoff(slot) } else { Place::Error(slot) };
            if early {
                self.early.insert((Reverse(entry.pod.shape.priority), slot.1), key.clone());
            }
        }
        self.timed.insert(slot, key.clone());
    }

    fn activate(&mut self, key: &Key, cause: &'static str) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let order = (Reverse(entry.pod.shape.priority), self.sequence);
        self.sequence += 1;
        entry.place = Place::Active(order);
        self.counts.came("active", cause);
        self.active.insert(order, key.clone());
    }

    /// Takes a pod from where it waits; one that was woken for its group passes that on.
    fn take_out(&mut self, key: &Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let shape = Arc::clone(&entry.pod.shape);
        let (place, ready_at) = (std::mem::replace(&mut entry.place, Place::Taken), entry.ready_at);
        let led = std::mem::take(&mut entry.leads);
        match place {
            Place::Active(order) => {
                self.active.remove(&order);
            }
            Place::Backoff(slot) => {
                self.timed.remove(&slot);
                self.early.remove(&(Reverse(shape.priority), slot.1));
            }
            Place::Error(slot) => {
                self.timed.remove(&slot);
            }
            Place::Parked(slot) => {
                self.timed.remove(&slot);
                self.counts.parked -= 1;
                if let Some(group) = self.parked.get_mut(&shape) {
                    group.pods.remove(&(ready_at, slot.1));
                    if group.pods.is_empty() && !group.led {
                        self.forget(&shape);
                    }
                }
            }
            Place::Taken => {}
        }
        if led {
            self.wake(&shape, now);
        }
    }

    fn slot(&mut self, at: Instant) -> Slot {
        self.sequence += 1;
        (at, self.sequence)
    }
}

fn unlist(by_plugins: &mut BTreeMap<PluginSet, HashSet<Arc<Shape>>>, plugins: PluginSet, shape: &Arc<Shape>) {
    if let Some(shapes) = by_plugins.get_mut(&plugins) {
        shapes.remove(shape);
        if shapes.is_empty() {
            by_plugins.remove(&plugins);
        }
    }
}
