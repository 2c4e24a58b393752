//! PodTopologySpread: pods that belong together are spread over topology domains, by constraints of the pod or of the
//! profile.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, SCORE_MAX, Scope, Score};
use crate::shape::{PodSelection, Shape, Spread};
use crate::snapshot::Snapshot;
use crate::snapshot::counters::{Count, Counted, CounterId, CounterKey, Eligibility, NO_DOMAIN};
use kinds::matching::Selector;

const UNEVEN: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// The value of a node that is left out.
const IGNORED: i64 = -1;

const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// How pods are spread that do not say it.
#[derive(Clone, Debug)]
pub(crate) struct SpreadArgs {
    /// The constraints, without selectors.
    pub(crate) defaults: Vec<Spread>,
    /// Whether they are the built-in ones, which do not leave out nodes that lack a label.
    pub(crate) system: bool,
}

impl Default for SpreadArgs {
    fn default() -> Self {
        let soft = |topology_key: &str, max_skew| Spread {
            max_skew,
            topology_key: topology_key.into(),
            hard: false,
            selector: Selector::default(),
            min_domains: 1,
            honors_affinity: true,
            honors_taints: false,
        };
        Self { defaults: vec![soft(HOSTNAME, 5), soft(ZONE, 3)], system: true }
    }
}

pub(crate) struct PodTopologySpread {
    args: SpreadArgs,
}

impl PodTopologySpread {
    pub(crate) fn new(args: &SpreadArgs) -> Self {
        Self { args: args.clone() }
    }

    /// The pod's constraints of one strength, or the profile's for it.
    fn constraints(&self, snapshot: &Snapshot, shape: &Shape, hard: bool) -> Vec<Spread> {
        if !shape.spread.is_empty() {
            return shape.spread.iter().filter(|spread| spread.hard == hard).cloned().collect();
        }
        let defaults = self.args.defaults.iter().filter(|spread| spread.hard == hard);
        if defaults.clone().next().is_none() {
            return Vec::new();
        }
        let selector = snapshot.workloads.selector_of(shape);
        if selector.is_trivial() {
            return Vec::new();
        }
        defaults.map(|spread| Spread { selector: selector.clone(), ..spread.clone() }).collect()
    }

    /// Each constraint with the counter of the pods it is about.
    fn counted(snapshot: &mut Snapshot, shape: &Shape, spreads: Vec<Spread>, all_keys: bool) -> Vec<Constraint> {
        let keys: Vec<String> = spreads.iter().map(|spread| spread.topology_key.clone()).collect();
        let constraints = spreads.into_iter().map(|spread| {
            let demand = (spread.honors_affinity && !shape.demand.is_empty()).then(|| shape.demand.clone());
            let tolerations = spread.honors_taints.then(|| shape.tolerations.clone());
            let topology_keys = if all_keys && keys.len() > 1 { keys.clone() } else { Vec::new() };
            let pods = PodSelection {
                namespaces: BTreeSet::from([shape.namespace.clone()]),
                namespace_selector: Selector::default(),
                selector: spread.selector.clone(),
            };
            // What selects everything counts nothing, as upstream: the constraint then is about labels of nodes alone.
            let counter = (!spread.selector.is_trivial()).then(|| {
                snapshot.counter(CounterKey {
                    counted: Counted::Staying(pods),
                    topology_key: spread.topology_key.clone(),
                    eligibility: Eligibility { topology_keys, demand, tolerations },
                })
            });
            Constraint { counter, own: spread.selector.selects(&shape.labels), spread }
        });
        constraints.collect()
    }
}

struct Constraint {
    spread: Spread,
    counter: Option<CounterId>,
    /// Whether the pod itself counts.
    own: bool,
}

impl Constraint {
    fn counter<'a>(&self, snapshot: &'a Snapshot) -> Option<Count<'a>> {
        self.counter.and_then(|id| snapshot.count_of(id))
    }

    /// Pods in the node's domain; none where it lacks the label.
    fn pods(&self, snapshot: &Snapshot, node: &NodeInfo) -> Option<i64> {
        let counter = self.counter(snapshot);
        // Nodes that do not count may be in a domain all the same.
        let by_label = || {
            let label = node.labels.get(&self.spread.topology_key)?;
            Some(i64::from(counter.map_or(0, |counter| counter.in_domain(label))))
        };
        match counter.filter(|counter| counter.domain(node.slot) != NO_DOMAIN) {
            Some(counter) => Some(i64::from(counter.beside(node.slot))),
            None => by_label(),
        }
    }
}

struct Hard {
    constraints: Vec<Constraint>,
    /// Of each constraint the fewest pods in a domain.
    smallest: Vec<i64>,
}

struct Soft {
    constraints: Vec<Constraint>,
    /// Whether nodes that lack one of the labels are left out.
    all_keys: bool,
    /// Of each constraint what a pod counts: more where there are more domains.
    weights: Vec<f64>,
}

impl Plugin for PodTopologySpread {
    fn scope(&self) -> Scope {
        Scope::Cluster
    }

