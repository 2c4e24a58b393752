//! The rules of what decides where a pod may run: affinity, tolerations, spread.

use std::collections::HashSet;

use serde_json::Value;

use super::label_keys;
use crate::{
    field_error::{FieldErrors, Path},
    metadata, names,
    tree::{int, list, map, some, text},
};

/// Upstream's words for a negative number.
pub(crate) const NON_NEGATIVE: &str = "must be greater than or equal to 0";

/// Checks affinity, tolerations and topology spread constraints.
pub(super) fn validate(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let tolerations = path.child("tolerations");
    for (index, toleration) in list(spec, "tolerations").iter().enumerate() {
        validate_toleration(toleration, &tolerations.index(index), errors);
    }
    let spreads = path.child("topologySpreadConstraints");
    let constraints = list(spec, "topologySpreadConstraints");
    for (index, spread) in constraints.iter().enumerate() {
        validate_spread(spread, &spreads.index(index), errors);
        let pair =
            |spread: &Value| (text(spread, "topologyKey").to_owned(), text(spread, "whenUnsatisfiable").to_owned());
        if constraints[index + 1..].iter().any(|other| pair(other) == pair(spread)) {
            let (key, action) = pair(spread);
            let path = spreads.index(index);
            errors.duplicate(&path.child("{topologyKey, whenUnsatisfiable}"), format!("{{{key}, {action}}}"));
        }
    }
    if let Some(affinity) = some(spec, "affinity") {
        validate_affinity(affinity, &path.child("affinity"), errors);
    }
    let gates = path.child("schedulingGates");
    let mut seen = HashSet::new();
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if let Some(message) = names::qualified(name) {
            errors.invalid(&gates.index(index), name, message);
        }
        if !seen.insert(name) {
            errors.duplicate(&gates.index(index), name);
        }
    }
}

/// Checks one toleration.
pub(crate) fn validate_toleration(toleration: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (key, operator, value, effect) =
        (text(toleration, "key"), text(toleration, "operator"), text(toleration, "value"), text(toleration, "effect"));
    if !key.is_empty()
        && let Some(message) = names::qualified(key)
    {
        errors.invalid(&path.child("key"), key, message);
    }
    if key.is_empty() && operator != "Exists" {
        errors.invalid(
            &path.child("operator"),
            operator,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if int(toleration, "tolerationSeconds").is_some() && effect != "NoExecute" {
        errors.invalid(&path.child("effect"), effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
    }
    match operator {
        "" | "Equal" => {
            if let Some(message) = names::label_value(value) {
                errors.invalid(&path.child("operator"), value, message);
            }
        }
        "Exists" if value.is_empty() => {}
        "Exists" => {
            errors.invalid(&path.child("operator"), value, "value must be empty when `operator` is 'Exists'");
        }
        operator => errors.not_supported(&path.child("operator"), operator, &["Equal", "Exists"]),
    }
    if !["", "NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect) {
        errors.not_supported(&path.child("effect"), effect, &["NoSchedule", "PreferNoSchedule", "NoExecute"]);
    }
}

fn validate_spread(spread: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let skew = int(spread, "maxSkew").unwrap_or(0);
    if skew <= 0 {
        errors.invalid(&path.child("maxSkew"), skew, "must be greater than zero");
    }
    let key = text(spread, "topologyKey");
    if key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    } else if let Some(message) = names::qualified(key) {
        errors.invalid(&path.child("topologyKey"), key, message);
    }
    let action = text(spread, "whenUnsatisfiable");
    if !["DoNotSchedule", "ScheduleAnyway"].contains(&action) {
        errors.not_supported(&path.child("whenUnsatisfiable"), action, &["DoNotSchedule", "ScheduleAnyway"]);
    }
    if let Some(domains) = int(spread, "minDomains") {
        let path = path.child("minDomains");
        if domains <= 0 {
            errors.invalid(&path, domains, "must be greater than zero");
        }
        if action != "DoNotSchedule" {
            let rule = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
            errors.invalid(&path, domains, rule);
        }
    }
    for key in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        let policy = text(spread, key);
        if !["", "Honor", "Ignore"].contains(&policy) {
            errors.not_supported(&path.child(key), policy, &["Honor", "Ignore"]);
        }
    }
    let selector = some(spread, "labelSelector");
    if let Some(selector) = selector {
        validate_label_selector(selector, &path.child("labelSelector"), errors);
    }
    validate_label_keys(spread, "matchLabelKeys", selector, path, errors);
    validate_repeated_keys(spread, selector, &path.child("matchLabelKeys"), errors);
}

/// Refuses keys that the selector names by itself as well. What the keys mean has been written into it before.
fn validate_repeated_keys(holder: &Value, selector: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    let keys = list(holder, "matchLabelKeys");
    for index in label_keys::repeated(keys, selector.unwrap_or(&Value::Null)) {
        let key = keys[index].as_str().unwrap_or_default();
        errors.invalid(&path.index(index), key, "exists in both matchLabelKeys and labelSelector");
    }
}

/// Checks label keys whose values the pod's own labels give; they need a selector to join.
fn validate_label_keys(
    holder: &Value,
    field: &str,
    selector: Option<&Value>,
    path: &Path<'_>,
    errors: &mut FieldErrors,
) {
    let keys = list(holder, field);
    let path = path.child(field);
    if !keys.is_empty() && selector.is_none() {
        errors.forbidden(&path, "must not be specified when labelSelector is not set");
        return;
    }
    for (index, key) in keys.iter().enumerate() {
        let key = key.as_str().unwrap_or_default();
        if let Some(message) = names::qualified(key) {
            errors.invalid(&path.index(index), key, message);
        }
    }
}

/// Checks a label selector.
pub(crate) fn validate_label_selector(selector: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, value) in map(selector, "matchLabels") {
        metadata::validate_label(key, value, &path.child("matchLabels"), errors);
    }
    let expressions = path.child("matchExpressions");
    for (index, expression) in list(selector, "matchExpressions").iter().enumerate() {
        validate_expression(expression, &["In", "NotIn", "Exists", "DoesNotExist"], &expressions.index(index), errors);
    }
}

