//! What each schema of a document may say, wherever it stands.

use serde_json::Value;

use super::{
    document::{Document, Inner},
    field_path::find_in,
};
use crate::{FieldError, path::Path};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];

/// What the root of a resource with a status may say, by Go's names (which the message shows) and ours.
const AT_ROOT: [(&str, &str); 22] = [
    ("Description", "description"),
    ("Type", "type"),
    ("Format", "format"),
    ("Title", "title"),
    ("Maximum", "maximum"),
    ("ExclusiveMaximum", "exclusiveMaximum"),
    ("Minimum", "minimum"),
    ("ExclusiveMinimum", "exclusiveMinimum"),
    ("MaxLength", "maxLength"),
    ("MinLength", "minLength"),
    ("Pattern", "pattern"),
    ("MaxItems", "maxItems"),
    ("MinItems", "minItems"),
    ("UniqueItems", "uniqueItems"),
    ("MultipleOf", "multipleOf"),
    ("Required", "required"),
    ("Items", "items"),
    ("Properties", "properties"),
    ("ExternalDocs", "externalDocs"),
    ("Example", "example"),
    ("XPreserveUnknownFields", "x-kubernetes-preserve-unknown-fields"),
    ("XValidations", "x-kubernetes-validations"),
];

/// The root of a resource that has the subresource `status`, whose schema is taken out of this one.
pub(super) fn check_root(root: Document<'_>, path: &str, errors: &mut Vec<FieldError>) {
    let kind = root.text("type");
    if !kind.is_empty() && kind != "object" {
        let rule =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(FieldError::invalid(format!("{path}.type"), kind, rule));
        return;
    }
    if let Some(odd) = root.said().find(|said| AT_ROOT.iter().all(|(_, name)| name != said)) {
        let allowed: Vec<&str> = AT_ROOT.iter().map(|(name, _)| *name).collect();
        let rule = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            allowed.join(" ")
        );
        errors.push(FieldError::invalid(path, odd, rule));
    }
}

/// What the surroundings of a schema mean for it.
#[derive(Clone, Copy)]
struct Place {
    root: bool,
    /// Inside of `metadata`, `kind` or `apiVersion` of a resource.
    in_metadata: bool,
    /// Why defaults are forbidden here.
    no_defaults: Option<&'static str>,
}

/// Checks every schema of the document.
pub(super) fn check(root: Document<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    walk(root, Place { root: true, in_metadata: false, no_defaults: None }, path, errors);
}

fn walk(schema: Document<'_>, place: Place, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    unsupported(schema, place, path, errors);
    let inner = Place { root: false, ..place };
    if let Some(Inner::Schema(value)) = schema.additional() {
        let reason = "inside additionalProperties applying to object metadata";
        let no_defaults = if place.in_metadata { Some(reason) } else { place.no_defaults };
        walk(value, Place { no_defaults, ..inner }, &Path::Field(path, "additionalProperties"), errors);
    }
    let properties = Path::Field(path, "properties");
    for (name, property) in schema.children("properties") {
        let of_metadata = match name {
            "metadata" => "in top-level metadata",
            "kind" => "in top-level kind",
            "apiVersion" => "in top-level apiVersion",
            _ => "",
        };
        let mut inner = inner;
        if !of_metadata.is_empty() && (place.root || schema.flag("x-kubernetes-embedded-resource")) {
            inner.in_metadata = true;
            if place.root {
                inner.no_defaults = Some(of_metadata);
            }
        }
        walk(property, inner, &Path::Key(&properties, name), errors);
    }
    if let Some(not) = schema.child("not") {
        walk(not, inner, &Path::Field(path, "not"), errors);
    }
    for junctor in ["allOf", "oneOf", "anyOf"] {
        let list = Path::Field(path, junctor);
        for (at, nested) in schema.list(junctor).enumerate() {
            walk(nested, inner, &Path::Item(&list, at), errors);
        }
    }
    if let Some(item) = schema.item() {
        walk(item, inner, &Path::Field(path, "items"), errors);
    }
    extensions(schema, path, errors);
    rules(schema, path, errors);
}

