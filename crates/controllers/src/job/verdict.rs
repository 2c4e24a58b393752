//! Whether a Job is over, and why; and the conditions that say so.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::pod;
use super::policy;
use super::view::{View, number};
use crate::pods;

/// The Job is going to be failed, once its pods are gone.
pub(super) const FAILURE_TARGET: &str = "FailureTarget";
/// The Job has what it needs; it is complete once its other pods are gone.
pub(super) const SUCCESS_CRITERIA_MET: &str = "SuccessCriteriaMet";
pub(super) const COMPLETE: &str = "Complete";
pub(super) const FAILED: &str = "Failed";
/// The event of a Job that has more successes than it asked for.
pub(super) const TOO_MANY: &str = "TooManySucceededPods";
pub(super) const SUSPENDED: &str = "Suspended";

/// A condition that is true.
pub(super) fn condition(type_: &str, reason: &str, message: impl Into<String>, now: Timestamp) -> JobCondition {
    let message = message.into();
    let text = |text: String| (!text.is_empty()).then_some(text);
    JobCondition {
        type_: type_.to_owned(),
        status: "True".into(),
        reason: text(reason.to_owned()),
        message: text(message),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

/// The condition of this type.
pub(super) fn find<'a>(conditions: Option<&'a Vec<JobCondition>>, type_: &str) -> Option<&'a JobCondition> {
    conditions.into_iter().flatten().find(|condition| condition.type_ == type_)
}

/// Puts a condition in the place of the one of its type; a condition that was never there does not become false. Says
/// whether that changed anything.
pub(super) fn ensure(conditions: &mut Option<Vec<JobCondition>>, wanted: JobCondition) -> bool {
    let list = conditions.get_or_insert_default();
    let changed = match list.iter_mut().find(|condition| condition.type_ == wanted.type_) {
        Some(known) => {
            let same =
                (&known.status, &known.reason, &known.message) == (&wanted.status, &wanted.reason, &wanted.message);
            if !same {
                *known = wanted;
            }
            !same
        }
        None if wanted.status == "False" => false,
        None => {
            list.push(wanted);
            true
        }
    };
    if list.is_empty() {
        *conditions = None;
    }
    changed
}

/// Which terminal condition the Job has.
pub(crate) fn terminal(job: &Job) -> Option<&JobCondition> {
    let conditions = job.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions
        .into_iter()
        .flatten()
        .find(|condition| [COMPLETE, FAILED].contains(&condition.type_.as_str()) && condition.status == "True")
}

/// The condition that ends the Job, if something does: [`FAILURE_TARGET`] or [`SUCCESS_CRITERIA_MET`] when it is found out,
/// [`FAILED`] when the Job was to fail already.
pub(super) fn end(view: &View<'_>) -> Option<JobCondition> {
    let known = |type_: &str| find(view.status.conditions.as_ref(), type_).filter(|known| known.status == "True");
    if let Some(met) = known(SUCCESS_CRITERIA_MET) {
        return Some(met.clone());
    }
    if let Some(target) = known(FAILURE_TARGET) {
        return Some(failed_for(target, view.now));
    }
    let fails = |reason: &str, message: &str| Some(condition(FAILURE_TARGET, reason, message, view.now));
    let policy = view.spec.pod_failure_policy.as_ref();
    let judged = view.pods.iter().filter(|pod| policy.is_some() && pod::has_failed(pod, view.spec));
    if let Some(message) = judged.into_iter().find_map(|pod| policy::judge(policy, pod).message) {
        return fails("PodFailurePolicy", &message);
    }
    if view.failed > number(view.spec.backoff_limit) || restarts_exceed_the_limit(view) {
        return fails("BackoffLimitExceeded", "Job has reached the specified backoff limit");
    }
    if time_left(view).is_some_and(|left| left.is_zero()) {
        return fails("DeadlineExceeded", "Job was active longer than specified deadline");
    }
    let indexed = view.indexed.as_ref()?;
    if let Some(failed) = &indexed.failed {
        if view.spec.max_failed_indexes.is_some_and(|most| failed.total() > number(Some(most))) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return fails("MaxFailedIndexesExceeded", message);
        }
        let over = failed.total() + indexed.succeeded.total() >= indexed.completions as usize;
        if failed.total() > 0 && over {
            return fails("FailedIndexes", "Job has failed indexes");
        }
    }
    let met = policy::success(view.spec.success_policy.as_ref(), &indexed.succeeded, indexed.completions)?;
    Some(condition(SUCCESS_CRITERIA_MET, "SuccessPolicy", met, view.now))
}

/// The terminal form of a [`FAILURE_TARGET`].
pub(super) fn failed_for(target: &JobCondition, now: Timestamp) -> JobCondition {
    JobCondition {
        type_: FAILED.to_owned(),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
        ..target.clone()
    }
}

/// How long the Job may be active yet; `None` when nothing limits it or it is not active.
pub(super) fn time_left(view: &View<'_>) -> Option<Duration> {
    let most = view.spec.active_deadline_seconds.filter(|_| !view.is_suspended())?;
    let most = Duration::from_secs(most.max(0).unsigned_abs());
    let Some(start) = &view.status.start_time else { return Some(most) };
    let elapsed = Duration::try_from(view.now.duration_since(start.0)).unwrap_or(Duration::ZERO);
    Some(most.saturating_sub(elapsed))
}

/// Containers restarted in place count like failed pods.
fn restarts_exceed_the_limit(view: &View<'_>) -> bool {
    let policy = view.spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let live = view.pods.iter().filter(|pod| matches!(pods::phase(pod), "Running" | "Pending"));
    let statuses = live.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
        status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten())
    });
    let restarts: usize = statuses.map(|container| number(Some(container.restart_count))).sum();
    match number(view.spec.backoff_limit) {
        0 => restarts > 0,
        limit => restarts >= limit,
    }
}
