//! NodeResourcesFit: a node takes a pod only if it has free what the pod asks for; by strategy, the emptier or the fuller
//! node is better.

use std::borrow::Cow;
use std::sync::Arc;

use crate::node::NodeInfo;
use crate::plugin::{Event, Filter, Filtering, Plugin, Reason, Refusal, SCORE_MAX, Scope, Score};
use crate::resources::Resources;
use crate::shape::Shape;
use crate::snapshot::Snapshot;

/// A resource and how much it counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResourceWeight {
    pub(crate) name: String,
    pub(crate) weight: i64,
}

impl ResourceWeight {
    /// CPU and memory alike, as upstream unless told otherwise.
    pub(crate) fn defaults() -> Vec<Self> {
        ["cpu", "memory"].map(|name| Self { name: name.into(), weight: 1 }).into()
    }
}

/// Which nodes are better.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// The emptier.
    LeastAllocated,
    /// The fuller.
    MostAllocated,
    /// By a curve of (use in percent, score of 100) points.
    RequestedToCapacityRatio(Vec<(i64, i64)>),
}

/// Arguments of the plug-in.
#[derive(Clone, Debug)]
pub(crate) struct FitArgs {
    pub(crate) ignored: Vec<String>,
    pub(crate) ignored_groups: Vec<String>,
    pub(crate) strategy: Strategy,
    pub(crate) resources: Vec<ResourceWeight>,
}

impl Default for FitArgs {
    fn default() -> Self {
        Self {
            ignored: Vec::new(),
            ignored_groups: Vec::new(),
            strategy: Strategy::LeastAllocated,
            resources: ResourceWeight::defaults(),
        }
    }
}

pub(crate) struct NodeResourcesFit {
    args: Arc<FitArgs>,
}

struct Fits {
    wanted: Resources,
}

struct Allocation {
    args: Arc<FitArgs>,
    shape: Arc<Shape>,
}

impl NodeResourcesFit {
    pub(crate) fn new(args: &FitArgs) -> Self {
        Self { args: Arc::new(args.clone()) }
    }

    fn wanted(&self, shape: &Shape) -> Resources {
        let mut wanted = shape.requests.fit.clone();
        let args = &self.args;
        if !args.ignored.is_empty() || !args.ignored_groups.is_empty() {
            let group = |name: &str| name.split_once('/').map(|(group, _)| group.to_owned());
            wanted.extended.retain(|name, _| {
                !args.ignored.contains(name) && group(name).is_none_or(|group| !args.ignored_groups.contains(&group))
            });
        }
        wanted
    }
}

impl Plugin for NodeResourcesFit {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    fn filter(&self, _: &mut Snapshot, shape: &Arc<Shape>) -> Filtering {
        Filtering::check(Fits { wanted: self.wanted(shape) })
    }

    fn score(&self, _: &mut Snapshot, shape: &Arc<Shape>) -> Option<Box<dyn Score>> {
        Some(Box::new(Allocation { args: Arc::clone(&self.args), shape: Arc::clone(shape) }))
    }

    fn may_help(&self, snapshot: &Snapshot, shape: &Shape, event: &Event) -> bool {
        match event {
            // Whether the node would do if it were empty: pods of lower priority may make room.
            Event::Node { slot, change } if change.added || change.allocatable => {
                let wanted = self.wanted(shape);
                snapshot
                    .nodes()
                    .get(*slot as usize)
                    .is_some_and(|node| missing(&node.allocatable, &Resources::default(), &wanted).is_empty())
            }
            Event::PodGone { slot: Some(slot), .. } => {
                let fits = Fits { wanted: self.wanted(shape) };
                snapshot.nodes().get(*slot as usize).is_some_and(|node| fits.check(snapshot, node).is_ok())
            }
            _ => false,
        }
    }
}

impl Filter for Fits {
    fn check(&self, _: &Snapshot, node: &NodeInfo) -> Result<(), Refusal> {
        let refusal = missing(&node.allocatable, &node.requested, &self.wanted);
        if refusal.is_empty() { Ok(()) } else { Err(refusal) }
    }
}