fn unsupported(schema: Document<'_>, place: Place, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let at = |name: &str| Path::Field(path, name).bracketed();
    let kind = schema.text("type");
    if !kind.is_empty() && !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(at("type"), kind, &TYPES));
    }
    if schema.get("default").is_some()
        && let Some(reason) = place.no_defaults
    {
        errors.push(FieldError::forbidden(at("default"), format!("must not be set {reason}")));
    }
    for name in ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"] {
        let said = match name {
            "id" | "patternProperties" | "definitions" => {
                schema.get(name).is_some_and(|value| !super::document::is_zero(value))
            }
            name => schema.get(name).is_some(),
        };
        if said {
            errors.push(FieldError::forbidden(at(name), format!("{name} is not supported")));
        }
    }
    if kind == "null" {
        let rule = "type cannot be set to null, use nullable as an alternative";
        errors.push(FieldError::forbidden(at("type"), rule));
    }
    if let Some(Inner::Several) = schema.items() {
        errors.push(FieldError::forbidden(at("items"), "items must be a schema object and not an array"));
    }
    if place.in_metadata && schema.flag("x-kubernetes-embedded-resource") {
        let rule = "must not be used inside of resource meta";
        errors.push(FieldError::forbidden(at("x-kubernetes-embedded-resource"), rule));
    }
    if schema.flag("uniqueItems") {
        let rule = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(at("uniqueItems"), rule));
    }
    if schema.has_properties() && matches!(schema.additional(), Some(Inner::Flag(false) | Inner::Schema(_))) {
        let rule = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(at("additionalProperties"), rule));
    }
}

/// A type that an extension needs.
fn needs_type(schema: Document<'_>, kind: &str, extension: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let rule = format!("must be {kind} if {extension} is specified");
    let at = Path::Field(path, "type").bracketed();
    match schema.text("type") {
        "" => errors.push(FieldError::required(at, rule)),
        found if found != kind => errors.push(FieldError::invalid(at, found, rule)),
        _ => {}
    }
}

fn extensions(schema: Document<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let at = |name: &str| Path::Field(path, name).bracketed();
    let preserve = "x-kubernetes-preserve-unknown-fields";
    if schema.get(preserve) == Some(&Value::Bool(false)) {
        errors.push(FieldError::invalid(at(preserve), false, "must be true or undefined"));
    }
    let (map_type, list_type) = ("x-kubernetes-map-type", "x-kubernetes-list-type");
    if schema.get(map_type).is_some() {
        needs_type(schema, "object", map_type, path, errors);
        let kinds = ["atomic", "granular"];
        if !kinds.contains(&schema.text(map_type)) {
            errors.push(FieldError::not_supported(at(map_type), schema.text(map_type), &kinds));
        }
    }
    if schema.get(list_type).is_some() {
        let list = schema.text(list_type);
        needs_type(schema, "array", list_type, path, errors);
        if schema.text("type") == "array" && list == "set" {
            set_of_atoms(schema, path, errors);
        }
        let kinds = ["atomic", "set", "map"];
        if !kinds.contains(&list) {
            errors.push(FieldError::not_supported(at(list_type), list, &kinds));
        }
    }
    if !schema.values("x-kubernetes-list-map-keys").is_empty() && schema.text(list_type) != "map" {
        let rule = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match schema.text(list_type) {
            "" => FieldError::required(at(list_type), rule),
            found => FieldError::invalid(at(list_type), found, rule),
        });
    }
    if schema.text(list_type) == "map" {
        map_keys(schema, path, errors);
    }
    unique_elements(schema, path, errors);
}

/// The elements of a set are told apart by value, so that they must be one value each.
fn set_of_atoms(schema: Document<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(item) = schema.item() else { return };
    let items = Path::Field(path, "items");
    let (list, map) = ("x-kubernetes-list-type", "x-kubernetes-map-type");
    let value = item.get(list).cloned().unwrap_or_default();
    let rule = "must be atomic as item of a list with x-kubernetes-list-type=set";
    match item.text("type") {
        "array" if item.get(list).is_some() && item.text(list) != "atomic" => {
            errors.push(FieldError::invalid(Path::Field(&items, list).bracketed(), value, rule));
        }
        "object" if item.text(map) != "atomic" => {
            errors.push(FieldError::invalid(Path::Field(&items, map).bracketed(), value, rule));
        }
        _ => {}
    }
}

