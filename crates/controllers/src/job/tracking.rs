//! Counting a Job's pods exactly once. A pod keeps a finalizer until its end has been counted, and the count is kept in
//! three steps, so that being cut off after any of them loses nothing and counts nothing twice: the uids of finished
//! pods are written to the status; their finalizers are removed; what has no finalizer moves from uids to counts.

use std::collections::HashSet;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use reconcile::EventType;

use super::indexes::Indexes;
use super::pod;
use super::policy;
use super::verdict::{self, COMPLETE, FAILURE_TARGET, SUCCESS_CRITERIA_MET, SUSPENDED};
use super::view::{View, number};

/// So many pods are counted in one reconcile, upstream's value: the uids stay under 20 KB, and other Jobs get their turn.
const UNCOUNTED_MAX: usize = 500;

/// What was done about the Job's pods.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Acted {
    pub(super) created: usize,
    pub(super) deleted: usize,
    /// So many of the deleted were ready.
    pub(super) deleted_ready: usize,
}

impl Acted {
    /// Whether no pod was made or ended.
    pub(super) fn is_nothing(&self) -> bool {
        self.created == 0 && self.deleted == 0
    }
}

/// An event about the Job.
pub(super) type Told = (EventType, String, String);

/// A count, and what is to be done to make it true.
pub(super) struct Tracking {
    /// To be written before any finalizer is removed.
    pub(super) status: JobStatus,
    /// Pods that have been counted and may go.
    pub(super) remove: Vec<Arc<Pod>>,
    /// What happened, to be told once it is written.
    pub(super) events: Vec<Told>,
    /// Uids of pods that have a finalizer.
    held: HashSet<String>,
    end: Option<JobCondition>,
    capped: bool,
    terminating: usize,
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A count as the API shows it: none is left out.
fn shown(number: usize) -> Option<i32> {
    (number > 0).then(|| count(number))
}

/// Counts what the view found, given what was done. `end` is what ends the Job; `goes_on` says that its pods were looked
/// after, so that it may be said whether it is suspended.
pub(super) fn settle(view: &View<'_>, end: Option<JobCondition>, goes_on: bool, acted: Acted) -> Tracking {
    let active = (view.active.len() + acted.created).saturating_sub(acted.deleted);
    let terminating = view.terminating + acted.deleted;
    let mut tracking = Tracking {
        status: view.status.clone(),
        remove: Vec::new(),
        events: Vec::new(),
        held: view.pods.iter().filter(|pod| pod::is_tracked(pod)).map(|pod| pod::uid(pod).to_owned()).collect(),
        // Whoever has pods left that could not be ended is not over.
        end: end.clone().filter(|_| active == 0),
        capped: false,
        terminating,
    };
    let status = &mut tracking.status;
    status.uncounted_terminated_pods.get_or_insert_default();
    if status.start_time.is_none() && !view.is_suspended() {
        status.start_time = Some(Time(view.now));
    }
    if end.is_none() {
        if is_complete(view, active) {
            let message = "Reached expected number of succeeded pods";
            tracking.end = Some(verdict::condition(SUCCESS_CRITERIA_MET, "CompletionsReached", message, view.now));
        } else if goes_on {
            tracking.suspend_or_resume(view);
        }
    }
    let status = &mut tracking.status;
    status.active = shown(active);
    status.ready = Some(count(view.ready.saturating_sub(acted.deleted_ready)));
    status.terminating = Some(count(terminating));
    tracking.count_those_without_finalizer();
    tracking.note_finished(view);
    tracking.announce_end(view.now);
    tracking
}

fn is_complete(view: &View<'_>, active: usize) -> bool {
    let enough = match view.spec.completions {
        None => view.succeeded > 0,
        Some(completions) => view.succeeded >= number(Some(completions)),
    };
    enough && active == 0
}

impl Tracking {
    fn suspend_or_resume(&mut self, view: &View<'_>) {
        let (reason, message, event) = if view.is_suspended() {
            ("JobSuspended", "Job suspended", "Suspended")
        } else {
            ("JobResumed", "Job resumed", "Resumed")
        };
        let mut wanted = verdict::condition(SUSPENDED, reason, message, view.now);
        if !view.is_suspended() {
            wanted.status = "False".into();
        }
        if verdict::ensure(&mut self.status.conditions, wanted) {
            self.events.push((EventType::Normal, event.to_owned(), message.to_owned()));
            if !view.is_suspended() {
                // The deadline is for the time that the Job is active without a break.
                self.status.start_time = Some(Time(view.now));
            }
        }
    }

