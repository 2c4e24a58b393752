//! NodeResourcesBalancedAllocation: nodes are better whose resources are used in the same proportion.

use std::sync::Arc;

use super::node_resources_fit::{ResourceWeight, usage};
use crate::node::NodeInfo;
use crate::plugin::{Plugin, SCORE_MAX, Scope, Score};
use crate::shape::Shape;
use crate::snapshot::Snapshot;

pub(crate) struct BalancedAllocation {
    resources: Arc<Vec<String>>,
}

struct Balance {
    resources: Arc<Vec<String>>,
    shape: Arc<Shape>,
}

impl BalancedAllocation {
    pub(crate) fn new(resources: &[ResourceWeight]) -> Self {
        Self { resources: Arc::new(resources.iter().map(|resource| resource.name.clone()).collect()) }
    }
}

impl Plugin for BalancedAllocation {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn score(&self, _: &mut Snapshot, shape: &Arc<Shape>) -> Option<Box<dyn Score>> {
        // Pods that ask for nothing would all go to the most even node.
        if self.resources.iter().all(|resource| shape.requests.fit.amount(resource) == 0) {
            return None;
        }
        Some(Box::new(Balance { resources: Arc::clone(&self.resources), shape: Arc::clone(shape) }))
    }
}

impl Score for Balance {
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "a share of 100 needs few digits")]
    fn raw(&self, _: &Snapshot, node: &NodeInfo) -> i64 {
        let usages = || self.resources.iter().filter_map(|resource| usage(node, &self.shape, resource, false));
        let shares = || usages().map(|(used, have)| (used as f64 / have as f64).min(1.0));
        let count = shares().count();
        if count < 2 {
            return SCORE_MAX;
        }
        let mean = shares().sum::<f64>() / count as f64;
        let variance = shares().map(|share| (share - mean) * (share - mean)).sum::<f64>() / count as f64;
        ((1.0 - variance.sqrt()) * SCORE_MAX as f64) as i64
    }
}
