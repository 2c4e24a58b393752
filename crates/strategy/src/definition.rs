//! CustomResourceDefinitions.

mod approval;
mod conversion;
mod names;
#[cfg(test)]
mod tests;
mod versions;

use serde_json::{Value, json};

use super::{
    Strategy, WriteContext, metadata,
    names::subdomain,
    tree::{self, default_to, flag, list, text, text_at},
};
use crate::field_error::{FieldErrors, Path};

pub use approval::Approval;

const SPEC: Path<'static> = Path::new("spec");

/// The rules of definitions.
pub(super) struct Definition;

impl Strategy for Definition {
    fn default(&self, object: &mut Value) {
        let Some(spec) = tree::child_mut(object, "spec") else { return };
        if let Some(names) = spec.get_mut("names").filter(|names| names.is_object()) {
            let kind = text(names, "kind").to_owned();
            default_to(names, "singular", kind.to_lowercase());
            if !kind.is_empty() {
                default_to(names, "listKind", format!("{kind}List"));
            }
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
        let stored: Vec<Value> = storage_version(object).into_iter().map(Value::from).collect();
        let status = json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored});
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), status);
        }
    }

    fn prepare_changed(&self, _cx: &WriteContext<'_>, new: &mut Value, _old: &Value) {
        let Some(stored) = storage_version(new).map(str::to_owned) else { return };
        if let Some(versions) = new.pointer_mut("/status/storedVersions").and_then(Value::as_array_mut)
            && !versions.iter().any(|version| *version == stored)
        {
            versions.push(stored.into());
        }
    }

    fn reports_status_alone(&self) -> bool {
        true
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
        let spec = object.get("spec").unwrap_or(&Value::Null);
        let (group, plural) = (text(spec, "group"), text_at(spec, &["names", "plural"]));
        if old.is_none() && tree::name(object) != format!("{plural}.{group}") {
            let path = Path::new("metadata");
            errors.invalid(&path.child("name"), tree::name(object), "must be spec.names.plural+\".\"+spec.group");
        }
        if group.is_empty() {
            errors.required(&SPEC.child("group"), "");
        } else if let Some(message) = subdomain(group) {
            errors.invalid(&SPEC.child("group"), group, message);
        } else if !group.contains('.') {
            errors.invalid(&SPEC.child("group"), group, "should be a domain with at least one dot");
        }
        match text(spec, "scope") {
            "Cluster" | "Namespaced" => {}
            "" => errors.required(&SPEC.child("scope"), ""),
            scope => errors.not_supported(&SPEC.child("scope"), scope, &["Cluster", "Namespaced"]),
        }
        versions::check(spec, old.and_then(|old| old.get("spec")), errors);
        names::check_spec(spec, errors);
        conversion::check(spec, errors);
        check_stored(object, errors);
        approval::check(object, old, errors);
        if flag(spec, "preserveUnknownFields") && !old.is_some_and(|old| flag(&old["spec"], "preserveUnknownFields")) {
            errors.invalid(
                &SPEC.child("preserveUnknownFields"),
                true,
                "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
            );
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let established = list(old.get("status").unwrap_or(&Value::Null), "conditions")
            .iter()
            .any(|condition| text(condition, "type") == "Established" && text(condition, "status") == "True");
        let always: [&[&str]; 2] = [&["spec", "group"], &["spec", "names", "plural"]];
        let served: [&[&str]; 2] = [&["spec", "scope"], &["spec", "names", "kind"]];
        let fixed = served.into_iter().filter(|_| established).chain(always);
        for keys in fixed {
            let value = text_at(new, keys);
            if value != text_at(old, keys) {
                let path = keys.join(".");
                errors.invalid(&Path::new(&path), value, metadata::IMMUTABLE);
            }
        }
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, _old: &Value, errors: &mut FieldErrors) {
        let status = Path::new("status");
        let accepted = new.pointer("/status/acceptedNames").unwrap_or(&Value::Null);
        names::check(accepted, &status.child("acceptedNames"), errors);
    }
}

/// The name of the version that objects are stored in.
fn storage_version(object: &Value) -> Option<&str> {
    let versions = list(object.get("spec")?, "versions");
    versions.iter().find(|version| flag(version, "storage")).map(|version| text(version, "name"))
}

/// Versions that objects may still be stored in must stay known.
fn check_stored(object: &Value, errors: &mut FieldErrors) {
    let status = Path::new("status");
    let path = status.child("storedVersions");
    let stored = list(object.get("status").unwrap_or(&Value::Null), "storedVersions");
    if stored.is_empty() {
        return errors.invalid(&path, Value::Array(Vec::new()), "must have at least one stored version");
    }
    let versions = list(object.get("spec").unwrap_or(&Value::Null), "versions");
    if let Some(name) = storage_version(object)
        && !stored.iter().any(|version| version == name)
    {
        errors.invalid(&path, stored.to_vec(), format!("must have the storage version {name}"));
    }
    for (index, name) in stored.iter().enumerate() {
        if versions.iter().all(|version| version.get("name") != Some(name)) {
            let version = name.as_str().unwrap_or_default();
            let rule = format!(
                "missing from spec.versions; {version} was previously a storage version, and must remain in \
                 spec.versions until a storage migration ensures no data remains persisted in {version} and removes \
                 {version} from status.storedVersions"
            );
            errors.invalid(&path.index(index), name.clone(), rule);
        }
    }
}
