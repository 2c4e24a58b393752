//! The rules of a structural schema.

use super::document::{Document, Inner};
use crate::{FieldError, path::Path, validate::Pattern};

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Every rule that the schema breaks.
pub(super) fn check(root: Document<'_>, path: &Path<'_>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    invariants(root, Level::Root, path, &mut errors);
    values_complete(root, Some(root), path, path, &mut errors);
    errors
}

fn invariants(schema: Document<'_>, level: Level, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let at = |name: &str| Path::Field(path, name).bracketed();
    if schema.text("type") == "array" && schema.items().is_none() {
        errors.push(FieldError::required(at("items"), "must be specified"));
    }
    if let Some(item) = schema.item() {
        invariants(item, Level::Item, &Path::Field(path, "items"), errors);
    }
    let properties = Path::Field(path, "properties");
    for (name, property) in schema.children("properties") {
        invariants(property, Level::Field, &Path::Key(&properties, name), errors);
    }
    if let Some(additional) = schema.additional() {
        if level == Level::Root {
            errors.push(FieldError::forbidden(at("additionalProperties"), "must not be used at the root"));
        }
        if let Inner::Schema(value) = additional {
            invariants(value, Level::Field, &Path::Field(path, "additionalProperties"), errors);
        }
    }
    if schema.flag("x-kubernetes-int-or-string") {
        let rule = "must be false if x-kubernetes-int-or-string is true";
        for name in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
            if schema.flag(name) {
                errors.push(FieldError::invalid(at(name), true, rule));
            }
        }
    }
    let skip_any_of = is_int_or_string(schema);
    let skip_first_all_of = schema.list("allOf").next().is_some_and(is_int_or_string);
    value_rules(schema, skip_any_of, skip_first_all_of, path, errors);
    types(schema, level, path, errors);
    if level == Level::Root || schema.flag("x-kubernetes-embedded-resource") {
        metadata(schema, level, &properties, errors);
    }
}

fn types(schema: Document<'_>, level: Level, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let at = |name: &str| Path::Field(path, name).bracketed();
    let kind = schema.text("type");
    let embedded = schema.flag("x-kubernetes-embedded-resource");
    let preserve = schema.flag("x-kubernetes-preserve-unknown-fields");
    if embedded && kind != "object" {
        let rule = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(match kind {
            "" => FieldError::required(at("type"), rule),
            kind => FieldError::invalid(at("type"), kind, rule),
        });
    } else if kind.is_empty() && !schema.flag("x-kubernetes-int-or-string") && !preserve {
        let rule = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(at("type"), rule));
    }
    if embedded && schema.additional().is_some() {
        let rule = "must not be used if x-kubernetes-embedded-resource is set";
        errors.push(FieldError::forbidden(at("additionalProperties"), rule));
    }
    if level == Level::Root && !kind.is_empty() && kind != "object" {
        errors.push(FieldError::invalid(at("type"), kind, "must be object at the root"));
    }
    if embedded && !preserve && !schema.has_properties() {
        let rule = "must not be empty if x-kubernetes-embedded-resource is true without \
            x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(at("properties"), rule));
    }
}

/// What a resource may say of the fields that every resource has.
fn metadata(schema: Document<'_>, level: Level, properties: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (name, kind) in [("kind", "string"), ("apiVersion", "string"), ("metadata", "object")] {
        let found = schema.property(name).map(|property| property.text("type"));
        if let Some(found) = found.filter(|found| *found != kind) {
            let path = Path::Key(properties, name);
            let path = Path::Field(&path, "type").bracketed();
            errors.push(FieldError::invalid(path, found, format!("must be {kind}")));
        }
    }
    let Some(metadata) = schema.property("metadata").filter(|_| level == Level::Root) else { return };
    let names_only = metadata.children("properties").all(|(name, _)| matches!(name, "name" | "generateName"));
    let more = metadata.said().any(|name| match name {
        "type" | "default" => false,
        "properties" => !names_only,
        _ => true,
    });
    if more {
        let rule = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.push(FieldError::forbidden(Path::Key(properties, "metadata").bracketed(), rule));
    }
}

