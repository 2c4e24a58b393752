//! The roles and bindings that every cluster has, as upstream defines them, and how a start brings them up to date.
//!
//! [`objects`] lists them all; for each one [`reconcile`] compares what is stored with what is wanted and gives what to
//! write. Nothing is ever taken away: rules and subjects that an administrator added stay, and an object whose
//! annotation `rbac.authorization.kubernetes.io/autoupdate` is `false` is left alone.

use serde_json::{Map, Value, json};
use strategy::{
    cluster::SYSTEM_PRIORITY_CLASSES,
    selects,
    tree::{list, text, text_at},
};

use crate::authorization::Rule;

mod cluster_roles;
mod controller_roles;
mod install;
mod keelson_roles;
mod namespace_roles;
#[cfg(test)]
mod tests;

const GROUP: &str = "rbac.authorization.k8s.io";
const API_VERSION: &str = "rbac.authorization.k8s.io/v1";
const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// An object that every cluster has.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyObject {
    /// Collection in the store, for example `rbac.authorization.k8s.io/clusterroles`.
    pub collection: &'static str,
    /// `namespace/name` or `name`.
    pub path: String,
    /// The object without what the server adds.
    pub object: Value,
}

/// A rule as the tables of this module write it: words separated by spaces, `core` for the core group.
#[derive(Clone, Copy)]
struct RuleRow {
    verbs: &'static str,
    groups: &'static str,
    resources: &'static str,
    names: &'static str,
}

/// A role as the tables write it.
struct RoleRow {
    name: &'static str,
    rules: &'static [RuleRow],
}

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const READ_WRITE: &str = "create delete deletecollection get list patch update watch";

const fn on(verbs: &'static str, groups: &'static str, resources: &'static str) -> RuleRow {
    RuleRow { verbs, groups, resources, names: "" }
}

const fn named(verbs: &'static str, groups: &'static str, resources: &'static str, names: &'static str) -> RuleRow {
    RuleRow { verbs, groups, resources, names }
}

/// A rule about paths; they stand where resources do otherwise.
const fn paths(verbs: &'static str, paths: &'static str) -> RuleRow {
    RuleRow { verbs, groups: "", resources: paths, names: "" }
}

/// Writing events.
const EVENTS: RuleRow = on("create patch update", "core events.k8s.io", "events");

impl RuleRow {
    fn object(self) -> Value {
        let words = |text: &str| -> Value {
            text.split(' ').filter(|word| !word.is_empty()).map(|word| if word == "core" { "" } else { word }).collect()
        };
        if self.groups.is_empty() {
            return json!({"verbs": words(self.verbs), "nonResourceURLs": words(self.resources)});
        }
        let mut rule = json!({
            "verbs": words(self.verbs), "apiGroups": words(self.groups), "resources": words(self.resources)
        });
        if !self.names.is_empty() {
            rule["resourceNames"] = words(self.names);
        }
        rule
    }
}

fn rules(rows: &[RuleRow]) -> Value {
    rows.iter().map(|row| row.object()).collect()
}

fn metadata(name: &str, namespace: &str, labels: &[(&str, &str)]) -> Value {
    let mut all: Map<String, Value> =
        labels.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    all.insert("kubernetes.io/bootstrapping".to_owned(), "rbac-defaults".into());
    let mut metadata = json!({"name": name, "labels": all, "annotations": {AUTO_UPDATE: "true"}});
    if !namespace.is_empty() {
        metadata["namespace"] = namespace.into();
    }
    metadata
}

fn cluster_role(row: &RoleRow, labels: &[(&str, &str)]) -> PolicyObject {
    PolicyObject {
        collection: "rbac.authorization.k8s.io/clusterroles",
        path: row.name.to_owned(),
        object: json!({
            "apiVersion": API_VERSION, "kind": "ClusterRole", "metadata": metadata(row.name, "", labels),
            "rules": rules(row.rules)
        }),
    }
}

fn cluster_binding(role: &str, subjects: Value) -> PolicyObject {
    PolicyObject {
        collection: "rbac.authorization.k8s.io/clusterrolebindings",
        path: role.to_owned(),
        object: json!({
            "apiVersion": API_VERSION, "kind": "ClusterRoleBinding", "metadata": metadata(role, "", &[]),
            "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}, "subjects": subjects
        }),
    }
}

fn subject(kind: &str, name: &str) -> Value {
    json!({"apiGroup": GROUP, "kind": kind, "name": name})
}

fn service_account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "name": name, "namespace": "kube-system"})
}