fn map_keys(schema: Document<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let at = |name: &str| Path::Field(path, name).bracketed();
    let keys_name = "x-kubernetes-list-map-keys";
    let keys = schema.values(keys_name);
    if keys.is_empty() {
        errors.push(FieldError::required(at(keys_name), "must not be empty if x-kubernetes-list-type is map"));
    }
    if schema.items().is_none() {
        let rule = "must have a schema if x-kubernetes-list-type is map";
        return errors.push(FieldError::required(at("items"), rule));
    }
    let Some(item) = schema.item() else {
        let value = schema.get("items").cloned().unwrap_or_default();
        let rule = "must only have a single schema if x-kubernetes-list-type is map";
        return errors.push(FieldError::invalid(at("items"), value, rule));
    };
    let items = Path::Field(path, "items");
    if item.text("type") != "object" {
        let rule = "must be object if parent array's x-kubernetes-list-type is map";
        let path = Path::Field(&items, "type").bracketed();
        return errors.push(FieldError::invalid(path, item.text("type"), rule));
    }
    let properties = Path::Field(&items, "properties");
    for (index, key) in schema.words(keys_name).enumerate() {
        match item.property(key) {
            Some(property) if matches!(property.text("type"), "array" | "object") => {
                let rule = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let path = Path::Key(&properties, key);
                errors.push(FieldError::invalid(Path::Field(&path, "type").bracketed(), item.text("type"), rule));
            }
            Some(_) => {}
            None => {
                let rule = "entries must all be names of item properties";
                errors.push(FieldError::invalid(at(keys_name), keys.to_vec(), rule));
            }
        }
        if schema.words(keys_name).take(index).any(|before| before == key) {
            errors.push(FieldError::invalid(at(keys_name), keys.to_vec(), "must not contain duplicate entries"));
        }
    }
}

/// The elements of sets and map-like lists, and the keys of the latter, are always there.
fn unique_elements(schema: Document<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let list = schema.text("x-kubernetes-list-type");
    let Some(item) = schema.item().filter(|_| matches!(list, "set" | "map")) else { return };
    let items = Path::Field(path, "items");
    if item.flag("nullable") {
        let rule = format!("cannot be nullable when x-kubernetes-list-type is {list}");
        errors.push(FieldError::forbidden(Path::Field(&items, "nullable").bracketed(), rule));
    }
    if list == "set" {
        return;
    }
    let properties = Path::Field(&items, "properties");
    for key in schema.words("x-kubernetes-list-map-keys") {
        let Some(property) = item.property(key) else { continue };
        let path = Path::Key(&properties, key);
        if property.get("default").is_none() && item.words("required").all(|name| name != key) {
            let rule = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                property";
            errors.push(FieldError::required(Path::Field(&path, "default").bracketed(), rule));
        }
        if property.flag("nullable") {
            let rule = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(Path::Field(&path, "nullable").bracketed(), rule));
        }
    }
}

/// Reasons a rule may give for its failure.
const REASONS: [&str; 4] = ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

fn has_line_breaks(text: &str) -> bool {
    text.contains(['\n', '\r'])
}

/// The parts of `x-kubernetes-validations` besides the expressions themselves.
fn rules(schema: Document<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let list = Path::Field(path, "x-kubernetes-validations");
    for (index, rule) in schema.list("x-kubernetes-validations").enumerate() {
        let entry = Path::Item(&list, index);
        let at = |name: &str| Path::Field(&entry, name).bracketed();
        let (expression, message) = (rule.text("rule").trim(), rule.text("message"));
        let trimmed = message.trim();
        if expression.is_empty() {
            errors.push(FieldError::required(at("rule"), "rule is not specified"));
        } else if !message.is_empty() && trimmed.is_empty() {
            errors.push(FieldError::invalid(at("message"), message, "message must be non-empty if specified"));
        } else if has_line_breaks(trimmed) {
            errors.push(FieldError::invalid(at("message"), message, "message must not contain line breaks"));
        } else if has_line_breaks(expression) && trimmed.is_empty() {
            let rule = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(at("message"), rule));
        }
        let of_message = rule.text("messageExpression");
        if !of_message.is_empty() && of_message.trim().is_empty() {
            let rule = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(at("messageExpression"), rule));
        }
        if rule.get("reason").is_some() && !REASONS.contains(&rule.text("reason")) {
            errors.push(FieldError::not_supported(at("reason"), rule.text("reason"), &REASONS));
        }
        let field = rule.text("fieldPath");
        if field.is_empty() {
            continue;
        }
        if field.trim().is_empty() {
            errors.push(FieldError::invalid(at("fieldPath"), field, "fieldPath must be non-empty if specified"));
        }
        if has_line_breaks(field) {
            errors.push(FieldError::invalid(at("fieldPath"), field, "fieldPath must not contain line breaks"));
        }
        if find_in(schema, field, true).is_err() {
            errors.push(FieldError::invalid(at("fieldPath"), field, "fieldPath must be a valid path"));
        }
    }
}
