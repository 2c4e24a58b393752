//! The rules of when a Job counts as done: completion mode, failure policy, success policy.

use std::collections::HashSet;

use serde_json::Value;

use super::indexes;
use crate::{
    field_error::{FieldErrors, Path},
    names,
    tree::{int, list, some, text, text_at},
};

/// Most pods of an indexed Job at a time, and most indexes when they fail one by one.
const INDEXED_PARALLELISM_MAX: i64 = 100_000;
/// Most rules of a failure or success policy, and what one failure rule may list.
const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const POD_CONDITIONS_MAX: usize = 20;
const MANAGER_BYTES_MAX: usize = 63;

/// Checks the completion mode and what depends on it.
pub(super) fn validate_completion(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let completions = int(spec, "completions");
    let indexed = match text(spec, "completionMode") {
        "" | "NonIndexed" => false,
        "Indexed" => true,
        mode => {
            errors.not_supported(&path.child("completionMode"), mode, &["Indexed", "NonIndexed"]);
            false
        }
    };
    if indexed {
        if completions.is_none() {
            errors.required(&path.child("completions"), "when completion mode is Indexed");
        }
        if let Some(count) = int(spec, "parallelism").filter(|count| *count > INDEXED_PARALLELISM_MAX) {
            let rule =
                format!("must be less than or equal to {INDEXED_PARALLELISM_MAX} when completion mode is Indexed");
            errors.invalid(&path.child("parallelism"), count, rule);
        }
    } else {
        for key in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if let Some(count) = int(spec, key) {
                errors.invalid(&path.child(key), count, "requires indexed completion mode");
            }
        }
    }
    if let Some(failed) = int(spec, "maxFailedIndexes") {
        if some(spec, "backoffLimitPerIndex").is_none() {
            errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
        }
        if completions.is_some_and(|completions| failed > completions) {
            errors.invalid(&path.child("maxFailedIndexes"), failed, "must be less than or equal to completions");
        }
    }
    if let Some(manager) = some(spec, "managedBy").and_then(Value::as_str) {
        let path = path.child("managedBy");
        if !manager.contains('/') || names::qualified(manager).is_some() {
            errors.invalid(&path, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        }
        if manager.len() > MANAGER_BYTES_MAX {
            errors.too_long(&path, MANAGER_BYTES_MAX);
        }
    }
    let replacement = text(spec, "podReplacementPolicy");
    if some(spec, "podFailurePolicy").is_some() {
        if !["", "Failed"].contains(&replacement) {
            errors.not_supported(&path.child("podReplacementPolicy"), replacement, &["Failed"]);
        }
    } else if !["", "Failed", "TerminatingOrFailed"].contains(&replacement) {
        errors.not_supported(&path.child("podReplacementPolicy"), replacement, &["Failed", "TerminatingOrFailed"]);
    }
}

/// Checks what the Job does about failed pods.
pub(super) fn validate_failure(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(policy) = some(spec, "podFailurePolicy") else { return };
    let restart = text_at(spec, &["template", "spec", "restartPolicy"]);
    if restart != "Never" {
        let path = path.child("template");
        let path = path.child("spec");
        let rule = "only \"Never\" is supported when podFailurePolicy is specified";
        errors.invalid(&path.child("restartPolicy"), restart, rule);
    }
    let path = path.child("podFailurePolicy");
    let path = path.child("rules");
    let rules = list(policy, "rules");
    if rules.len() > RULES_MAX {
        errors.too_many(&path, rules.len(), RULES_MAX);
    }
    let containers: HashSet<&str> = ["containers", "initContainers"]
        .iter()
        .filter_map(|key| spec.pointer(&format!("/template/spec/{key}")).and_then(Value::as_array))
        .flatten()
        .map(|container| text(container, "name"))
        .collect();
    for (index, rule) in rules.iter().enumerate() {
        validate_failure_rule(spec, rule, &containers, &path.index(index), errors);
    }
}

