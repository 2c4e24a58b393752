//! Defaults have to keep to the rules of the schema that they are the defaults of.

use serde_json::Value;

use super::program::{compile_below, has_rules};
use crate::{
    FieldError,
    definition::document::{Document, Inner},
    path::Path,
};

/// What the rules of a document say to its defaults. The document stands at `path`, and its rules compile.
pub(crate) fn check_defaults(document: &Value, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if let Some(root) = Document::of(document) {
        walk(root, true, &Path::Field(&Path::Root, path), &mut errors);
    }
    errors
}

fn walk(schema: Document<'_>, is_resource: bool, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if !has_rules(schema) {
        return;
    }
    if let Some(default) = schema.get("default").filter(|default| !default.is_null())
        && let Some(rules) = compile_below(schema, is_resource)
    {
        // as if it replaced itself, so that rules about a change are asked too; nothing is forgiven here
        let outcome = rules.apply(default, Some(default));
        let place = Path::Field(path, "default").bracketed();
        for mut error in outcome.errors.into_iter().chain(outcome.forgiven) {
            let dot = if error.path.is_empty() || error.path.starts_with('[') { "" } else { "." };
            error.path = format!("{place}{dot}{}", error.path);
            errors.push(error);
        }
    }
    let embedded = |schema: Document<'_>| schema.flag("x-kubernetes-embedded-resource");
    let properties = Path::Field(path, "properties");
    for (name, property) in schema.children("properties") {
        walk(property, embedded(property), &Path::Key(&properties, name), errors);
    }
    if let Some(Inner::Schema(value)) = schema.additional() {
        walk(value, embedded(value), &Path::Field(path, "additionalProperties"), errors);
    }
    if let Some(item) = schema.item() {
        walk(item, embedded(item), &Path::Field(path, "items"), errors);
    }
}
