//! How many pods of a kind are in each topology domain, kept current by each pod that comes or goes, so that affinity and
//! spreading never recount.

use std::collections::{HashMap, HashSet};

use super::layouts::{Grouping, Layout, LayoutId, Layouts};
use super::marks::{self, Marked};
use crate::node::NodeInfo;
use crate::shape::{PodSelection, PodTerm, ShapeParts};
use kinds::matching::{Labels, NodeDemand, Toleration, forbids, tolerated};

pub(crate) use super::layouts::NO_DOMAIN;

/// Counters kept for later; beyond, those that no placed pod needs and nobody asked for lately are dropped. A counter costs
/// a number per domain, and a check per new shape.
const COUNTERS_MAX: usize = 512;

/// The number of a counter.
pub(crate) type CounterId = u32;

/// Which placed pods are counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Counted {
    /// Those that all the selections mean.
    Selected(Vec<PodSelection>),
    /// Those of a namespace that are meant and not on their way out.
    Staying(PodSelection),
    /// Those that have this term.
    Bearing(Bond, PodTerm),
}

/// What binds a pod to the pods its term means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Bond {
    /// It must be beside them.
    Required,
    /// It must not be beside them.
    Forbidden,
    /// It should be beside them, with a weight; or should not, with a negative one.
    Preferred(i32),
}

/// On which nodes pods are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Eligibility {
    /// Those with all these labels.
    pub(crate) topology_keys: Vec<String>,
    /// Those this demand accepts.
    pub(crate) demand: Option<NodeDemand>,
    /// Those whose taints are tolerated by these.
    pub(crate) tolerations: Option<Vec<Toleration>>,
}

impl Eligibility {
    pub(super) fn admits(&self, node: &NodeInfo) -> bool {
        self.topology_keys.iter().all(|key| node.labels.contains_key(key))
            && self.demand.as_ref().is_none_or(|demand| demand.accepts(&node.name, &node.labels))
            && self.tolerations.as_ref().is_none_or(|tolerations| {
                node.taints.iter().filter(|taint| forbids(taint)).all(|taint| tolerated(tolerations, taint))
            })
    }
}

/// What a counter counts, where, and by which label.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct CounterKey {
    pub(crate) counted: Counted,
    pub(crate) topology_key: String,
    pub(crate) eligibility: Eligibility,
}

/// One counter.
#[derive(Clone, Debug)]
pub(crate) struct Counter {
    pub(crate) key: CounterKey,
    layout: LayoutId,
    /// Pods in each domain, as far as there are any.
    pods: Vec<u32>,
    /// Pods in all domains.
    total: u64,
    /// Pods on all nodes, also those without a domain.
    members: u64,
    used: u64,
}

/// A counter, and the domains it counts by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count<'a> {
    counter: &'a Counter,
    layout: &'a Layout,
}

impl Count<'_> {
    /// The domain of a node.
    pub(crate) fn domain(&self, slot: u32) -> u32 {
        self.layout.domain(slot)
    }

    /// Pods in the domain of a node; none where it has no domain.
    pub(crate) fn beside(&self, slot: u32) -> u32 {
        self.counter.within(self.domain(slot))
    }

    /// Pods in the domain of that name, whatever node asks.
    pub(crate) fn in_domain(&self, name: &str) -> u32 {
        self.layout.named(name).map_or(0, |domain| self.counter.within(domain))
    }

    /// Pods in all domains.
    pub(crate) fn total(&self) -> u64 {
        self.counter.total
    }

    /// Domains that have nodes, and the fewest pods in one of them.
    pub(crate) fn smallest(&self) -> (usize, u32) {
        let present = (0..).zip(self.layout.nodes()).filter(|(_, nodes)| **nodes > 0);
        present.fold((0, u32::MAX), |(count, least), (domain, _)| (count + 1, least.min(self.counter.within(domain))))
    }

    /// How many domains these nodes are in; to lack the label is to be in one more.
    pub(crate) fn domains_of(&self, slots: &[u32]) -> usize {
        // Domains that nobody is in any more keep their numbers, and the last place is for nodes without one.
        let all = self.layout.nodes().len();
        let mut seen = vec![false; all + 1];
        for slot in slots {
            seen[(self.domain(*slot) as usize).min(all)] = true;
        }
        seen.into_iter().filter(|seen| *seen).count()
    }
}

