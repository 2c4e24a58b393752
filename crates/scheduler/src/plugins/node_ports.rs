//! NodePorts: two pods of one node cannot open the same port of it.

use std::sync::Arc;

use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, Scope};
use crate::shape::Shape;
use crate::snapshot::Snapshot;

pub(crate) struct NodePorts;

struct Free(Arc<Shape>);

impl Plugin for NodePorts {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, _: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        if shape.host_ports.is_empty() { Filtering::Nothing } else { Filtering::check(Free(Arc::clone(shape))) }
    }

    fn may_help(&self, _: &Snapshot, shape: &Shape, event: &Event) -> bool {
        match event {
            Event::Node { change, .. } => change.added,
            Event::PodGone { shape: gone, .. } => {
                gone.host_ports.iter().any(|freed| shape.host_ports.iter().any(|wanted| wanted.conflicts(freed)))
            }
            _ => false,
        }
    }
}

impl Filter for Free {
    fn check(&self, _: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        let wanted = &self.0.host_ports;
        let taken = wanted.iter().any(|port| node.host_ports.iter().any(|used| used.conflicts(port)));
        if taken {
            return Err(vec![Reason::passing("node(s) didn't have free ports for the requested pod ports")]);
        }
        Ok(())
    }
}
