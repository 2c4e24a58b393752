//! Strategic merge patch: a merge patch that knows which lists are merged by key, with directives in the patch.
//!
//! Directives: `$patch: delete|replace|merge` in an object or a list element, `$deleteFromPrimitiveList/F`,
//! `$setElementOrder/F` and `$retainKeys` beside the field `F`. Lists without a merge strategy are replaced.

use serde_json::{Map, Value};

use crate::types::{PatchRule, Ref, Schema};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Why a strategic merge patch cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    /// A directive with a value that it does not have.
    #[error("Unknown patch type: {0}")]
    Directive(String),
    /// A list element without the key that tells elements apart.
    #[error("map: {element} does not contain declared merge key: {key}")]
    MergeKey {
        /// The element.
        element: String,
        /// The merge key.
        key: String,
    },
    /// A value of another form than its place needs.
    #[error("invalid patch: {0}")]
    Form(String),
}

type Object = Map<String, Value>;

/// What `$patch` says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Directive {
    Merge,
    Replace,
    Delete,
}

/// Applies a strategic merge patch; on an error the object is left half changed, so work on a copy.
pub fn strategic(schema: &Schema, target: &mut Value, patch: &Value) -> Result<(), StrategicError> {
    let Value::Object(patch) = patch else {
        return Err(StrategicError::Form("the patch must be an object".to_owned()));
    };
    if !target.is_object() {
        *target = Value::Object(Object::new());
    }
    let Value::Object(object) = target else { return Ok(()) };
    match directive(patch)? {
        Directive::Merge => objects(Some(schema.root()), object, patch),
        Directive::Replace => {
            *object = patch.iter().filter(|(name, _)| *name != PATCH).map(|(n, v)| (n.clone(), v.clone())).collect();
            Ok(())
        }
        Directive::Delete => {
            object.clear();
            Ok(())
        }
    }
}

fn directive(patch: &Object) -> Result<Directive, StrategicError> {
    match patch.get(PATCH) {
        None => Ok(Directive::Merge),
        Some(Value::String(text)) => match text.as_str() {
            "merge" => Ok(Directive::Merge),
            "replace" => Ok(Directive::Replace),
            "delete" => Ok(Directive::Delete),
            other => Err(StrategicError::Directive(other.to_owned())),
        },
        Some(other) => Err(StrategicError::Directive(other.to_string())),
    }
}

fn is_directive(name: &str) -> bool {
    name == PATCH || name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(ELEMENT_ORDER)
}

fn list<'a>(name: &str, value: &'a Value) -> Result<&'a [Value], StrategicError> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| StrategicError::Form(format!("{name} must be a list")))
}

fn objects(node: Option<Ref<'_>>, target: &mut Object, patch: &Object) -> Result<(), StrategicError> {
    if let Some(retained) = patch.get(RETAIN_KEYS) {
        let retained = list(RETAIN_KEYS, retained)?;
        target.retain(|name, _| retained.iter().any(|kept| kept == name));
    }
    for (name, value) in patch.iter().filter(|(name, _)| !is_directive(name)) {
        if value.is_null() {
            target.remove(name);
            continue;
        }
        let rule = node.and_then(|node| node.field(name)).map(|field| field.patch).unwrap_or_default();
        let inner = node.and_then(|node| node.member(name));
        match (target.get_mut(name), value) {
            (Some(Value::Object(target)), Value::Object(patch)) if !rule.replace => {
                if !nested(inner, target, patch)? {
                    target.clear();
                    target.extend(clean_object(inner, patch)?);
                }
            }
            (Some(Value::Array(target)), Value::Array(patch)) if rule.merge => {
                let key = node.map(|node| node.arena.str(rule.key)).unwrap_or_default();
                lists(inner, key, target, patch)?;
            }
            _ => set(target, name, inner, rule, value)?,
        }
    }
    directives(node, target, patch)
}

/// Merges an object into one that is there. Gives false when the patch replaces it.
fn nested(node: Option<Ref<'_>>, target: &mut Object, patch: &Object) -> Result<bool, StrategicError> {
    match directive(patch)? {
        Directive::Merge => objects(node, target, patch).map(|()| true),
        Directive::Replace => Ok(false),
        Directive::Delete => {
            target.clear();
            Ok(true)
        }
    }
}

/// Sets a field that has nothing to merge with: directives inside the value are carried out on nothing.
fn set(
    target: &mut Object,
    name: &str,
    node: Option<Ref<'_>>,
    rule: PatchRule,
    value: &Value,
) -> Result<(), StrategicError> {
    let value = match value {
        Value::Object(patch) if directive(patch)? == Directive::Delete => {
            target.remove(name);
            return Ok(());
        }
        Value::Object(patch) => Value::Object(clean_object(node, patch)?),
        Value::Array(patch) if rule.merge => {
            let mut items = Vec::new();
            for item in patch {
                items.extend(clean(node.and_then(|node| node.item()), item)?);
            }
            Value::Array(items)
        }
        other => other.clone(),
    };
    target.insert(name.to_owned(), value);
    Ok(())
}