    /// Notes in the status which pods have finished, and which may go therefore.
    fn note_finished(&mut self, view: &View<'_>) {
        let mut pods: Vec<&Arc<Pod>> = view.pods.iter().filter(|pod| pod::is_tracked(pod)).collect();
        if view.indexed.is_some() {
            pods.sort_by_key(|pod| pod::index(pod));
        }
        let fails = self.end.as_ref().is_some_and(|end| end.type_ != SUCCESS_CRITERIA_MET);
        let (mut new_indexes, mut new_succeeded, mut new_failed) = (Vec::new(), Vec::new(), Vec::new());
        let known = view.uncounted.succeeded.len() + view.uncounted.failed.len();
        for pod in pods {
            let failed = pod::has_failed(pod, view.spec);
            if !self.may_go(view, pod, failed) {
                continue;
            }
            self.remove.push(Arc::clone(pod));
            let uid = pod::uid(pod);
            if pod::has_succeeded(pod) && !view.uncounted.failed.contains(uid) {
                if let Some(indexed) = &view.indexed {
                    // The index itself says that it has been counted.
                    new_indexes.extend(view.index(pod).filter(|index| !indexed.before.has(*index)));
                } else if !view.uncounted.succeeded.contains(uid) {
                    new_succeeded.push(uid.to_owned());
                }
            } else if (failed || fails)
                && view.counts(pod)
                && !view.uncounted.failed.contains(uid)
                && policy::judge(view.spec.pod_failure_policy.as_ref(), pod).counts()
            {
                // Of a Job that fails, every pod does.
                new_failed.push(uid.to_owned());
            }
            if known + new_indexes.len() + new_succeeded.len() + new_failed.len() >= UNCOUNTED_MAX {
                self.capped = true;
                break;
            }
        }
        let uncounted = self.status.uncounted_terminated_pods.get_or_insert_default();
        for (list, new) in [(&mut uncounted.succeeded, new_succeeded), (&mut uncounted.failed, new_failed)] {
            if !new.is_empty() {
                list.get_or_insert_default().extend(new);
            }
        }
        if let Some(indexed) = &view.indexed {
            // What was not reached for the cap is counted in the next round.
            let succeeded = indexed.before.union(&Indexes::from_each(new_indexes));
            self.status.succeeded = shown(succeeded.total());
            self.status.completed_indexes = Some(succeeded.to_string()).filter(|text| !text.is_empty());
            self.status.failed_indexes = indexed.failed.as_ref().map(Indexes::to_string);
        }
    }

    /// Whether the pod's finalizer has done its duty.
    fn may_go(&self, view: &View<'_>, pod: &Pod, failed: bool) -> bool {
        if view.job.metadata.deletion_timestamp.is_some() || self.end.is_some() || pod::has_succeeded(pod) {
            return true;
        }
        let kept = || view.indexed.as_ref()?.kept.get(&view.index(pod)?);
        failed && kept().is_none_or(|kept| pod::uid(kept) != pod::uid(pod))
    }

    /// Says in the status that the Job is about to end, and makes the end its terminal form.
    fn announce_end(&mut self, now: Timestamp) {
        let Some(end) = self.end.take() else { return };
        self.end = Some(match end.type_.as_str() {
            FAILURE_TARGET => verdict::failed_for(&end, now),
            SUCCESS_CRITERIA_MET => JobCondition { type_: COMPLETE.to_owned(), ..end.clone() },
            _ => {
                self.end = Some(end);
                return;
            }
        });
        verdict::ensure(&mut self.status.conditions, end);
    }

    /// Takes note of finalizers that were removed.
    pub(super) fn removed(&mut self, uids: impl IntoIterator<Item = String>) {
        for uid in uids {
            self.held.remove(&uid);
        }
        self.count_those_without_finalizer();
    }

    fn count_those_without_finalizer(&mut self) {
        let status = &mut self.status;
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
        for (list, total) in
            [(&mut uncounted.succeeded, &mut status.succeeded), (&mut uncounted.failed, &mut status.failed)]
        {
            let before = list.as_ref().map_or(0, Vec::len);
            if let Some(uids) = list {
                uids.retain(|uid| self.held.contains(uid));
            }
            let counted = before - list.as_ref().map_or(0, Vec::len);
            *total = shown(number(*total) + counted);
            if list.as_ref().is_some_and(Vec::is_empty) {
                *list = None;
            }
        }
    }

    /// Sets the terminal condition, when all pods are counted and gone; says what to tell about it.
    pub(super) fn finish(&mut self, completions: Option<i32>, now: Timestamp) -> Vec<Told> {
        let Some(end) = self.end.as_ref().filter(|_| !self.capped && self.terminating == 0) else { return Vec::new() };
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        if uncounted.is_some_and(|left| left.succeeded.is_some() || left.failed.is_some()) {
            return Vec::new();
        }
        let end =
            JobCondition { last_probe_time: Some(Time(now)), last_transition_time: Some(Time(now)), ..end.clone() };
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (type_, reason, message) = (end.type_.clone(), text(&end.reason), text(&end.message));
        verdict::ensure(&mut self.status.conditions, end);
        if type_ != COMPLETE {
            return vec![(EventType::Warning, reason, message)];
        }
        self.status.completion_time = Some(Time(now));
        let mut told = Vec::new();
        if completions.is_some_and(|completions| number(self.status.succeeded) > number(Some(completions))) {
            let message = "Too many succeeded pods running after completion count reached";
            told.push((EventType::Warning, verdict::TOO_MANY.to_owned(), message.to_owned()));
        }
        told.push((EventType::Normal, "Completed".to_owned(), "Job completed".to_owned()));
        told
    }
}
