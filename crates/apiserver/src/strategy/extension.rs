//! What extends the API: CustomResourceDefinitions.

use serde_json::{Value, json};

use super::{
    Strategy, WriteContext, metadata, names,
    tree::{self, at, default_to, flag, list, text, text_at},
};
use crate::field_error::{FieldErrors, Path};

const SPEC: Path<'static> = Path::new("spec");

/// CustomResourceDefinitions.
pub(super) struct CustomResource;

impl Strategy for CustomResource {
    fn default(&self, object: &mut Value) {
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        if let Some(names) = spec.get_mut("names").filter(|names| names.is_object()) {
            let kind = text(names, "kind").to_owned();
            default_to(names, "singular", kind.to_lowercase());
            default_to(names, "listKind", format!("{kind}List"));
        }
        if let Some(conversion) = tree::child_mut(spec, "conversion") {
            default_to(conversion, "strategy", "None");
            if let Some(service) = conversion.pointer_mut("/webhook/clientConfig/service") {
                default_to(service, "port", 443);
            }
        }
    }

    fn tracks_generation(&self, _resource: &kinds::Resource) -> bool {
        true
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        let stored: Vec<Value> = list(object.get("spec").unwrap_or(&Value::Null), "versions")
            .iter()
            .filter(|version| flag(version, "storage"))
            .map(|version| text(version, "name").into())
            .collect();
        let status = json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored});
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), status);
        }
    }

    fn prepare_changed(&self, _cx: &WriteContext<'_>, new: &mut Value, _old: &Value) {
        let Some(stored) = list(new.get("spec").unwrap_or(&Value::Null), "versions")
            .iter()
            .find(|version| flag(version, "storage"))
            .map(|version| text(version, "name").to_owned())
        else {
            return;
        };
        if let Some(versions) = new.pointer_mut("/status/storedVersions").and_then(Value::as_array_mut)
            && !versions.iter().any(|version| *version == stored)
        {
            versions.push(stored.into());
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let (group, plural) = (text(spec, "group"), text_at(spec, &["names", "plural"]));
        if tree::name(object) != format!("{plural}.{group}") {
            let path = Path::new("metadata");
            errors.invalid(&path.child("name"), tree::name(object), "must be spec.names.plural+\".\"+spec.group");
        }
        if group.is_empty() {
            errors.required(&SPEC.child("group"), "");
        } else if let Some(message) = names::subdomain(group) {
            errors.invalid(&SPEC.child("group"), group, message);
        } else if !group.contains('.') {
            errors.invalid(&SPEC.child("group"), group, "should be a domain with at least one dot");
        }
        match text(spec, "scope") {
            "Cluster" | "Namespaced" => {}
            "" => errors.required(&SPEC.child("scope"), ""),
            scope => errors.not_supported(&SPEC.child("scope"), scope, &["Cluster", "Namespaced"]),
        }
        validate_crd_names(spec, errors);
        validate_crd_versions(spec, errors);
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let established = list(old.get("status").unwrap_or(&Value::Null), "conditions")
            .iter()
            .any(|condition| text(condition, "type") == "Established" && text(condition, "status") == "True");
        let fixed: &[&[&str]] = if established {
            &[&["spec", "group"], &["spec", "names", "plural"], &["spec", "scope"], &["spec", "names", "kind"]]
        } else {
            &[&["spec", "group"], &["spec", "names", "plural"]]
        };
        for keys in fixed {
            let value = text_at(new, keys);
            if value != text_at(old, keys) {
                let path = keys.join(".");
                errors.invalid(&Path::new(&path), value, metadata::IMMUTABLE);
            }
        }
    }
}

fn validate_crd_names(spec: &Value, errors: &mut FieldErrors) {
    let names = spec.get("names").unwrap_or(&Value::Null);
    let path = SPEC.child("names");
    for key in ["plural", "singular", "kind", "listKind"] {
        let name = text(names, key);
        if name.is_empty() {
            errors.required(&path.child(key), "");
        } else if let Some(message) = names::dns_1035(&name.to_lowercase()) {
            errors.invalid(&path.child(key), name, message);
        }
    }
    if text(names, "kind") == text(names, "listKind") {
        errors.invalid(&path.child("listKind"), text(names, "listKind"), "kind and listKind may not be the same");
    }
}

fn validate_crd_versions(spec: &Value, errors: &mut FieldErrors) {
    let path = SPEC.child("versions");
    let versions = list(spec, "versions");
    if versions.iter().filter(|version| flag(version, "storage")).count() != 1 {
        let names: Vec<Value> = versions.iter().map(|version| text(version, "name").into()).collect();
        errors.invalid(&path, Value::Array(names), "must have exactly one version marked as storage version");
    }
    let mut seen = std::collections::HashSet::new();
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        let name = text(version, "name");
        if let Some(message) = names::dns_1035(name) {
            errors.invalid(&path.child("name"), name, message);
        } else if !seen.insert(name) {
            errors.duplicate(&path.child("name"), name);
        }
        let schema = path.child("schema");
        let root = schema.child("openAPIV3Schema");
        match at(version, &["schema", "openAPIV3Schema"]) {
            None => errors.required(&root, "schemas are required"),
            Some(tree) if text(tree, "type") != "object" => {
                errors.invalid(&root.child("type"), text(tree, "type"), "must be object at the root");
            }
            Some(_) => {}
        }
        let columns = path.child("additionalPrinterColumns");
        for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
            let path = columns.index(index);
            for key in ["name", "type", "jsonPath"] {
                if text(column, key).is_empty() {
                    errors.required(&path.child(key), "");
                }
            }
        }
    }
}
