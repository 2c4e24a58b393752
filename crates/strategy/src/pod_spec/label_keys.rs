//! Label keys of affinity terms and spread constraints: what they mean for this pod is written into the selectors beside them
//! once, when the pod is created, so that whoever reads the pod reads the selector alone.

use serde_json::{Value, json};

use crate::tree::{list, map};

/// Terms that pods are bound by, in `affinity` and `antiAffinity` alike.
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Completes the selectors of a new pod.
pub(crate) fn merge(pod: &mut Value) {
    let labels = match pod.pointer("/metadata/labels") {
        Some(labels) if has_label_keys(pod) => labels.clone(),
        _ => return,
    };
    let Some(spec) = pod.get_mut("spec") else { return };
    for constraint in spec.get_mut("topologySpreadConstraints").and_then(Value::as_array_mut).into_iter().flatten() {
        complete(constraint, &labels);
    }
    for affinity in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_mut("affinity").and_then(|all| all.get_mut(affinity)) else { continue };
        for term in affinity.get_mut(REQUIRED).and_then(Value::as_array_mut).into_iter().flatten() {
            complete(term, &labels);
        }
        for term in affinity.get_mut(PREFERRED).and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(term) = term.get_mut("podAffinityTerm") {
                complete(term, &labels);
            }
        }
    }
}

/// Almost no pod has any; those pay for the search alone.
fn has_label_keys(pod: &Value) -> bool {
    let Some(spec) = pod.get("spec") else { return false };
    let keyed = |holder: &Value| {
        ["matchLabelKeys", "mismatchLabelKeys"].into_iter().any(|field| !list(holder, field).is_empty())
    };
    list(spec, "topologySpreadConstraints").iter().any(keyed)
        || ["podAffinity", "podAntiAffinity"].into_iter().any(|kind| {
            let Some(affinity) = spec.get("affinity").and_then(|all| all.get(kind)) else { return false };
            list(affinity, REQUIRED).iter().any(keyed)
                || list(affinity, PREFERRED).iter().any(|term| term.get("podAffinityTerm").is_some_and(keyed))
        })
}

/// Adds what the keys mean to the selector; without one there is nothing to complete: it selects no pod.
fn complete(holder: &mut Value, labels: &Value) {
    let mut more = Vec::new();
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in list(holder, field).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key) {
                more.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    let Some(selector) = holder.get_mut("labelSelector").and_then(Value::as_object_mut) else { return };
    if more.is_empty() {
        return;
    }
    match selector.get_mut("matchExpressions").and_then(Value::as_array_mut) {
        Some(expressions) => expressions.extend(more),
        None => {
            selector.insert("matchExpressions".to_owned(), more.into());
        }
    }
}

/// Which of the keys the selector has besides what [`merge`] has written into it.
pub(super) fn repeated<'a>(keys: &'a [Value], selector: &'a Value) -> impl Iterator<Item = usize> + 'a {
    let times = |key: &str| {
        let expressions = list(selector, "matchExpressions").iter();
        let named = expressions.filter(|expression| expression.get("key").and_then(Value::as_str) == Some(key)).count();
        named + usize::from(map(selector, "matchLabels").contains_key(key))
    };
    keys.iter().enumerate().filter(move |(_, key)| key.as_str().is_some_and(|key| times(key) > 1)).map(|(at, _)| at)
}
