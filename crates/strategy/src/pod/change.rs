//! What may change of a pod's specification, and through which subresource.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{SPEC, qos_class};
use crate::{
    field_error::{FieldErrors, Path},
    tree::{at, int, list, map, same, some, text},
};

const CHANGE_RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks the change of a specification from `old` to `new`.
pub(super) fn check(subresource: Option<&str>, new: &Value, old: &Value, errors: &mut FieldErrors) {
    match subresource {
        Some("ephemeralcontainers") => check_ephemeral(new, old, errors),
        Some("resize") => check_resize(new, old, errors),
        _ => check_containers_count(new, old, errors),
    }
    let (new_map, old_map) = match (new.as_object(), old.as_object()) {
        (Some(new), Some(old)) => (new, old),
        _ => return,
    };
    let mut changed: Vec<&str> = Vec::new();
    let keys = new_map.keys().chain(old_map.keys().filter(|key| !new_map.contains_key(*key)));
    for key in keys.filter(|key| !same(new, old, key)) {
        if !is_free(subresource, key, new, old, errors) {
            changed.push(key);
        }
    }
    if !changed.is_empty() {
        changed.sort_unstable();
        errors.forbidden(&SPEC, format!("{CHANGE_RULE}\nchanged: {}", changed.join(", ")));
    }
}

/// Whether the field `key` may become what it is in `new`; where it has a rule of its own, that is reported here.
fn is_free(subresource: Option<&str>, key: &str, new: &Value, old: &Value, errors: &mut FieldErrors) -> bool {
    let gated = !list(old, "schedulingGates").is_empty();
    match key {
        "containers" | "initContainers" => {
            let free: &[&str] = if subresource == Some("resize") { &["resources", "resizePolicy"] } else { &["image"] };
            same_containers(list(new, key), list(old, key), free)
        }
        "activeDeadlineSeconds" => check_deadline(new, old, errors),
        "tolerations" => only_added(list(new, key), list(old, key)),
        "terminationGracePeriodSeconds" => int(old, key).is_some_and(|before| before < 0) && int(new, key) == Some(1),
        "schedulingGates" => check_gates(list(new, key), list(old, key), errors),
        "nodeSelector" if gated => check_node_selector(map(new, key), map(old, key), errors),
        "affinity" if gated => narrows(new, old),
        "ephemeralContainers" => subresource == Some("ephemeralcontainers"),
        "resources" => subresource == Some("resize"),
        _ => false,
    }
}

fn check_containers_count(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for key in ["containers", "initContainers"] {
        if list(new, key).len() != list(old, key).len() {
            errors.forbidden(&SPEC.child(key), "pod updates may not add or remove containers");
        }
    }
}

/// The deadline may be set, and be brought forward.
fn check_deadline(new: &Value, old: &Value, errors: &mut FieldErrors) -> bool {
    let path = SPEC.child("activeDeadlineSeconds");
    match (int(new, "activeDeadlineSeconds"), int(old, "activeDeadlineSeconds")) {
        (Some(after), Some(before)) if after > before => {
            errors.invalid(&path, after, "must be less than or equal to previous value");
        }
        (None, Some(_)) => errors.invalid(&path, Value::Null, "must not update from a positive integer to nil value"),
        _ => {}
    }
    true
}

/// Tolerations may be added; how long one holds may change.
fn only_added(new: &[Value], old: &[Value]) -> bool {
    let same_but_seconds =
        |a: &Value, b: &Value| ["key", "operator", "value", "effect"].iter().all(|key| same(a, b, key));
    old.iter().all(|before| new.iter().any(|after| same_but_seconds(after, before)))
}

/// Gates may be taken away only.
fn check_gates(new: &[Value], old: &[Value], errors: &mut FieldErrors) -> bool {
    let path = SPEC.child("schedulingGates");
    for (index, gate) in new.iter().enumerate().filter(|(_, gate)| !old.contains(gate)) {
        let name = text(gate, "name");
        errors
            .forbidden(&path.index(index), format!("only deletion is allowed, but found new scheduling gate '{name}'"));
    }
    true
}

