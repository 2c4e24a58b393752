//! What the kernel's table holds, and the smallest change that takes it to what a Service now asks for.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;

use super::program::{Action, Match, OwnerKey, Program, Protocol, Target};

/// One change to the table. The order in which a list holds them is the order in which they must be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Create a chain.
    AddChain(String),
    /// Replace the rules of a chain.
    Fill {
        /// The chain.
        chain: String,
        /// The transport protocol of its packets.
        protocol: Protocol,
        /// What becomes of packets.
        action: Action,
    },
    /// Empty and delete a chain to which nothing leads any more.
    RemoveChain(String),
    /// Lead packets to a chain.
    AddMatch(Match, String),
    /// Lead packets no longer anywhere.
    RemoveMatch(Match),
    /// Translate the source of packets that an endpoint sends to itself through a Service.
    AddHairpin(Ipv4Addr),
    /// No longer.
    RemoveHairpin(Ipv4Addr),
}

/// The changes for one Service, and the UDP endpoints whose flows must be forgotten, because nothing else ends them.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Update {
    /// The changes, in order.
    pub(crate) changes: Vec<Change>,
    /// Endpoints that no longer serve a Service port over UDP.
    pub(crate) stale_udp: HashSet<Target>,
}

/// The table's content as last committed.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    services: HashMap<OwnerKey, BTreeMap<String, Program>>,
    /// Which chain each match leads to. A Service that takes an address which another one, already deleted but not yet
    /// seen so, still holds here gets it at once.
    owners: HashMap<Match, String>,
    /// How many targets lie at each address.
    hairpins: HashMap<Ipv4Addr, usize>,
}

impl Ledger {
    /// Records what a Service now asks for, and returns how the table gets there. The cost is that of the Service.
    pub(crate) fn update(&mut self, key: &OwnerKey, wanted: BTreeMap<String, Program>) -> Update {
        let current = self.services.remove(key).unwrap_or_default();
        let mut update = Update::default();
        let mut gone = Vec::new();
        for (chain, old) in &current {
            let new = wanted.get(chain);
            let kept = |found: &Match| new.is_some_and(|new| new.matches.contains(found));
            for found in old.matches.iter().filter(|found| !kept(found)) {
                if self.owners.get(found) == Some(chain) {
                    self.owners.remove(found);
                    update.changes.push(Change::RemoveMatch(*found));
                }
            }
            if new.is_none() {
                gone.push(Change::RemoveChain(chain.clone()));
            }
            if old.protocol == Protocol::Udp {
                let stays = |target: &&Target| new.is_some_and(|new| new.targets().contains(target));
                update.stale_udp.extend(old.targets().iter().filter(|target| !stays(target)));
            }
        }
        update.changes.append(&mut gone);
        // what is led to comes before what leads there
        for (chain, new) in wanted.iter().rev() {
            self.lead(chain, current.get(chain), new, &mut update.changes);
        }
        self.count_hairpins(&current, &wanted, &mut update.changes);
        if !wanted.is_empty() {
            self.services.insert(key.clone(), wanted);
        }
        update
    }

    /// The Services that the table holds rules of.
    #[cfg(test)]
    pub(crate) fn services(&self) -> usize {
        self.services.len()
    }

    fn lead(&mut self, chain: &str, old: Option<&Program>, new: &Program, changes: &mut Vec<Change>) {
        if old.is_none() {
            changes.push(Change::AddChain(chain.to_owned()));
        }
        if old.is_none_or(|old| old.action != new.action) {
            changes.push(Change::Fill { chain: chain.to_owned(), protocol: new.protocol, action: new.action.clone() });
        }
        for found in &new.matches {
            match self.owners.get(found) {
                Some(owner) if owner == chain => continue,
                Some(_) => changes.push(Change::RemoveMatch(*found)),
                None => {}
            }
            changes.push(Change::AddMatch(*found, chain.to_owned()));
            self.owners.insert(*found, chain.to_owned());
        }
    }

    fn count_hairpins(
        &mut self,
        old: &BTreeMap<String, Program>,
        new: &BTreeMap<String, Program>,
        changes: &mut Vec<Change>,
    ) {
        let addresses = |programs: &BTreeMap<String, Program>| {
            let mut counts: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
            let targets = programs.values().flat_map(Program::targets);
            targets.for_each(|(address, _)| *counts.entry(*address).or_default() += 1);
            counts
        };
        for (address, count) in addresses(new) {
            let total = self.hairpins.entry(address).or_default();
            if *total == 0 {
                changes.push(Change::AddHairpin(address));
            }
            *total += count;
        }
        for (address, count) in addresses(old) {
            let Some(total) = self.hairpins.get_mut(&address) else { continue };
            *total = total.saturating_sub(count);
            if *total == 0 {
                self.hairpins.remove(&address);
                changes.push(Change::RemoveHairpin(address));
            }
        }
    }
}

#[cfg(test)]
mod tests;
