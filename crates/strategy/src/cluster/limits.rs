//! ResourceQuotas and LimitRanges.

use std::collections::HashSet;

use schema::quantity::{Format, Quantity};
use serde_json::{Map, Value, json};

use super::SPEC;
use crate::{
    Strategy, WriteContext,
    field_error::{FieldErrors, Path},
    metadata, names,
    pod_spec::validate_resource_list,
    quantity,
    tree::{self, list, map, same, some, text},
};

/// ResourceQuotas.
pub(crate) struct ResourceQuota;

impl Strategy for ResourceQuota {
    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({}));
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let path = SPEC.child("hard");
        for (name, amount) in map(spec, "hard") {
            let path = path.key(name);
            if let Some(message) = names::qualified(name) {
                errors.invalid(&path, name.as_str(), message);
            }
            let amount = quantity::validate_non_negative(amount, &path, errors);
            let counted = name.starts_with("count/") || COUNTED.contains(&name.as_str());
            if counted && amount.is_some_and(|amount| !quantity::is_whole(&amount)) {
                errors.invalid(&path, map(spec, "hard")[name].clone(), "must be an integer");
            }
            if !name.contains('/') && !is_standard(name) {
                errors.invalid(&path, name.as_str(), "must be a standard resource for quota");
            }
        }
        check_scopes(spec, errors);
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        if !same(new, old, "scopes") {
            let scopes = new.get("scopes").cloned().unwrap_or_default();
            errors.invalid(&SPEC.child("scopes"), scopes, metadata::IMMUTABLE);
        }
        if !same(new, old, "scopeSelector") {
            let selector = new.get("scopeSelector").cloned().unwrap_or_default();
            errors.invalid(&SPEC.child("scopeSelector"), selector, metadata::IMMUTABLE);
        }
    }
}

/// Resources that are counted, not measured.
const COUNTED: [&str; 9] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// Whether a quota may name `resource`, which has no domain.
fn is_standard(resource: &str) -> bool {
    let measured = resource.strip_prefix("requests.").or_else(|| resource.strip_prefix("limits.")).unwrap_or(resource);
    COUNTED.contains(&resource)
        || ["cpu", "memory", "ephemeral-storage", "storage"].contains(&measured)
        || measured.starts_with("hugepages-")
}

const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];
const CONFLICTING: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

/// Whether the scope says something of `resource`.
fn applies(scope: &str, resource: &str) -> bool {
    match scope {
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => {
            ["persistentvolumeclaims", "requests.storage"].contains(&resource)
                || resource.contains(".storageclass.storage.k8s.io/")
        }
        _ => {
            resource == "pods"
                || ["cpu", "memory", "ephemeral-storage"]
                    .contains(&resource.trim_start_matches("requests.").trim_start_matches("limits."))
        }
    }
}

/// Checks which objects a quota is about.
fn check_scopes(spec: &Value, errors: &mut FieldErrors) {
    let scopes: Vec<&str> = list(spec, "scopes").iter().filter_map(Value::as_str).collect();
    let shown = || list(spec, "scopes").to_vec();
    let path = SPEC.child("scopes");
    let fits = |scope: &str| map(spec, "hard").keys().all(|name| !is_standard(name) || applies(scope, name));
    for scope in &scopes {
        if !SCOPES.contains(scope) {
            errors.invalid(&path, shown(), "unsupported scope");
        } else if !fits(scope) {
            errors.invalid(&path, shown(), "unsupported scope applied to resource");
        }
    }
    let selector = spec.get("scopeSelector").unwrap_or(&Value::Null);
    let selector_path = SPEC.child("scopeSelector");
    let expressions = selector_path.child("matchExpressions");
    let mut selected = Vec::new();
    for requirement in list(selector, "matchExpressions") {
        let scope = text(requirement, "scopeName");
        let (operator, values) = (text(requirement, "operator"), list(requirement, "values"));
        selected.push(scope);
        if !SCOPES.contains(&scope) {
            errors.invalid(&expressions.child("scopeName"), scope, "unsupported scope");
        } else if !fits(scope) {
            errors.invalid(&expressions, selector.clone(), "unsupported scope applied to resource");
        }
        if !["PriorityClass", "VolumeAttributesClass"].contains(&scope) && operator != "Exists" {
            let rule = "must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.invalid(&expressions.child("operator"), operator, rule);
        }
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let rule = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&expressions.child("values"), rule);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let rule = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.invalid(&expressions.child("values"), values.to_vec(), rule);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            operator => errors.invalid(&expressions.child("operator"), operator, "not a valid selector operator"),
        }
    }
    for pair in CONFLICTING {
        for (chosen, path) in [(&scopes, &path), (&selected, &expressions)] {
            if pair.iter().all(|scope| chosen.contains(scope)) {
                errors.invalid(path, shown(), "conflicting scopes");
            }
        }
    }
}