/// `anyOf` an integer and a string, which may say types although it stands in a junctor.
fn is_int_or_string(schema: Document<'_>) -> bool {
    let mut any_of = schema.list("anyOf");
    let integer = any_of.next().is_some_and(|first| first.is_bare("integer"));
    let string = any_of.next().is_some_and(|second| second.is_bare("string"));
    integer && string && any_of.next().is_none()
}

fn value_rules(
    schema: Document<'_>,
    skip_any_of: bool,
    skip_first_all_of: bool,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    for junctor in ["anyOf", "allOf", "oneOf"] {
        if junctor == "anyOf" && skip_any_of {
            continue;
        }
        let list = Path::Field(path, junctor);
        for (at, nested) in schema.list(junctor).enumerate() {
            let skip = junctor == "allOf" && skip_first_all_of && at == 0;
            nested_rules(nested, skip, &Path::Item(&list, at), errors);
        }
    }
    if let Some(not) = schema.child("not") {
        nested_rules(not, false, &Path::Field(path, "not"), errors);
    }
    let pattern = schema.text("pattern");
    if let Err(error) = Pattern::new(pattern) {
        let rule = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(Path::Field(path, "pattern").bracketed(), pattern, rule));
    }
}

/// What may not stand in a junctor, and how upstream words that.
const FORBIDDEN: [(&str, &str); 13] = [
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
];

fn nested_rules(schema: Document<'_>, skip_any_of: bool, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    value_rules(schema, skip_any_of, false, path, errors);
    if let Some(item) = schema.item() {
        nested_rules(item, false, &Path::Field(path, "items"), errors);
    }
    let properties = Path::Field(path, "properties");
    for (name, property) in schema.children("properties") {
        nested_rules(property, false, &Path::Key(&properties, name), errors);
    }
    for (name, rule) in FORBIDDEN {
        let said = match name {
            // saying either of these at all is too much
            "additionalProperties" | "default" => schema.get(name).is_some(),
            name => schema.get(name).is_some_and(|value| !super::document::is_zero(value)),
        };
        if said {
            errors.push(FieldError::forbidden(Path::Field(path, name).bracketed(), rule));
        }
    }
    if schema.property("metadata").is_some() {
        let path = Path::Key(&properties, "metadata").bracketed();
        errors.push(FieldError::forbidden(path, "must not be specified in a nested context"));
    }
}

/// Every field that a junctor of the root speaks of must be declared outside of it. Junctors below the root are not
/// looked at, here as upstream.
fn values_complete(
    values: Document<'_>,
    outside: Option<Document<'_>>,
    path: &Path<'_>,
    within: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if let Some(not) = values.child("not") {
        nested_complete(not, outside, path, &Path::Field(within, "not"), errors);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        let list = Path::Field(within, junctor);
        for (at, nested) in values.list(junctor).enumerate() {
            nested_complete(nested, outside, path, &Path::Item(&list, at), errors);
        }
    }
}

fn nested_complete(
    values: Document<'_>,
    outside: Option<Document<'_>>,
    path: &Path<'_>,
    within: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let Some(declared) = outside else {
        let rule = format!("because it is defined in {}", within.bracketed());
        return errors.push(FieldError::required(path.bracketed(), rule));
    };
    values_complete(values, outside, path, within, errors);
    if let Some(item) = values.item() {
        let (path, within) = (Path::Field(path, "items"), Path::Field(within, "items"));
        nested_complete(item, declared.item(), &path, &within, errors);
    }
    let (path, within) = (Path::Field(path, "properties"), Path::Field(within, "properties"));
    for (name, property) in values.children("properties") {
        let (path, within) = (Path::Key(&path, name), Path::Key(&within, name));
        nested_complete(property, declared.property(name), &path, &within, errors);
    }
}
