//! Who owns what of a new object, as the text that is stored.
//!
//! It is what comparing the object with nothing gives (see `compare`), written down as it is found: objects are created
//! more often than anything else happens to them, and sets of fields take as many pieces of memory as the object itself.

use serde_json::{Map, Value};

use super::Manager;
use super::compare::{is_empty, items};
use super::element::{Level, Shape, always_present, list_key, members, set_value, shape};
use crate::types::Ref;

/// What an object without any fields of its own adds to the text.
const NOTHING: &[u8] = b"{}";

/// `metadata.managedFields` of a new object, which has none yet; `None` where nobody owns anything.
pub(super) fn managed_fields(root: Ref<'_>, new: &Value, manager: &Manager) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(2048);
    out.extend_from_slice(b"[{\"apiVersion\":");
    string(&mut out, "", &manager.api_version);
    out.extend_from_slice(b",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":{");
    let fields = out.len();
    object(Some(root), new, true, Level::Object(manager.reset), &mut out);
    if out.len() == fields {
        return None;
    }
    out.extend_from_slice(b"},\"manager\":");
    string(&mut out, "", &manager.name);
    out.extend_from_slice(b",\"operation\":");
    string(&mut out, "", manager.operation.name());
    if !manager.subresource.is_empty() {
        out.extend_from_slice(b",\"subresource\":");
        string(&mut out, "", &manager.subresource);
    }
    out.extend_from_slice(b",\"time\":");
    string(&mut out, "", &manager.time);
    out.extend_from_slice(b"}]");
    Some(out)
}

/// Appends a JSON string of two parts.
fn string(out: &mut Vec<u8>, prefix: &str, text: &str) {
    out.push(b'"');
    out.extend_from_slice(prefix.as_bytes());
    let mut rest = text.as_bytes();
    // keys of list elements are full of quotes, and nothing else has to be escaped in most of them
    while let Some(at) = rest.iter().position(|byte| *byte < b' ' || matches!(byte, b'"' | b'\\')) {
        let (plain, escaped) = rest.split_at(at);
        out.extend_from_slice(plain);
        match escaped[0] {
            quoted @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', quoted]),
            // a character has no way to fail to be written; without its quotes it goes on what stands there
            control => {
                let written = Value::from(char::from(control).to_string()).to_string();
                out.extend_from_slice(&written.as_bytes()[1..written.len() - 1]);
            }
        }
        rest = &escaped[1..];
    }
    out.extend_from_slice(rest);
    out.push(b'"');
}

/// Appends an element and what is owned below it, unless that is nothing.
fn element(out: &mut Vec<u8>, prefix: &str, name: &str, below: impl FnOnce(&mut Vec<u8>) -> bool) {
    let before = out.len();
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    string(out, prefix, name);
    out.push(b':');
    if !below(out) {
        out.truncate(before);
    }
}

/// Appends what is owned of a value; false where that is nothing. `present` says that the value counts as there before.
fn value(node: Option<Ref<'_>>, value: &Value, present: bool, level: Level<'_>, out: &mut Vec<u8>) -> bool {
    let kind = if is_empty(Some(value)) { Shape::Leaf } else { shape(node, value) };
    if matches!(kind, Shape::Leaf) {
        // of what is empty, nobody owns what would be there anyway
        let owned = !(present && is_empty(Some(value)));
        if owned {
            out.extend_from_slice(NOTHING);
        }
        return owned;
    }
    let start = out.len();
    out.push(b'{');
    if !present {
        out.extend_from_slice(b"\".\":{}");
    }
    let before = out.len();
    match kind {
        Shape::Leaf => {}
        Shape::Object => object(node, value, present, level, out),
        Shape::Set => set(items(Some(value)), out),
        Shape::Map => {
            if let Some(node) = node {
                list(node, items(Some(value)), out);
            }
        }
    }
    if out.len() > before {
        out.push(b'}');
        return true;
    }
    out.truncate(start);
    if !present {
        out.extend_from_slice(NOTHING);
    }
    !present
}

fn object(node: Option<Ref<'_>>, value_of: &Value, present: bool, level: Level<'_>, out: &mut Vec<u8>) {
    for (name, member) in members(Some(value_of)) {
        let Some(level) = level.member(name) else { continue };
        let inner = node.and_then(|node| node.member(name));
        let present = present && always_present(node, name);
        element(out, "f:", name, |out| value(inner, member, present, level, out));
    }
}

fn set(items: &[Value], out: &mut Vec<u8>) {
    let mut values: Vec<String> = items.iter().map(set_value).collect();
    values.sort_unstable();
    values.dedup();
    for value in values {
        element(out, "", &value, |out| {
            out.extend_from_slice(NOTHING);
            true
        });
    }
}

/// Elements of one key are one thing that nobody owns a part of; those without keys cannot be owned.
fn list(list: Ref<'_>, items: &[Value], out: &mut Vec<u8>) {
    let inner = list.item();
    let keyed = items.iter().filter_map(|item| Some((list_key(list, item).ok()?, item)));
    let mut keyed: Vec<(String, &Value)> = keyed.collect();
    keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
    for same in keyed.chunk_by(|(a, _), (b, _)| a == b) {
        let [(key, item), rest @ ..] = same else { continue };
        element(out, "", key, |out| {
            if rest.is_empty() {
                return value(inner, item, false, Level::Inner, out);
            }
            out.extend_from_slice(NOTHING);
            true
        });
    }
}

/// Whether an object says of itself who owns what.
pub(super) fn is_tracked(object: &Value) -> bool {
    object
        .get("metadata")
        .and_then(Value::as_object)
        .is_some_and(|metadata: &Map<String, Value>| metadata.contains_key("managedFields"))
}
