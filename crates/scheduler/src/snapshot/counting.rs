//! What is counted per topology domain, and what all counts depend on: nodes that come, go and change, and the labels of
//! namespaces.

use std::sync::Arc;

use super::Snapshot;
use super::counters::{Count, Counted, CounterId, CounterKey, Counters, Eligibility, bonds};
use super::shapes::ShapeId;
use kinds::matching::Labels;

impl Snapshot {
    /// A shape of which no pod was placed: finds out which counters count it, and makes those for its terms.
    pub(super) fn welcome(&mut self, id: ShapeId) {
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
        let counted = key.counted.clone();
        let id = self.counters.insert(key, self.nodes.iter());
        for shape in self.shapes.worth_asking(&counted) {
            let Some(entry) = self.shapes.get_mut(shape).filter(|entry| entry.placed > 0) else { continue };
            if self.counters.counts(id, &entry.shape, &self.namespaces) {
                entry.counters.push(id);
                for (slot, pods) in &entry.on {
                    self.counters.add(&[id], *slot, *pods);
                }
            }
        }
        id
    }

    /// A counter by its number.
    pub(crate) fn count_of(&self, id: CounterId) -> Option<Count<'_>> {
        self.counters.count(id)
    }

    /// All counters with their numbers.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Takes a node's pods out of all counts.
    pub(super) fn detach(&mut self, slot: u32) {
        self.recount(slot, Counters::subtract);
        self.counters.leave(slot);
    }

    /// Counts a node's pods where the node belongs now.
    pub(super) fn attach(&mut self, slot: u32) {
        self.counters.join(&self.nodes[slot as usize]);
        self.recount(slot, |counters, ids, slot| counters.add(ids, slot, 1));
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
}
