//! Defaults must be objects that the schema would accept.

use crate::{
    FieldError, Problem, Schema,
    path::Path,
    prune::prune_value,
    types::{Kind, Origin, Ref},
    validate::{check_value, embedded_in},
};

/// Checks every default of a document at `path`.
pub(super) fn check(schema: &Schema, path: &str, errors: &mut Vec<FieldError>) {
    walk(schema.root(), &Path::Field(&Path::Root, path), errors);
}

fn walk(node: Ref<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if node.arena.origin == Origin::Builtin || !node.node.below.defaults {
        return;
    }
    own(node, path, errors);
    match node.node.kind {
        Kind::Struct { .. } => {
            let properties = Path::Field(path, "properties");
            for field in node.fields() {
                walk(node.of_field(field), &Path::Key(&properties, node.arena.str(field.name)), errors);
            }
        }
        Kind::List { item, .. } => walk(node.at(item), &Path::Field(path, "items"), errors),
        _ => {}
    }
}

fn own(node: Ref<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let Some(default) = node.rules().and_then(|rules| rules.default.as_ref()) else { return };
    let path = Path::Field(path, "default").bracketed();
    let unknown = |problem: &Problem| matches!(problem, Problem::Unknown { .. });
    if prune_value(node, &mut default.clone()).iter().any(unknown) {
        errors.push(FieldError::invalid(path.clone(), default.clone(), "must not have unknown fields"));
    }
    for embedded in embedded_in(node, default) {
        for name in ["apiVersion", "kind"].iter().filter(|name| !embedded.value.contains_key(**name)) {
            let below = if embedded.path.is_empty() { String::new() } else { format!(".{}", embedded.path) };
            errors.push(FieldError::required(format!("{path}{below}.{name}"), "must not be empty"));
        }
    }
    for mut error in check_value(node, default) {
        error.path = if error.path.is_empty() { path.clone() } else { format!("{path}.{}", error.path) };
        errors.push(error);
    }
}