impl Counter {
    fn within(&self, domain: u32) -> u32 {
        self.pods.get(domain as usize).copied().unwrap_or(0)
    }

    /// Whether a pod of that shape counts.
    fn counts(&self, shape: &ShapeParts, namespaces: &HashMap<String, Labels>) -> bool {
        let none = Labels::new();
        let namespace = namespaces.get(&shape.namespace).unwrap_or(&none);
        let meant = |pods: &PodSelection| pods.selects(&shape.namespace, &shape.labels, namespace);
        match &self.key.counted {
            Counted::Selected(selections) => selections.iter().all(meant),
            Counted::Staying(pods) => !shape.terminating && meant(pods),
            Counted::Bearing(bond, term) => bonds(shape).any(|(other, theirs)| other == *bond && theirs == term),
        }
    }

    fn add(&mut self, domain: u32, pods: u32) {
        self.members += u64::from(pods);
        if domain == NO_DOMAIN {
            return;
        }
        let domain = domain as usize;
        if self.pods.len() <= domain {
            self.pods.resize(domain + 1, 0);
        }
        self.pods[domain] += pods;
        self.total += u64::from(pods);
    }

    fn subtract(&mut self, domain: u32) {
        self.members -= 1;
        if let Some(count) = self.pods.get_mut(domain as usize) {
            *count -= 1;
            self.total -= 1;
        }
    }
}

/// The terms a pod bears, with what they bind it to.
pub(crate) fn bonds(shape: &ShapeParts) -> impl Iterator<Item = (Bond, &PodTerm)> {
    let affinities = &shape.affinities;
    let required = affinities.required.iter().map(|term| (Bond::Required, term));
    let forbidden = affinities.forbidden.iter().map(|term| (Bond::Forbidden, term));
    let preferred = affinities.preferred.iter().map(|(weight, term)| (Bond::Preferred(*weight), term));
    required.chain(forbidden).chain(preferred)
}

/// All counters.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    by_key: HashMap<CounterKey, CounterId>,
    counters: Vec<Option<Counter>>,
    layouts: Layouts,
    /// Counters by labels that all the pods they count have, and those that count pods by anything else.
    marked: Marked,
    unmarked: Vec<CounterId>,
    free: Vec<CounterId>,
    clock: u64,
    /// Changes when numbers of counters stop being valid.
    pub(crate) epoch: u64,
    /// Changes when there is a new term that a placed pod bears.
    pub(crate) terms_epoch: u64,
}

impl Counters {
    pub(crate) fn get(&self, id: CounterId) -> Option<&Counter> {
        self.counters.get(id as usize).and_then(Option::as_ref)
    }

