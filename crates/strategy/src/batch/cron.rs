//! CronJobs and their schedules.

use serde_json::{Value, json};

use super::{SPEC, default_template, validate_job_spec};
use crate::{
    Strategy, WriteContext,
    field_error::{FieldErrors, Path},
    tree::{self, default_to, some, text},
    workloads::{NAMES_OF_PODS, template_warnings, validate_number},
};

/// CronJobs.
pub(crate) struct CronJob;

/// Longest name, so that the Jobs' names, which add eleven bytes, fit a label.
const CRON_JOB_NAME_BYTES_MAX: usize = 52;

impl Strategy for CronJob {
    fn default(&self, object: &mut Value) {
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        default_to(spec, "concurrencyPolicy", "Allow");
        default_to(spec, "suspend", false);
        default_to(spec, "successfulJobsHistoryLimit", 3);
        default_to(spec, "failedJobsHistoryLimit", 1);
        if let Some(job) = spec.pointer_mut("/jobTemplate/spec").filter(|job| job.is_object()) {
            default_template(job);
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({}));
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let name = tree::name(object);
        if old.is_none() && name.len() > CRON_JOB_NAME_BYTES_MAX {
            let path = Path::new("metadata");
            errors.invalid(&path.child("name"), name, "must be no more than 52 characters");
        }
        let spec = object.get("spec").unwrap_or(&Value::Null);
        validate_schedule(text(spec, "schedule"), errors);
        validate_time_zone(spec, errors);
        match text(spec, "concurrencyPolicy") {
            "Allow" | "Forbid" | "Replace" => {}
            "" => errors.required(&SPEC.child("concurrencyPolicy"), ""),
            policy => {
                errors.not_supported(&SPEC.child("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]);
            }
        }
        for key in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            validate_number(spec, key, &SPEC, errors);
        }
        let template = SPEC.child("jobTemplate");
        let path = template.child("spec");
        let job = tree::at(spec, &["jobTemplate", "spec"]).unwrap_or(&Value::Null);
        let known = old.and_then(|old| old.pointer("/spec/jobTemplate/spec")) == Some(job);
        validate_job_spec(job, known, &path, errors);
        if some(job, "selector").is_some() {
            let value = job.get("selector").cloned().unwrap_or_default();
            errors.invalid(&path.child("selector"), value, "`selector` will be auto-generated");
        }
        if tree::flag(job, "manualSelector") {
            errors.not_supported(&path.child("manualSelector"), true, &["nil", "false"]);
        }
    }

    fn name_becomes(&self) -> Option<&'static str> {
        Some(NAMES_OF_PODS)
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        let mut warnings = template_warnings(object, &["spec", "jobTemplate", "spec", "template"]);
        if tree::text_at(object, &["spec", "schedule"]).contains("TZ") {
            warnings.push("cannot use TZ or CRON_TZ in spec.schedule, use spec.timeZone instead".to_owned());
        }
        warnings
    }
}

fn validate_time_zone(spec: &Value, errors: &mut FieldErrors) {
    let Some(zone) = some(spec, "timeZone").and_then(Value::as_str) else { return };
    let path = SPEC.child("timeZone");
    if zone.is_empty() {
        errors.invalid(&path, zone, "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("Local") {
        errors.invalid(
            &path,
            zone,
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    } else if kinds::time_zone(zone).is_none() {
        errors.invalid(&path, zone, format!("unknown time zone {zone}"));
    }
}

fn validate_schedule(schedule: &str, errors: &mut FieldErrors) {
    let path = SPEC.child("schedule");
    if schedule.is_empty() {
        errors.required(&path, "");
        return;
    }
    if schedule.contains("TZ") {
        errors.invalid(&path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    } else if let Err(reason) = kinds::Schedule::parse(schedule) {
        errors.invalid(&path, schedule, reason.to_string());
    }
}
