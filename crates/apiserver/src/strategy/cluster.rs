//! Namespaces, Nodes, Leases, Events, PriorityClasses, RuntimeClasses, ResourceQuotas and LimitRanges.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::{
    NameRule, Strategy, WriteContext, metadata, names,
    pod_spec::validate_resource_list,
    quantity,
    tree::{self, default_to, flag, int, list, map, same, some, text, text_at},
};
use crate::field_error::{FieldErrors, Path};

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

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let phase = text_at(object, &["status", "phase"]).to_owned();
        vec![("status.phase", phase.clone()), ("name", tree::name(object).to_owned())]
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

/// Events, of the core group and of `events.k8s.io`.
pub(super) struct Event;

impl Strategy for Event {
    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let key = if object.get("regarding").is_some() { "regarding" } else { "involvedObject" };
        let subject = text_at(object, &[key, "namespace"]);
        let namespace = tree::namespace(object);
        let path = Path::new(key);
        // Events about objects without a namespace stand in `default`.
        let matches = if subject.is_empty() {
            namespace == "default" || namespace == "kube-system"
        } else {
            subject == namespace
        };
        if !matches {
            errors.invalid(&path.child("namespace"), subject, "does not match event.namespace");
        }
    }

    fn fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let key = if object.get("regarding").is_some() { "regarding" } else { "involvedObject" };
        let subject = |field: &str| text_at(object, &[key, field]).to_owned();
        let first = |options: [&[&str]; 2]| {
            let [one, other] = options.map(|keys| text_at(object, keys));
            if one.is_empty() { other.to_owned() } else { one.to_owned() }
        };
        let source = first([&["source", "component"], &["deprecatedSource", "component"]]);
        let component = first([&["reportingComponent"], &["reportingController"]]);
        vec![
            ("involvedObject.kind", subject("kind")),
            ("involvedObject.namespace", subject("namespace")),
            ("involvedObject.name", subject("name")),
            ("involvedObject.uid", subject("uid")),
            ("involvedObject.apiVersion", subject("apiVersion")),
            ("involvedObject.resourceVersion", subject("resourceVersion")),
            ("involvedObject.fieldPath", subject("fieldPath")),
            ("regarding.kind", subject("kind")),
            ("regarding.namespace", subject("namespace")),
            ("regarding.name", subject("name")),
            ("regarding.uid", subject("uid")),
            ("reason", text(object, "reason").to_owned()),
            ("reportingComponent", if component.is_empty() { source.clone() } else { component.clone() }),
            ("reportingController", component),
            ("source", source),
            ("type", text(object, "type").to_owned()),
        ]
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// PriorityClasses.
pub(super) struct PriorityClass;

/// Highest priority of a class that users define.
pub(crate) const USER_PRIORITY_MAX: i64 = 1_000_000_000;
/// The classes of the system: name, value, description.
pub(crate) const SYSTEM_PRIORITY_CLASSES: [(&str, i64, &str); 2] = [
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
    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let handler = text(object, "handler");
        if let Some(message) = names::label(handler) {
            errors.invalid(&Path::new("handler"), handler, message);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if !same(new, old, "handler") {
            errors.invalid(&Path::new("handler"), text(new, "handler"), metadata::IMMUTABLE);
        }
    }
}

/// ResourceQuotas.
pub(super) struct ResourceQuota;

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
            quantity::validate_non_negative(amount, &path, errors);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        if !same(new, old, "scopes") {
            let scopes = new.get("scopes").cloned().unwrap_or_default();
            errors.invalid(&SPEC.child("scopes"), scopes, metadata::IMMUTABLE);
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

/// LimitRanges.
pub(super) struct LimitRange;

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
            for (name, least) in map(limit, "min") {
                let most = map(limit, "max").get(name);
                if let (Some(lower), Some(upper)) = (quantity::parse(least), most.and_then(quantity::parse))
                    && lower > upper
                {
                    let (least, most) = (shown(least), most.map(shown).unwrap_or_default());
                    let detail = format!("min value {least} is greater than max value {most}");
                    errors.invalid(&path.child("min").key(name), least, detail);
                }
            }
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