/// LimitRanges.
pub(crate) struct LimitRange;

impl Strategy for LimitRange {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object.get_mut("spec") else { return };
        for limit in tree::list_mut(spec, "limits") {
            if text(limit, "type") != "Container" {
                continue;
            }
            // The tighter of what is given stands in for what is not.
            for (target, source) in [("default", "max"), ("defaultRequest", "default"), ("defaultRequest", "min")] {
                let Some(values) = some(limit, source).and_then(Value::as_object).cloned() else { continue };
                fill(limit, target, values);
            }
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let path = SPEC.child("limits");
        let mut seen = HashSet::new();
        for (index, limit) in list(spec, "limits").iter().enumerate() {
            let path = path.index(index);
            let kind = text(limit, "type");
            if let Some(message) = names::qualified(kind) {
                errors.invalid(&path.child("type"), kind, message);
            }
            if !seen.insert(kind) {
                errors.duplicate(&path.child("type"), kind);
            }
            for key in ["max", "min", "default", "defaultRequest"] {
                validate_resource_list(limit, key, &path, errors);
            }
            check_limit(limit, &path, errors);
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

fn shown(quantity: &Value) -> String {
    quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned)
}

fn fill(limit: &mut Value, target: &str, values: Map<String, Value>) {
    let Some(target) = tree::map_mut(limit, target) else { return };
    for (name, value) in values {
        target.entry(name).or_insert(value);
    }
}

/// Checks one limit of a LimitRange against itself: least ≤ default request ≤ default ≤ most.
fn check_limit(limit: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let kind = text(limit, "type");
    if kind == "Pod" {
        for key in ["default", "defaultRequest"] {
            if !map(limit, key).is_empty() {
                errors.forbidden(&path.child(key), "may not be specified when `type` is 'Pod'");
            }
        }
    }
    let amount = |key: &str, name: &str| map(limit, key).get(name).and_then(quantity::parse);
    if kind == "PersistentVolumeClaim" && amount("min", "storage").is_none() && amount("max", "storage").is_none() {
        let rule = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.child("limits"), rule);
    }
    let keys = ["max", "min", "default", "defaultRequest", "maxLimitRequestRatio"];
    let names: HashSet<&String> = keys.iter().flat_map(|key| map(limit, key).keys()).collect();
    // (lower, upper, where the error stands, what it says of the lower and the upper)
    const ORDER: [(&str, &str, &str, &str, &str); 6] = [
        ("min", "max", "min", "min value", "max value"),
        ("min", "defaultRequest", "defaultRequest", "min value", "default request value"),
        ("defaultRequest", "max", "defaultRequest", "default request value", "max value"),
        ("defaultRequest", "default", "defaultRequest", "default request value", "default limit value"),
        ("min", "default", "default", "min value", "default value"),
        ("default", "max", "default", "default value", "max value"),
    ];
    for name in names {
        for (lower, upper, place, lower_words, upper_words) in ORDER {
            if let (Some(low), Some(high)) = (amount(lower, name), amount(upper, name))
                && low > high
            {
                let (low, high) = (shown(&map(limit, lower)[name]), shown(&map(limit, upper)[name]));
                let value = shown(&map(limit, place)[name]);
                let rule = format!("{lower_words} {low} is greater than {upper_words} {high}");
                errors.invalid(&path.child(place).key(name), value, rule);
            }
        }
        let Some(ratio) = amount("maxLimitRequestRatio", name) else { continue };
        let written = shown(&map(limit, "maxLimitRequestRatio")[name]);
        let ratio_path = path.child("maxLimitRequestRatio");
        if Quantity::from_units(1, Format::DecimalSi) > ratio {
            errors.invalid(&ratio_path.key(name), written.as_str(), format!("ratio {written} is less than 1"));
        }
    }
}
