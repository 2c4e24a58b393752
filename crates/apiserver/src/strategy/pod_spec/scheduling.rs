//! The rules of what decides where a pod may run: affinity, tolerations, spread.

use serde_json::Value;

use crate::{
    field_error::{FieldErrors, Path},
    strategy::{
        metadata, names,
        tree::{at, int, list, map, some, text},
    },
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
    for (index, spread) in list(spec, "topologySpreadConstraints").iter().enumerate() {
        validate_spread(spread, &spreads.index(index), errors);
    }
    if let Some(affinity) = some(spec, "affinity") {
        validate_affinity(affinity, &path.child("affinity"), errors);
    }
    let gates = path.child("schedulingGates");
    for (index, gate) in list(spec, "schedulingGates").iter().enumerate() {
        let name = text(gate, "name");
        if let Some(message) = names::qualified(name) {
            errors.invalid(&gates.index(index), name, message);
        }
    }
}

/// Checks one toleration.
fn validate_toleration(toleration: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
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
    if let Some(selector) = some(spread, "labelSelector") {
        validate_label_selector(selector, &path.child("labelSelector"), errors);
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

fn validate_node_term(term: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for key in ["matchExpressions", "matchFields"] {
        let path = path.child(key);
        for (index, expression) in list(term, key).iter().enumerate() {
            validate_expression(expression, &NODE_OPERATORS, &path.index(index), errors);
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
    if let Some(selector) = at(term, &["labelSelector"]) {
        validate_label_selector(selector, &path.child("labelSelector"), errors);
    }
}
