//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;

use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, Scope};
use crate::shape::Shape;
use crate::snapshot::Snapshot;
use kinds::matching::tolerated;

/// What the node lifecycle controller puts on cordoned nodes.
const TAINT: &str = "node.kubernetes.io/unschedulable";

pub(crate) struct NodeUnschedulable;

struct Schedulable;

impl Plugin for NodeUnschedulable {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, _: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        let taint = Taint { key: TAINT.into(), effect: "NoSchedule".into(), time_added: None, value: None };
        if tolerated(&shape.tolerations, &taint) { Filtering::Nothing } else { Filtering::check(Schedulable) }
    }

    fn may_help(&self, _: &Snapshot, _: &Shape, event: &Event) -> bool {
        matches!(event, Event::Node { change, .. } if change.added || change.taints)
    }
}

impl Filter for Schedulable {
    fn check(&self, _: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        if node.unschedulable { Err(vec![Reason::lasting("node(s) were unschedulable")]) } else { Ok(()) }
    }
}
