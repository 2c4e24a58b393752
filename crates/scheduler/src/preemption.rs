//! DefaultPreemption: which pods of lower priority must leave which node so that a pod fits. As few and as unimportant as
//! possible, and against no disruption budget where that can be avoided.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use reconcile::Key;

use crate::evaluation::Evaluation;
use crate::pod::PodInfo;
use crate::profile::Profile;
use crate::schedule::{mix, takes};
use crate::snapshot::{Placed, Snapshot};
use crate::unschedulable::Histogram;
use kinds::matching::Selector;

#[cfg(test)]
mod tests;

const NO_VICTIMS: &str = "No preemption victims found for incoming pod";
const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NEVER: &str = "not eligible due to preemptionPolicy=Never.";
const UNDER_WAY: &str = "not eligible due to a terminating pod on the nominated node.";

/// Arguments of the plug-in.
#[derive(Clone, Debug)]
pub(crate) struct PreemptionArgs {
    /// Share of the nodes that is tried.
    pub(crate) nodes_percent: usize,
    /// Nodes that are tried at least.
    pub(crate) nodes_min: usize,
}

impl Default for PreemptionArgs {
    fn default() -> Self {
        Self { nodes_percent: 10, nodes_min: 100 }
    }
}

/// A pod that has to leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Namespace and name.
    pub key: Key,
    /// Unique id.
    pub uid: Arc<str>,
}

impl Victim {
    fn of(pod: &Placed, namespace: &str) -> Self {
        Self { key: Key::new(namespace, &*pod.name), uid: Arc::clone(&pod.uid) }
    }
}

/// How room is made for a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preemption {
    /// Where.
    pub node: String,
    /// Who has to leave, the most important first.
    pub victims: Vec<Victim>,
    /// Pods of lower priority that waited for this node and should look for another.
    pub displaced: Vec<Victim>,
}

/// A disruption budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Budget {
    namespace: String,
    selector: Selector,
    allowed: i32,
    /// Pods whose disruption is counted already.
    disrupted: BTreeSet<String>,
}

impl Budget {
    /// Reads a budget.
    pub fn of(budget: &PodDisruptionBudget) -> Self {
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref());
        Self {
            namespace: budget.metadata.namespace.clone().unwrap_or_default(),
            selector: Selector::of(budget.spec.as_ref().and_then(|spec| spec.selector.as_ref())),
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0),
            disrupted: disrupted.into_iter().flat_map(|pods| pods.keys().cloned()).collect(),
        }
    }
}

/// What driving pods out of one node would mean.
struct Candidate {
    slot: u32,
    violations: usize,
    /// The most important first.
    victims: Vec<u32>,
}

/// Looks for the node where making room does least harm; else says in upstream's words why there is none.
pub(crate) fn preempt(
    snapshot: &mut Snapshot,
    profile: &Profile,
    evaluation: &mut Evaluation,
    pod: &PodInfo,
    nodes: &[u32],
    args: &PreemptionArgs,
    seed: u64,
) -> Result<Preemption, String> {
    if pod.shape.never_preempts {
        return Err(NEVER.into());
    }
    if is_under_way(snapshot, pod, nodes) {
        return Err(UNDER_WAY.into());
    }
    let enough = (nodes.len() * args.nodes_percent / 100).max(args.nodes_min).min(nodes.len());
    let start = usize::try_from(mix(seed, 1) % (nodes.len().max(1) as u64)).unwrap_or(0);
    let mut candidates: Vec<Candidate> = Vec::new();
    let mut reasons = Histogram::default();
    for slot in nodes[start..].iter().chain(&nodes[..start]) {
        match select_victims(snapshot, profile, evaluation, pod, *slot) {
            Ok(candidate) => candidates.push(candidate),
            Err(refusal) => refusal.into_iter().for_each(|reason| reasons.add(reason, 1)),
        }
        if candidates.len() >= enough {
            break;
        }
    }
    let all = snapshot.node_count();
    match candidates.iter().min_by_key(|candidate| harm(snapshot, candidate)) {
        Some(best) => Ok(plan(snapshot, pod, best)),
        None => {
            if all > nodes.len() {
                reasons.add(NOT_HELPFUL.into(), all - nodes.len());
            }
            Err(format!("0/{all} nodes are available: {reasons}."))
        }
    }
}

/// Whether pods are leaving the node where room is made for this one: then it only has to wait.
fn is_under_way(snapshot: &Snapshot, pod: &PodInfo, nodes: &[u32]) -> bool {
    let Some(slot) = snapshot.nomination(&pod.uid).filter(|slot| nodes.contains(slot)) else { return false };
    let pods = snapshot.nodes()[slot as usize].pods.iter();
    pods.filter_map(|number| snapshot.placed(*number))
        .any(|(placed, shape)| shape.terminating && placed.preempted && shape.priority < pod.shape.priority)
}

