//! How fast nodes of a zone may lose their pods: slower where most of a zone has fallen silent at once, and not at all
//! where nobody is left, because then it is more likely that this side of the network is the broken one.
//!
//! Pure: it is told of nodes and of the time, and says what may be done.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;
use tokio::time::Instant;

use crate::context::EvictionRates;

/// Labels that say where a node is, the older ones first as upstream reads them.
const ZONE_LABELS: [&str; 2] = ["failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"];
const REGION_LABELS: [&str; 2] = ["failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"];
/// A node with this label says nothing about its zone.
const EXCLUDED: &str = "node.kubernetes.io/exclude-disruption";
/// So few unready nodes are no disruption of a zone, whatever their share.
const UNREADY_FEW: usize = 2;

/// The name of the node's zone: region and zone, as upstream joins them; empty where it has neither.
pub(super) fn zone_of(node: &Node) -> String {
    let first = |keys: [&str; 2]| keys.iter().find_map(|key| node.labels().get(*key)).map_or("", String::as_str);
    match (first(REGION_LABELS), first(ZONE_LABELS)) {
        ("", "") => String::new(),
        (region, zone) => format!("{region}:\0:{zone}"),
    }
}

/// What a node says about its zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    Ready,
    Unready,
    /// Nothing, by its own wish.
    Excluded,
}

/// The health of a node of which it is known whether it is ready.
pub(super) fn health(node: &Node, ready: bool) -> Health {
    match ready {
        _ if node.labels().contains_key(EXCLUDED) => Health::Excluded,
        true => Health::Ready,
        false => Health::Unready,
    }
}

/// What is the matter with a zone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Disruption {
    Normal,
    /// Most nodes are unready.
    Partial,
    /// No node is ready.
    Full,
}

/// The state of a zone with so many nodes.
pub(super) fn disruption(unready: usize, size: usize, rates: &EvictionRates) -> Disruption {
    if size > 0 && unready == size {
        Disruption::Full
    } else if unready > UNREADY_FEW && unready as f64 / size as f64 >= rates.unhealthy_zone_threshold {
        Disruption::Partial
    } else {
        Disruption::Normal
    }
}

/// One action at a time, and not more than so many per second.
#[derive(Debug)]
struct Limiter {
    per_second: f64,
    /// When the next one is allowed; none while the rate is zero.
    next: Option<Instant>,
}

impl Limiter {
    fn new(per_second: f64, now: Instant) -> Self {
        Self { per_second, next: (per_second > 0.0).then_some(now) }
    }

    /// A limiter that just said no says no for a while at the new rate too.
    fn set(&mut self, per_second: f64, now: Instant) {
        if self.per_second == per_second {
            return;
        }
        let allowed = self.next.is_some_and(|next| next <= now);
        let next = if allowed { now } else { now + pause(per_second) };
        *self = Self { per_second, next: (per_second > 0.0).then_some(next) };
    }
}

fn pause(per_second: f64) -> Duration {
    if per_second > 0.0 {
        Duration::try_from_secs_f64(1.0 / per_second).unwrap_or(Duration::MAX)
    } else {
        Duration::ZERO
    }
}

#[derive(Debug)]
struct Zone {
    /// Nodes, those that say nothing among them.
    members: usize,
    /// Nodes that count.
    size: usize,
    unready: usize,
    limiter: Limiter,
    /// Nodes to be tainted, in the order in which they came.
    waiting: BTreeMap<u64, String>,
}

#[derive(Debug)]
struct Member {
    zone: String,
    health: Health,
    waiting: Option<u64>,
}

/// What a change of a node brought about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing but perhaps another pace.
    None,
    /// No zone has a ready node any more.
    Halted,
    /// Some node is ready again.
    Resumed,
}

/// What is to be done in a zone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing until something changes.
    Nothing,
    /// The first that waits may be tainted after this time.
    In(Duration),
    /// This node may be tainted now.
    Taint(String),
}

/// All zones, and which node is in which.
pub(super) struct Zones {
    rates: EvictionRates,
    zones: HashMap<String, Zone>,
    members: HashMap<String, Member>,
    /// Zones with nodes that count, and those of them without a ready one.
    counted: usize,
    full: usize,
    halted: bool,
    sequence: u64,
}

impl Zones {
    pub(super) fn new(rates: EvictionRates) -> Self {
        let (zones, members) = (HashMap::new(), HashMap::new());
        Self { rates, zones, members, counted: 0, full: 0, halted: false, sequence: 0 }
    }

    /// Whether no node is to lose its pods.
    pub(super) fn halted(&self) -> bool {
        self.halted
    }

    /// Names of the zones.
    pub(super) fn names(&self) -> Vec<String> {
        self.zones.keys().cloned().collect()
    }

