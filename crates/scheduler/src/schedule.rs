//! The decision: which node takes a pod, or why none does and who would have to leave.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Configuration;
use crate::evaluation::{Evaluation, bit};
use crate::metrics::Step;
use crate::plugin::{Event, Reason};
use crate::plugins::{PluginSet, volume_binding};
use crate::pod::PodInfo;
use crate::preemption::preempt;
use crate::profile::Profile;
use crate::shape::Shape;
use crate::snapshot::Snapshot;
use crate::snapshot::volumes::Provision;
use crate::unschedulable::Unschedulable;

#[cfg(test)]
mod tests;

/// Up to this many nodes all are looked at; upstream's value.
const NODES_ALWAYS_SEEN: usize = 100;
/// In very large clusters at least this share of nodes is looked at; upstream's value.
const NODES_SEEN_PERCENT_MIN: usize = 5;
/// Shapes whose evaluation is kept: with 5,000 nodes one takes a third of a megabyte.
const EVALUATIONS_MAX: usize = 64;

/// The answer of [`Planner::decide`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// Bind the pod to this node.
    Node {
        /// Its name.
        name: String,
        /// What its claims need before.
        volumes: Vec<Provision>,
    },
    /// No node takes the pod.
    Unschedulable(Box<Unschedulable>),
}

impl Placement {
    /// The node's name, where there is one.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Node { name, .. } => Some(name),
            Self::Unschedulable(_) => None,
        }
    }
}

struct Kept {
    evaluation: Evaluation,
    used: u64,
    /// The snapshot's version at which no node took such a pod, and why.
    refused: Option<(u64, Box<Unschedulable>)>,
}

/// Decides where pods go, and keeps what decisions have in common. Equal histories of snapshots, pods and seeds give equal
/// answers; a seed decides between equally good nodes, and where in a large cluster the search begins.
pub struct Planner {
    profiles: Vec<Profile>,
    /// Plug-ins that a pod with a node can matter to.
    heeding_pods: PluginSet,
    kept: HashMap<Arc<Shape>, Kept>,
    clock: u64,
    feasible: Vec<u32>,
    totals: Vec<i64>,
}

impl Planner {
    /// Decides as configured.
    pub fn new(configuration: &Configuration) -> Self {
        let profiles = configuration.profiles();
        let rules = profiles.iter().flat_map(|profile| &profile.rules).filter(|rule| rule.plugin.heeds_pods());
        let heeding_pods = rules.fold(0, |all, rule| all | 1 << rule.place);
        Self { profiles, heeding_pods, kept: HashMap::new(), clock: 0, feasible: Vec::new(), totals: Vec::new() }
    }

    /// The profile for pods of that `schedulerName`.
    pub(crate) fn profile(&self, scheduler: &str) -> Option<&Profile> {
        self.profiles.iter().find(|profile| profile.scheduler == scheduler)
    }

    fn index(&self, shape: &Shape) -> usize {
        self.profiles.iter().position(|profile| profile.scheduler == shape.scheduler).unwrap_or(0)
    }

    fn take(&mut self, snapshot: &mut Snapshot, shape: &Arc<Shape>, index: usize) -> Kept {
        self.clock += 1;
        let profile = &self.profiles[index];
        match self.kept.remove(shape) {
            Some(mut kept) => {
                kept.used = self.clock;
                kept.evaluation.refresh(snapshot, profile);
                kept
            }
            None => Kept { evaluation: Evaluation::new(snapshot, profile, shape), used: self.clock, refused: None },
        }
    }

    fn put(&mut self, kept: Kept) {
        if self.kept.len() >= EVALUATIONS_MAX {
            let mut used: Vec<u64> = self.kept.values().map(|kept| kept.used).collect();
            used.sort_unstable();
            let median = used[used.len() / 2];
            self.kept.retain(|_, kept| kept.used >= median);
        }
        self.kept.insert(Arc::clone(kept.evaluation.shape()), kept);
    }

    /// Picks a node for `pod`, or says why there is none.
    pub fn decide(&mut self, snapshot: &mut Snapshot, pod: &PodInfo, seed: u64) -> Placement {
        self.decide_watched(snapshot, pod, seed, &mut |_| {})
    }

