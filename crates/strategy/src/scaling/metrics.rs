//! The rules of what an autoscaler goes by, and how fast it may go.

use serde_json::Value;

use crate::{
    field_error::{FieldErrors, Path},
    names,
    pod_spec::validate_label_selector,
    quantity,
    tree::{at, int, list, some, text, text_at},
};

/// Sources of metrics: the type and the field that holds it.
const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];
/// Longest time an autoscaler looks back before it acts, and longest period of one policy, in seconds.
const WINDOW_SECONDS_MAX: i64 = 3600;
const PERIOD_SECONDS_MAX: i64 = 1800;

/// Checks the metrics of `spec`.
pub(super) fn validate(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let metrics = list(spec, "metrics");
    let path = path.child("metrics");
    for (index, metric) in metrics.iter().enumerate() {
        validate_metric(metric, &path.index(index), errors);
    }
    let outside = |metric: &Value| ["Object", "External"].contains(&text(metric, "type"));
    if int(spec, "minReplicas") == Some(0) && !metrics.iter().any(outside) {
        let rule = "must specify at least one Object or External metric to support scaling to zero replicas";
        errors.forbidden(&path, rule);
    }
}

fn validate_metric(metric: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = text(metric, "type");
    let Some((_, field)) = SOURCES.iter().find(|(known, _)| *known == kind) else {
        if kind.is_empty() {
            errors.required(&path.child("type"), "must specify a metric source type");
        } else {
            errors.not_supported(&path.child("type"), kind, &SOURCES.map(|(known, _)| known));
        }
        return;
    };
    for (_, other) in SOURCES.iter().filter(|(_, other)| other != field && some(metric, other).is_some()) {
        errors.forbidden(&path.child(other), "must populate the given metric source only");
    }
    let path = path.child(field);
    let Some(source) = some(metric, field) else {
        errors.required(&path, "must populate information for the given metric source");
        return;
    };
    let target = source.get("target").unwrap_or(&Value::Null);
    match *field {
        "resource" | "containerResource" => {
            if text(source, "name").is_empty() {
                errors.required(&path.child("name"), "must specify a resource name");
            }
            if *field == "containerResource" && text(source, "container").is_empty() {
                errors.required(&path.child("container"), "must specify a container");
            }
            validate_target(target, &path.child("target"), errors);
            let path = path.child("target");
            match (some(target, "averageUtilization"), some(target, "averageValue")) {
                (None, None) => errors.required(
                    &path.child("averageUtilization"),
                    "must set either a target raw value or a target utilization",
                ),
                (Some(_), Some(_)) => errors.forbidden(
                    &path.child("averageValue"),
                    "may not set both a target raw value and a target utilization",
                ),
                _ => {}
            }
        }
        "pods" => {
            validate_identifier(source, &path.child("metric"), errors);
            validate_target(target, &path.child("target"), errors);
            if some(target, "averageValue").is_none() {
                let path = path.child("target");
                errors.required(&path.child("averageValue"), "must specify a positive target averageValue");
            }
        }
        _ => {
            validate_identifier(source, &path.child("metric"), errors);
            validate_target(target, &path.child("target"), errors);
            if *field == "object" {
                super::validate_reference(
                    source.get("describedObject").unwrap_or(&Value::Null),
                    &path.child("describedObject"),
                    errors,
                );
            }
            validate_value_or_average(field, target, &path.child("target"), errors);
        }
    }
}

fn validate_value_or_average(field: &str, target: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match (some(target, "value"), some(target, "averageValue")) {
        (None, None) => {
            let rule = if field == "object" {
                "must set either a target value or averageValue"
            } else {
                "must set either a target value for metric or a per-pod target"
            };
            errors.required(&path.child("averageValue"), rule);
        }
        (Some(_), Some(_)) => {
            let rule = "may not set both a target value for metric and a per-pod target";
            errors.forbidden(&path.child("value"), rule);
        }
        _ => {}
    }
}

fn validate_target(target: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    match text(target, "type") {
        "" => errors.required(&path.child("type"), "must specify a metric target type"),
        "Utilization" | "Value" | "AverageValue" => {}
        kind => {
            errors.invalid(&path.child("type"), kind, "must be either Utilization, Value, or AverageValue");
        }
    }
    for key in ["value", "averageValue"] {
        if let Some(amount) = some(target, key)
            && quantity::parse(amount).is_none_or(|amount| amount.is_negative() || amount.is_zero())
        {
            errors.invalid(&path.child(key), amount.clone(), "must be positive");
        }
    }
    if let Some(share) = int(target, "averageUtilization").filter(|share| *share < 1) {
        errors.invalid(&path.child("averageUtilization"), share, "must be greater than 0");
    }
}

fn validate_identifier(source: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let name = text_at(source, &["metric", "name"]);
    if name.is_empty() {
        errors.required(&path.child("name"), "must specify a metric name");
    } else if let Some(message) = names::path_segment(name, false) {
        errors.invalid(&path.child("name"), name, message);
    }
    if let Some(selector) = at(source, &["metric", "selector"]) {
        validate_label_selector(selector, &path.child("selector"), errors);
    }
}

/// Checks how fast the autoscaler may go, up and down.
pub(super) fn validate_behavior(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let Some(behavior) = some(spec, "behavior") else { return };
    let path = path.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let Some(rules) = some(behavior, direction) else { continue };
        let path = path.child(direction);
        if let Some(seconds) = int(rules, "stabilizationWindowSeconds") {
            let path = path.child("stabilizationWindowSeconds");
            if seconds < 0 {
                errors.invalid(&path, seconds, "must be greater than or equal to zero");
            } else if seconds > WINDOW_SECONDS_MAX {
                errors.invalid(&path, seconds, format!("must be less than or equal to {WINDOW_SECONDS_MAX}"));
            }
        }
        let select = text(rules, "selectPolicy");
        if !["", "Disabled", "Max", "Min"].contains(&select) {
            errors.not_supported(&path.child("selectPolicy"), select, &["Disabled", "Max", "Min"]);
        }
        if let Some(tolerance) = some(rules, "tolerance") {
            quantity::validate_non_negative(tolerance, &path.child("tolerance"), errors);
        }
        let path = path.child("policies");
        let policies = list(rules, "policies");
        if policies.is_empty() {
            errors.required(&path, "must specify at least one Policy");
        }
        for (index, policy) in policies.iter().enumerate() {
            validate_policy(policy, &path.index(index), errors);
        }
    }
}

fn validate_policy(policy: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = text(policy, "type");
    if !["Percent", "Pods"].contains(&kind) {
        errors.not_supported(&path.child("type"), kind, &["Percent", "Pods"]);
    }
    let value = int(policy, "value").unwrap_or(0);
    if value <= 0 {
        errors.invalid(&path.child("value"), value, "must be greater than zero");
    }
    let period = int(policy, "periodSeconds").unwrap_or(0);
    if period <= 0 {
        errors.invalid(&path.child("periodSeconds"), period, "must be greater than zero");
    } else if period > PERIOD_SECONDS_MAX {
        errors.invalid(
            &path.child("periodSeconds"),
            period,
            format!("must be less than or equal to {PERIOD_SECONDS_MAX}"),
        );
    }
}
