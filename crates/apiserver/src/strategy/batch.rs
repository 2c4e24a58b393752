//! Jobs and CronJobs.

use serde_json::{Value, json};

use super::{
    Propagation, Strategy, WriteContext, metadata, pod_spec,
    tree::{self, default_to, flag, int, same, some, text, text_at},
    workloads::{selects, validate_number},
};
use crate::field_error::{FieldErrors, Path};

const SPEC: Path<'static> = Path::new("spec");
/// Labels by which a Job finds its own pods, the current and the older names.
const UID_LABELS: [&str; 2] = ["batch.kubernetes.io/controller-uid", "controller-uid"];
const NAME_LABELS: [&str; 2] = ["batch.kubernetes.io/job-name", "job-name"];

/// Jobs.
pub(super) struct Job;

impl Strategy for Job {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = tree::child_mut(object, "spec") {
            default_job_spec(spec);
        }
        // A Job carries its template's labels when it has none.
        if tree::at(object, &["metadata", "labels"]).is_none()
            && let Some(labels) = object.pointer("/spec/template/metadata/labels").filter(|labels| labels.is_object())
        {
            let labels = labels.clone();
            if let Some(metadata) = tree::child_mut(object, "metadata") {
                default_to(metadata, "labels", labels);
            }
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        let uid = text_at(object, &["metadata", "uid"]).to_owned();
        let name = tree::name(object).to_owned();
        if let Some(spec) = object.get_mut("spec")
            && !flag(spec, "manualSelector")
        {
            generate_selector(spec, &uid, &name);
        }
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({}));
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        match some(spec, "selector") {
            None => errors.required(&SPEC.child("selector"), ""),
            Some(selector) => {
                static NONE: Value = Value::Null;
                let metadata = tree::at(spec, &["template", "metadata"]).unwrap_or(&NONE);
                let labels = tree::map(metadata, "labels");
                if !selects(selector, labels) {
                    let template = SPEC.child("template");
                    let metadata = template.child("metadata");
                    errors.invalid(
                        &metadata.child("labels"),
                        Value::Object(labels.clone()),
                        "`selector` does not match template `labels`",
                    );
                }
            }
        }
        let known = old.and_then(|old| old.pointer("/spec/template")) == spec.get("template");
        validate_job_spec(spec, known, &SPEC, errors);
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let status = old.get("status").unwrap_or(&Value::Null);
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        // A suspended Job that has not started may still be placed differently.
        let movable = flag(old, "suspend") && some(status, "startTime").is_none();
        let mut fixed = vec!["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"];
        if text(old, "completionMode") != "Indexed" {
            fixed.push("completions");
        }
        if !movable {
            fixed.push("template");
        }
        for key in fixed {
            if !same(new, old, key) {
                let value = new.get(key).cloned().unwrap_or_default();
                errors.invalid(&SPEC.child(key), value, metadata::IMMUTABLE);
            }
        }
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let succeeded = tree::at(object, &["status", "succeeded"]).and_then(Value::as_i64).unwrap_or(0);
        vec![("status.successful", succeeded.to_string())]
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }
}

/// CronJobs.
pub(super) struct CronJob;

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
    }
}

fn default_template(spec: &mut Value) {
    if let Some(template) = spec.get_mut("template").filter(|template| template.is_object()) {
        tree::child_mut(template, "metadata");
        if let Some(pod) = tree::child_mut(template, "spec") {
            pod_spec::default_spec(pod);
        }
    }
}

fn default_job_spec(spec: &mut Value) {
    // Only when neither is given: a Job with parallelism alone is a work queue.
    if some(spec, "completions").is_none() && some(spec, "parallelism").is_none() {
        default_to(spec, "completions", 1);
    }
    default_to(spec, "parallelism", 1);
    if some(spec, "backoffLimit").is_none() {
        let per_index = some(spec, "backoffLimitPerIndex").is_some();
        default_to(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { 6 });
    }
    default_to(spec, "completionMode", "NonIndexed");
    default_to(spec, "suspend", false);
    let policy = if some(spec, "podFailurePolicy").is_some() { "Failed" } else { "TerminatingOrFailed" };
    default_to(spec, "podReplacementPolicy", policy);
    default_template(spec);
}

