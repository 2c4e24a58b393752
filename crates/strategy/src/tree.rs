//! Typed reads and defaulting writes on the generic tree.
//!
//! Schema validation has run before a strategy sees an object, so a field of the wrong type reads as absent here.

use serde_json::{Map, Value};

static EMPTY_MAP: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);

/// The string at `key`, empty when absent.
pub fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The list at `key`, empty when absent.
pub fn list<'a>(object: &'a Value, key: &str) -> &'a [Value] {
    object.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The map at `key`, empty when absent.
pub fn map<'a>(object: &'a Value, key: &str) -> &'a Map<String, Value> {
    object.get(key).and_then(Value::as_object).unwrap_or_else(|| &EMPTY_MAP)
}

/// The value at `key`; `null` counts as absent.
pub fn some<'a>(object: &'a Value, key: &str) -> Option<&'a Value> {
    object.get(key).filter(|value| !value.is_null())
}

/// The integer at `key`.
pub fn int(object: &Value, key: &str) -> Option<i64> {
    object.get(key).and_then(Value::as_i64)
}

/// The flag at `key`, false when absent.
pub fn flag(object: &Value, key: &str) -> bool {
    object.get(key).and_then(Value::as_bool).unwrap_or_default()
}

/// The value at the end of `keys`.
pub fn at<'a>(object: &'a Value, keys: &[&str]) -> Option<&'a Value> {
    keys.iter().try_fold(object, |value, key| value.get(key)).filter(|value| !value.is_null())
}

/// The string at the end of `keys`, empty when absent.
pub fn text_at<'a>(object: &'a Value, keys: &[&str]) -> &'a str {
    at(object, keys).and_then(Value::as_str).unwrap_or_default()
}

/// The object's name.
pub fn name(object: &Value) -> &str {
    text_at(object, &["metadata", "name"])
}

/// The object's namespace, empty for none.
pub fn namespace(object: &Value) -> &str {
    text_at(object, &["metadata", "namespace"])
}

/// The map at `key`, made when absent; `None` when something else stands there.
pub fn map_mut<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    child_mut(object, key)?.as_object_mut()
}

/// The value at `key`, an empty map when absent.
pub fn child_mut<'a>(object: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    let map = object.as_object_mut()?;
    if map.get(key).is_none_or(Value::is_null) {
        map.insert(key.to_owned(), Value::Object(Map::new()));
    }
    map.get_mut(key)
}

/// The items at `key` for writing, none when absent.
pub fn list_mut<'a>(object: &'a mut Value, key: &str) -> &'a mut [Value] {
    object.get_mut(key).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
}

/// Writes `value` at `key` when nothing stands there; an empty string counts as nothing.
pub fn default_to(object: &mut Value, key: &str, value: impl Into<Value>) {
    let Some(map) = object.as_object_mut() else { return };
    let absent = match map.get(key) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(_) => false,
    };
    if absent {
        map.insert(key.to_owned(), value.into());
    }
}

/// Writes `value` at `key` when nothing or zero stands there.
pub fn default_zero_to(object: &mut Value, key: &str, value: i64) {
    let Some(map) = object.as_object_mut() else { return };
    if map.get(key).is_none_or(|value| value.is_null() || value.as_i64() == Some(0)) {
        map.insert(key.to_owned(), value.into());
    }
}

/// Removes `key`.
pub fn remove(object: &mut Value, key: &str) -> Option<Value> {
    object.as_object_mut()?.remove(key)
}

/// Makes `key` of `new` what it is in `old`, absent included.
pub fn keep(new: &mut Value, old: &Value, key: &str) {
    let Some(map) = new.as_object_mut() else { return };
    match old.get(key) {
        Some(value) => {
            if map.get(key) != Some(value) {
                map.insert(key.to_owned(), value.clone());
            }
        }
        None => {
            map.remove(key);
        }
    }
}

/// Whether `key` means the same in both: absent, `null` and empty are one.
pub fn same(new: &Value, old: &Value, key: &str) -> bool {
    let (new, old) = (new.get(key).filter(|value| !is_empty(value)), old.get(key).filter(|value| !is_empty(value)));
    new == old
}

/// Whether a value says nothing: `null`, or an empty string, list or map.
pub fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}
