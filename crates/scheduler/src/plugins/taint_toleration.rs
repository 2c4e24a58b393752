//! TaintToleration: nodes with taints take only pods that tolerate them; of the others, those with fewer taints that only
//! ask to stay away are better.

use std::sync::Arc;

use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, Scope, Score, normalise_by_largest};
use crate::shape::Shape;
use crate::snapshot::Snapshot;
use kinds::matching::{forbids, tolerated};

pub(crate) struct TaintToleration;

struct Tolerates(Arc<Shape>);

impl Plugin for TaintToleration {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, _: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        Filtering::check(Tolerates(Arc::clone(shape)))
    }

    fn score(&self, _: &mut Snapshot, shape: &Arc<Shape>) -> Option<Box<dyn Score>> {
        Some(Box::new(Tolerates(Arc::clone(shape))))
    }

    fn may_help(&self, _: &Snapshot, _: &Shape, event: &Event) -> bool {
        matches!(event, Event::Node { change, .. } if change.added || change.taints)
    }
}

impl Filter for Tolerates {
    fn check(&self, _: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        let refused = node.taints.iter().any(|taint| forbids(taint) && !tolerated(&self.0.tolerations, taint));
        if refused { Err(vec![Reason::lasting("node(s) had untolerated taint(s)")]) } else { Ok(()) }
    }
}

impl Score for Tolerates {
    fn raw(&self, _: &Snapshot, node: &NodeInfo) -> i64 {
        let shunned = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        i64::try_from(shunned.filter(|taint| !tolerated(&self.0.tolerations, taint)).count()).unwrap_or(i64::MAX)
    }

    fn normalise(&self, _: &Snapshot, _: &[u32], values: &mut [i64]) {
        normalise_by_largest(values, true);
    }
}
