//! How many pods a Job should have, and which to make or to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::backoff;
use super::indexes::Indexes;
use super::pod;
use super::policy;
use super::view::{Indexed, View, number};
use crate::replicaset::rank;

/// Pods created or deleted in one reconcile, upstream's value: other Jobs get their turn.
const BURST: usize = 500;

/// A pod to make.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NewPod {
    /// Its completion index, for Indexed Jobs.
    pub(super) index: Option<u32>,
    /// How often the index has failed, in ways that count and in ways that do not; where indexes fail by themselves.
    pub(super) failures: Option<(i32, i32)>,
}

/// What to do about the Job's pods.
#[derive(Debug)]
pub(super) enum Operation {
    /// Nothing.
    Keep,
    /// Make these.
    Create(Vec<NewPod>),
    /// End these without counting them as failed.
    Release(Vec<Arc<Pod>>),
    /// End these, the Job being over; they are counted.
    End(Vec<Arc<Pod>>),
}

/// Decides on the pods of a Job that goes on, and when to look again.
pub(super) fn decide(view: &View<'_>) -> (Operation, Option<Duration>) {
    let active = view.active.len();
    if view.is_suspended() {
        return (release(for_removal(view, active)), None);
    }
    let wanted = wanted(view);
    let mut surplus = for_removal(view, active.saturating_sub(wanted));
    if !surplus.is_empty() {
        // One thing at a time: what is missing is made when these are gone.
        surplus.truncate(BURST);
        return (release(surplus), None);
    }
    let leaving = if pod::only_failed_are_replaced(view.spec) { view.terminating } else { 0 };
    let missing = wanted.saturating_sub(leaving + active).min(BURST);
    if missing == 0 {
        return (Operation::Keep, None);
    }
    if view.spec.backoff_limit_per_index.is_none() || view.indexed.is_none() {
        let wait = view.backoff.left(view.now);
        if !wait.is_zero() {
            return (Operation::Keep, Some(wait));
        }
    }
    match &view.indexed {
        None => (Operation::Create(vec![NewPod::default(); missing]), None),
        Some(indexed) => create_indexed(view, indexed, missing),
    }
}

fn release(pods: Vec<Arc<Pod>>) -> Operation {
    if pods.is_empty() { Operation::Keep } else { Operation::Release(pods) }
}

/// How many pods should be active.
fn wanted(view: &View<'_>) -> usize {
    let parallelism = number(view.spec.parallelism);
    match view.spec.completions {
        // The first success of such a Job means that the work is done: the others may end by themselves.
        None if view.succeeded > 0 => view.active.len(),
        None => parallelism,
        Some(completions) => number(Some(completions)).saturating_sub(view.succeeded).min(parallelism),
    }
}

/// New pods for the lowest indexes that have none, as far as they need not wait.
fn create_indexed(view: &View<'_>, indexed: &Indexed, missing: usize) -> (Operation, Option<Duration>) {
    let of = |pods: &mut dyn Iterator<Item = &Arc<Pod>>| Indexes::from_each(pods.filter_map(|pod| pod::index(pod)));
    let mut taken = indexed.succeeded.union(&of(&mut view.active.iter()));
    if pod::only_failed_are_replaced(view.spec) {
        taken = taken.union(&of(&mut view.pods.iter().filter(|pod| pod::is_terminating(pod))));
    }
    if let Some(failed) = &indexed.failed {
        taken = taken.union(failed);
    }
    let per_index = indexed.failed.is_some();
    let (mut new, mut wait) = (Vec::new(), None);
    for index in taken.first_absent(missing, indexed.completions) {
        let before = indexed.kept.get(&index).filter(|_| per_index);
        let left = before.map_or(Duration::ZERO, |pod| {
            let (counted, ignored) = pod::failures(pod);
            let failures = number(Some(counted.saturating_add(ignored))).saturating_add(1);
            backoff::left(u32::try_from(failures).unwrap_or(u32::MAX), pod::finished_at(pod), view.now)
        });
        if !left.is_zero() {
            wait = Some(wait.map_or(left, |wait: Duration| wait.min(left)));
            continue;
        }
        let failures = per_index.then(|| before.map_or((0, 0), |pod| with_one_more(view, pod)));
        new.push(NewPod { index: Some(index), failures });
    }
    (if new.is_empty() { Operation::Keep } else { Operation::Create(new) }, wait)
}

/// How often the pod's index has failed, the pod itself counted in.
fn with_one_more(view: &View<'_>, pod: &Pod) -> (i32, i32) {
    let (counted, ignored) = pod::failures(pod);
    if policy::judge(view.spec.pod_failure_policy.as_ref(), pod).counts() {
        (counted.saturating_add(1), ignored)
    } else {
        (counted, ignored.saturating_add(1))
    }
}

/// Active pods that must go: those whose index is none or another's, and then as many as are asked for, what would be
/// missed least first.
fn for_removal(view: &View<'_>, at_least: usize) -> Vec<Arc<Pod>> {
    let (mut gone, mut left) = (Vec::new(), Vec::new());
    if view.indexed.is_none() {
        left.clone_from(&view.active);
    } else {
        let mut by_index: BTreeMap<u32, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in &view.active {
            match view.index(pod) {
                Some(index) => by_index.entry(index).or_default().push(Arc::clone(pod)),
                None => gone.push(Arc::clone(pod)),
            }
        }
        for same in by_index.into_values() {
            let surplus = rank::to_delete(&same, &[], same.len() - 1, view.now);
            for (at, pod) in same.into_iter().enumerate() {
                if surplus.contains(&at) { gone.push(pod) } else { left.push(pod) }
            }
        }
    }
    let more = at_least.saturating_sub(gone.len());
    let surplus = rank::to_delete(&left, &[], more, view.now);
    gone.extend(surplus.into_iter().filter_map(|at| left.get(at).cloned()));
    gone
}