/// Makes a Job select exactly its own pods: by its uid.
fn generate_selector(spec: &mut Value, uid: &str, name: &str) {
    if some(spec, "selector").is_none() {
        let Some(map) = spec.as_object_mut() else { return };
        map.insert("selector".to_owned(), json!({"matchLabels": {(UID_LABELS[0]): uid}}));
    }
    let Some(template) = tree::child_mut(spec, "template") else { return };
    let Some(metadata) = tree::child_mut(template, "metadata") else { return };
    let Some(labels) = tree::map_mut(metadata, "labels") else { return };
    for (keys, value) in [(UID_LABELS, uid), (NAME_LABELS, name)] {
        for key in keys {
            labels.entry(key).or_insert_with(|| value.into());
        }
    }
}

fn validate_job_spec(spec: &Value, template_known: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    for key in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "maxFailedIndexes",
    ] {
        validate_number(spec, key, path, errors);
    }
    match text(spec, "completionMode") {
        "" | "NonIndexed" => {}
        "Indexed" if int(spec, "completions").is_none() => {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        "Indexed" => {}
        mode => errors.not_supported(&path.child("completionMode"), mode, &["Indexed", "NonIndexed"]),
    }
    let path = path.child("template");
    let template = spec.get("template").unwrap_or(&Value::Null);
    if template.is_null() {
        errors.required(&path, "");
        return;
    }
    if !template_known {
        pod_spec::validate_template(template, &path, errors);
    }
    let path = path.child("spec");
    match text_at(template, &["spec", "restartPolicy"]) {
        "OnFailure" | "Never" => {}
        "" | "Always" => {
            errors.required(&path.child("restartPolicy"), "valid values: \"OnFailure\", \"Never\"");
        }
        policy => errors.not_supported(&path.child("restartPolicy"), policy, &["OnFailure", "Never"]),
    }
}

/// Least and greatest value of each field of a schedule: minute, hour, day of month, month, day of week.
const CRON_FIELDS: [(u32, u32); 5] = [(0, 59), (0, 23), (1, 31), (1, 12), (0, 6)];
const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

fn validate_schedule(schedule: &str, errors: &mut FieldErrors) {
    let path = SPEC.child("schedule");
    if schedule.is_empty() {
        errors.required(&path, "");
        return;
    }
    if schedule.contains("TZ") {
        errors.invalid(&path, schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead");
    } else if let Err(reason) = parse_schedule(schedule) {
        errors.invalid(&path, schedule, reason);
    }
}

fn parse_schedule(schedule: &str) -> Result<(), String> {
    if let Some(name) = schedule.strip_prefix('@') {
        let known = ["yearly", "annually", "monthly", "weekly", "daily", "midnight", "hourly"].contains(&name)
            || name.starts_with("every ");
        return if known { Ok(()) } else { Err(format!("unrecognized descriptor: {schedule}")) };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != CRON_FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (index, (field, (least, most))) in fields.iter().zip(CRON_FIELDS).enumerate() {
        for part in field.split(',') {
            parse_range(part, index, least, most)?;
        }
    }
    Ok(())
}

fn parse_range(part: &str, field: usize, least: u32, most: u32) -> Result<(), String> {
    let number = |text: &str| -> Result<u32, String> {
        let lower = text.to_ascii_lowercase();
        let named = match field {
            3 => MONTHS.iter().position(|name| *name == lower).map(|index| index + 1),
            4 => DAYS.iter().position(|name| *name == lower),
            _ => None,
        };
        if let Some(index) = named {
            return u32::try_from(index).map_err(|_| format!("failed to parse int from {text}"));
        }
        text.parse()
            .map_err(|_| format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax"))
    };
    let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if range == "*" || range == "?" {
        return Ok(());
    }
    let (start, end) = match range.split_once('-') {
        Some((start, end)) => (number(start)?, number(end)?),
        None => (number(range)?, number(range)?),
    };
    if start < least {
        return Err(format!("beginning of range ({start}) below minimum ({least}): {part}"));
    }
    if end > most {
        return Err(format!("end of range ({end}) above maximum ({most}): {part}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
