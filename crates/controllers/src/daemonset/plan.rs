//! What to do about a DaemonSet's pods, decided from its nodes and what runs on them.
//!
//! First every node gets the pods it should have; only when nothing is to be done there are pods of other revisions
//! replaced, as many at a time as may be unavailable or as there may be two of.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::eligibility::{self, Eligibility};
use super::standing::Nodes;
use crate::history::REVISION_HASH;
use crate::percentage::{Round, resolve};
use crate::pods::{self, Availability};

/// What there is.
pub(super) struct Observed<'a> {
    pub(super) daemon: &'a DaemonSet,
    pub(super) nodes: &'a Nodes,
    /// The pods that are the set's.
    pub(super) pods: &'a [Arc<Pod>],
    /// Hash of the current revision.
    pub(super) hash: &'a str,
    /// How long a failed pod of that node is left alone.
    pub(super) back_off: &'a (dyn Fn(&str) -> Option<Duration> + Sync),
    pub(super) now: Timestamp,
}

/// A pod that has ended on its node and is deleted for it.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) pod: Arc<Pod>,
    pub(super) node: String,
    pub(super) failed: bool,
}

/// All writes of one reconcile but for the status.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Those of `delete` that are worth an event.
    pub(super) ended: Vec<Ended>,
    /// When to look again without an event.
    pub(super) next: Option<Duration>,
}

impl Plan {
    fn is_idle(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }
}

/// A node and the set's pods on it; nodes that are gone may still have pods.
pub(super) struct Place<'a> {
    pub(super) eligibility: Option<Eligibility>,
    pub(super) pods: Vec<&'a Arc<Pod>>,
}

impl Place<'_> {
    pub(super) fn runs(&self) -> bool {
        self.eligibility == Some(Eligibility::Runs)
    }
}

/// All nodes and what is on them, by the node's name.
pub(super) fn places<'a>(observed: &Observed<'a>) -> BTreeMap<&'a str, Place<'a>> {
    let empty = |eligibility: &Eligibility| Place { eligibility: Some(*eligibility), pods: Vec::new() };
    let mut places: BTreeMap<&str, Place<'_>> =
        observed.nodes.iter().map(|(name, eligibility)| (&**name, empty(eligibility))).collect();
    for pod in observed.pods {
        // One that has ended and is held by a finalizer keeps no other from running.
        if pods::is_terminal(pod) && pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        if let Some(node) = eligibility::target(pod) {
            places.entry(node).or_insert(Place { eligibility: None, pods: Vec::new() }).pods.push(pod);
        }
    }
    for place in places.values_mut() {
        place.pods.sort_by_key(|pod| age_order(pod));
    }
    places
}

/// Scheduled pods first, then the oldest.
fn age_order(pod: &Pod) -> (bool, Option<Timestamp>, String) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (pods::node_name(pod).is_none(), created, pod.name_any())
}

pub(super) fn is_updated(pod: &Pod, hash: &str) -> bool {
    pod.metadata.labels.as_ref().and_then(|labels| labels.get(REVISION_HASH)).is_some_and(|label| label == hash)
}

pub(super) fn availability(observed: &Observed<'_>, pod: &Pod) -> Availability {
    let min_ready = observed.daemon.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    pods::availability(pod, min_ready, observed.now)
}

fn is_available(observed: &Observed<'_>, pod: &Pod) -> bool {
    availability(observed, pod) == Availability::Available
}

/// What a rolling update may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bounds {
    surge: usize,
    unavailable: usize,
}

fn bounds(daemon: &DaemonSet, desired: usize) -> Bounds {
    let rolling = daemon.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref()?.rolling_update.as_ref());
    let size = i32::try_from(desired).unwrap_or(i32::MAX);
    let count = |value| usize::try_from(resolve(value, size, Round::Up)).unwrap_or(0);
    let surge = rolling.and_then(|rolling| rolling.max_surge.as_ref()).map_or(0, count);
    let unavailable = rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).map_or(0, count);
    // With neither the update could never move.
    let stuck = desired > 0 && surge == 0 && unavailable == 0;
    Bounds { surge, unavailable: if stuck { 1 } else { unavailable } }
}