/// Every role and binding that a cluster has, aggregated roles with their rules; roles come before bindings.
pub fn objects() -> Vec<PolicyObject> {
    let mut objects = cluster_roles::roles();
    objects.extend(controller_roles::roles());
    objects.extend(keelson_roles::roles());
    objects.extend(namespace_roles::roles());
    // In the order of names, as the controller that keeps them up to date goes through them.
    let mut sorted: Vec<&Value> = objects.iter().map(|role| &role.object).collect();
    sorted.sort_by_key(|role| text_at(role, &["metadata", "name"]));
    let aggregated: Vec<(usize, Value)> = objects
        .iter()
        .enumerate()
        .filter_map(|(index, role)| Some((index, aggregate(&role.object, sorted.iter().copied())?)))
        .collect();
    for (index, rules) in aggregated {
        objects[index].object["rules"] = rules;
    }
    objects.extend(cluster_roles::bindings());
    objects.extend(controller_roles::bindings());
    objects.extend(keelson_roles::bindings());
    objects.extend(namespace_roles::bindings());
    objects
}

/// What every node may do, before what its pods need is looked at.
pub(crate) fn node_rules() -> std::sync::Arc<[Rule]> {
    Rule::of_role(&json!({"rules": rules(cluster_roles::NODE.rules)}))
}

/// The PriorityClasses of the system.
pub fn priority_classes() -> Vec<PolicyObject> {
    SYSTEM_PRIORITY_CLASSES
        .iter()
        .map(|(name, value, description)| PolicyObject {
            collection: "scheduling.k8s.io/priorityclasses",
            path: (*name).to_owned(),
            object: json!({
                "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
                "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority"
            }),
        })
        .collect()
}

/// The rules of a ClusterRole with an `aggregationRule`: those of all `roles` that it selects, in order and each once.
/// `None` when it has no such rule. A selected role that is aggregated itself is followed.
fn aggregate<'a>(role: &'a Value, roles: impl Iterator<Item = &'a Value> + Clone) -> Option<Value> {
    let mut rules = Vec::new();
    let mut seen = vec![text_at(role, &["metadata", "name"])];
    role.get("aggregationRule").filter(|rule| !rule.is_null())?;
    collect(role, &roles, &mut seen, &mut rules);
    Some(Value::Array(rules))
}

fn collect<'a>(
    role: &Value,
    roles: &(impl Iterator<Item = &'a Value> + Clone),
    seen: &mut Vec<&'a str>,
    rules: &mut Vec<Value>,
) {
    let selectors = role.get("aggregationRule").map_or(&[][..], |rule| list(rule, "clusterRoleSelectors"));
    for candidate in roles.clone().filter(|candidate| text(candidate, "kind") != "Role") {
        static NONE: Value = Value::Null;
        let metadata = candidate.get("metadata").unwrap_or(&NONE);
        let labels = strategy::tree::map(metadata, "labels");
        if seen.contains(&text(metadata, "name")) || !selectors.iter().any(|selector| selects(selector, labels)) {
            continue;
        }
        seen.push(text(metadata, "name"));
        if candidate.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
            collect(candidate, roles, seen, rules);
            continue;
        }
        for rule in list(candidate, "rules") {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
    }
}

/// What to store so that `current` grants all that `wanted` does; `None` when it does already, or is not to be touched.
pub fn reconcile(current: Option<&Value>, wanted: &Value) -> Option<Value> {
    let Some(current) = current else { return Some(wanted.clone()) };
    if text_at(current, &["metadata", "annotations", AUTO_UPDATE]) == "false" {
        return None;
    }
    let mut object = current.clone();
    if wanted.get("roleRef").is_some() {
        if current.get("roleRef") != wanted.get("roleRef") {
            object["roleRef"] = wanted["roleRef"].clone();
        }
        append_missing(&mut object, "subjects", list(wanted, "subjects"));
    } else {
        let held = Rule::of_role(current);
        let missing: Vec<Value> = list(wanted, "rules")
            .iter()
            .filter(|rule| !Rule::not_covered(&held, &Rule::of_role(&json!({"rules": [rule]}))).is_empty())
            .cloned()
            .collect();
        append_missing(&mut object, "rules", &missing);
        if let Some(rule) = wanted.get("aggregationRule")
            && current.get("aggregationRule").is_none_or(Value::is_null)
        {
            object["aggregationRule"] = rule.clone();
        }
    }
    for key in ["labels", "annotations"] {
        for (name, value) in strategy::tree::map(&wanted["metadata"], key) {
            if current.pointer("/metadata").and_then(|metadata| metadata.get(key)?.get(name)).is_none() {
                object["metadata"][key][name] = value.clone();
            }
        }
    }
    (object != *current).then_some(object)
}

fn append_missing(object: &mut Value, key: &str, items: &[Value]) {
    let missing: Vec<Value> = items.iter().filter(|item| !list(object, key).contains(item)).cloned().collect();
    if missing.is_empty() {
        return;
    }
    match object.get_mut(key).and_then(Value::as_array_mut) {
        Some(present) => present.extend(missing),
        None => object[key] = missing.into(),
    }
}