    /// The same, telling `ended` of each part of the work when it is done.
    pub(crate) fn decide_watched(
        &mut self,
        snapshot: &mut Snapshot,
        pod: &PodInfo,
        seed: u64,
        ended: &mut dyn FnMut(Step),
    ) -> Placement {
        let index = self.index(&pod.shape);
        let mut kept = self.take(snapshot, &pod.shape, index);
        let unchanged = |(version, _): &&(u64, Box<Unschedulable>)| *version == snapshot.version();
        if let Some((_, why)) = kept.refused.as_ref().filter(unchanged)
            && snapshot.nomination(&pod.uid).is_none()
        {
            let placement = Placement::Unschedulable(why.clone());
            self.put(kept);
            return placement;
        }
        kept.refused = None;
        let profile = &self.profiles[index];
        let mut feasible = std::mem::take(&mut self.feasible);
        feasible.clear();
        if kept.evaluation.refused().is_none() {
            find(snapshot, profile, &mut kept.evaluation, pod, seed, &mut feasible);
        }
        ended(Step::Filter);
        let best = match feasible.as_slice() {
            [] => None,
            [only] => Some(*only),
            nodes => {
                kept.evaluation.scores(snapshot, nodes, &mut self.totals);
                let ranked = nodes.iter().zip(&self.totals).map(|(slot, total)| (*total, mix(seed, *slot), *slot));
                let best = ranked.max().map(|(_, _, slot)| slot);
                ended(Step::Score);
                best
            }
        };
        self.feasible = feasible;
        let placement = match best {
            Some(slot) => {
                let node = &snapshot.nodes()[slot as usize];
                let volumes = volume_binding::provisions(snapshot, &pod.shape, node);
                Placement::Node { name: node.name.clone(), volumes }
            }
            None => {
                let why = Box::new(refuse(snapshot, profile, &mut kept.evaluation, pod, seed, ended));
                if why.preemption.is_none() && snapshot.nomination(&pod.uid).is_none() {
                    kept.refused = Some((snapshot.version(), why.clone()));
                }
                Placement::Unschedulable(why)
            }
        };
        self.put(kept);
        placement
    }

    /// Plug-ins to which an event may mean anything. Most events are pods that get a node, which is of interest to few.
    pub(crate) fn hearing(&self, event: &Event) -> PluginSet {
        match event {
            Event::PodPlaced { .. } => self.heeding_pods,
            _ => PluginSet::MAX,
        }
    }

    /// Whether an event may help pods of a shape that these plug-ins refused; where none did, each may.
    pub(crate) fn may_help(&self, snapshot: &Snapshot, shape: &Shape, plugins: PluginSet, event: &Event) -> bool {
        if plugins == 0 {
            return true;
        }
        let rules = &self.profiles[self.index(shape)].rules;
        rules.iter().any(|rule| plugins & (1 << rule.place) != 0 && rule.plugin.may_help(snapshot, shape, event))
    }
}

/// Nodes that take the pod; in a large cluster the search stops when there are enough to choose from.
fn find(
    snapshot: &mut Snapshot,
    profile: &Profile,
    evaluation: &mut Evaluation,
    pod: &PodInfo,
    seed: u64,
    feasible: &mut Vec<u32>,
) {
    // Where room was made for the pod it goes, without looking further.
    if let Some(slot) = snapshot.nomination(&pod.uid)
        && snapshot.nodes()[slot as usize].exists()
        && takes(snapshot, profile, evaluation, pod, slot)
    {
        feasible.push(slot);
        return;
    }
    let slots = snapshot.nodes().len();
    let enough = nodes_to_find(snapshot.node_count(), profile.nodes_percent);
    let start = usize::try_from(mix(seed, 0) % (slots.max(1) as u64)).unwrap_or(0);
    for at in (start..slots).chain(0..start) {
        let slot = u32::try_from(at).unwrap_or(u32::MAX);
        if snapshot.nodes()[at].exists() && takes(snapshot, profile, evaluation, pod, slot) {
            feasible.push(slot);
            if feasible.len() >= enough {
                return;
            }
        }
    }
}

fn nodes_to_find(nodes: usize, percent: usize) -> usize {
    if nodes <= NODES_ALWAYS_SEEN || percent >= 100 {
        return nodes;
    }
    let adaptive = || 50usize.saturating_sub(nodes / 125).max(NODES_SEEN_PERCENT_MIN);
    let percent = if percent == 0 { adaptive() } else { percent };
    (nodes * percent / 100).max(NODES_ALWAYS_SEEN)
}

/// Whether the node takes the pod, also when the pods for which room is made there have come: those of at least its
/// priority. It must do without them too, because they may never come.
pub(crate) fn takes(
    snapshot: &mut Snapshot,
    profile: &Profile,
    evaluation: &mut Evaluation,
    pod: &PodInfo,
    slot: u32,
) -> bool {
    let admitted = beside_nominated(snapshot, profile, evaluation, pod, slot, |snapshot, evaluation| {
        evaluation.admits(snapshot, slot)
    });
    admitted != Some(false) && evaluation.admits(snapshot, slot)
}

