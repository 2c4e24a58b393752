//! Roles, ClusterRoles and their bindings.

use serde_json::Value;

use super::{
    NameRule, Strategy, WriteContext, names,
    pod_spec::validate_label_selector,
    tree::{self, default_to, list, same, some, text},
};
use crate::field_error::{FieldErrors, Path};

/// The group of all kinds of this file.
const GROUP: &str = "rbac.authorization.k8s.io";

/// Roles and ClusterRoles.
pub(super) struct Role;

impl Strategy for Role {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn check(&self, cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let rules = Path::new("rules");
        for (index, rule) in list(object, "rules").iter().enumerate() {
            validate_rule(rule, cx.resource.namespaced, &rules.index(index), errors);
        }
        if let Some(aggregation) = some(object, "aggregationRule") {
            let path = Path::new("aggregationRule");
            let path = path.child("clusterRoleSelectors");
            let selectors = list(aggregation, "clusterRoleSelectors");
            if selectors.is_empty() {
                errors.required(&path, "at least one clusterRoleSelector required if aggregationRule is non-nil");
            }
            for (index, selector) in selectors.iter().enumerate() {
                validate_label_selector(selector, &path.index(index), errors);
            }
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

fn validate_rule(rule: &Value, namespaced: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let urls = list(rule, "nonResourceURLs");
    if list(rule, "verbs").is_empty() {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    if !urls.is_empty() {
        let value = Value::Array(urls.to_vec());
        let path_of_urls = path.child("nonResourceURLs");
        if namespaced {
            errors.invalid(&path_of_urls, value.clone(), "namespaced rules cannot apply to non-resource URLs");
        }
        if ["apiGroups", "resources", "resourceNames"].iter().any(|key| !list(rule, key).is_empty()) {
            errors.invalid(&path_of_urls, value, "rules cannot apply to both regular resources and non-resource URLs");
        }
        return;
    }
    if list(rule, "apiGroups").is_empty() {
        errors.required(&path.child("apiGroups"), "resource rules must supply at least one api group");
    }
    if list(rule, "resources").is_empty() {
        errors.required(&path.child("resources"), "resource rules must supply at least one resource");
    }
}

/// RoleBindings and ClusterRoleBindings.
pub(super) struct Binding;

impl Strategy for Binding {
    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn default(&self, object: &mut Value) {
        if let Some(role) = object.get_mut("roleRef") {
            default_to(role, "apiGroup", GROUP);
        }
        for subject in tree::list_mut(object, "subjects") {
            if matches!(text(subject, "kind"), "User" | "Group") {
                default_to(subject, "apiGroup", GROUP);
            }
        }
    }

    fn check(&self, cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let role = object.get("roleRef").unwrap_or(&Value::Null);
        let path = Path::new("roleRef");
        if text(role, "apiGroup") != GROUP {
            errors.not_supported(&path.child("apiGroup"), text(role, "apiGroup"), &[GROUP]);
        }
        let kinds: &[&str] = if cx.resource.namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        if !kinds.contains(&text(role, "kind")) {
            errors.not_supported(&path.child("kind"), text(role, "kind"), kinds);
        }
        match text(role, "name") {
            "" => errors.required(&path.child("name"), ""),
            name => {
                if let Some(message) = names::path_segment(name, false) {
                    errors.invalid(&path.child("name"), name, message);
                }
            }
        }
        let path = Path::new("subjects");
        for (index, subject) in list(object, "subjects").iter().enumerate() {
            validate_subject(subject, cx.resource.namespaced, &path.index(index), errors);
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if !same(new, old, "roleRef") {
            let role = new.get("roleRef").cloned().unwrap_or_default();
            errors.invalid(&Path::new("roleRef"), role, "cannot change roleRef");
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }
}

fn validate_subject(subject: &Value, namespaced: bool, path: &Path<'_>, errors: &mut FieldErrors) {
    let (kind, name, group) = (text(subject, "kind"), text(subject, "name"), text(subject, "apiGroup"));
    if name.is_empty() {
        errors.required(&path.child("name"), "");
    }
    match kind {
        "ServiceAccount" => {
            if !name.is_empty()
                && let Some(message) = names::subdomain(name)
            {
                errors.invalid(&path.child("name"), name, message);
            }
            if !group.is_empty() {
                errors.not_supported(&path.child("apiGroup"), group, &[""]);
            }
            if !namespaced && text(subject, "namespace").is_empty() {
                errors.required(&path.child("namespace"), "");
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.not_supported(&path.child("apiGroup"), group, &[GROUP]);
            }
        }
        kind => errors.not_supported(&path.child("kind"), kind, &["ServiceAccount", "User", "Group"]),
    }
}
