//! What a Job and its pods come to, before anything is decided: pods still to be counted are added to what the status
//! counts already.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::backoff::Backoff;
use super::indexes::Indexes;
use super::pod;
use super::policy::{self, Action};
use crate::pods;

/// The indexes of an Indexed Job.
pub(super) struct Indexed {
    pub(super) completions: u32,
    /// Those that the status says have succeeded.
    pub(super) before: Indexes,
    /// Those and the ones that have succeeded since.
    pub(super) succeeded: Indexes,
    /// Those that are given up, where indexes fail by themselves.
    pub(super) failed: Option<Indexes>,
    /// Failed pods that must stay until their index has a new pod, which inherits how often the index has failed.
    pub(super) kept: BTreeMap<u32, Arc<Pod>>,
}

/// One look at a Job.
pub(super) struct View<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: &'a JobSpec,
    pub(super) status: JobStatus,
    pub(super) pods: &'a [Arc<Pod>],
    pub(super) now: Timestamp,
    pub(super) active: Vec<Arc<Pod>>,
    pub(super) ready: usize,
    pub(super) terminating: usize,
    pub(super) succeeded: usize,
    pub(super) failed: usize,
    /// Uids of pods that the status knows and has not added to its counts.
    pub(super) uncounted: Uncounted,
    pub(super) indexed: Option<Indexed>,
    pub(super) backoff: Backoff,
}

/// Uids by how the pods ended.
pub(super) struct Uncounted {
    pub(super) succeeded: HashSet<String>,
    pub(super) failed: HashSet<String>,
}

/// A count of the API as a number of things.
pub(super) fn number(count: Option<i32>) -> usize {
    count.and_then(|count| usize::try_from(count).ok()).unwrap_or(0)
}

impl<'a> View<'a> {
    /// Looks at `pods`, which are the Job's own. `record` is the back-off known so far; without one (this process has
    /// just begun) it is found out from the pods that were counted before.
    pub(super) fn of(
        job: &'a Job,
        spec: &'a JobSpec,
        pods: &'a [Arc<Pod>],
        record: Option<&Backoff>,
        now: Timestamp,
    ) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let uids = |list: Option<&Vec<String>>| list.into_iter().flatten().cloned().collect::<HashSet<_>>();
        let listed = status.uncounted_terminated_pods.as_ref();
        let uncounted = Uncounted {
            succeeded: uids(listed.and_then(|listed| listed.succeeded.as_ref())),
            failed: uids(listed.and_then(|listed| listed.failed.as_ref())),
        };
        let active: Vec<Arc<Pod>> = pods.iter().filter(|pod| pods::is_active(pod)).cloned().collect();
        let completions =
            (spec.completion_mode.as_deref() == Some("Indexed")).then(|| to_index(spec.completions.unwrap_or(0)));
        let fresh = |pod: &&Arc<Pod>| pod::is_tracked(pod) && completions.is_none_or(|all| valid(pod, all).is_some());
        let of_uid = |set: &HashSet<String>, pod: &Pod| set.contains(pod::uid(pod));
        let new_succeeded: Vec<&Arc<Pod>> = pods
            .iter()
            .filter(fresh)
            .filter(|pod| pod::has_succeeded(pod) && !of_uid(&uncounted.succeeded, pod))
            .collect();
        let new_failed: Vec<&Arc<Pod>> = pods
            .iter()
            .filter(fresh)
            .filter(|pod| pod::has_failed(pod, spec) && !of_uid(&uncounted.failed, pod))
            .collect();
        let times = |pods: &[&Arc<Pod>]| pods.iter().map(|pod| pod::finished_at(pod)).collect::<Vec<_>>();
        let record = record.cloned().unwrap_or_else(|| {
            let counted = |is: &dyn Fn(&Pod) -> bool| {
                pods.iter().filter(|pod| !pod::is_tracked(pod) && is(pod)).collect::<Vec<_>>()
            };
            let failed = counted(&|pod| pods::phase(pod) == "Failed");
            Backoff::default().after(&times(&counted(&pod::has_succeeded)), &times(&failed))
        });
        let counting =
            new_failed.iter().filter(|pod| policy::judge(spec.pod_failure_policy.as_ref(), pod).counts()).count();
        let indexed = completions.map(|all| Indexed::of(spec, &status, pods, &active, all));
        Self {
            succeeded: match &indexed {
                Some(indexed) => indexed.succeeded.total(),
                None => number(status.succeeded) + new_succeeded.len() + uncounted.succeeded.len(),
            },
            failed: number(status.failed) + counting + uncounted.failed.len(),
            ready: active.iter().filter(|pod| pods::is_ready(pod)).count(),
            terminating: pods.iter().filter(|pod| pod::is_terminating(pod)).count(),
            backoff: record.after(&times(&new_succeeded), &times(&new_failed)),
            job,
            spec,
            status,
            pods,
            now,
            active,
            uncounted,
            indexed,
        }
    }

    /// Whether the Job is not to run for now.
    pub(super) fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// The pod's index, if it is one that counts; `None` also for Jobs without indexes.
    pub(super) fn index(&self, pod: &Pod) -> Option<u32> {
        valid(pod, self.indexed.as_ref()?.completions)
    }

    /// Whether the pod is one that counts: of an Indexed Job it needs an index.
    pub(super) fn counts(&self, pod: &Pod) -> bool {
        self.indexed.is_none() || self.index(pod).is_some()
    }
}

