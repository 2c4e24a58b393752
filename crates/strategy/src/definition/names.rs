//! The names under which custom resources are served.

use serde_json::Value;

use super::SPEC;
use crate::{
    field_error::{FieldErrors, Path},
    names::dns_1035,
    tree::{list, text},
};

/// The names a definition asks for, all of which it must give.
pub(super) fn check_spec(spec: &Value, errors: &mut FieldErrors) {
    let names = spec.get("names").unwrap_or(&Value::Null);
    let path = SPEC.child("names");
    for key in ["plural", "singular", "kind", "listKind"] {
        if text(names, key).is_empty() {
            errors.required(&path.child(key), "");
        }
    }
    check(names, &path, errors);
}

/// Names, as far as they are given.
pub(super) fn check(names: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for key in ["plural", "singular"] {
        let name = text(names, key);
        if let Some(message) = dns_1035(name).filter(|_| !name.is_empty()) {
            errors.invalid(&path.child(key), name, message);
        }
    }
    for key in ["kind", "listKind"] {
        let name = text(names, key);
        if let Some(message) = dns_1035(&name.to_lowercase()).filter(|_| !name.is_empty()) {
            let rule = format!("may have mixed case, but should otherwise match: {message}");
            errors.invalid(&path.child(key), name, rule);
        }
    }
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        errors.invalid(&path.child("listKind"), kind, "kind and listKind may not be the same");
    }
    for key in ["shortNames", "categories"] {
        let path = path.child(key);
        for (index, name) in list(names, key).iter().enumerate() {
            let name = name.as_str().unwrap_or_default();
            if let Some(message) = dns_1035(name) {
                errors.invalid(&path.index(index), name, message);
            }
        }
    }
}
