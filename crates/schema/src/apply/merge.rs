//! Merging a configuration into an object, and taking away what its applier no longer names.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::element::{Level, Shape, field, list_key, set_value, shape};
use super::set::is_member;
use crate::types::Ref;

/// Merges `config` into `live`: objects by field, sets by union, lists with keys by element; the rest is replaced.
pub(super) fn merge(node: Option<Ref<'_>>, live: &mut Value, config: &Value) {
    match (shape(node, config), &mut *live, config) {
        (Shape::Object, Value::Object(live), Value::Object(config)) => {
            for (name, value) in config {
                let inner = node.and_then(|node| node.member(name));
                match live.get_mut(name) {
                    Some(live) => merge(inner, live, value),
                    None => {
                        live.insert(name.clone(), value.clone());
                    }
                }
            }
        }
        (Shape::Set, Value::Array(live), Value::Array(config)) => {
            *live = ordered(std::mem::take(live), config, |value| Some(set_value(value)), |_, _| {});
        }
        (Shape::Map, Value::Array(live), Value::Array(config)) => {
            let Some(list) = node else { return };
            let key = |value: &Value| list_key(list, value).ok();
            *live = ordered(std::mem::take(live), config, key, |live, config| merge(list.item(), live, config));
        }
        _ => live.clone_from(config),
    }
}

/// Puts the elements of both lists in one. The configuration's order holds for its elements; what only the live list
/// has comes as soon as everything before it in the live list is out.
fn ordered(
    live: Vec<Value>,
    config: &[Value],
    key: impl Fn(&Value) -> Option<String>,
    merge: impl Fn(&mut Value, &Value),
) -> Vec<Value> {
    let wanted: HashSet<String> = config.iter().filter_map(&key).collect();
    let mut shared: HashMap<String, usize> = HashMap::new();
    let mut alone = Vec::with_capacity(live.len());
    let mut repeated = Vec::new();
    for (at, value) in live.iter().enumerate() {
        let key = key(value).filter(|key| wanted.contains(key));
        alone.push(key.is_none());
        let Some(key) = key else { continue };
        repeated.extend(shared.insert(key, at).map(|before| (before, at)));
    }
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    // The configuration's one element takes the place of several with its key.
    for (before, at) in repeated {
        (live[before], live[at]) = (None, None);
    }
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut next = 0;
    let mut flush = |live: &mut Vec<Option<Value>>, out: &mut Vec<Value>| {
        while next < live.len() && (alone[next] || live[next].is_none()) {
            out.extend(live[next].take());
            next += 1;
        }
    };
    for value in config {
        flush(&mut live, &mut out);
        match key(value).and_then(|key| shared.remove(&key)).and_then(|at| live[at].take()) {
            Some(mut live) => {
                merge(&mut live, value);
                out.push(live);
            }
            None => out.push(value.clone()),
        }
    }
    flush(&mut live, &mut out);
    out
}

/// Removes from `value` every path of `last` that is not in `keep`. Gives whether the value is to go as a whole because
/// nothing is left of it.
pub(super) fn remove(
    node: Option<Ref<'_>>,
    value: &mut Value,
    last: &Map<String, Value>,
    keep: Option<&Map<String, Value>>,
    level: Level<'_>,
) -> bool {
    // Decides about one element: whether it stays. Unlike a field of a structure, the element of a list or the key of a
    // map goes with whoever put it there when others own only parts of it.
    let stays = |element: &str, declared: bool, inner: Option<Ref<'_>>, value: &mut Value, level: Level<'_>| {
        let Some(Value::Object(last)) = last.get(element) else { return true };
        match keep.and_then(|keep| keep.get(element)) {
            None => false,
            Some(kept) if !declared && is_member(last) && !kept.as_object().is_some_and(is_member) => false,
            // What someone asks for as such stays when it has become empty.
            Some(kept) => {
                !remove(inner, value, last, kept.as_object(), level) || kept.as_object().is_some_and(is_member)
            }
        }
    };
    match (shape(node, value), &mut *value) {
        (Shape::Object, Value::Object(map)) if !map.is_empty() => {
            map.retain(|name, value| {
                let Some(level) = level.member(name) else { return true };
                let (element, inner) = (field(name), node.and_then(|node| node.member(name)));
                if matches!(level, Level::Metadata(_)) {
                    // What names the object is nobody's and stays, whatever else of the metadata goes.
                    if let Some(Value::Object(last)) = last.get(&element) {
                        let keep = keep.and_then(|keep| keep.get(&element)).and_then(Value::as_object);
                        remove(inner, value, last, keep, level);
                    }
                    return true;
                }
                let declared = node.is_some_and(|node| node.field(name).is_some());
                stays(&element, declared, inner, value, level)
            });
            map.is_empty()
        }
        (Shape::Set, Value::Array(items)) if !items.is_empty() => {
            items.retain_mut(|item| stays(&set_value(item), false, None, item, Level::Inner));
            items.is_empty()
        }
        (Shape::Map, Value::Array(items)) if !items.is_empty() => {
            let Some(list) = node else { return false };
            items.retain_mut(|item| match list_key(list, item) {
                Ok(key) => {
                    let identity: Vec<(&str, Value)> =
                        list.keys().filter_map(|key| Some((key, item.get(key)?.clone()))).collect();
                    let stays = stays(&key, false, list.item(), item, Level::Inner);
                    // An element that others still own something in keeps what tells it apart.
                    if let (true, Value::Object(item)) = (stays, item) {
                        item.extend(identity.into_iter().map(|(key, value)| (key.to_owned(), value)));
                    }
                    stays
                }
                Err(_) => true,
            });
            items.is_empty()
        }
        _ => false,
    }
}
