//! Who may serve what on which port, where several want to.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{item::Item, listeners::Source};
use crate::routing::{ListenerConfig, Mode, Protocol, Rank, RouteTable, Site};

/// A listener that wants to be on a port.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub(crate) rank: Rank,
    pub(crate) owner: Item,
    pub(crate) source: Source,
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) config: ListenerConfig,
}

/// A listener that is on a port.
pub(crate) type Grant = (Item, Source, String);

/// The claims on every port, and which are granted.
#[derive(Default)]
pub(crate) struct Sites {
    claims: HashMap<Site, Vec<Claim>>,
    grants: HashMap<Site, BTreeSet<Grant>>,
    /// The ports that an owner claims.
    of: HashMap<Item, BTreeSet<Site>>,
}

impl Sites {
    /// Replaces the claims of an owner, and changes the listeners of the table accordingly; gives those back whose grants
    /// changed.
    pub(crate) fn claim(
        &mut self,
        owner: &Item,
        wanted: BTreeMap<Site, Vec<Claim>>,
        table: &mut RouteTable,
    ) -> BTreeSet<Item> {
        let mut touched: BTreeSet<Site> = wanted.keys().copied().collect();
        let before = match wanted.is_empty() {
            true => self.of.remove(owner),
            false => self.of.insert(owner.clone(), touched.clone()),
        };
        touched.extend(before.into_iter().flatten());
        let mut wanted = wanted;
        let mut changed = BTreeSet::new();
        for site in touched {
            let claims = self.claims.entry(site).or_default();
            claims.retain(|claim| claim.owner != *owner);
            claims.extend(wanted.remove(&site).into_iter().flatten());
            claims.sort_by(|one, other| one.rank.cmp(&other.rank));
            let (protocol, granted) = grant(claims);
            let grants =
                granted.iter().map(|claim| (claim.owner.clone(), claim.source.clone(), claim.name.clone())).collect();
            table.listen(site, protocol, granted.into_iter().map(|claim| claim.config.clone()).collect());
            if claims.is_empty() {
                self.claims.remove(&site);
            }
            let before = if BTreeSet::is_empty(&grants) {
                self.grants.remove(&site).unwrap_or_default()
            } else {
                self.grants.insert(site, grants.clone()).unwrap_or_default()
            };
            changed.extend(before.symmetric_difference(&grants).map(|(owner, ..)| owner.clone()));
        }
        changed
    }

    /// Whether a listener is on a port.
    pub(crate) fn is_granted(&self, site: Site, grant: &Grant) -> bool {
        self.grants.get(&site).is_some_and(|grants| grants.contains(grant))
    }
}

impl Sites {
    /// Whether a listener is on a port, and serves as it wants to itself: of several for one hostname the first counts.
    pub(crate) fn is_leading(&self, site: Site, grant: &Grant) -> bool {
        let claims = self.claims.get(&site).map(Vec::as_slice).unwrap_or_default();
        let own =
            claims.iter().find(|claim| claim.owner == grant.0 && claim.source == grant.1 && claim.name == grant.2);
        let Some(own) = own.filter(|_| self.is_granted(site, grant)) else { return false };
        // They are sorted, and only those that speak the same are granted.
        let first = claims.iter().find(|claim| {
            claim.config.hostname == own.config.hostname
                && self.is_granted(site, &(claim.owner.clone(), claim.source.clone(), claim.name.clone()))
        });
        first.is_some_and(|first| first.owner == own.owner)
    }
}

/// The oldest claim decides what a port speaks. Claims for one hostname share its listener where they serve alike; bytes
/// and datagrams have one listener.
fn grant(claims: &[Claim]) -> (Protocol, Vec<&Claim>) {
    let Some(first) = claims.first() else { return (Protocol::Http, Vec::new()) };
    let mut granted: Vec<&Claim> = Vec::new();
    for claim in claims.iter().filter(|claim| claim.protocol == first.protocol) {
        let there = granted.iter().find(|other| other.config.hostname == claim.config.hostname);
        let fits = match first.protocol {
            Protocol::Tcp | Protocol::Udp => granted.is_empty(),
            Protocol::Http | Protocol::Tls => there.is_none_or(|other| alike(&other.config.mode, &claim.config.mode)),
        };
        if fits {
            granted.push(claim);
        }
    }
    (first.protocol, granted)
}

fn alike(one: &Mode, other: &Mode) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
}
