//! A profile: the plug-ins that place the pods of one `schedulerName`.

use std::time::Duration;

use crate::plugin::Plugin;
use crate::preemption::PreemptionArgs;

/// A plug-in as a profile uses it.
pub(crate) struct Rule {
    /// Its place in the table.
    pub(crate) place: usize,
    pub(crate) plugin: Box<dyn Plugin>,
    /// Whether it filters.
    pub(crate) filters: bool,
    /// Its weight among scores; 0 where it does not score.
    pub(crate) weight: i64,
}

/// A profile.
pub(crate) struct Profile {
    /// `schedulerName` of its pods.
    pub(crate) scheduler: String,
    pub(crate) rules: Vec<Rule>,
    /// Absent where pods of this profile never drive others out.
    pub(crate) preemption: Option<PreemptionArgs>,
    /// Whether gates keep pods from being tried.
    pub(crate) gates: bool,
    /// Share of the nodes that is looked at; 0 for upstream's rule by size.
    pub(crate) nodes_percent: usize,
    /// How long a pod may wait for its volumes.
    pub(crate) volumes_wait_max: Duration,
}