/// Asks as if the pods had come for which room is made on the node, those of at least the pod's priority; none where there
/// are none.
fn beside_nominated<R>(
    snapshot: &mut Snapshot,
    profile: &Profile,
    evaluation: &mut Evaluation,
    pod: &PodInfo,
    slot: u32,
    ask: impl FnOnce(&Snapshot, &mut Evaluation) -> R,
) -> Option<R> {
    if snapshot.nodes()[slot as usize].nominated.is_empty() {
        return None;
    }
    let before = |other: &&PodInfo| other.uid != pod.uid && other.shape.priority >= pod.shape.priority;
    let guests: Vec<Arc<Shape>> =
        snapshot.nominated(slot).filter(before).map(|other| Arc::clone(&other.shape)).collect();
    if guests.is_empty() {
        return None;
    }
    for guest in &guests {
        snapshot.guest(guest, slot);
    }
    evaluation.refresh(snapshot, profile);
    let answer = ask(snapshot, evaluation);
    for guest in &guests {
        snapshot.unguest(guest, slot);
    }
    evaluation.refresh(snapshot, profile);
    Some(answer)
}

/// Collects why each node refuses, and looks for room that could be made.
fn refuse(
    snapshot: &mut Snapshot,
    profile: &Profile,
    evaluation: &mut Evaluation,
    pod: &PodInfo,
    seed: u64,
    ended: &mut dyn FnMut(Step),
) -> Unschedulable {
    let mut why = Unschedulable { nodes: snapshot.node_count(), ..Unschedulable::default() };
    let mut candidates = Vec::new();
    if let Some((rule, reason)) = evaluation.refused() {
        why.plugins = bit(profile, rule);
        why.beforehand = Some(reason.text.clone());
    } else {
        let slots: Vec<u32> = snapshot.nodes().iter().filter(|node| node.exists()).map(|node| node.slot).collect();
        for slot in slots {
            let refused = evaluation.refusal(snapshot, slot).or_else(|| {
                // Only pods for which room is made stand in the way.
                let ask = |snapshot: &Snapshot, evaluation: &mut Evaluation| evaluation.refusal(snapshot, slot);
                beside_nominated(snapshot, profile, evaluation, pod, slot, ask).flatten()
            });
            let Some((rule, refusal)) = refused else { continue };
            why.plugins |= bit(profile, rule);
            if refusal.iter().all(|reason: &Reason| reason.resolvable) {
                candidates.push(slot);
            }
            for reason in refusal {
                why.reasons.add(reason.text, 1);
            }
        }
    }
    if let Some(args) = profile.preemption.as_ref().filter(|_| why.nodes > 0) {
        match preempt(snapshot, profile, evaluation, pod, &candidates, args, seed) {
            Ok(preemption) => why.preemption = Some(Box::new(preemption)),
            Err(message) => why.afterwards = Some(message),
        }
        ended(Step::PostFilter { found: why.preemption.is_some() });
    }
    why
}

/// `SplitMix64` of seed and position.
pub(crate) fn mix(seed: u64, at: u32) -> u64 {
    let mut z =
        seed.wrapping_add(u64::from(at).wrapping_mul(0x9E37_79B9_7F4A_7C15)).wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
impl Planner {
    /// All nodes that take the pod, in the order of their names.
    pub(crate) fn feasible(&mut self, snapshot: &mut Snapshot, pod: &PodInfo) -> Vec<String> {
        let profile = &self.profiles[self.index(&pod.shape)];
        let mut evaluation = Evaluation::new(snapshot, profile, &pod.shape);
        let mut names = Vec::new();
        if evaluation.refused().is_none() {
            for slot in 0..u32::try_from(snapshot.nodes().len()).unwrap() {
                if snapshot.nodes()[slot as usize].exists() && takes(snapshot, profile, &mut evaluation, pod, slot) {
                    names.push(snapshot.nodes()[slot as usize].name.clone());
                }
            }
        }
        names.sort();
        names
    }

    /// What one plug-in, with weight 1, gives each node that takes the pod, in the order of the nodes' names.
    pub(crate) fn scores_of(&mut self, snapshot: &mut Snapshot, plugin: &str, pod: &PodInfo) -> Vec<i64> {
        let names = self.feasible(snapshot, pod);
        let nodes: Vec<u32> = names.iter().map(|name| snapshot.node(name).unwrap().slot).collect();
        let profile = &self.profiles[self.index(&pod.shape)];
        let rule = profile.rules.iter().find(|rule| crate::plugins::PLUGINS[rule.place].name == plugin).unwrap();
        let Some(mut score) = rule.plugin.score(snapshot, &pod.shape) else { return vec![0; nodes.len()] };
        score.begin(snapshot, &nodes);
        let raw = nodes.iter().map(|slot| score.raw(snapshot, &snapshot.nodes()[*slot as usize]));
        let mut values: Vec<i64> = raw.collect();
        score.normalise(snapshot, &nodes, &mut values);
        values
    }
}