fn rolls(daemon: &DaemonSet) -> bool {
    let strategy = daemon.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

/// Decides on all creations and deletions of one reconcile.
pub(super) fn decide(observed: &Observed<'_>, places: &BTreeMap<&str, Place<'_>>) -> Plan {
    let rolls = rolls(observed.daemon);
    let desired = places.values().filter(|place| place.runs()).count();
    let bounds = bounds(observed.daemon, desired);
    let surges = rolls && bounds.surge > 0;
    let mut plan = Plan::default();
    for (name, place) in places {
        place_pods(observed, name, place, surges, &mut plan);
    }
    if plan.is_idle() && rolls {
        if surges {
            surge(observed, places, desired, bounds, &mut plan);
        } else {
            replace(observed, places, bounds, &mut plan);
        }
    }
    plan
}

/// What one node needs for there to be the right pods on it.
fn place_pods(observed: &Observed<'_>, name: &str, place: &Place<'_>, surges: bool, plan: &mut Plan) {
    let staying = place.pods.iter().copied().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let Some(eligibility) = place.eligibility else {
        // The node is gone: nobody else deletes what was never bound to it.
        plan.delete.extend(staying.filter(|pod| pods::node_name(pod).is_none()).cloned());
        return;
    };
    match eligibility {
        Eligibility::Leaves => plan.delete.extend(staying.cloned()),
        Eligibility::Runs if place.pods.is_empty() => plan.create.push(name.to_owned()),
        Eligibility::Runs | Eligibility::Stays => {
            let (ended, running): (Vec<_>, Vec<_>) = staying.partition(|pod| pods::is_terminal(pod));
            for pod in ended {
                end(observed, name, pod, plan);
            }
            if surges {
                let wanted = eligibility == Eligibility::Runs && running.is_empty();
                plan.create.extend(wanted.then(|| name.to_owned()));
                prune_surged(observed, &running, plan);
            } else {
                plan.delete.extend(running.into_iter().skip(1).cloned());
            }
        }
    }
}

/// Deletes a pod that has ended; one that fails again and again is left alone for a while.
fn end(observed: &Observed<'_>, node: &str, pod: &Arc<Pod>, plan: &mut Plan) {
    let failed = pods::phase(pod) == "Failed";
    if failed && let Some(left) = (observed.back_off)(node) {
        plan.next = Some(plan.next.map_or(left, |next| next.min(left)));
        return;
    }
    plan.delete.push(Arc::clone(pod));
    plan.ended.push(Ended { pod: Arc::clone(pod), node: node.to_owned(), failed });
}

/// Of several pods on a node the oldest of this revision and the oldest of others stay; the latter until it is not ready or
/// the former is available.
fn prune_surged(observed: &Observed<'_>, running: &[&Arc<Pod>], plan: &mut Plan) {
    let (mut new, mut old) = (None, None);
    for pod in running {
        let kept = if is_updated(pod, observed.hash) { &mut new } else { &mut old };
        match kept {
            None => *kept = Some(*pod),
            Some(_) => plan.delete.push(Arc::clone(pod)),
        }
    }
    if let (Some(new), Some(old)) = (new, old)
        && (!pods::is_ready(old) || is_available(observed, new))
    {
        plan.delete.push(Arc::clone(old));
    }
}

/// The pods of a node that stay.
struct Pair<'a> {
    new: Option<&'a Arc<Pod>>,
    old: Option<&'a Arc<Pod>>,
}

/// The pod of this revision and the one of another; `None` where there are more, which placing sees to first.
fn pair<'a>(place: &Place<'a>, hash: &str) -> Option<Pair<'a>> {
    let mut pair = Pair { new: None, old: None };
    for pod in place.pods.iter().copied().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        let kept = if is_updated(pod, hash) { &mut pair.new } else { &mut pair.old };
        if kept.replace(pod).is_some() {
            return None;
        }
    }
    Some(pair)
}

/// Deletes pods of other revisions as long as not too many are unavailable; what is unavailable anyway goes at once.
fn replace(observed: &Observed<'_>, places: &BTreeMap<&str, Place<'_>>, bounds: Bounds, plan: &mut Plan) {
    let mut unavailable = 0;
    let mut candidates = Vec::new();
    for place in places.values().filter(|place| place.runs() || !place.pods.is_empty()) {
        match pair(place, observed.hash) {
            Some(Pair { new: None, old: Some(old) }) if is_available(observed, old) => candidates.push(Arc::clone(old)),
            Some(Pair { new: None, old: Some(old) }) => {
                plan.delete.push(Arc::clone(old));
                unavailable += 1;
            }
            Some(Pair { new: Some(new), old: None }) => unavailable += usize::from(!is_available(observed, new)),
            _ => unavailable += 1,
        }
    }
    plan.delete.extend(candidates.into_iter().take(bounds.unavailable.saturating_sub(unavailable)));
}

/// Starts pods of this revision beside those of others, so many at a time; where the old one is unavailable anyway, at once.
fn surge(observed: &Observed<'_>, places: &BTreeMap<&str, Place<'_>>, desired: usize, bounds: Bounds, plan: &mut Plan) {
    let (mut surging, mut available) = (0, 0);
    let (mut candidates, mut misplaced) = (Vec::new(), Vec::new());
    for (name, place) in places {
        let Some(Pair { new, old }) = pair(place, observed.hash) else {
            surging += 1;
            continue;
        };
        available += usize::from(old.or(new).is_some_and(|pod| is_available(observed, pod)));
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) => match (is_available(observed, old), place.runs()) {
                (false, true) => plan.create.push((*name).to_owned()),
                (false, false) => plan.delete.push(Arc::clone(old)),
                (true, true) => candidates.push((*name).to_owned()),
                (true, false) => misplaced.push(Arc::clone(old)),
            },
            (Some(new), Some(old)) if is_available(observed, new) => plan.delete.push(Arc::clone(old)),
            (Some(_), Some(_)) => surging += 1,
        }
    }
    // Who surges wants all pods available: one that is in the wrong place goes when another has taken over.
    plan.delete.extend(misplaced.into_iter().take(available.saturating_sub(desired)));
    plan.create.extend(candidates.into_iter().take(bounds.surge.saturating_sub(surging)));
}
