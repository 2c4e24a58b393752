//! NodeAffinity: the node selector and the node affinity of a pod, and what the profile adds to every pod's.

use std::sync::Arc;

use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, Scope, Score, normalise_by_largest};
use crate::shape::Shape;
use crate::snapshot::Snapshot;
use kinds::matching::{NodeDemand, NodeTerm};

const REFUSED: &str = "node(s) didn't match Pod's node affinity/selector";
const REFUSED_BY_PROFILE: &str = "node(s) didn't match scheduler-enforced node affinity";

/// What a profile adds to the affinity of its pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeAffinityArgs {
    pub(crate) required: Option<Vec<NodeTerm>>,
    pub(crate) preferred: Vec<(i32, NodeTerm)>,
}

pub(crate) struct NodeAffinity {
    added: Arc<NodeAffinityArgs>,
}

struct Accepts {
    shape: Arc<Shape>,
    added: NodeDemand,
}

struct Prefers {
    shape: Arc<Shape>,
    added: Arc<NodeAffinityArgs>,
}

impl NodeAffinity {
    pub(crate) fn new(args: &NodeAffinityArgs) -> Self {
        Self { added: Arc::new(args.clone()) }
    }
}

impl Plugin for NodeAffinity {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, _: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        if shape.demand.is_empty() && self.added.required.is_none() {
            return Filtering::Nothing;
        }
        let added = NodeDemand { terms: self.added.required.clone(), ..NodeDemand::default() };
        Filtering::check(Accepts { shape: Arc::clone(shape), added })
    }

    fn score(&self, _: &mut Snapshot, shape: &Arc<Shape>) -> Option<Box<dyn Score>> {
        if shape.preferences.is_empty() && self.added.preferred.is_empty() {
            return None;
        }
        Some(Box::new(Prefers { shape: Arc::clone(shape), added: Arc::clone(&self.added) }))
    }

    fn may_help(&self, _: &Snapshot, _: &Shape, event: &Event) -> bool {
        matches!(event, Event::Node { change, .. } if change.added || change.labels)
    }
}

impl Filter for Accepts {
    fn check(&self, _: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        if !self.added.accepts(&node.name, &node.labels) {
            return Err(vec![Reason::lasting(REFUSED_BY_PROFILE)]);
        }
        if !self.shape.demand.accepts(&node.name, &node.labels) {
            return Err(vec![Reason::lasting(REFUSED)]);
        }
        Ok(())
    }
}

impl Score for Prefers {
    fn raw(&self, _: &Snapshot, node: &NodeInfo) -> i64 {
        let terms = self.shape.preferences.iter().chain(&self.added.preferred);
        terms.filter(|(_, term)| term.matches(&node.name, &node.labels)).map(|(weight, _)| i64::from(*weight)).sum()
    }

    fn normalise(&self, _: &Snapshot, _: &[u32], values: &mut [i64]) {
        normalise_by_largest(values, false);
    }
}