    fn stamp(&self, snapshot: &Snapshot, shape: &Shape) -> u64 {
        let epoch = snapshot.counters().epoch;
        let by_defaults = shape.spread.is_empty() && !self.args.defaults.is_empty();
        (epoch << 40) + if by_defaults { snapshot.workloads.version() } else { 0 }
    }

    fn filter(&self, snapshot: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        let spreads = self.constraints(snapshot, shape, true);
        if spreads.is_empty() {
            return Filtering::Nothing;
        }
        let constraints = Self::counted(snapshot, shape, spreads, true);
        let smallest = Vec::with_capacity(constraints.len());
        Filtering::check(Hard { constraints, smallest })
    }

    fn score(&self, snapshot: &mut Snapshot, shape: &Arc<Shape>) -> Option<Box<dyn Score>> {
        let spreads = self.constraints(snapshot, shape, false);
        if spreads.is_empty() {
            return None;
        }
        let all_keys = !shape.spread.is_empty() || !self.args.system;
        let constraints = Self::counted(snapshot, shape, spreads, all_keys);
        Some(Box::new(Soft { constraints, all_keys, weights: Vec::new() }))
    }

    fn heeds_pods(&self) -> bool {
        true
    }

    fn may_help(&self, snapshot: &Snapshot, shape: &Shape, event: &Event) -> bool {
        match event {
            Event::Node { change, .. } => change.added || change.labels || change.taints,
            // The emptiest domain may be gone.
            Event::NodeGone => true,
            Event::PodPlaced { shape: other } | Event::PodGone { shape: other, .. } => {
                let counts = |spread: &Spread| spread.selector.selects(&other.labels);
                other.namespace == shape.namespace && self.constraints(snapshot, shape, true).iter().any(counts)
            }
            _ => false,
        }
    }
}

impl Filter for Hard {
    fn begin(&mut self, snapshot: &Snapshot) {
        let smallest = self.constraints.iter().map(|constraint| {
            let Some(counter) = constraint.counter(snapshot) else { return 0 };
            let (domains, smallest) = counter.smallest();
            let few = i64::try_from(domains).unwrap_or(i64::MAX) < i64::from(constraint.spread.min_domains);
            if few { 0 } else { i64::from(smallest) }
        });
        self.smallest.clear();
        self.smallest.extend(smallest);
    }

    fn check(&self, snapshot: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        for (constraint, smallest) in self.constraints.iter().zip(&self.smallest) {
            let Some(pods) = constraint.pods(snapshot, node) else {
                return Err(vec![Reason::lasting(NO_LABEL)]);
            };
            if pods + i64::from(constraint.own) - smallest > i64::from(constraint.spread.max_skew) {
                return Err(vec![Reason::passing(UNEVEN)]);
            }
        }
        Ok(())
    }
}

impl Soft {
    /// Whether the node is left out.
    fn ignores(&self, snapshot: &Snapshot, node: &NodeInfo) -> bool {
        let lacks = |constraint: &Constraint| {
            let counted = constraint.counter(snapshot).is_some_and(|counter| counter.domain(node.slot) != NO_DOMAIN);
            !counted && !node.labels.contains_key(&constraint.spread.topology_key)
        };
        self.all_keys && self.constraints.iter().any(lacks)
    }
}

impl Score for Soft {
    #[expect(clippy::cast_precision_loss, reason = "numbers of domains are small")]
    fn begin(&mut self, snapshot: &Snapshot, nodes: &[u32]) {
        let scored = |slot: &&u32| !self.ignores(snapshot, &snapshot.nodes()[**slot as usize]);
        let scored: Vec<u32> = nodes.iter().filter(scored).copied().collect();
        let weight = |constraint: &Constraint| {
            let domains = match constraint.counter(snapshot) {
                // Without a counter nothing counts, whatever the weight.
                None => 0,
                Some(_) if constraint.spread.topology_key == HOSTNAME => scored.len(),
                Some(counter) => counter.domains_of(&scored),
            };
            ((domains + 2) as f64).ln()
        };
        self.weights = self.constraints.iter().map(weight).collect();
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "counts of pods are small")]
    fn raw(&self, snapshot: &Snapshot, node: &NodeInfo) -> i64 {
        if self.ignores(snapshot, node) {
            return IGNORED;
        }
        let mut sum = 0.0;
        for (constraint, weight) in self.constraints.iter().zip(&self.weights) {
            if let Some(pods) = constraint.pods(snapshot, node) {
                sum += pods as f64 * weight + f64::from(constraint.spread.max_skew - 1);
            }
        }
        sum.round() as i64
    }

    fn normalise(&self, _: &Snapshot, _: &[u32], values: &mut [i64]) {
        let scored = || values.iter().copied().filter(|value| *value != IGNORED);
        let (least, most) = (scored().min().unwrap_or(0), scored().max().unwrap_or(0));
        for value in values {
            *value = match most {
                _ if *value == IGNORED => 0,
                0 => SCORE_MAX,
                _ => SCORE_MAX * (most + least - *value) / most,
            };
        }
    }
}
