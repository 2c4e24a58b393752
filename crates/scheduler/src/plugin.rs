//! What a scheduling rule is: a plug-in that prepares, for a shape, a filter and a score over nodes, and that knows which
//! events may change its mind. The engine keeps what plug-ins said until something changes on which it depends.

use std::borrow::Cow;
use std::sync::Arc;

use crate::node::{NodeChange, NodeInfo};
use crate::shape::Shape;
use crate::snapshot::Snapshot;

/// The best score of a node; the worst is 0.
pub(crate) const SCORE_MAX: i64 = 100;

/// On what the answers of a plug-in depend besides the pod: they are kept until that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// On the node and the pods on it.
    Node,
    /// On other nodes and objects as well; asked every time.
    Cluster,
}

/// Why a node does not take a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Reason {
    /// Upstream's words.
    pub(crate) text: Cow<'static, str>,
    /// Whether it could take the pod if other pods left.
    pub(crate) resolvable: bool,
}

impl Reason {
    /// A reason that goes away when pods do.
    pub(crate) const fn passing(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), resolvable: true }
    }

    /// A reason that stays.
    pub(crate) const fn lasting(text: &'static str) -> Self {
        Self { text: Cow::Borrowed(text), resolvable: false }
    }
}

/// All reasons of one plug-in.
pub(crate) type Refusal = Vec<Reason>;

/// Says of nodes whether they take pods of one shape.
pub(crate) trait Filter: Send {
    /// Looks at what has changed; called before each round of checks, but only for [`Scope::Cluster`].
    fn begin(&mut self, _snapshot: &Snapshot) {}

    /// Whether the node takes such a pod.
    fn check(&self, snapshot: &Snapshot, node: &NodeInfo) -> Result<(), Refusal>;
}

/// Compares nodes that take pods of one shape.
pub(crate) trait Score: Send {
    /// Looks at the nodes to compare; called before each round.
    fn begin(&mut self, _snapshot: &Snapshot, _nodes: &[u32]) {}

    /// The node's own value.
    fn raw(&self, snapshot: &Snapshot, node: &NodeInfo) -> i64;

    /// Turns the values of all nodes into scores.
    fn normalise(&self, _snapshot: &Snapshot, _nodes: &[u32], _values: &mut [i64]) {}
}

/// What a plug-in has to say about a shape before it sees nodes.
pub(crate) enum Filtering {
    /// Every node will do.
    Nothing,
    /// No node will do.
    Refused(Reason),
    /// It depends on the node.
    Check(Box<dyn Filter>),
}

impl Filtering {
    pub(crate) fn check(filter: impl Filter + 'static) -> Self {
        Self::Check(Box::new(filter))
    }
}

/// Something has happened that may let a pod run which could not.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A node has come or changed.
    Node { slot: u32, change: NodeChange },
    /// A node has gone.
    NodeGone,
    /// A pod has got a node, or its labels have changed there.
    PodPlaced { shape: Arc<Shape> },
    /// A pod has left its node, or asks for less there.
    PodGone { shape: Arc<Shape>, slot: Option<u32> },
    /// Labels of a namespace have changed.
    Namespace,
    /// A claim of this namespace has changed.
    Claim { namespace: String, name: String },
    /// A volume, a class, or what a node can attach has changed.
    Storage,
}

impl Event {
    /// What monitoring calls it, in upstream's words.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Node { change, .. } if change.added => "NodeAdd",
            Self::Node { change, .. } if change.allocatable => "NodeUpdateNodeAllocatable",
            Self::Node { change, .. } if change.labels => "NodeUpdateNodeLabel",
            Self::Node { change, .. } if change.taints => "NodeUpdateNodeTaint",
            Self::Node { .. } => "NodeUpdate",
            Self::NodeGone => "NodeDelete",
            Self::PodPlaced { .. } => "AssignedPodAdd",
            Self::PodGone { .. } => "AssignedPodDelete",
            Self::Namespace => "NamespaceUpdate",
            Self::Claim { .. } => "PersistentVolumeClaimUpdate",
            Self::Storage => "PersistentVolumeUpdate",
        }
    }
}

/// A rule.
pub(crate) trait Plugin: Send + Sync {
    /// On what its answers depend.
    fn scope(&self) -> Scope;

    /// Changes when what was prepared for the shape is outdated.
    fn stamp(&self, _snapshot: &Snapshot, _shape: &Shape) -> u64 {
        0
    }

    /// Prepares the filter for a shape.
    fn filter(&self, _snapshot: &mut Snapshot, _shape: &Arc<Shape>) -> Filtering {
        Filtering::Nothing
    }

    /// Prepares the score for a shape; none where it would make no difference.
    fn score(&self, _snapshot: &mut Snapshot, _shape: &Arc<Shape>) -> Option<Box<dyn Score>> {
        None
    }

    /// Whether that a pod gets a node can help another: most plug-ins have only less to give then.
    fn heeds_pods(&self) -> bool {
        false
    }

    /// Whether an event may help a pod of a shape that this plug-in has refused. A node that the filter still refuses is no
    /// help, which the engine finds out itself.
    fn may_help(&self, _snapshot: &Snapshot, _shape: &Shape, event: &Event) -> bool {
        matches!(event, Event::Node { .. })
    }
}

/// Scales values so that the largest becomes [`SCORE_MAX`]; with `reverse` the smallest values score best.
pub(crate) fn normalise_by_largest(values: &mut [i64], reverse: bool) {
    let largest = values.iter().copied().max().unwrap_or(0);
    for value in values {
        let scaled = if largest == 0 { 0 } else { SCORE_MAX * *value / largest };
        *value = if reverse { SCORE_MAX - scaled } else { scaled };
    }
}
