//! PersistentVolumeClaims.

use serde_json::{Value, json};

use super::{SPEC, validate_access_modes, validate_class_name, validate_mode};
use crate::{
    Strategy, WriteContext,
    field_error::{FieldErrors, Path},
    pod_spec::validate_label_selector,
    quantity,
    tree::{self, at, default_to, same, some, text, text_at},
};

/// PersistentVolumeClaims.
pub(crate) struct Claim;

impl Strategy for Claim {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = tree::child_mut(object, "spec") {
            default_to(spec, "volumeMode", "Filesystem");
        }
    }

    fn prepare_new(&self, _cx: &WriteContext<'_>, object: &mut Value) {
        if let Some(object) = object.as_object_mut() {
            object.insert("status".to_owned(), json!({"phase": "Pending"}));
        }
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        validate_claim_spec(object.get("spec").unwrap_or(&Value::Null), &SPEC, errors);
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        let bound = text_at(old, &["status", "phase"]) == "Bound";
        let capacity = at(old, &["status", "capacity", "storage"]).and_then(quantity::parse);
        let (new, old) = (new.get("spec").unwrap_or(&Value::Null), old.get("spec").unwrap_or(&Value::Null));
        let (Some(new_map), Some(old_map)) = (new.as_object(), old.as_object()) else { return };
        let request = |spec: &Value| at(spec, &["resources", "requests", "storage"]).and_then(quantity::parse);
        let free = |key: &str| match key {
            "volumeAttributesClassName" => true,
            // a larger request expands the volume of a bound claim
            "resources" => bound || request(new) == request(old),
            // The binder and the default class fill these in once.
            "volumeName" | "storageClassName" => text(old, key).is_empty(),
            _ => false,
        };
        if new_map.keys().chain(old_map.keys()).any(|key| !free(key) && !same(new, old, key)) {
            errors.forbidden(
                &SPEC,
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
            );
        }
        if let (Some(after), Some(before)) = (request(new), request(old))
            && after < before
        {
            let resources = SPEC.child("resources");
            let requests = resources.child("requests");
            let path = requests.child("storage");
            if capacity.is_none_or(|capacity| after <= capacity) {
                errors.forbidden(&path, "field can not be less than status.capacity");
            }
        }
        if !text(old, "volumeAttributesClassName").is_empty() && text(new, "volumeAttributesClassName").is_empty() {
            let path = SPEC.child("volumeAttributesClassName");
            errors.forbidden(&path, "update from non-nil value to nil is forbidden");
        }
    }

    fn check_status(&self, _cx: &WriteContext<'_>, new: &Value, _old: &Value, errors: &mut FieldErrors) {
        let status = Path::new("status");
        let path = status.child("capacity");
        for (name, amount) in at(new, &["status", "capacity"]).and_then(Value::as_object).into_iter().flatten() {
            quantity::validate_non_negative(amount, &path.key(name), errors);
        }
    }
}

/// Checks the specification of a claim, or of a template that makes claims.
pub(crate) fn validate_claim_spec(spec: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    validate_access_modes(spec, path, errors);
    if let Some(selector) = some(spec, "selector") {
        validate_label_selector(selector, &path.child("selector"), errors);
    }
    let resources = path.child("resources");
    let storage = resources.key("storage");
    match at(spec, &["resources", "requests", "storage"]) {
        None => errors.required(&storage, ""),
        Some(amount) => quantity::validate_positive(amount, &storage, errors),
    }
    validate_class_name(spec, "storageClassName", path, errors);
    validate_class_name(spec, "volumeAttributesClassName", path, errors);
    validate_mode(spec, path, errors);
    for key in ["dataSource", "dataSourceRef"] {
        let Some(source) = some(spec, key) else { continue };
        let path = path.child(key);
        for field in ["name", "kind"] {
            if text(source, field).is_empty() {
                errors.required(&path.child(field), "");
            }
        }
        if text(source, "apiGroup").is_empty() && !["", "PersistentVolumeClaim"].contains(&text(source, "kind")) {
            errors.invalid(&path, text(source, "kind"), "");
        }
    }
}