/// While gates hold a pod back, its node selector may become narrower.
fn check_node_selector(new: &Map<String, Value>, old: &Map<String, Value>, errors: &mut FieldErrors) -> bool {
    if old.iter().any(|(key, value)| new.get(key) != Some(value)) {
        errors.invalid(
            &SPEC.child("nodeSelector"),
            Value::Object(new.clone()),
            "only additions are allowed (no mutations or deletions)",
        );
    }
    true
}

/// Whether every node that the new required node affinity takes was taken by the old one, and nothing else differs.
fn narrows(new: &Value, old: &Value) -> bool {
    let terms = |spec: &Value| {
        let keys = ["affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
        at(spec, &keys).and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let rest = |spec: &Value| {
        let mut affinity = some(spec, "affinity").cloned().unwrap_or_default();
        if let Some(node) = affinity.get_mut("nodeAffinity").and_then(Value::as_object_mut) {
            node.remove("requiredDuringSchedulingIgnoredDuringExecution");
            node.remove("preferredDuringSchedulingIgnoredDuringExecution");
        }
        let pods = |key: &str| some(&affinity, key).cloned();
        (pods("podAffinity"), pods("podAntiAffinity"))
    };
    let (after, before) = (terms(new), terms(old));
    let keeps = |after: &Value, before: &Value| {
        ["matchExpressions", "matchFields"].iter().all(|key| {
            let kept = list(after, key);
            list(before, key).iter().all(|expression| kept.contains(expression))
        })
    };
    let narrower = before.is_empty()
        || after.len() == before.len() && after.iter().zip(&before).all(|(after, before)| keeps(after, before));
    narrower && rest(new) == rest(old)
}

/// Ephemeral containers are added one by one and never change.
fn check_ephemeral(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("ephemeralContainers");
    let after = list(new, "ephemeralContainers");
    for before in list(old, "ephemeralContainers") {
        let name = text(before, "name");
        match after.iter().find(|container| text(container, "name") == name) {
            None => errors.forbidden(&path, format!("existing ephemeral containers {name:?} may not be removed\n")),
            Some(after) if after != before => {
                errors.forbidden(&path, format!("existing ephemeral containers {name:?} may not be changed\n"));
            }
            Some(_) => {}
        }
    }
}

/// A running pod may get other amounts of cpu and memory, as long as the node treats it as before.
fn check_resize(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if qos_class(new) != qos_class(old) {
        errors.invalid(&SPEC, qos_class(new), "Pod QOS Class may not change as a result of resizing");
    }
    for key in ["containers", "initContainers"] {
        let path = SPEC.child(key);
        for (index, (after, before)) in list(new, key).iter().zip(list(old, key)).enumerate() {
            let path = path.index(index);
            let path = path.child("resources");
            for amounts in ["limits", "requests"] {
                check_amounts(after, before, amounts, &path, errors);
            }
        }
    }
}

fn check_amounts(after: &Value, before: &Value, key: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let empty = Map::new();
    let amounts = |container| at(container, &["resources", key]).and_then(Value::as_object);
    let (after, before) = (amounts(after).unwrap_or(&empty), amounts(before).unwrap_or(&empty));
    let names: HashSet<&String> = after.keys().chain(before.keys()).collect();
    for name in names.into_iter().filter(|name| after.get(*name) != before.get(*name)) {
        if !["cpu", "memory"].contains(&name.as_str()) {
            errors.forbidden(path, "only cpu and memory resources are mutable");
        } else if !after.contains_key(name) {
            errors.forbidden(&path.child(key), format!("resource {key} cannot be removed"));
        }
    }
}

/// Whether the containers differ in `free` fields only.
fn same_containers(new: &[Value], old: &[Value], free: &[&str]) -> bool {
    new.len() == old.len()
        && new.iter().zip(old).all(|(new, old)| {
            let (Some(new_map), Some(old_map)) = (new.as_object(), old.as_object()) else { return new == old };
            new_map.keys().chain(old_map.keys()).all(|key| free.contains(&key.as_str()) || same(new, old, key))
        })
}
