//! What a definition demands of its objects: the schema, the metadata of embedded resources, the scale, and its rules.

use std::time::Instant;

use serde_json::{Map, Value};
use strategy::{
    check_embedded_metadata, dns_1035,
    field_error::{FieldErrorKind, FieldErrors, Path},
};

use super::{ScalePaths, Version};
use crate::metrics::EXPRESSIONS;

/// Everything that is wrong with an object according to its definition. `old` is its state before an update: what was
/// wrong and did not change is not held against it. Gives what the client is warned about.
pub(crate) fn check(
    version: &Version,
    object: &Value,
    old: Option<&Value>,
    is_status: bool,
    errors: &mut FieldErrors,
) -> Vec<String> {
    errors.extend(schema::validate(version.document.schema(), object, old));
    if let Some(scale) = &version.scale {
        check_scale(scale, object, is_status, errors);
    }
    for embedded in schema::embedded(version.document.schema(), object) {
        check_embedded(&embedded.path, embedded.value, errors);
    }
    let Some(rules) = version.document.rules() else { return Vec::new() };
    if errors.0.iter().any(|error| hides_rules(error.kind)) {
        errors.invalid(&Path::new("<nil>"), "null", UNCHECKED);
        return Vec::new();
    }
    let began = Instant::now();
    let outcome = rules.validate(object, old);
    EXPRESSIONS.evaluation.took(began.elapsed());
    errors.extend(outcome.errors);
    outcome.forgiven.iter().map(ToString::to_string).collect()
}

const UNCHECKED: &str = "some validation rules were not checked because the object was invalid; correct the existing \
    errors to complete validation";

/// Whether an object with such an error is not of the form that rules count on.
fn hides_rules(kind: FieldErrorKind) -> bool {
    match kind {
        FieldErrorKind::Required
        | FieldErrorKind::NotSupported
        | FieldErrorKind::TooLong
        | FieldErrorKind::TooMany
        | FieldErrorKind::TypeInvalid => true,
        FieldErrorKind::Invalid
        | FieldErrorKind::InvalidWhole
        | FieldErrorKind::Duplicate
        | FieldErrorKind::Forbidden
        | FieldErrorKind::NotFound
        | FieldErrorKind::Internal => false,
    }
}

fn check_scale(scale: &ScalePaths, object: &Value, is_status: bool, errors: &mut FieldErrors) {
    let spec = Some(&scale.spec_replicas).filter(|_| !is_status);
    for pointer in spec.into_iter().chain([&scale.status_replicas]) {
        let Some(value) = object.pointer(pointer).filter(|value| !value.is_null()) else { continue };
        let name = pointer.replace('/', ".");
        let path = Path::new(&name);
        match value.as_i64() {
            None => {
                let rule = format!("{name} accessor error: {value} is of the type {}, expected int64", go_type(value));
                errors.invalid(&path, 0, rule);
            }
            Some(count) if count < 0 => errors.invalid(&path, count, "should be a non-negative integer"),
            Some(count) if count > i64::from(i32::MAX) => {
                errors.invalid(&path, count, format!("should be less than or equal to {}", i32::MAX));
            }
            Some(_) => {}
        }
    }
    if let Some(pointer) = &scale.label_selector
        && let Some(value) = object.pointer(pointer).filter(|value| !value.is_string() && !value.is_null())
    {
        let name = pointer.replace('/', ".");
        let rule = format!("{name} accessor error: {value} is of the type {}, expected string", go_type(value));
        errors.invalid(&Path::new(&name), "", rule);
    }
}

/// What Go calls the type of decoded JSON.
fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

fn check_embedded(path: &str, resource: &Map<String, Value>, errors: &mut FieldErrors) {
    let path = Path::new(path);
    for key in ["apiVersion", "kind"] {
        let path = path.child(key);
        match resource.get(key) {
            None => errors.required(&path, "must not be empty"),
            Some(Value::String(text)) if text.is_empty() => errors.invalid(&path, "", "must not be empty"),
            Some(Value::String(text)) if key == "apiVersion" && text.matches('/').count() > 1 => {
                errors.invalid(&path, text.as_str(), format!("unexpected GroupVersion string: {text}"));
            }
            Some(Value::String(text)) if key == "kind" => {
                if let Some(message) = dns_1035(&text.to_lowercase()) {
                    let rule = format!("may have mixed case, but should otherwise match: {message}");
                    errors.invalid(&path, text.as_str(), rule);
                }
            }
            Some(Value::String(_)) => {}
            Some(other) => errors.invalid(&path, other.clone(), "must be a string"),
        }
    }
    if let Some(metadata) = resource.get("metadata") {
        check_embedded_metadata(metadata, &path, errors);
    }
}
