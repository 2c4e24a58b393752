//! Lists whose elements must be unique: sets by value, map-like lists by their keys.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::FieldError;
use crate::{
    path::Path,
    types::{Kind, ListKind, Ref},
};

/// Every element of such a list, at any depth, that is there already. Each repeated element is reported once, however
/// often it occurs.
pub(super) fn duplicates(node: Ref<'_>, value: &Value, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if !node.node.below.unique {
        return;
    }
    match value {
        Value::Object(map) => {
            let is_map = matches!(node.node.kind, Kind::Map { .. });
            for (name, value) in map {
                let Some(inner) = node.member(name) else { continue };
                let path = if is_map { Path::Key(path, name) } else { Path::Field(path, name) };
                duplicates(inner, value, &path, errors);
            }
        }
        Value::Array(items) => {
            match node.list() {
                ListKind::Atomic => {}
                ListKind::Set => repeated(items.iter().map(|item| Some(item.clone())), path, errors),
                ListKind::Map { .. } => map_like(node, items, path, errors),
            }
            let Some(inner) = node.item() else { return };
            for (at, item) in items.iter().enumerate() {
                duplicates(inner, item, &Path::Item(path, at), errors);
            }
        }
        _ => {}
    }
}

fn map_like(node: Ref<'_>, items: &[Value], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some((at, item)) = items.iter().enumerate().find(|(_, item)| !item.is_null() && !item.is_object()) {
        let path = Path::Item(path, at).bracketed();
        errors.push(FieldError::invalid(path, item.clone(), "must be an object for an array of list-type map"));
        return;
    }
    let keys = items.iter().map(|item| {
        let pairs = node.keys().filter_map(|key| Some((key.to_owned(), item.get(key)?.clone())));
        Some(Value::Object(pairs.collect::<Map<_, _>>()))
    });
    repeated(keys, path, errors);
}

fn repeated(identities: impl Iterator<Item = Option<Value>>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut seen: HashMap<String, u32> = HashMap::new();
    for (at, identity) in identities.enumerate() {
        let Some(identity) = identity else { continue };
        let times = seen.entry(identity.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            errors.push(FieldError::duplicate(Path::Item(path, at).bracketed(), identity));
        }
    }
}