fn validate_expression(expression: &Value, operators: &[&str], path: &Path<'_>, errors: &mut FieldErrors) {
    let (key, operator, values) = (text(expression, "key"), text(expression, "operator"), list(expression, "values"));
    match operator {
        "In" | "NotIn" if values.is_empty() => {
            errors.required(&path.child("values"), "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors
                .forbidden(&path.child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'");
        }
        "Gt" | "Lt" if operators.contains(&operator) && values.len() != 1 => {
            errors.required(&path.child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'");
        }
        operator if operators.contains(&operator) => {}
        operator => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
    if let Some(message) = names::qualified(key) {
        errors.invalid(&path.child("key"), key, message);
    }
    for (index, value) in values.iter().enumerate() {
        let value = value.as_str().unwrap_or_default();
        if let Some(message) = names::label_value(value) {
            errors.invalid(&path.child("values").index(index), value, message);
        }
    }
}

/// Operators of node selectors.
const NODE_OPERATORS: [&str; 6] = ["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"];
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn validate_affinity(affinity: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(node) = some(affinity, "nodeAffinity") {
        let path = path.child("nodeAffinity");
        if let Some(required) = some(node, REQUIRED) {
            let path = path.child(REQUIRED);
            let terms_path = path.child("nodeSelectorTerms");
            let terms = list(required, "nodeSelectorTerms");
            if terms.is_empty() {
                errors.required(&terms_path, "must have at least one node selector term");
            }
            for (index, term) in terms.iter().enumerate() {
                validate_node_term(term, &terms_path.index(index), errors);
            }
        }
        let preferred = path.child(PREFERRED);
        for (index, weighted) in list(node, PREFERRED).iter().enumerate() {
            let path = preferred.index(index);
            validate_weight(weighted, &path, errors);
            validate_node_term(weighted.get("preference").unwrap_or(&Value::Null), &path.child("preference"), errors);
        }
    }
    for key in ["podAffinity", "podAntiAffinity"] {
        let Some(pods) = some(affinity, key) else { continue };
        let path = path.child(key);
        let required = path.child(REQUIRED);
        for (index, term) in list(pods, REQUIRED).iter().enumerate() {
            validate_pod_term(term, &required.index(index), errors);
        }
        let preferred = path.child(PREFERRED);
        for (index, weighted) in list(pods, PREFERRED).iter().enumerate() {
            let path = preferred.index(index);
            validate_weight(weighted, &path, errors);
            let term = weighted.get("podAffinityTerm").unwrap_or(&Value::Null);
            validate_pod_term(term, &path.child("podAffinityTerm"), errors);
        }
    }
}

fn validate_weight(weighted: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let weight = int(weighted, "weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(&path.child("weight"), weight, "must be in the range 1-100");
    }
}

/// Checks a term of a node selector.
pub(crate) fn validate_node_term(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let expressions = path.child("matchExpressions");
    for (index, expression) in list(term, "matchExpressions").iter().enumerate() {
        validate_expression(expression, &NODE_OPERATORS, &expressions.index(index), errors);
    }
    let fields = path.child("matchFields");
    for (index, field) in list(term, "matchFields").iter().enumerate() {
        validate_node_field(field, &fields.index(index), errors);
    }
}

fn validate_node_field(field: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let (key, operator, values) = (text(field, "key"), text(field, "operator"), list(field, "values"));
    match operator {
        "In" | "NotIn" if values.len() != 1 => {
            let rule = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            errors.required(&path.child("values"), rule);
        }
        "In" | "NotIn" => {}
        operator => errors.invalid(&path.child("operator"), operator, "not a valid selector operator"),
    }
    if key != "metadata.name" {
        errors.invalid(&path.child("key"), key, "not a valid field selector key");
        return;
    }
    let path = path.child("values");
    for (index, value) in values.iter().enumerate() {
        let name = value.as_str().unwrap_or_default();
        if let Some(message) = names::subdomain(name) {
            errors.invalid(&path.index(index), name, message);
        }
    }
}

fn validate_pod_term(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.required(&path.child("topologyKey"), "can not be empty");
    } else if let Some(message) = names::qualified(key) {
        errors.invalid(&path.child("topologyKey"), key, message);
    }
    let selector = some(term, "labelSelector");
    if let Some(selector) = selector {
        validate_label_selector(selector, &path.child("labelSelector"), errors);
    }
    if let Some(selector) = some(term, "namespaceSelector") {
        validate_label_selector(selector, &path.child("namespaceSelector"), errors);
    }
    for name in list(term, "namespaces") {
        let name = name.as_str().unwrap_or_default();
        if let Some(message) = names::label(name) {
            errors.invalid(&path.child("namespace"), name, message);
        }
    }
    validate_label_keys(term, "matchLabelKeys", selector, path, errors);
    validate_label_keys(term, "mismatchLabelKeys", selector, path, errors);
    validate_repeated_keys(term, selector, path, errors);
    let mismatching = list(term, "mismatchLabelKeys");
    for (index, key) in list(term, "matchLabelKeys").iter().enumerate().filter(|(_, key)| mismatching.contains(key)) {
        let path = path.child("matchLabelKeys");
        let why = "exists in both matchLabelKeys and mismatchLabelKeys";
        errors.invalid(&path.index(index), key.as_str().unwrap_or_default(), why);
    }
}