fn clean_object(node: Option<Ref<'_>>, patch: &Object) -> Result<Object, StrategicError> {
    let mut out = Object::new();
    let plain: Object = patch
        .iter()
        .filter(|(name, _)| *name != PATCH && *name != RETAIN_KEYS)
        .map(|(n, v)| (n.clone(), v.clone()))
        .collect();
    objects(node, &mut out, &plain)?;
    Ok(out)
}

/// The value that a patch leaves where nothing was; nothing for a deletion.
fn clean(node: Option<Ref<'_>>, value: &Value) -> Result<Option<Value>, StrategicError> {
    let Value::Object(patch) = value else { return Ok(Some(value.clone())) };
    match (directive(patch)?, patch.len()) {
        (Directive::Delete, _) | (Directive::Replace, 1) => Ok(None),
        _ => clean_object(node, patch).map(|object| Some(Value::Object(object))),
    }
}

/// Merges a list by key, or a list of scalars as a set when there is no key.
fn lists(list: Option<Ref<'_>>, key: &str, target: &mut Vec<Value>, patch: &[Value]) -> Result<(), StrategicError> {
    let item = list.and_then(|list| list.item());
    if key.is_empty() {
        for value in patch {
            if !target.contains(value) {
                target.push(value.clone());
            }
        }
        return Ok(());
    }
    // `{$patch: replace}` as an element replaces the list by the other elements.
    let replaces = |value: &Value| {
        value
            .as_object()
            .is_some_and(|patch| patch.len() == 1 && patch.get(PATCH).is_some_and(|word| word == "replace"))
    };
    if patch.iter().any(replaces) {
        target.clear();
    }
    for value in patch.iter().filter(|value| !replaces(value)) {
        let patch = value.as_object().ok_or_else(|| StrategicError::Form(format!("{value} must be an object")))?;
        let directive = directive(patch)?;
        let Some(identity) = patch.get(key) else {
            return Err(StrategicError::MergeKey { element: value.to_string(), key: key.to_owned() });
        };
        let same = |value: &Value| value.get(key) == Some(identity);
        match (directive, target.iter_mut().find(|value| same(value))) {
            (Directive::Delete, _) => target.retain(|value| !same(value)),
            (Directive::Merge, Some(Value::Object(target))) => objects(item, target, patch)?,
            (Directive::Replace, Some(target)) => *target = Value::Object(clean_object(item, patch)?),
            (_, _) => target.extend(clean(item, value)?),
        }
    }
    Ok(())
}

/// Carries out the directives that stand beside the fields they are about.
fn directives(node: Option<Ref<'_>>, target: &mut Object, patch: &Object) -> Result<(), StrategicError> {
    for (name, value) in patch {
        if let Some(name) = name.strip_prefix(DELETE_FROM) {
            let gone = list(DELETE_FROM, value)?;
            if let Some(Value::Array(items)) = target.get_mut(name) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (name, value) in patch {
        if let Some(name) = name.strip_prefix(ELEMENT_ORDER) {
            let order = list(ELEMENT_ORDER, value)?;
            let rule = node.and_then(|node| node.field(name)).map(|field| field.patch).unwrap_or_default();
            let key = node.map(|node| node.arena.str(rule.key)).unwrap_or_default();
            if let Some(Value::Array(items)) = target.get_mut(name) {
                *items = reorder(std::mem::take(items), order, key);
            }
        }
    }
    Ok(())
}

/// Puts the listed elements in the given order; an element that is not listed stays behind the one it followed.
fn reorder(items: Vec<Value>, order: &[Value], key: &str) -> Vec<Value> {
    let rank = |item: &Value| {
        let listed = |wanted: &Value| match key {
            "" => wanted == item,
            key => wanted.get(key) == item.get(key),
        };
        order.iter().position(listed)
    };
    // Groups of one listed element and the unlisted ones after it; those before the first listed one stay in front.
    let mut groups: Vec<(usize, Vec<Value>)> = vec![(0, Vec::new())];
    for item in items {
        match rank(&item) {
            Some(rank) => groups.push((rank + 1, vec![item])),
            None => {
                if let Some((_, group)) = groups.last_mut() {
                    group.push(item);
                }
            }
        }
    }
    groups.sort_by_key(|(rank, _)| *rank);
    groups.into_iter().flat_map(|(_, group)| group).collect()
}

#[cfg(test)]
mod tests;
