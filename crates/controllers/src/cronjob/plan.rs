//! What to do about a CronJob: pure decisions.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use kinds::Schedule;
use kube::ResourceExt;
use reconcile::EventType::{self, Normal, Warning};

use super::timing::{Missed, Timetable, starting_deadline};
use crate::{job, owners};

/// Tells a Job for which moment it was made.
const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

/// What is to be done, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// What happened.
    pub(super) events: Vec<(EventType, &'static str, String)>,
    /// Jobs that give way to the next one.
    pub(super) replaced: Vec<Arc<Job>>,
    /// The run to start.
    pub(super) start: Option<Timestamp>,
    /// Finished Jobs that nobody wants to look at any more.
    pub(super) expired: Vec<Arc<Job>>,
    /// The status, but for what comes of the above.
    pub(super) status: CronJobStatus,
    /// When to look again.
    pub(super) wake: Option<Duration>,
}

/// How a finished Job ended.
fn ended(job: &Job) -> Option<&str> {
    job::terminal(job).map(|condition| condition.type_.as_str())
}

/// Decides. `jobs` are the CronJob's own, `local` is the time zone of CronJobs that name none.
pub(super) fn decide(cron: &CronJob, jobs: &[Arc<Job>], local: &TimeZone, now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron.status.clone().unwrap_or_default(), ..Plan::default() };
    let spec = &cron.spec;
    plan.look_after(jobs);
    if cron.metadata.deletion_timestamp.is_none() {
        plan.schedule(cron, spec, jobs, local, now);
    }
    plan.limit_history(spec, jobs);
    plan
}

/// The CronJob's timetable, or an event that says what is wrong with it.
pub(super) fn timetable(spec: &CronJobSpec, local: &TimeZone) -> Result<Timetable, (&'static str, String)> {
    let zone = match spec.time_zone.as_deref() {
        None => local.clone(),
        Some(name) => kinds::time_zone(name)
            .ok_or_else(|| ("UnknownTimeZone", format!("invalid timeZone: {name:?}: unknown time zone {name}")))?,
    };
    match Schedule::parse(&spec.schedule) {
        Ok(schedule) => Ok(Timetable { schedule, zone }),
        Err(reason) => Err(("UnparseableSchedule", format!("unparseable schedule: {:?} : {reason}", spec.schedule))),
    }
}

impl Plan {
    fn tell(&mut self, kind: EventType, reason: &'static str, message: impl Into<String>) {
        self.events.push((kind, reason, message.into()));
    }

    fn active(&mut self) -> &mut Vec<ObjectReference> {
        self.status.active.get_or_insert_default()
    }

    /// Brings the list of active Jobs and the time of the last success up to date.
    fn look_after(&mut self, jobs: &[Arc<Job>]) {
        for job in jobs {
            let uid = job.metadata.uid.as_ref();
            let known = self.active().iter().any(|active| active.uid.as_ref() == uid);
            let end = ended(job);
            match (known, end) {
                (false, None) => {
                    let message = format!("Saw a job that the controller did not create or forgot: {}", job.name_any());
                    self.tell(Warning, "UnexpectedJob", message);
                }
                (true, Some(end)) => {
                    self.active().retain(|active| active.uid.as_ref() != uid);
                    let message = format!("Saw completed job: {}, condition: {end}", job.name_any());
                    self.tell(Normal, "SawCompletedJob", message);
                }
                _ => {}
            }
            let completed = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
            if end == Some("Complete")
                && completed
                    .is_some_and(|at| self.status.last_successful_time.as_ref().is_none_or(|last| last.0 < at.0))
            {
                self.status.last_successful_time = completed.cloned();
            }
        }
        let there = |active: &ObjectReference| jobs.iter().any(|job| job.metadata.uid == active.uid);
        let (kept, missing) = std::mem::take(self.active()).into_iter().partition(there);
        *self.active() = kept;
        for job in missing {
            let message = format!("Active job went missing: {}", job.name.unwrap_or_default());
            self.tell(Normal, "MissingJob", message);
        }
    }

    fn schedule(&mut self, cron: &CronJob, spec: &CronJobSpec, jobs: &[Arc<Job>], local: &TimeZone, now: Timestamp) {
        let timetable = match timetable(spec, local) {
            Ok(timetable) => timetable,
            Err((reason, message)) => return self.tell(Warning, reason, message),
        };
        if spec.suspend == Some(true) {
            return;
        }
        if spec.schedule.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {:?} is not officially supported, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
                spec.schedule
            );
            self.tell(Warning, "UnsupportedSchedule", message);
        }
        let recent = timetable.recent(cron, now, true);
        self.wake = Some(timetable.wait(cron, now));
        let Some(run) = recent.run else { return };
        if recent.missed == Missed::Many {
            let message =
                "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            self.tell(Warning, "TooManyMissedTimes", message);
        }
        let deadline = starting_deadline(spec).and_then(|window| run.checked_add(window).ok());
        if deadline.is_some_and(|deadline| deadline < now) {
            let at = run.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z");
            return self.tell(Warning, "MissSchedule", format!("Missed scheduled time to start a job: {at}"));
        }
        let name = Some(name_of(cron, run));
        let done = self.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == run);
        if done || self.active().iter().any(|active| active.name == name) {
            return;
        }
        match spec.concurrency_policy.as_deref() {
            Some("Forbid") if !self.active().is_empty() => {
                let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
                return self.tell(Normal, "JobAlreadyActive", message);
            }
            Some("Replace") => {
                let active = self.active().clone();
                let is_active = |job: &&Arc<Job>| active.iter().any(|active| active.uid == job.metadata.uid);
                self.replaced = jobs.iter().filter(is_active).cloned().collect();
            }
            _ => {}
        }
        self.start = Some(run);
    }

    /// Picks the finished Jobs beyond the limits, the oldest first.
    fn limit_history(&mut self, spec: &CronJobSpec, jobs: &[Arc<Job>]) {
        for (end, limit) in
            [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)]
        {
            let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { continue };
            let mut finished: Vec<&Arc<Job>> = jobs.iter().filter(|job| ended(job) == Some(end)).collect();
            finished.sort_by_key(|job| {
                let start = job.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0);
                (start.is_none(), start, job.name_any())
            });
            let surplus = finished.len().saturating_sub(limit);
            self.expired.extend(finished.into_iter().take(surplus).cloned());
        }
    }
}

/// The name of a run's Job, which makes sure that there is only one.
pub(super) fn name_of(cron: &CronJob, run: Timestamp) -> String {
    format!("{}-{}", cron.name_any(), run.as_second().div_euclid(60))
}

/// The Job of a run.
pub(super) fn job_of(cron: &CronJob, run: Timestamp) -> Job {
    let template = cron.spec.job_template.clone();
    let from = template.metadata.unwrap_or_default();
    let named = cron.spec.time_zone.as_deref();
    let zone = named.and_then(kinds::time_zone).unwrap_or(TimeZone::UTC);
    let at = run.to_zoned(zone);
    let offset = if at.offset().is_zero() { "Z".to_owned() } else { at.strftime("%:z").to_string() };
    let mut annotations = from.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.to_owned(), format!("{}{offset}", at.strftime("%Y-%m-%dT%H:%M:%S")));
    Job {
        metadata: kube::core::ObjectMeta {
            name: Some(name_of(cron, run)),
            namespace: cron.namespace(),
            labels: from.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![owners::controller_reference(cron)]),
            ..Default::default()
        },
        spec: Some(template.spec.unwrap_or_default()),
        status: None,
    }
}