    /// Takes in how a node is, and where.
    pub(super) fn place(&mut self, node: &str, zone: &str, health: Health, now: Instant) -> Turn {
        match self.members.get_mut(node) {
            Some(member) if member.zone == zone && member.health == health => return Turn::None,
            Some(member) if member.zone == zone => {
                let before = std::mem::replace(&mut member.health, health);
                self.count(zone, Some(before), Some(health), now);
            }
            Some(_) | None => {
                let waited = self.leave(node);
                if let Some(before) = self.members.remove(node) {
                    self.count(&before.zone, Some(before.health), None, now);
                }
                let member = Member { zone: zone.to_owned(), health, waiting: None };
                self.members.insert(node.to_owned(), member);
                self.count(zone, None, Some(health), now);
                if waited {
                    self.wait(node);
                }
            }
        }
        self.turn(now)
    }

    /// Forgets a node.
    pub(super) fn remove(&mut self, node: &str, now: Instant) -> Turn {
        self.leave(node);
        let Some(member) = self.members.remove(node) else { return Turn::None };
        self.count(&member.zone, Some(member.health), None, now);
        self.turn(now)
    }

    fn count(&mut self, zone: &str, before: Option<Health>, after: Option<Health>, now: Instant) {
        let rates = &self.rates;
        let fresh = || Zone {
            members: 0,
            size: 0,
            unready: 0,
            limiter: Limiter::new(rates.per_second, now),
            waiting: BTreeMap::new(),
        };
        let known = self.zones.entry(zone.to_owned()).or_insert_with(fresh);
        known.members = known.members + usize::from(after.is_some()) - usize::from(before.is_some());
        let was = (known.size > 0, disruption(known.unready, known.size, rates) == Disruption::Full);
        let counts = |health: Option<Health>| {
            let unready = health == Some(Health::Unready);
            (usize::from(unready || health == Some(Health::Ready)), usize::from(unready))
        };
        let (less, more) = (counts(before), counts(after));
        known.size = known.size + more.0 - less.0;
        known.unready = known.unready + more.1 - less.1;
        let is = (known.size > 0, disruption(known.unready, known.size, rates) == Disruption::Full);
        self.counted = self.counted + usize::from(is.0) - usize::from(was.0);
        self.full = self.full + usize::from(is.1) - usize::from(was.1);
        let rate = rate(known, self.halted, rates);
        known.limiter.set(rate, now);
        if known.members == 0 {
            self.zones.remove(zone);
        }
    }

    /// Notices that the last ready node is gone, or the first one back.
    fn turn(&mut self, now: Instant) -> Turn {
        // where no node counts nothing can be said, so all stays as it is
        let halted = if self.counted == 0 { self.halted } else { self.full == self.counted };
        if halted == self.halted {
            return Turn::None;
        }
        self.halted = halted;
        for zone in self.zones.values_mut() {
            let rate = rate(zone, halted, &self.rates);
            zone.limiter.set(rate, now);
        }
        if halted { Turn::Halted } else { Turn::Resumed }
    }

    /// Lines a node up to be tainted.
    pub(super) fn wait(&mut self, node: &str) {
        let Some(member) = self.members.get_mut(node).filter(|member| member.waiting.is_none()) else { return };
        let Some(zone) = self.zones.get_mut(&member.zone) else { return };
        self.sequence += 1;
        member.waiting = Some(self.sequence);
        zone.waiting.insert(self.sequence, node.to_owned());
    }

    /// Whether nodes of a zone stand in line.
    pub(super) fn is_awaited(&self, zone: &str) -> bool {
        self.zones.get(zone).is_some_and(|zone| !zone.waiting.is_empty())
    }

    /// Takes a node out of its line; whether it stood in one.
    pub(super) fn leave(&mut self, node: &str) -> bool {
        let Some(member) = self.members.get_mut(node) else { return false };
        let Some(place) = member.waiting.take() else { return false };
        if let Some(zone) = self.zones.get_mut(&member.zone) {
            zone.waiting.remove(&place);
        }
        true
    }

    /// What may be done in a zone now; a node that is named has left its line, and counts against the rate.
    pub(super) fn next(&mut self, zone: &str, now: Instant) -> Next {
        let Some(zone) = self.zones.get_mut(zone) else { return Next::Nothing };
        let (Some(at), Some(first)) = (zone.limiter.next, zone.waiting.first_entry()) else { return Next::Nothing };
        if at > now {
            return Next::In(at - now);
        }
        let node = first.remove();
        zone.limiter.next = Some(now + pause(zone.limiter.per_second));
        if let Some(member) = self.members.get_mut(&node) {
            member.waiting = None;
        }
        Next::Taint(node)
    }

    /// The zone's nodes that count, and how many of them are unready; none for a zone without nodes.
    pub(super) fn census(&self, zone: &str) -> (usize, usize) {
        self.zones.get(zone).map_or((0, 0), |zone| (zone.size, zone.unready))
    }

    /// The zone a node was last seen in.
    pub(super) fn zone(&self, node: &str) -> Option<String> {
        self.members.get(node).map(|member| member.zone.clone())
    }
}

fn rate(zone: &Zone, halted: bool, rates: &EvictionRates) -> f64 {
    match disruption(zone.unready, zone.size, rates) {
        _ if halted => 0.0,
        Disruption::Normal | Disruption::Full => rates.per_second,
        Disruption::Partial if zone.size > rates.large_cluster_nodes => rates.per_second_disrupted,
        Disruption::Partial => 0.0,
    }
}
