//! What the cluster as a whole is made of: Namespaces, Nodes, Leases, Events, PriorityClasses, RuntimeClasses,
//! ResourceQuotas and LimitRanges.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    NameRule, Strategy, WriteContext, metadata, names,
    pod_spec::validate_resource_list,
    quantity,
    tree::{self, default_to, flag, int, list, map, same, some, text, text_at},
};
use crate::field_error::{FieldErrors, Path};

mod event;
mod limits;

pub(super) use event::Event;
pub(super) use limits::{LimitRange, ResourceQuota};

const SPEC: Path<'static> = Path::new("spec");
const METADATA: Path<'static> = Path::new("metadata");

/// Namespaces.
pub(super) struct Namespace;

/// The label that carries the namespace's own name, for selectors.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

fn label_with_name(object: &mut Value) {
    let name = tree::name(object).to_owned();
    if name.is_empty() {
        return;
    }
    if let Some(metadata) = object.get_mut("metadata")
        && let Some(labels) = tree::map_mut(metadata, "labels")
    {
        labels.insert(NAME_LABEL.to_owned(), name.into());
    }
}

impl Strategy for Namespace {
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn default(&self, object: &mut Value) {
        label_with_name(object);
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        // The name may have been generated since defaulting.
        label_with_name(object);
        if let Some(spec) = tree::child_mut(object, "spec") {
            default_to(spec, "finalizers", json!([]));
            if let Some(finalizers) = spec.get_mut("finalizers").and_then(Value::as_array_mut)
                && !finalizers.iter().any(|finalizer| finalizer == "kubernetes")
            {
                finalizers.push("kubernetes".into());
            }
        }
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({"phase": "Active"}));
        }
    }

    fn prepare_changed(&self, cx: &WriteContext<'_>, new: &mut Value, old: &Value) {
        // Only the `finalize` subresource removes what blocks the deletion.
        if cx.subresource != Some("finalize") {
            tree::keep(new, old, "spec");
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let path = SPEC.child("finalizers");
        let finalizers = object.get("spec").map_or(&[][..], |spec| list(spec, "finalizers"));
        for (index, finalizer) in finalizers.iter().enumerate() {
            let finalizer = finalizer.as_str().unwrap_or_default();
            if let Some(message) = names::qualified(finalizer) {
                errors.invalid(&path.index(index), finalizer, message);
            } else if !finalizer.contains('/') && finalizer != "kubernetes" {
                errors.invalid(
                    &path.index(index),
                    finalizer,
                    "name is neither a standard finalizer name nor is it fully qualified",
                );
            }
        }
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, _old: &Value, errors: &mut FieldErrors) {
        let deleted = some(new.get("metadata").unwrap_or(&Value::Null), "deletionTimestamp").is_some();
        let phase = text_at(new, &["status", "phase"]);
        let status = Path::new("status");
        if deleted && phase != "Terminating" {
            errors.invalid(
                &status.child("Phase"),
                phase,
                "may only be 'Terminating' if `deletionTimestamp` is not empty",
            );
        } else if !deleted && phase != "Active" {
            errors.invalid(&status.child("Phase"), phase, "may only be 'Active' if `deletionTimestamp` is empty");
        }
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let phase = text_at(object, &["status", "phase"]).to_owned();
        vec![("status.phase", phase)]
    }
}

/// Nodes.
pub(super) struct Node;

