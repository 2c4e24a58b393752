//! Path elements of list items and of fields, and what of an object managers never own.

use serde_json::{Map, Value};

use crate::types::{Kind, ListKind, Origin, Ref};

/// What the server sets, or what names the object: never owned.
const UNOWNED_METADATA: [&str; 8] =
    ["name", "namespace", "creationTimestamp", "selfLink", "uid", "generation", "managedFields", "resourceVersion"];

/// Structures that Go always writes, also when nothing was set in them. They count as present before the first write,
/// so that no manager owns the bare structure.
const ALWAYS_PRESENT: [&str; 7] =
    ["metadata", "spec", "status", "strategy", "template", "updateStrategy", "jobTemplate"];

/// How deep in the object a walk stands, as far as that decides about ownership.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level<'a> {
    /// The object itself; the paths are fields that this write resets.
    Object(&'a [&'a str]),
    /// Its `metadata`.
    Metadata(&'a [&'a str]),
    /// Its `status`.
    Status(&'a [&'a str]),
    Inner,
}

/// Whether `parent.name` is one of the paths.
fn resets(paths: &[&str], parent: &str, name: &str) -> bool {
    paths.iter().any(|path| path.split_once('.') == Some((parent, name)))
}

impl<'a> Level<'a> {
    /// The level of a member, or `None` when managers never own it.
    pub(super) fn member(self, name: &str) -> Option<Level<'a>> {
        match self {
            Self::Object(reset) if matches!(name, "apiVersion" | "kind") || reset.contains(&name) => None,
            Self::Object(reset) if name == "metadata" => Some(Self::Metadata(reset)),
            Self::Object(reset) if name == "status" => Some(Self::Status(reset)),
            Self::Metadata(reset) if UNOWNED_METADATA.contains(&name) || resets(reset, "metadata", name) => None,
            Self::Status(reset) if resets(reset, "status", name) => None,
            _ => Some(Self::Inner),
        }
    }
}

/// What a walk does with a value.
#[derive(Clone, Copy)]
pub(super) enum Shape {
    /// One value: scalars and atomic objects and lists.
    Leaf,
    /// An object with fields or keys of its own.
    Object,
    /// A list whose elements are told apart by value.
    Set,
    /// A list whose elements are told apart by keys.
    Map,
}

/// The shape of a value under its node; without a node objects are merged and lists are one value.
pub(super) fn shape(node: Option<Ref<'_>>, value: &Value) -> Shape {
    match value {
        Value::Object(_) => match node {
            Some(node) if node.atomic => Shape::Leaf,
            Some(node) => match node.node.kind {
                Kind::Any | Kind::AnyObject if node.arena.origin == Origin::Builtin => Shape::Leaf,
                _ => Shape::Object,
            },
            None => Shape::Object,
        },
        Value::Array(_) => match node.map(|node| node.list()) {
            Some(ListKind::Set) => Shape::Set,
            Some(ListKind::Map { .. }) => Shape::Map,
            _ => Shape::Leaf,
        },
        _ => Shape::Leaf,
    }
}

/// Whether a field of a structure is there even when nobody wrote it.
pub(super) fn always_present(node: Option<Ref<'_>>, name: &str) -> bool {
    let Some(node) = node else { return false };
    let Some(field) = node.field(name) else { return false };
    let inner = node.of_field(field);
    let holds_more = matches!(inner.node.kind, Kind::Struct { .. } | Kind::List { .. } | Kind::Map { .. });
    holds_more && (field.required || ALWAYS_PRESENT.contains(&name))
}

pub(super) fn field(name: &str) -> String {
    let mut element = String::with_capacity(name.len() + 2);
    element.push_str("f:");
    element.push_str(name);
    element
}

pub(super) fn set_value(value: &Value) -> String {
    format!("v:{value}")
}

/// `k:{"name":"a"}` of a list element; the missing key's name when it has none of them. A missing `protocol` is TCP:
/// the one key that has a default in built-in types.
pub(super) fn list_key<'a>(list: Ref<'a>, item: &Value) -> Result<String, &'a str> {
    let mut keys: Vec<&str> = list.keys().collect();
    keys.sort_unstable();
    let mut out = String::with_capacity(32);
    out.push_str("k:{");
    let (mut first, mut missing) = (true, None);
    for key in keys {
        let value = match item.get(key) {
            Some(value) if !value.is_null() => value.to_string(),
            _ => match default_of(list, key) {
                Some(value) => value.to_string(),
                None => {
                    missing = Some(key);
                    continue;
                }
            },
        };
        if !first {
            out.push(',');
        }
        first = false;
        out.push('"');
        out.push_str(key);
        out.push_str("\":");
        out.push_str(&value);
    }
    out.push('}');
    match missing {
        Some(key) if first => Err(key),
        _ => Ok(out),
    }
}

fn default_of(list: Ref<'_>, key: &str) -> Option<Value> {
    if list.arena.origin == Origin::Builtin {
        return (key == "protocol").then(|| Value::from("TCP"));
    }
    list.item()?.member(key)?.rules()?.default.clone()
}

/// The members of an object, none for any other value.
pub(super) fn members(value: Option<&Value>) -> impl Iterator<Item = (&String, &Value)> {
    value.and_then(Value::as_object).into_iter().flatten()
}

pub(super) fn get<'a>(map: Option<&'a Value>, name: &str) -> Option<&'a Value> {
    map.and_then(Value::as_object).and_then(|map: &Map<String, Value>| map.get(name))
}