type Importance = (Reverse<i32>, i64, u32);

/// Orders the most important pod first: higher priority, then longer running.
fn importance(snapshot: &Snapshot, number: u32) -> Importance {
    let placed = snapshot.placed(number);
    let (priority, started) = placed.map_or((0, 0), |(placed, shape)| (shape.priority, placed.started));
    (Reverse(priority), started, number)
}

/// The fewest pods that must leave a node, or why their leaving is no use. The snapshot is left as it was.
fn select_victims(
    snapshot: &mut Snapshot,
    profile: &Profile,
    evaluation: &mut Evaluation,
    pod: &PodInfo,
    slot: u32,
) -> Result<Candidate, Vec<std::borrow::Cow<'static, str>>> {
    let lower = |number: &u32| snapshot.placed(*number).is_some_and(|(_, shape)| shape.priority < pod.shape.priority);
    let mut potential: Vec<u32> =
        snapshot.nodes()[slot as usize].pods.iter().copied().filter(|number| lower(number)).collect();
    if potential.is_empty() {
        return Err(vec![NO_VICTIMS.into()]);
    }
    potential.sort_by_key(|number| importance(snapshot, *number));
    for number in &potential {
        snapshot.lift(*number);
    }
    let mut fits = |snapshot: &mut Snapshot| {
        evaluation.refresh(snapshot, profile);
        takes(snapshot, profile, evaluation, pod, slot)
    };
    if !fits(snapshot) {
        let refusal = evaluation.refusal(snapshot, slot).map(|(_, refusal)| refusal).unwrap_or_default();
        for number in &potential {
            snapshot.put_back(*number);
        }
        evaluation.refresh(snapshot, profile);
        return Err(refusal.into_iter().map(|reason| reason.text).collect());
    }
    let (violating, others) = by_budget(snapshot, &potential);
    let mut violations = 0;
    let mut victims = Vec::new();
    for (number, violates) in violating.iter().map(|n| (*n, true)).chain(others.iter().map(|n| (*n, false))) {
        snapshot.put_back(number);
        if !fits(snapshot) {
            snapshot.lift(number);
            violations += usize::from(violates);
            victims.push(number);
        }
    }
    for number in &victims {
        snapshot.put_back(*number);
    }
    evaluation.refresh(snapshot, profile);
    victims.sort_by_key(|number| importance(snapshot, *number));
    Ok(Candidate { slot, violations, victims })
}

/// Pods whose leaving would break a budget, and the others; both keep their order.
fn by_budget(snapshot: &Snapshot, pods: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut budgets: Vec<(&Budget, i32)> = snapshot.budgets().map(|budget| (budget, budget.allowed)).collect();
    pods.iter().copied().partition(|number| {
        let Some((placed, shape)) = snapshot.placed(*number) else { return false };
        let mut violated = false;
        for (budget, allowed) in &mut budgets {
            let meant = budget.namespace == shape.namespace
                && !shape.labels.is_empty()
                && !budget.selector.is_trivial()
                && budget.selector.selects(&shape.labels)
                && !budget.disrupted.contains(&*placed.name);
            if meant {
                *allowed -= 1;
                violated |= *allowed < 0;
            }
        }
        violated
    })
}

/// The smaller, the better: broken budgets, the highest priority, all priorities, the number of pods; then, of the most
/// important ones, those that began last.
fn harm(snapshot: &Snapshot, candidate: &Candidate) -> (usize, i32, i64, usize, Reverse<i64>) {
    let pods = || candidate.victims.iter().filter_map(|number| snapshot.placed(*number));
    let highest = pods().map(|(_, shape)| shape.priority).max().unwrap_or(i32::MIN);
    // Moved so that none is negative: more pods of low priority never look better than fewer.
    let sum = pods().map(|(_, shape)| i64::from(shape.priority) - i64::from(i32::MIN)).sum();
    let first = pods().filter(|(_, shape)| shape.priority == highest).map(|(placed, _)| placed.started).min();
    (candidate.violations, highest, sum, candidate.victims.len(), Reverse(first.unwrap_or(i64::MAX)))
}

fn plan(snapshot: &Snapshot, pod: &PodInfo, candidate: &Candidate) -> Preemption {
    let victims = candidate.victims.iter().filter_map(|number| snapshot.placed(*number));
    let lower = |other: &&PodInfo| other.uid != pod.uid && other.shape.priority < pod.shape.priority;
    let displaced = snapshot.nominated(candidate.slot).filter(lower);
    Preemption {
        node: snapshot.nodes()[candidate.slot as usize].name.clone(),
        victims: victims.map(|(p, shape)| Victim::of(p, &shape.namespace)).collect(),
        displaced: displaced.map(|p| Victim { key: p.key.clone(), uid: Arc::clone(&p.uid) }).collect(),
    }
}
