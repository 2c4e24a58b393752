//! The decision: which node takes a pod.

use std::collections::BTreeMap;
use std::fmt;

use crate::filter::{self, Reason};
use crate::pod::PodInfo;
use crate::score::{Raw, Scale};
use crate::snapshot::{NodeInfo, Snapshot};

#[cfg(test)]
mod tests;

/// Up to this many nodes all are looked at; upstream's value.
const NODES_ALWAYS_SEEN: usize = 100;
/// In very large clusters at least this share of nodes is looked at; upstream's value.
const NODES_SEEN_PERCENT_MIN: usize = 5;

/// The answer of [`schedule`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Bind the pod to this node.
    Node(String),
    /// No node takes the pod.
    Unschedulable(Unschedulable),
}

/// Why no node takes a pod. Displays as upstream's message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unschedulable {
    nodes: usize,
    /// How many nodes gave each reason.
    reasons: BTreeMap<String, usize>,
    /// Nodes on which the pod would fit if other pods left.
    preemptible: usize,
    /// Which filters refused, as a mask.
    pub(crate) filters: u8,
}

impl Unschedulable {
    fn refuse(&mut self, reasons: &[Reason]) {
        self.nodes += 1;
        if reasons.iter().all(Reason::resolvable_by_preemption) {
            self.preemptible += 1;
        }
        for reason in reasons {
            self.filters |= reason.filter() as u8;
            *self.reasons.entry(reason.message()).or_default() += 1;
        }
    }

    /// How many nodes gave each reason.
    pub fn reasons(&self) -> &BTreeMap<String, usize> {
        &self.reasons
    }
}

impl fmt::Display for Unschedulable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nodes = self.nodes;
        if nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        let mut reasons: Vec<String> = self.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        reasons.sort();
        write!(
            f,
            "0/{nodes} nodes are available: {}. preemption: 0/{nodes} nodes are available: ",
            reasons.join(", ")
        )?;
        let unhelped = nodes - self.preemptible;
        let mut separator = "";
        if self.preemptible > 0 {
            write!(f, "{} No preemption victims found for incoming pod", self.preemptible)?;
            separator = ", ";
        }
        if unhelped > 0 {
            write!(f, "{separator}{unhelped} Preemption is not helpful for scheduling")?;
        }
        f.write_str(".")
    }
}

/// Picks a node for `pod`. Equal snapshots, pods and seeds give equal answers; the seed decides between equally good nodes
/// and where in a large cluster the search begins.
pub fn schedule(snapshot: &Snapshot, pod: &PodInfo, seed: u64) -> Placement {
    let candidates = candidates(snapshot, pod, seed);
    if candidates.is_empty() {
        let mut unschedulable = Unschedulable::default();
        for node in snapshot.nodes().iter().filter(|node| node.exists()) {
            unschedulable.refuse(&filter::reasons(node, pod));
        }
        return Placement::Unschedulable(unschedulable);
    }
    let raw: Vec<(usize, Raw)> = candidates.into_iter().map(|at| (at, Raw::of(&snapshot.nodes()[at], pod))).collect();
    let scale = Scale::of(&raw);
    let mut best: Option<(i64, u64, &NodeInfo)> = None;
    for (at, raw) in &raw {
        let node = &snapshot.nodes()[*at];
        let rank = (scale.total(raw), mix(seed, *at));
        if best.is_none_or(|(score, tie, _)| rank > (score, tie)) {
            best = Some((rank.0, rank.1, node));
        }
    }
    match best {
        Some((_, _, node)) => Placement::Node(node.name.clone()),
        None => Placement::Unschedulable(Unschedulable::default()),
    }
}

/// Positions of nodes that take the pod; in a large cluster the search stops when there are enough to choose from.
fn candidates(snapshot: &Snapshot, pod: &PodInfo, seed: u64) -> Vec<usize> {
    let nodes = snapshot.nodes();
    let enough = if nodes.len() <= NODES_ALWAYS_SEEN {
        nodes.len()
    } else {
        let percent = 50usize.saturating_sub(nodes.len() / 125).max(NODES_SEEN_PERCENT_MIN);
        (nodes.len() * percent / 100).max(NODES_ALWAYS_SEEN)
    };
    let start = usize::try_from(mix(seed, 0) % (nodes.len().max(1) as u64)).unwrap_or(0);
    (start..nodes.len())
        .chain(0..start)
        .filter(|at| nodes[*at].exists() && filter::feasible(&nodes[*at], pod))
        .take(enough)
        .collect()
}

/// SplitMix64 of seed and position.
fn mix(seed: u64, at: usize) -> u64 {
    let mut z = seed.wrapping_add((at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
