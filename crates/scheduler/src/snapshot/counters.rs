//! How many pods of a kind are in each topology domain, kept current by each pod that comes or goes, so that affinity and
//! spreading never recount.

use std::collections::HashMap;

use crate::node::NodeInfo;
use crate::shape::{PodSelection, PodTerm, ShapeParts};
use kinds::matching::{Labels, NodeDemand, Toleration, forbids, tolerated};

/// Counters kept for later; beyond, those that no placed pod needs and nobody asked for lately are dropped. A counter costs
/// a number per domain, and a check per new shape.
const COUNTERS_MAX: usize = 512;

/// A node without the label belongs to no domain.
pub(crate) const NO_DOMAIN: u32 = u32::MAX;

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
    fn admits(&self, node: &NodeInfo) -> bool {
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
    domains: HashMap<String, u32>,
    /// The domain of each node, [`NO_DOMAIN`] for nodes that do not count.
    of_node: Vec<u32>,
    /// Pods in each domain.
    pods: Vec<u32>,
    /// Nodes in each domain.
    nodes: Vec<u32>,
    /// Pods in all domains.
    total: u64,
    /// Pods on all nodes, also those without a domain.
    members: u64,
    used: u64,
}

impl Counter {
    /// The domain of a node.
    pub(crate) fn domain(&self, slot: u32) -> u32 {
        self.of_node.get(slot as usize).copied().unwrap_or(NO_DOMAIN)
    }

    /// Pods in the domain of a node; none where it has no domain.
    pub(crate) fn beside(&self, slot: u32) -> u32 {
        self.pods.get(self.domain(slot) as usize).copied().unwrap_or(0)
    }

    /// Pods in the domain of that name, whatever node asks.
    pub(crate) fn in_domain(&self, name: &str) -> u32 {
        self.domains.get(name).and_then(|domain| self.pods.get(*domain as usize)).copied().unwrap_or(0)
    }

    /// Pods in all domains.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Domains that have nodes, and the fewest pods in one of them.
    pub(crate) fn smallest(&self) -> (usize, u32) {
        let present = self.nodes.iter().zip(&self.pods).filter(|(nodes, _)| **nodes > 0);
        present.fold((0, u32::MAX), |(count, least), (_, pods)| (count + 1, least.min(*pods)))
    }

    /// How many domains these nodes are in; to lack the label is to be in one more.
    pub(crate) fn domains_of(&self, slots: &[u32]) -> usize {
        // Domains that nobody is in any more keep their numbers, and the last place is for nodes without one.
        let mut seen = vec![false; self.pods.len() + 1];
        for slot in slots {
            seen[(self.domain(*slot) as usize).min(self.pods.len())] = true;
        }
        seen.into_iter().filter(|seen| *seen).count()
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

    fn add(&mut self, slot: u32) {
        self.members += 1;
        let domain = self.domain(slot) as usize;
        if let Some(count) = self.pods.get_mut(domain) {
            *count += 1;
            self.total += 1;
        }
    }

    fn subtract(&mut self, slot: u32) {
        self.members -= 1;
        let domain = self.domain(slot) as usize;
        if let Some(count) = self.pods.get_mut(domain) {
            *count -= 1;
            self.total -= 1;
        }
    }

    fn join(&mut self, node: &NodeInfo) {
        let label = node.labels.get(&self.key.topology_key);
        let domain = match label.filter(|_| node.exists && self.key.eligibility.admits(node)) {
            None => NO_DOMAIN,
            Some(label) => match self.domains.get(label) {
                Some(domain) => *domain,
                None => {
                    let domain = u32::try_from(self.pods.len()).unwrap_or(NO_DOMAIN);
                    self.domains.insert(label.clone(), domain);
                    self.pods.push(0);
                    self.nodes.push(0);
                    domain
                }
            },
        };
        let slot = node.slot as usize;
        if self.of_node.len() <= slot {
            self.of_node.resize(slot + 1, NO_DOMAIN);
        }
        self.of_node[slot] = domain;
        if let Some(nodes) = self.nodes.get_mut(domain as usize) {
            *nodes += 1;
        }
    }

    fn leave(&mut self, slot: u32) {
        let domain = self.domain(slot);
        if let Some(nodes) = self.nodes.get_mut(domain as usize) {
            *nodes -= 1;
        }
        if let Some(of_node) = self.of_node.get_mut(slot as usize) {
            *of_node = NO_DOMAIN;
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
        let (domains, of_node) = (HashMap::new(), Vec::new());
        let (pods, counted) = (Vec::new(), Vec::new());
        let mut counter =
            Counter { key, domains, of_node, pods, nodes: counted, total: 0, members: 0, used: self.clock };
        for node in nodes {
            counter.join(node);
        }
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
        self.by_key.insert(key, id);
        id
    }

    /// The counters that count pods of that shape.
    pub(crate) fn counting(&self, shape: &ShapeParts, namespaces: &HashMap<String, Labels>) -> Vec<CounterId> {
        let counting = self.all().filter(|(_, counter)| counter.counts(shape, namespaces));
        counting.map(|(id, _)| id).collect()
    }

    /// Whether one counter counts pods of that shape.
    pub(crate) fn counts(&self, id: CounterId, shape: &ShapeParts, namespaces: &HashMap<String, Labels>) -> bool {
        self.get(id).is_some_and(|counter| counter.counts(shape, namespaces))
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = (CounterId, &Counter)> {
        (0..).zip(&self.counters).filter_map(|(id, counter)| Some((id, counter.as_ref()?)))
    }

    pub(crate) fn add(&mut self, ids: &[CounterId], slot: u32) {
        for id in ids {
            if let Some(Some(counter)) = self.counters.get_mut(*id as usize) {
                counter.add(slot);
            }
        }
    }

    pub(crate) fn subtract(&mut self, ids: &[CounterId], slot: u32) {
        for id in ids {
            if let Some(Some(counter)) = self.counters.get_mut(*id as usize) {
                counter.subtract(slot);
            }
        }
    }

    pub(crate) fn join(&mut self, node: &NodeInfo) {
        self.counters.iter_mut().flatten().for_each(|counter| counter.join(node));
    }

    pub(crate) fn leave(&mut self, slot: u32) {
        self.counters.iter_mut().flatten().for_each(|counter| counter.leave(slot));
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
        self.epoch += 1;
        self.terms_epoch += 1;
    }

    /// Drops all that depends on labels of namespaces; see [`Counters::sweep`] for what that means for numbers.
    pub(crate) fn clear(&mut self) {
        *self = Self { epoch: self.epoch + 1, terms_epoch: self.terms_epoch + 1, ..Self::default() };
    }
}
