//! InterPodAffinity: pods that must or should be beside, or away from, other pods; and pods already placed that want the
//! same of a new one.

use std::collections::HashMap;
use std::sync::Arc;

use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, SCORE_MAX, Scope, Score};
use crate::shape::{PodSelection, PodTerm, Shape};
use crate::snapshot::Snapshot;
use crate::snapshot::counters::{Bond, Counted, CounterId, CounterKey, Eligibility, NO_DOMAIN};
use kinds::matching::Labels;

const NOT_BESIDE: &str = "node(s) didn't match pod affinity rules";
const BESIDE_SHUNNED: &str = "node(s) didn't match pod anti-affinity rules";
const SHUNNED_THERE: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// Arguments of the plug-in.
#[derive(Clone, Debug)]
pub(crate) struct InterPodAffinityArgs {
    /// What it is worth to a placed pod that must be beside others when one of these comes.
    pub(crate) hard_weight: i64,
    /// Whether preferences of placed pods are left aside for pods that have none.
    pub(crate) ignore_preferences_of_placed: bool,
}

impl Default for InterPodAffinityArgs {
    fn default() -> Self {
        Self { hard_weight: 1, ignore_preferences_of_placed: false }
    }
}

pub(crate) struct InterPodAffinity {
    args: InterPodAffinityArgs,
}

impl InterPodAffinity {
    pub(crate) fn new(args: &InterPodAffinityArgs) -> Self {
        Self { args: args.clone() }
    }
}

struct Rules {
    /// For each required term a count of the pods that all of them mean.
    required: Vec<CounterId>,
    /// Whether the pod is what it requires itself, and so may be the first.
    own: bool,
    /// Counts of the pods it must not be beside.
    forbidden: Vec<CounterId>,
    /// Counts of the pods that must not be beside it.
    forbidding: Vec<CounterId>,
    /// Whether there is none of the pods it requires anywhere.
    none_yet: bool,
}

struct Wishes {
    /// What each pod of a count is worth.
    weights: Vec<(i64, CounterId)>,
}

fn key(counted: Counted, term: &PodTerm) -> CounterKey {
    CounterKey { counted, topology_key: term.topology_key.clone(), eligibility: Eligibility::default() }
}

fn means(snapshot: &Snapshot, pods: &PodSelection, shape: &Shape) -> bool {
    let none = Labels::new();
    pods.selects(&shape.namespace, &shape.labels, snapshot.namespace(&shape.namespace).unwrap_or(&none))
}

impl Plugin for InterPodAffinity {
    fn scope(&self) -> Scope {
        Scope::Cluster
    }

    fn stamp(&self, snapshot: &Snapshot, _: &Shape) -> u64 {
        let counters = snapshot.counters();
        (counters.epoch << 40) + counters.terms_epoch
    }

    fn filter(&self, snapshot: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        let affinities = &shape.affinities;
        let all: Vec<PodSelection> = affinities.required.iter().map(|term| term.pods.clone()).collect();
        let own = all.iter().all(|pods| means(snapshot, pods, shape));
        let required = affinities.required.iter();
        let required: Vec<_> =
            required.map(|term| snapshot.counter(key(Counted::Selected(all.clone()), term))).collect();
        let forbidden = affinities.forbidden.iter();
        let forbidden: Vec<_> =
            forbidden.map(|term| snapshot.counter(key(Counted::Selected(vec![term.pods.clone()]), term))).collect();
        let forbidding = snapshot.counters().bearing().filter_map(|(id, bond, term)| {
            (bond == Bond::Forbidden && means(snapshot, &term.pods, shape)).then_some(id)
        });
        let forbidding: Vec<_> = forbidding.collect();
        if required.is_empty() && forbidden.is_empty() && forbidding.is_empty() {
            return Filtering::Nothing;
        }
        Filtering::check(Rules { required, own, forbidden, forbidding, none_yet: false })
    }

    fn score(&self, snapshot: &mut Snapshot, shape: &Arc<Shape>) -> Option<Box<dyn Score>> {
        let preferred = &shape.affinities.preferred;
        if preferred.is_empty() && self.args.ignore_preferences_of_placed {
            return None;
        }
        let mut weights: HashMap<CounterId, i64> = HashMap::new();
        for (weight, term) in preferred {
            let counter = snapshot.counter(key(Counted::Selected(vec![term.pods.clone()]), term));
            *weights.entry(counter).or_default() += i64::from(*weight);
        }
        for (id, bond, term) in snapshot.counters().bearing() {
            let weight = match bond {
                Bond::Required => self.args.hard_weight,
                Bond::Preferred(weight) => i64::from(weight),
                Bond::Forbidden => continue,
            };
            if weight != 0 && means(snapshot, &term.pods, shape) {
                *weights.entry(id).or_default() += weight;
            }
        }
        let weights: Vec<_> = weights.into_iter().map(|(counter, weight)| (weight, counter)).collect();
        (!weights.is_empty()).then(|| Box::new(Wishes { weights }) as Box<dyn Score>)
    }

    fn heeds_pods(&self) -> bool {
        true
    }

    fn may_help(&self, snapshot: &Snapshot, shape: &Shape, event: &Event) -> bool {
        match event {
            Event::Node { change, .. } => change.added || change.labels,
            Event::Namespace => true,
            Event::PodPlaced { shape: other } => {
                shape.affinities.required.iter().any(|term| means(snapshot, &term.pods, other))
            }
            Event::PodGone { shape: other, .. } => {
                // Where nobody is required any more, the pod may be the first.
                let wanted = shape.affinities.required.iter().chain(&shape.affinities.forbidden);
                wanted.into_iter().any(|term| means(snapshot, &term.pods, other))
                    || other.affinities.forbidden.iter().any(|term| means(snapshot, &term.pods, shape))
            }
            _ => false,
        }
    }
}

impl Filter for Rules {
    fn begin(&mut self, snapshot: &Snapshot) {
        let empty = |id: &CounterId| snapshot.count_of(*id).is_none_or(|counter| counter.total() == 0);
        self.none_yet = self.required.iter().all(empty);
    }

    fn check(&self, snapshot: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        let beside = |id: &CounterId| snapshot.count_of(*id).map_or(0, |counter| counter.beside(node.slot));
        let first = self.none_yet && self.own;
        let missing = |id: &CounterId| {
            let domain = snapshot.count_of(*id).map_or(NO_DOMAIN, |counter| counter.domain(node.slot));
            domain == NO_DOMAIN || !first && beside(id) == 0
        };
        if self.required.iter().any(missing) {
            return Err(vec![Reason::lasting(NOT_BESIDE)]);
        }
        if self.forbidden.iter().any(|id| beside(id) > 0) {
            return Err(vec![Reason::passing(BESIDE_SHUNNED)]);
        }
        if self.forbidding.iter().any(|id| beside(id) > 0) {
            return Err(vec![Reason::passing(SHUNNED_THERE)]);
        }
        Ok(())
    }
}

impl Score for Wishes {
    fn raw(&self, snapshot: &Snapshot, node: &NodeInfo) -> i64 {
        let pods = |id: CounterId| snapshot.count_of(id).map_or(0, |counter| i64::from(counter.beside(node.slot)));
        self.weights.iter().map(|(weight, id)| weight * pods(*id)).sum()
    }

    fn normalise(&self, _: &Snapshot, _: &[u32], values: &mut [i64]) {
        let (least, most) = (values.iter().copied().min().unwrap_or(0), values.iter().copied().max().unwrap_or(0));
        for value in values {
            *value = if most > least { SCORE_MAX * (*value - least) / (most - least) } else { 0 };
        }
    }
}