/// What is not there; an empty list allocates nothing.
fn missing(have: &Resources, used: &Resources, wanted: &Resources) -> Refusal {
    let mut refusal = Vec::new();
    if used.pods >= have.pods {
        refusal.push(Reason::passing("Too many pods"));
    }
    let mut check = |text: Cow<'static, str>, have: i64, used: i64, wanted: i64| {
        if wanted > 0 && wanted > have.saturating_sub(used) {
            refusal.push(Reason { text, resolvable: wanted <= have });
        }
    };
    check("Insufficient cpu".into(), have.cpu_milli, used.cpu_milli, wanted.cpu_milli);
    check("Insufficient memory".into(), have.memory_bytes, used.memory_bytes, wanted.memory_bytes);
    let (have_bytes, used_bytes) = (have.ephemeral_storage_bytes, used.ephemeral_storage_bytes);
    check("Insufficient ephemeral-storage".into(), have_bytes, used_bytes, wanted.ephemeral_storage_bytes);
    for (name, amount) in wanted.extended.iter().filter(|(_, amount)| **amount > 0) {
        let (have, used) = (have.amount(name), used.amount(name));
        if *amount > have.saturating_sub(used) {
            refusal.push(Reason { text: format!("Insufficient {name}").into(), resolvable: *amount <= have });
        }
    }
    refusal
}

/// What of a resource would be used and what there is, as scoring counts; none where the node or the pod has nothing of it.
pub(crate) fn usage(node: &NodeInfo, shape: &Shape, resource: &str, defaults: bool) -> Option<(i64, i64)> {
    let requests = &shape.requests;
    let (used, wanted) = match (resource, defaults) {
        ("cpu", true) => (node.score_requested.0, requests.score.0),
        ("memory", true) => (node.score_requested.1, requests.score.1),
        _ => (node.requested.amount(resource), requests.fit.amount(resource)),
    };
    let have = node.allocatable.amount(resource);
    let scalar = !matches!(resource, "cpu" | "memory" | "ephemeral-storage");
    if have <= 0 || scalar && wanted == 0 {
        return None;
    }
    Some((used.saturating_add(wanted), have))
}

/// `part` of `whole` in hundredths, without overflow.
fn percent(part: i64, whole: i64) -> i64 {
    i64::try_from(i128::from(part) * i128::from(SCORE_MAX) / i128::from(whole)).unwrap_or(SCORE_MAX)
}

impl Score for Allocation {
    fn raw(&self, _: &Snapshot, node: &NodeInfo) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for ResourceWeight { name, weight } in &self.args.resources {
            let Some((used, have)) = usage(node, &self.shape, name, true) else { continue };
            let score = match &self.args.strategy {
                Strategy::LeastAllocated => percent((have - used).max(0), have),
                Strategy::MostAllocated => percent(used.min(have), have),
                Strategy::RequestedToCapacityRatio(curve) => {
                    let score = along(curve, if used > have { SCORE_MAX } else { percent(used, have) });
                    if score <= 0 {
                        continue;
                    }
                    score
                }
            };
            sum += score * weight;
            weights += weight;
        }
        match &self.args.strategy {
            _ if weights == 0 => 0,
            // Rounded where the others are cut off, as upstream.
            Strategy::RequestedToCapacityRatio(_) => (2 * sum + weights) / (2 * weights),
            Strategy::LeastAllocated | Strategy::MostAllocated => sum / weights,
        }
    }
}

/// The curve's value at a point: straight lines between its points, and level beyond them.
fn along(curve: &[(i64, i64)], at: i64) -> i64 {
    let after = curve.iter().position(|(x, _)| at <= *x);
    match after {
        None => curve.last().map_or(0, |(_, y)| *y),
        Some(0) => curve.first().map_or(0, |(_, y)| *y),
        Some(after) => {
            let ((x0, y0), (x1, y1)) = (curve[after - 1], curve[after]);
            y0 + (y1 - y0) * (at - x0) / (x1 - x0).max(1)
        }
    }
}
