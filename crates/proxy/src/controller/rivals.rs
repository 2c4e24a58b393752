//! HTTPRoutes and GRPCRoutes that want the same hostname of a listener: the API lets only one kind have it, the older route.

use std::collections::{BTreeMap, HashMap};

use reconcile::Key;

use super::{
    item::{Item, RouteKind},
    listeners::ListenerId,
};
use crate::routing::{Rank, overlap};

/// Hostname patterns; `None` is every hostname.
pub(crate) type Hosts = Vec<Option<String>>;

/// A route at a listener.
#[derive(Clone, Debug)]
pub(crate) struct Candidate {
    pub(crate) listener: ListenerId,
    pub(crate) hosts: Hosts,
    /// Whether it has its hostnames.
    pub(crate) wins: bool,
}

/// A route, the oldest first.
type Place = (Rank, Key);

/// The routes at each listener, by kind and age.
#[derive(Default)]
pub(crate) struct Rivals {
    listeners: HashMap<ListenerId, BTreeMap<RouteKind, BTreeMap<Place, Candidate>>>,
    of: HashMap<(RouteKind, Key), (Rank, Vec<Candidate>)>,
}

/// The kind that a kind shares hostnames with.
fn rival(kind: RouteKind) -> Option<RouteKind> {
    match kind {
        RouteKind::Http => Some(RouteKind::Grpc),
        RouteKind::Grpc => Some(RouteKind::Http),
        RouteKind::Tls | RouteKind::Tcp | RouteKind::Udp => None,
    }
}

fn meet(one: &Hosts, other: &Hosts) -> bool {
    one.iter().any(|one| other.iter().any(|other| overlap(one.as_deref(), other.as_deref())))
}

impl Rivals {
    /// The older route of the other kind that has one of the hostnames. What this costs depends on the routes of the other
    /// kind: none, where a listener has one kind only.
    pub(crate) fn winner(&self, listener: &ListenerId, kind: RouteKind, rank: &Rank, hosts: &Hosts) -> Option<Key> {
        let others = self.listeners.get(listener)?.get(&rival(kind)?)?;
        let older = others.iter().take_while(|((other, _), _)| other < rank);
        let winner = { older }.find(|(_, candidate)| candidate.wins && meet(&candidate.hosts, hosts));
        winner.map(|((_, key), _)| key.clone())
    }

    /// Puts a route at its listeners; gives back the younger routes of the other kind that this may concern.
    pub(crate) fn replace(&mut self, kind: RouteKind, key: &Key, rank: Rank, now: Vec<Candidate>) -> Vec<Item> {
        let Some(other) = rival(kind) else { return Vec::new() };
        let of = (kind, key.clone());
        let mut concerned = Vec::new();
        if let Some((rank, before)) = self.of.remove(&of) {
            for candidate in &before {
                self.concern(other, &rank, candidate, &mut concerned);
                self.remove(kind, (rank.clone(), key.clone()), &candidate.listener);
            }
        }
        for candidate in &now {
            self.concern(other, &rank, candidate, &mut concerned);
            let kinds = self.listeners.entry(candidate.listener.clone()).or_default();
            kinds.entry(kind).or_default().insert((rank.clone(), key.clone()), candidate.clone());
        }
        if !now.is_empty() {
            self.of.insert(of, (rank, now));
        }
        concerned
    }

    fn concern(&self, other: RouteKind, rank: &Rank, candidate: &Candidate, concerned: &mut Vec<Item>) {
        let others = self.listeners.get(&candidate.listener).and_then(|kinds| kinds.get(&other));
        let younger = others.into_iter().flatten().filter(|((theirs, _), _)| theirs > rank);
        let met = younger.filter(|(_, theirs)| meet(&theirs.hosts, &candidate.hosts));
        concerned.extend(met.map(|((_, key), _)| Item::Route(other, key.clone())));
    }

    fn remove(&mut self, kind: RouteKind, place: Place, listener: &ListenerId) {
        let Some(kinds) = self.listeners.get_mut(listener) else { return };
        if let Some(routes) = kinds.get_mut(&kind) {
            routes.remove(&place);
            if routes.is_empty() {
                kinds.remove(&kind);
            }
        }
        if kinds.is_empty() {
            self.listeners.remove(listener);
        }
    }
}