impl Strategy for Node {
    fn keeps_status_on_create(&self) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let path = SPEC.child("taints");
        let mut seen = HashSet::new();
        for (index, taint) in list(spec, "taints").iter().enumerate() {
            let path = path.index(index);
            let (key, effect) = (text(taint, "key"), text(taint, "effect"));
            if let Some(message) = names::qualified(key) {
                errors.invalid(&path.child("key"), key, message);
            }
            if let Some(message) = names::label_value(text(taint, "value")) {
                errors.invalid(&path.child("value"), text(taint, "value"), message);
            }
            match effect {
                "NoSchedule" | "PreferNoSchedule" | "NoExecute" => {}
                "" => errors.required(&path.child("effect"), ""),
                effect => {
                    let supported = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
                    errors.not_supported(&path.child("effect"), effect, &supported);
                }
            }
            if !seen.insert((key, effect)) {
                errors.duplicate(&path, taint.clone());
            }
        }
        validate_pod_ranges(spec, errors);
        for key in ["capacity", "allocatable"] {
            for (name, amount) in tree::at(object, &["status", key]).and_then(Value::as_object).into_iter().flatten() {
                let place = format!("status.{key}.{name}");
                quantity::validate_non_negative(amount, &Path::new(&place), errors);
            }
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        if !text(old, "podCIDR").is_empty() && !same(new, old, "podCIDR") {
            errors.forbidden(&SPEC.child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid");
        }
        if !text(old, "providerID").is_empty() && !same(new, old, "providerID") {
            errors.forbidden(
                &SPEC.child("providerID"),
                "node updates may not change providerID except from \"\" to valid",
            );
        }
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let closed = object.get("spec").is_some_and(|spec| flag(spec, "unschedulable"));
        vec![("spec.unschedulable", closed.to_string())]
    }
}

/// Pods get addresses from one range of each family.
fn validate_pod_ranges(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("podCIDRs");
    let ranges = list(spec, "podCIDRs");
    let mut families = [0; 2];
    for (index, range) in ranges.iter().enumerate() {
        match range.as_str().and_then(super::network::parse_range) {
            Some((address, _)) => families[usize::from(address.is_ipv6())] += 1,
            None => errors.invalid(&path.index(index), ranges.to_vec(), "must be valid CIDR"),
        }
        if ranges[..index].contains(range) {
            errors.duplicate(&path.index(index), range.clone());
        }
    }
    if families.iter().any(|count| *count > 1) {
        errors.invalid(&path, ranges.to_vec(), "may specify no more than one CIDR for each IP family");
    }
}

/// Leases.
pub(super) struct Lease;

impl Strategy for Lease {
    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        if let Some(seconds) = int(spec, "leaseDurationSeconds")
            && seconds <= 0
        {
            errors.invalid(&SPEC.child("leaseDurationSeconds"), seconds, "must be greater than 0");
        }
        let strategy = text(spec, "strategy");
        let strategies = ["OldestEmulationVersion"];
        if !strategy.is_empty() && !strategy.contains('/') && !strategies.contains(&strategy) {
            errors.not_supported(&SPEC.child("strategy"), strategy, &strategies);
        }
        if strategy.is_empty() && !text(spec, "preferredHolder").is_empty() {
            let path = SPEC.child("strategy");
            errors.forbidden(&SPEC.child("preferredHolder"), format!("may only be specified when `{path}` is defined"));
        }
        if let Some(count) = int(spec, "leaseTransitions")
            && count < 0
        {
            errors.invalid(&SPEC.child("leaseTransitions"), count, "must be greater than or equal to 0");
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// PriorityClasses.
pub(super) struct PriorityClass;

/// Highest priority of a class that users define.
pub const USER_PRIORITY_MAX: i64 = 1_000_000_000;
/// The classes of the system: name, value, description.
pub const SYSTEM_PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

impl Strategy for PriorityClass {
    fn default(&self, object: &mut Value) {
        default_to(object, "preemptionPolicy", "PreemptLowerPriority");
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let (name, value) = (tree::name(object), int(object, "value").unwrap_or(0));
        let system = SYSTEM_PRIORITY_CLASSES.iter().any(|class| class.0 == name && class.1 == value);
        if name.starts_with("system-") && !system {
            errors.forbidden(
                &METADATA.child("name"),
                format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"
                ),
            );
        } else if !system && value > USER_PRIORITY_MAX {
            errors.forbidden(
                &Path::new("value"),
                format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}"),
            );
        }
        let policy = text(object, "preemptionPolicy");
        if !["PreemptLowerPriority", "Never"].contains(&policy) {
            errors.not_supported(&Path::new("preemptionPolicy"), policy, &["Never", "PreemptLowerPriority"]);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if int(new, "value").unwrap_or(0) != int(old, "value").unwrap_or(0) {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        if !same(new, old, "preemptionPolicy") {
            let value = text(new, "preemptionPolicy");
            errors.invalid(&Path::new("preemptionPolicy"), value, metadata::IMMUTABLE);
        }
    }
}

/// RuntimeClasses.
pub(super) struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let handler = text(object, "handler");
        if let Some(message) = names::label(handler) {
            errors.invalid(&Path::new("handler"), handler, message);
        }
        if let Some(overhead) = some(object, "overhead") {
            validate_resource_list(overhead, "podFixed", &Path::new("overhead"), errors);
        }
        let Some(scheduling) = some(object, "scheduling") else { return };
        let path = Path::new("scheduling");
        for (key, value) in map(scheduling, "nodeSelector") {
            metadata::validate_label(key, value, &path.child("nodeSelector"), errors);
        }
        let tolerations = list(scheduling, "tolerations");
        let path = path.child("tolerations");
        for (index, toleration) in tolerations.iter().enumerate() {
            super::pod_spec::validate_toleration(toleration, &path.index(index), errors);
            if tolerations[..index].contains(toleration) {
                errors.duplicate(&path.index(index), toleration.clone());
            }
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if !same(new, old, "handler") {
            errors.invalid(&Path::new("handler"), text(new, "handler"), metadata::IMMUTABLE);
        }
    }
}
