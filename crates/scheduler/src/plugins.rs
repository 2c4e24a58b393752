//! The table of plug-ins: one line each, in the order in which they filter, with upstream's names and weights.

use crate::config::PluginArgs;
use crate::plugin::Plugin;

pub(crate) mod image_locality;
pub(crate) mod inter_pod_affinity;
pub(crate) mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources_balanced;
pub(crate) mod node_resources_fit;
mod node_unschedulable;
mod node_volume_limits;
pub(crate) mod pod_topology_spread;
mod taint_toleration;
#[cfg(test)]
mod tests;
pub(crate) mod volume_binding;
mod volume_restrictions;
mod volume_zone;

/// One plug-in.
pub(crate) struct Registration {
    /// Upstream's name.
    pub(crate) name: &'static str,
    /// Its weight among scores; 0 where it does not score.
    pub(crate) weight: i64,
    /// Makes it.
    pub(crate) build: Build,
}

/// How a plug-in takes part.
pub(crate) enum Build {
    /// It filters nodes, scores them, or both.
    Rule(fn(&PluginArgs) -> Box<dyn Plugin>),
    /// It is a part of the engine, which asks whether it is enabled.
    Engine,
}

/// Keeps gated pods out of the queue; asked by the loop.
pub(crate) const SCHEDULING_GATES: &str = "SchedulingGates";
/// Orders the queue.
pub(crate) const PRIORITY_SORT: &str = "PrioritySort";
/// Makes room by driving pods out.
pub(crate) const DEFAULT_PREEMPTION: &str = "DefaultPreemption";
/// Binds.
pub(crate) const DEFAULT_BINDER: &str = "DefaultBinder";

const fn engine(name: &'static str) -> Registration {
    Registration { name, weight: 0, build: Build::Engine }
}

const fn rule(name: &'static str, weight: i64, build: fn(&PluginArgs) -> Box<dyn Plugin>) -> Registration {
    Registration { name, weight, build: Build::Rule(build) }
}

/// All plug-ins; as many as bits of a [`PluginSet`].
pub(crate) const PLUGINS: &[Registration] = &[
    engine(SCHEDULING_GATES),
    engine(PRIORITY_SORT),
    rule("NodeUnschedulable", 0, |_| Box::new(node_unschedulable::NodeUnschedulable)),
    rule("NodeName", 0, |_| Box::new(node_name::NodeName)),
    rule("TaintToleration", 3, |_| Box::new(taint_toleration::TaintToleration)),
    rule("NodeAffinity", 2, |args| Box::new(node_affinity::NodeAffinity::new(&args.node_affinity))),
    rule("NodePorts", 0, |_| Box::new(node_ports::NodePorts)),
    rule("NodeResourcesFit", 1, |args| Box::new(node_resources_fit::NodeResourcesFit::new(&args.fit))),
    rule("VolumeRestrictions", 0, |_| Box::new(volume_restrictions::VolumeRestrictions)),
    rule("NodeVolumeLimits", 0, |_| Box::new(node_volume_limits::NodeVolumeLimits)),
    rule("VolumeBinding", 0, |_| Box::new(volume_binding::VolumeBinding)),
    rule("VolumeZone", 0, |_| Box::new(volume_zone::VolumeZone)),
    rule("PodTopologySpread", 2, |args| Box::new(pod_topology_spread::PodTopologySpread::new(&args.spread))),
    rule("InterPodAffinity", 2, |args| Box::new(inter_pod_affinity::InterPodAffinity::new(&args.inter_pod_affinity))),
    engine(DEFAULT_PREEMPTION),
    rule("NodeResourcesBalancedAllocation", 1, |args| {
        Box::new(node_resources_balanced::BalancedAllocation::new(&args.balanced))
    }),
    rule("ImageLocality", 1, |_| Box::new(image_locality::ImageLocality)),
    engine(DEFAULT_BINDER),
];

/// A set of plug-ins by their place in [`PLUGINS`].
pub(crate) type PluginSet = u32;
