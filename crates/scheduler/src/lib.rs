//! The scheduler: a pure core that picks a node for a pod, and the loop that feeds it and binds its choices.
//!
//! It is not a framework of plug-ins: filters and scores are plain functions with the names and the messages of upstream's
//! plug-ins. It does not preempt, and it leaves pods alone whose `schedulerName` is not [`SCHEDULER_NAME`].
//!
//! Main types: [`Snapshot`] is what is known about the nodes, kept current by changes and never rebuilt; [`schedule`] is
//! the decision; [`Scheduler`] is the loop over informers.
//!
//! Invariants:
//! - a placement never exceeds what the node can still give, counting pods that are placed but not yet bound;
//! - the decision depends on snapshot, pod and seed alone;
//! - the work per pod grows with the number of nodes at most, never with the number of pods.

mod filter;
mod matching;
mod pod;
mod quantity;
mod queue;
mod resources;
mod run;
mod schedule;
mod score;
mod snapshot;

pub use pod::{HostPort, PodInfo};
pub use resources::Resources;
pub use run::{Scheduler, SchedulerError};
pub use schedule::{Placement, Unschedulable, schedule};
pub use snapshot::{NodeInfo, Snapshot};

/// The `schedulerName` of the pods this scheduler is responsible for.
pub const SCHEDULER_NAME: &str = "default-scheduler";