/// The number of completions as the end of a range of indexes.
fn to_index(completions: i32) -> u32 {
    u32::try_from(completions).unwrap_or(0)
}

fn valid(pod: &Pod, completions: u32) -> Option<u32> {
    pod::index(pod).filter(|index| *index < completions)
}

impl Indexed {
    fn of(spec: &JobSpec, status: &JobStatus, pods: &[Arc<Pod>], active: &[Arc<Pod>], completions: u32) -> Self {
        let tracked = || pods.iter().filter(|pod| pod::is_tracked(pod));
        let each = |is: &dyn Fn(&Pod) -> bool| {
            Indexes::from_each(tracked().filter(|pod| is(pod)).filter_map(|pod| valid(pod, completions)))
        };
        let before = Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let succeeded = before.union(&each(&pod::has_succeeded));
        let Some(limit) = spec.backoff_limit_per_index else {
            return Self { completions, before, succeeded, failed: None, kept: BTreeMap::new() };
        };
        let known = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions);
        let failed = known.union(&each(&|pod| pod::has_failed(pod, spec) && gives_up(spec, pod, limit)));
        let busy: HashSet<u32> = active.iter().filter_map(|pod| pod::index(pod)).collect();
        let mut kept: BTreeMap<u32, Arc<Pod>> = BTreeMap::new();
        for pod in tracked().filter(|pod| pod::has_failed(pod, spec)) {
            let Some(index) = valid(pod, completions) else { continue };
            if succeeded.has(index) || failed.has(index) || busy.contains(&index) {
                continue;
            }
            let rank = |pod: &Pod| {
                let (counted, ignored) = pod::failures(pod);
                (counted.saturating_add(ignored), pod::finished_at(pod))
            };
            if kept.get(&index).is_none_or(|other| rank(other) <= rank(pod)) {
                kept.insert(index, Arc::clone(pod));
            }
        }
        Self { completions, before, succeeded, failed: Some(failed), kept }
    }
}

/// Whether a failed pod is the last its index gets.
fn gives_up(spec: &JobSpec, pod: &Pod, limit: i32) -> bool {
    let judgement = policy::judge(spec.pod_failure_policy.as_ref(), pod);
    judgement.action == Some(Action::FailIndex) || judgement.counts() && pod::failures(pod).0 >= limit
}
