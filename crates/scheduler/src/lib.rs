//! The scheduler: a pure core that picks a node for a pod, and the loop that feeds it and binds its choices.
//!
//! Each rule is a plug-in with upstream's name, a file of `plugins/` and a line in its table. The engine around them asks
//! a plug-in about a node once, and again when something has changed on which the answer depends: pods alike share one
//! shape and one evaluation of the nodes, and how many pods of a kind are in each topology domain is
//! counted as pods come and go. Pods are left alone whose `schedulerName` no profile has.
//!
//! Main types: [`Snapshot`] is what is known, kept current by changes and never rebuilt; [`Configuration`] what is to be done; [`Planner`] decides: a node, or
//! why there is none and who would have to leave; [`Scheduler`] is the loop over informers.
//!
//! Invariants:
//! - a placement never exceeds what the node can still give, counting pods that are placed but not yet bound;
//! - the decision depends on the history of snapshot, pods and seeds alone: no clock, no I/O;
//! - the work per pod grows with the number of nodes at most, never with the number of pods.

mod config;
mod evaluation;
mod metrics;
mod node;
mod plugin;
mod plugins;
mod pod;
mod preemption;
mod profile;
mod queue;
mod resources;
mod run;
mod schedule;
mod shape;
mod snapshot;
#[cfg(test)]
mod testing;
mod unschedulable;

pub use config::{Configuration, ConfigurationError};
pub use metrics::Metrics;
pub use node::{NodeChange, NodeInfo};
pub use pod::PodInfo;
pub use preemption::{Budget, Preemption, Victim};
pub use resources::Resources;
pub use run::{Scheduler, SchedulerError};
pub use schedule::{Placement, Planner};
pub use snapshot::Snapshot;
pub use snapshot::volumes::Provision;
pub use unschedulable::Unschedulable;

/// The `schedulerName` of the pods this scheduler is responsible for unless configured otherwise.
pub const SCHEDULER_NAME: &str = "default-scheduler";