fn validate_failure_rule(
    spec: &Value,
    rule: &Value,
    containers: &HashSet<&str>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    match text(rule, "action") {
        "" => errors.required(&path.child("action"), "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"),
        "FailIndex" if some(spec, "backoffLimitPerIndex").is_none() => {
            errors.invalid(&path.child("action"), "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        "Count" | "FailIndex" | "FailJob" | "Ignore" => {}
        action => {
            errors.not_supported(&path.child("action"), action, &["Count", "FailIndex", "FailJob", "Ignore"]);
        }
    }
    let conditions = list(rule, "onPodConditions");
    match (some(rule, "onExitCodes"), conditions.is_empty()) {
        (Some(_), false) => {
            let rule = "specifying both OnExitCodes and OnPodConditions is not supported";
            errors.invalid(path, Value::Null, rule);
        }
        (None, true) => {
            let rule = "specifying one of OnExitCodes and OnPodConditions is required";
            errors.invalid(path, Value::Null, rule);
        }
        (Some(codes), true) => validate_exit_codes(codes, containers, &path.child("onExitCodes"), errors),
        (None, false) => {
            let path = path.child("onPodConditions");
            if conditions.len() > POD_CONDITIONS_MAX {
                errors.too_many(&path, conditions.len(), POD_CONDITIONS_MAX);
            }
            for (index, condition) in conditions.iter().enumerate() {
                let path = path.index(index);
                if let Some(message) = names::qualified(text(condition, "type")) {
                    errors.invalid(&path.child("type"), text(condition, "type"), message);
                }
                match text(condition, "status") {
                    "" => errors.required(&path.child("status"), "valid values: [\"False\" \"True\" \"Unknown\"]"),
                    "False" | "True" | "Unknown" => {}
                    status => errors.not_supported(&path.child("status"), status, &["False", "True", "Unknown"]),
                }
            }
        }
    }
}

fn validate_exit_codes(codes: &Value, containers: &HashSet<&str>, path: &Path<'_>, errors: &mut FieldErrors) {
    let operator = text(codes, "operator");
    match operator {
        "" => errors.required(&path.child("operator"), "valid values: [\"In\" \"NotIn\"]"),
        "In" | "NotIn" => {}
        operator => errors.not_supported(&path.child("operator"), operator, &["In", "NotIn"]),
    }
    if let Some(name) = some(codes, "containerName").and_then(Value::as_str)
        && !containers.contains(name)
    {
        let rule = "must be one of the container or initContainer names in the pod template";
        errors.invalid(&path.child("containerName"), name, rule);
    }
    let path = path.child("values");
    let values: Vec<i64> = list(codes, "values").iter().filter_map(Value::as_i64).collect();
    if values.is_empty() {
        errors.invalid(&path, Value::Array(Vec::new()), "at least one value is required");
    } else if values.len() > EXIT_CODES_MAX {
        errors.too_many(&path, values.len(), EXIT_CODES_MAX);
    }
    let mut seen = HashSet::new();
    for (index, value) in values.iter().enumerate() {
        if *value == 0 && operator == "In" {
            errors.invalid(&path.index(index), 0, "must not be 0 for the In operator");
        }
        if !seen.insert(*value) {
            errors.duplicate(&path.index(index), *value);
        }
    }
    if !values.is_sorted() {
        errors.invalid(&path, list(codes, "values").to_vec(), "must be ordered");
    }
}

/// Checks when the Job counts as succeeded before all of its indexes are.
pub(super) fn validate_success(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(policy) = some(spec, "successPolicy") else { return };
    let path = path.child("successPolicy");
    if text(spec, "completionMode") != "Indexed" {
        errors.invalid(&path, policy.clone(), "requires indexed completion mode");
        return;
    }
    let path = path.child("rules");
    let rules = list(policy, "rules");
    if rules.is_empty() {
        errors.required(&path, "at least one rules must be specified when the successPolicy is specified");
    } else if rules.len() > RULES_MAX {
        errors.too_many(&path, rules.len(), RULES_MAX);
    }
    let completions = int(spec, "completions").unwrap_or(0);
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let (given, count) = (some(rule, "succeededIndexes"), int(rule, "succeededCount"));
        if given.is_none() && count.is_none() {
            errors.required(&path, "at least one of succeededCount or succeededIndexes must be specified");
        }
        let mut listed = None;
        if let Some(text) = given.and_then(Value::as_str) {
            match indexes::parse(text, completions) {
                Ok(runs) => listed = Some(indexes::total(&runs)),
                Err(reason) => {
                    let rule = format!("error parsing succeededIndexes: {reason}");
                    errors.invalid(&path.child("succeededIndexes"), text, rule);
                }
            }
        }
        let Some(count) = count else { continue };
        let path = path.child("succeededCount");
        if count < 0 {
            errors.invalid(&path, count, "must be greater than or equal to 0");
        } else if count > completions {
            let rule = format!("must be less than or equal to {completions} (the number of specified completions)");
            errors.invalid(&path, count, rule);
        } else if let Some(listed) = listed.filter(|listed| count > *listed) {
            let rule = format!(
                "must be less than or equal to {listed} (the number of indexes in the specified succeededIndexes field)"
            );
            errors.invalid(&path, count, rule);
        }
    }
}
