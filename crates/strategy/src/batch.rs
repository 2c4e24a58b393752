//! Jobs and CronJobs.

use serde_json::{Value, json};

use super::{
    Propagation, Strategy, WriteContext, metadata, pod_spec,
    tree::{self, default_to, flag, int, same, some, text, text_at},
    workloads::{NAMES_OF_PODS, selects, template_warnings, validate_number},
};
use crate::field_error::{FieldErrors, Path};

mod cron;
mod indexes;
mod policy;
mod status;

pub(super) use cron::CronJob;

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

    fn name_becomes(&self) -> Option<&'static str> {
        Some(NAMES_OF_PODS)
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object, &["spec", "template"])
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let status = old.get("status").unwrap_or(&Value::Null);
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        let mut fixed = vec![
            "selector",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
            "managedBy",
            "successPolicy",
        ];
        if text(old, "completionMode") != "Indexed" {
            fixed.push("completions");
        } else if !same(new, old, "completions") && int(new, "completions") != int(new, "parallelism") {
            // an elastic Job grows and shrinks as one
            let value = new.get("completions").cloned().unwrap_or_default();
            let rule = "can only be modified in tandem with spec.parallelism";
            errors.invalid(&SPEC.child("completions"), value, rule);
        }
        // A suspended Job that has not started may still be placed differently.
        let movable = flag(old, "suspend") && some(status, "startTime").is_none();
        if !(movable && without_placement(new) == without_placement(old)) {
            fixed.push("template");
        }
        for key in fixed {
            if !same(new, old, key) {
                let value = new.get(key).cloned().unwrap_or_default();
                errors.invalid(&SPEC.child(key), value, metadata::IMMUTABLE);
            }
        }
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        status::validate(new, old, errors);
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let succeeded = tree::at(object, &["status", "succeeded"]).and_then(Value::as_i64).unwrap_or(0);
        vec![("status.successful", succeeded.to_string())]
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }
}

/// The template without what says where its pods run, and what they ask for there.
fn without_placement(spec: &Value) -> Value {
    let mut template = spec.get("template").cloned().unwrap_or_default();
    if let Some(metadata) = template.get_mut("metadata") {
        tree::remove(metadata, "labels");
        tree::remove(metadata, "annotations");
    }
    let Some(pod) = template.get_mut("spec") else { return template };
    for key in ["nodeSelector", "tolerations", "schedulingGates"] {
        tree::remove(pod, key);
    }
    for key in ["containers", "initContainers"] {
        for container in tree::list_mut(pod, key) {
            tree::remove(container, "resources");
        }
    }
    if let Some(affinity) = pod.get_mut("affinity") {
        tree::remove(affinity, "nodeAffinity");
        if tree::is_empty(affinity) {
            tree::remove(pod, "affinity");
        }
    }
    template
}

fn default_template(spec: &mut Value) {
    let rules = spec.pointer_mut("/podFailurePolicy/rules").and_then(Value::as_array_mut);
    let patterns = rules.into_iter().flatten().filter_map(|rule| rule.get_mut("onPodConditions")?.as_array_mut());
    for pattern in patterns.flatten().filter(|pattern| pattern.is_object()) {
        default_to(pattern, "status", "True");
    }
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
    validate_number(spec, "backoffLimitPerIndex", path, errors);
    policy::validate_completion(spec, path, errors);
    policy::validate_failure(spec, path, errors);
    policy::validate_success(spec, path, errors);
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

#[cfg(test)]
mod tests;