    /// A counter with its domains.
    pub(crate) fn count(&self, id: CounterId) -> Option<Count<'_>> {
        let counter = self.get(id)?;
        Some(Count { counter, layout: self.layouts.get(counter.layout)? })
    }

    /// The counter for a key, when there is one.
    pub(crate) fn find(&mut self, key: &CounterKey) -> Option<CounterId> {
        let id = *self.by_key.get(key)?;
        self.clock += 1;
        if let Some(counter) = self.counters[id as usize].as_mut() {
            counter.used = self.clock;
        }
        Some(id)
    }

    /// A new counter, empty but for its nodes.
    pub(crate) fn insert<'a>(&mut self, key: CounterKey, nodes: impl Iterator<Item = &'a NodeInfo>) -> CounterId {
        self.clock += 1;
        let grouping = Grouping { topology_key: key.topology_key.clone(), eligibility: key.eligibility.clone() };
        let layout = self.layouts.id(grouping, nodes);
        let counter = Counter { key, layout, pods: Vec::new(), total: 0, members: 0, used: self.clock };
        if matches!(counter.key.counted, Counted::Bearing(..)) {
            self.terms_epoch += 1;
        }
        let key = counter.key.clone();
        let id = match self.free.pop() {
            Some(id) => {
                self.counters[id as usize] = Some(counter);
                id
            }
            None => {
                self.counters.push(Some(counter));
                u32::try_from(self.counters.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.mark(&key.counted, id);
        self.by_key.insert(key, id);
        id
    }

    fn mark(&mut self, counted: &Counted, id: CounterId) {
        match marks::of_counted(counted).into_iter().min_by_key(Vec::len) {
            Some(marks) => self.marked.insert(marks, id),
            None => self.unmarked.push(id),
        }
    }

    /// The counters that count pods of that shape.
    pub(crate) fn counting(&self, shape: &ShapeParts, namespaces: &HashMap<String, Labels>) -> Vec<CounterId> {
        let mut counting = self.marked.with(marks::of_shape(shape));
        counting.extend(&self.unmarked);
        counting.retain(|id| self.counts(*id, shape, namespaces));
        counting
    }

    /// The counters of terms that placed pods bear, or bore.
    pub(crate) fn bearing(&self) -> impl Iterator<Item = (CounterId, Bond, &PodTerm)> {
        self.unmarked.iter().filter_map(|id| match &self.get(*id)?.key.counted {
            Counted::Bearing(bond, term) => Some((*id, *bond, term)),
            Counted::Selected(_) | Counted::Staying(_) => None,
        })
    }

    /// Whether one counter counts pods of that shape.
    pub(crate) fn counts(&self, id: CounterId, shape: &ShapeParts, namespaces: &HashMap<String, Labels>) -> bool {
        self.get(id).is_some_and(|counter| counter.counts(shape, namespaces))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (CounterId, &Counter)> {
        (0..).zip(&self.counters).filter_map(|(id, counter)| Some((id, counter.as_ref()?)))
    }

    /// Counts pods on a node.
    pub(crate) fn add(&mut self, ids: &[CounterId], slot: u32, pods: u32) {
        for id in ids {
            if let Some(Some(counter)) = self.counters.get_mut(*id as usize) {
                counter.add(self.layouts.domain(counter.layout, slot), pods);
            }
        }
    }

    /// Counts a pod on a node no more.
    pub(crate) fn subtract(&mut self, ids: &[CounterId], slot: u32) {
        for id in ids {
            if let Some(Some(counter)) = self.counters.get_mut(*id as usize) {
                counter.subtract(self.layouts.domain(counter.layout, slot));
            }
        }
    }

    pub(crate) fn join(&mut self, node: &NodeInfo) {
        self.layouts.join(node);
    }

    pub(crate) fn leave(&mut self, slot: u32) {
        self.layouts.leave(slot);
    }

    /// Whether it is time to [`Counters::sweep`].
    pub(crate) fn is_full(&self) -> bool {
        self.by_key.len() > COUNTERS_MAX
    }

    /// Drops the less used half of what nobody needs; terms that placed pods bear are needed.
    pub(crate) fn sweep(&mut self) {
        let needed = |counter: &Counter| matches!(counter.key.counted, Counted::Bearing(..)) && counter.members > 0;
        let mut used: Vec<u64> = self.all().filter(|(_, c)| !needed(c)).map(|(_, c)| c.used).collect();
        used.sort_unstable();
        let Some(oldest) = used.get(used.len() / 2).copied() else { return };
        for (id, slot) in (0..).zip(&mut self.counters) {
            if slot.as_ref().is_some_and(|counter| counter.used < oldest && !needed(counter))
                && let Some(counter) = slot.take()
            {
                self.by_key.remove(&counter.key);
                self.free.push(id);
            }
        }
        let used: HashSet<LayoutId> = self.counters.iter().flatten().map(|counter| counter.layout).collect();
        self.layouts.retain(|layout| used.contains(&layout));
        self.marked = Marked::default();
        self.unmarked.clear();
        let left: Vec<(CounterId, Counted)> =
            self.all().map(|(id, counter)| (id, counter.key.counted.clone())).collect();
        for (id, counted) in left {
            self.mark(&counted, id);
        }
        self.epoch += 1;
        self.terms_epoch += 1;
    }

    /// Drops all that depends on labels of namespaces; see [`Counters::sweep`] for what that means for numbers.
    pub(crate) fn clear(&mut self) {
        *self = Self { epoch: self.epoch + 1, terms_epoch: self.terms_epoch + 1, ..Self::default() };
    }
}
