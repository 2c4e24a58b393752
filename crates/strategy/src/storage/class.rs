//! StorageClasses and VolumeAttributesClasses.

use serde_json::Value;

use crate::{
    Strategy, WriteContext,
    field_error::{FieldErrors, Path},
    metadata::IMMUTABLE,
    names,
    tree::{default_to, list, map, same, text},
};

/// Most parameters of a class, and most bytes of all their keys and values.
const PARAMETERS_MAX: usize = 512;
const PARAMETER_BYTES_MAX: usize = 256 * 1024;

fn validate_parameters(object: &Value, errors: &mut FieldErrors) {
    let path = Path::new("parameters");
    let parameters = map(object, "parameters");
    if parameters.len() > PARAMETERS_MAX {
        errors.too_many(&path, parameters.len(), PARAMETERS_MAX);
        return;
    }
    let mut bytes = 0;
    for (key, value) in parameters {
        if key.is_empty() {
            errors.invalid(&path, key.as_str(), "field can not be empty.");
        }
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > PARAMETER_BYTES_MAX {
        errors.too_long(&path, PARAMETER_BYTES_MAX);
    }
}

fn validate_owner(object: &Value, key: &str, errors: &mut FieldErrors) {
    let path = Path::new(key);
    let name = text(object, key);
    if name.is_empty() {
        errors.required(&path, "");
    } else if let Some(message) = names::qualified(&name.to_lowercase()) {
        errors.invalid(&path, name, message);
    }
}

/// StorageClasses.
pub(crate) struct Class;

impl Strategy for Class {
    fn default(&self, object: &mut Value) {
        default_to(object, "reclaimPolicy", "Delete");
        default_to(object, "volumeBindingMode", "Immediate");
    }

    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        validate_owner(object, "provisioner", errors);
        validate_parameters(object, errors);
        validate_topologies(object, errors);
        for (key, supported) in
            [("reclaimPolicy", ["Delete", "Retain"]), ("volumeBindingMode", ["Immediate", "WaitForFirstConsumer"])]
        {
            let value = text(object, key);
            if !supported.contains(&value) {
                errors.not_supported(&Path::new(key), value, &supported);
            }
        }
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        for key in ["parameters", "provisioner", "reclaimPolicy"] {
            if !same(new, old, key) {
                errors.forbidden(&Path::new(key), format!("updates to {key} are forbidden."));
            }
        }
        if !same(new, old, "volumeBindingMode") {
            let value = text(new, "volumeBindingMode");
            errors.invalid(&Path::new("volumeBindingMode"), value, IMMUTABLE);
        }
    }
}

fn validate_topologies(object: &Value, errors: &mut FieldErrors) {
    let root = Path::new("allowedTopologies");
    for (index, term) in list(object, "allowedTopologies").iter().enumerate() {
        let term_path = root.index(index);
        let path = term_path.child("matchLabelExpressions");
        let mut keys = Vec::new();
        for (index, expression) in list(term, "matchLabelExpressions").iter().enumerate() {
            let path = path.index(index);
            let (key, values) = (text(expression, "key"), list(expression, "values"));
            if let Some(message) = names::qualified(key) {
                errors.invalid(&path.child("key"), key, message);
            }
            if keys.contains(&key) {
                errors.duplicate(&path.child("key"), key);
            }
            keys.push(key);
            if values.is_empty() {
                errors.required(&path.child("values"), "");
            }
            let path = path.child("values");
            for (index, value) in values.iter().enumerate() {
                if values[..index].contains(value) {
                    errors.duplicate(&path.index(index), value.clone());
                }
            }
        }
    }
}

/// VolumeAttributesClasses.
pub(crate) struct AttributesClass;

impl Strategy for AttributesClass {
    fn check(&self, _cx: &WriteContext<'_>, object: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
        validate_owner(object, "driverName", errors);
        if map(object, "parameters").is_empty() {
            errors.required(&Path::new("parameters"), "must contain at least one key/value pair");
        }
        validate_parameters(object, errors);
    }

    fn check_change(&self, _cx: &WriteContext<'_>, new: &Value, old: &Value, errors: &mut FieldErrors) {
        if text(new, "driverName") != text(old, "driverName") {
            errors.forbidden(&Path::new("driverName"), "updates to driverName are forbidden.");
        }
        if !same(new, old, "parameters") {
            errors.forbidden(&Path::new("parameters"), "updates to parameters are forbidden.");
        }
    }
}
