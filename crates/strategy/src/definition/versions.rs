//! The versions of a definition: their schemas, subresources, columns and selectable fields.

use std::collections::HashSet;

use serde_json::Value;

use super::SPEC;
use crate::{
    field_error::{FieldErrors, Path},
    names::dns_1035,
    tree::{at, flag, list, some, text},
};

/// Most fields that can be selected by.
const SELECTABLE_FIELDS_MAX: usize = 8;
/// Longest deprecation warning.
const WARNING_BYTES_MAX: usize = 256;
/// Types and formats of printer columns.
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// Checks the versions; `old` is the `spec` before an update.
pub(super) fn check(spec: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let path = SPEC.child("versions");
    let versions = list(spec, "versions");
    for (index, version) in versions.iter().enumerate() {
        if at(version, &["schema", "openAPIV3Schema"]).is_none() {
            let path = path.index(index);
            errors.required(&path.child("schema").child("openAPIV3Schema"), "schemas are required");
        }
    }
    let mut names = HashSet::new();
    let mut unique = true;
    for (index, version) in versions.iter().enumerate() {
        let path = path.index(index);
        let name = text(version, "name");
        unique &= names.insert(name);
        if let Some(message) = dns_1035(name) {
            errors.invalid(&path.child("name"), name, message);
        }
        let before = old.and_then(|old| list(old, "versions").iter().find(|old| text(old, "name") == name));
        check_version(version, before, &path, errors);
    }
    let all = || Value::Array(versions.iter().map(|version| text(version, "name").into()).collect());
    if !unique {
        errors.invalid(&path, all(), "must contain unique version names");
    }
    if versions.iter().filter(|version| flag(version, "storage")).count() != 1 {
        errors.invalid(&path, all(), "must have exactly one version marked as storage version");
    }
}

fn check_version(version: &Value, old: Option<&Value>, path: &Path<'_>, errors: &mut FieldErrors) {
    if let Some(warning) = some(version, "deprecationWarning").and_then(Value::as_str) {
        check_warning(flag(version, "deprecated"), warning, &path.child("deprecationWarning"), errors);
    }
    if let Some(document) = at(version, &["schema", "openAPIV3Schema"]) {
        let has_status = at(version, &["subresources", "status"]).is_some();
        let root = path.child("schema");
        let root = root.child("openAPIV3Schema").to_string();
        // what was accepted once is not read again, however large it is
        let status_of = |version: &Value| at(version, &["subresources", "status"]).is_some();
        let same = |old: &Value| old.get("schema") == version.get("schema") && status_of(old) == has_status;
        if !old.is_some_and(same) {
            errors.extend(schema::definition::check(document, &root, has_status));
        }
        check_selectable(version, document, &path.child("selectableFields"), errors);
    }
    if let Some(scale) = at(version, &["subresources", "scale"]) {
        check_scale(scale, &path.child("subresources"), errors);
    }
    let columns = path.child("additionalPrinterColumns");
    for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        check_column(column, &columns.index(index), errors);
    }
}

fn check_warning(deprecated: bool, warning: &str, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut invalid = |rule: String| errors.invalid(path, warning, rule);
    if !deprecated {
        return invalid("can only be set for deprecated versions".to_owned());
    }
    if warning.len() > WARNING_BYTES_MAX {
        invalid(format!("must be <= {WARNING_BYTES_MAX} characters long"));
    }
    if warning.is_empty() {
        invalid("must not be an empty string".to_owned());
    }
    if let Some((at, _)) = warning.char_indices().find(|(_, char)| char.is_control()) {
        invalid(format!("must only contain printable UTF-8 characters; non-printable character found at index {at}"));
    }
}

/// A path of dots and names.
fn check_simple_path(text: &str, path: &Path<'_>, errors: &mut FieldErrors) -> bool {
    if text.starts_with('.') {
        return true;
    }
    errors.invalid(path, text, "must be a simple json path starting with .");
    false
}

fn check_scale(scale: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    for (key, field, within, rule) in [
        ("specReplicasPath", "scale.specReplicasPath", ".spec.", "should be a json path under .spec"),
        ("statusReplicasPath", "scale.statusReplicasPath", ".status.", "should be a json path under .status"),
    ] {
        let (text, path) = (text(scale, key), path.child(field));
        if text.is_empty() {
            errors.required(&path, "");
        } else if check_simple_path(text, &path, errors) && !text.starts_with(within) {
            errors.invalid(&path, text, rule);
        }
    }
    let (text, path) = (text(scale, "labelSelectorPath"), path.child("scale.labelSelectorPath"));
    if !text.is_empty()
        && check_simple_path(text, &path, errors)
        && !text.starts_with(".spec.")
        && !text.starts_with(".status.")
    {
        errors.invalid(&path, text, "should be a json path under either .spec or .status");
    }
}

fn check_column(column: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    if text(column, "name").is_empty() {
        errors.required(&path.child("name"), "");
    }
    let rule = format!("must be one of {}", COLUMN_TYPES.join(","));
    match text(column, "type") {
        "" => errors.required(&path.child("type"), rule),
        kind if !COLUMN_TYPES.contains(&kind) => errors.invalid(&path.child("type"), kind, rule),
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let rule = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.invalid(&path.child("format"), format, rule);
    }
    match text(column, "jsonPath") {
        "" => errors.required(&path.child("JSONPath"), ""),
        text => {
            check_simple_path(text, &path.child("JSONPath"), errors);
        }
    }
}

fn check_selectable(version: &Value, document: &Value, path: &Path<'_>, errors: &mut FieldErrors) {
    let mut seen = HashSet::new();
    for (index, field) in list(version, "selectableFields").iter().enumerate() {
        let entry = path.index(index);
        let entry = entry.child("jsonPath");
        let text = text(field, "jsonPath");
        if text.is_empty() {
            errors.required(&entry, "");
            continue;
        }
        match schema::definition::find_field(document, text, false) {
            Err(error) => errors.invalid(&entry, text, format!("is an invalid path: {error}")),
            Ok(found) => {
                if found.names.first().is_some_and(|name| name == "metadata") {
                    errors.invalid(&entry, text, "must not point to fields in metadata");
                }
                if !["string", "boolean", "integer"].contains(&found.kind.as_str()) {
                    let rule = "must point to a field of type string, boolean or integer. Enum string fields and \
                        strings with formats are allowed.";
                    errors.invalid(&entry, text, rule);
                }
                if !seen.insert(found.path) {
                    errors.duplicate(&entry, text);
                }
            }
        }
    }
    if seen.len() > SELECTABLE_FIELDS_MAX {
        errors.too_many(path, seen.len(), SELECTABLE_FIELDS_MAX);
    }
}
