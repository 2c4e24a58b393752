//! What differs between two objects, as field sets, and the fields that a configuration names.

use std::collections::{HashMap, hash_map::Entry};

use serde_json::{Map, Value};

use super::element::{Level, Shape, always_present, field, get, list_key, members, set_value, shape};
use super::set::{below, limit, make};
use crate::types::Ref;

type Set = Map<String, Value>;

/// The difference between an old and a new object.
#[derive(Debug, Default)]
pub(super) struct Changes {
    pub(super) added: Set,
    pub(super) modified: Set,
    pub(super) removed: Set,
}

/// One node's part of [`Changes`].
#[derive(Default)]
struct Part {
    added: Option<Set>,
    modified: Option<Set>,
    removed: Option<Set>,
}

impl Changes {
    fn put(&mut self, element: impl FnOnce() -> String, part: Part) {
        let sets =
            [(&mut self.added, part.added), (&mut self.modified, part.modified), (&mut self.removed, part.removed)];
        let mut changed = sets.into_iter().filter_map(|(into, set)| Some((into, set?)));
        let Some((into, set)) = changed.next() else { return };
        let element = element();
        for (into, set) in changed {
            into.insert(element.clone(), Value::Object(set));
        }
        into.insert(element, Value::Object(set));
    }

    /// What of it lies at or below one of the paths; all of it when there are none.
    pub(super) fn limited(mut self, only: &[&str]) -> Self {
        for set in [&mut self.added, &mut self.modified, &mut self.removed] {
            limit(set, only);
        }
        self
    }

    pub(super) fn is_empty(&self) -> bool {
        self.added.is_empty() && self.modified.is_empty() && self.removed.is_empty()
    }
}

/// Compares whole objects. `None` for the old one stands for an empty object.
pub(super) fn compare(root: Ref<'_>, old: Option<&Value>, new: &Value, reset: &[&str]) -> Changes {
    let mut changes = Changes::default();
    objects(Some(root), old, Some(new), true, Level::Object(reset), &mut changes);
    changes
}

fn leaf(old: Option<&Value>, new: Option<&Value>) -> Part {
    match (old, new) {
        (None, Some(_)) => Part { added: Some(Set::new()), ..Part::default() },
        (Some(_), None) => Part { removed: Some(Set::new()), ..Part::default() },
        (Some(old), Some(new)) if old != new => Part { modified: Some(Set::new()), ..Part::default() },
        _ => Part::default(),
    }
}

pub(super) fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None => true,
        Some(Value::Object(map)) => map.is_empty(),
        Some(Value::Array(items)) => items.is_empty(),
        Some(_) => false,
    }
}

/// `present`: whether the old value counts as there although it is not, because Go always writes it.
fn values(node: Option<Ref<'_>>, old: Option<&Value>, new: Option<&Value>, present: bool, level: Level<'_>) -> Part {
    let Some(some) = new.or(old) else { return Part::default() };
    let shape_of = |value: Option<&Value>| value.map(|value| shape(node, value));
    let same_shape = match (old, new) {
        (Some(old), Some(new)) => std::mem::discriminant(old) == std::mem::discriminant(new),
        _ => true,
    };
    if is_empty(old) && is_empty(new) {
        return if present { Part::default() } else { leaf(old, new) };
    }
    let mut changes = Changes::default();
    match (shape_of(Some(some)), same_shape) {
        (Some(Shape::Object), true) => objects(node, old, new, present, level, &mut changes),
        (Some(Shape::Set), true) => sets(old, new, &mut changes),
        (Some(Shape::Map), true) => {
            if let Some(node) = node {
                lists(node, old, new, &mut changes);
            }
        }
        _ => return leaf(old, new),
    }
    let Changes { added, modified, removed } = changes;
    Part {
        added: make(added, old.is_none() && !present),
        modified: make(modified, false),
        removed: make(removed, new.is_none()),
    }
}

fn objects(
    node: Option<Ref<'_>>,
    old: Option<&Value>,
    new: Option<&Value>,
    present: bool,
    level: Level<'_>,
    changes: &mut Changes,
) {
    let present = present || old.is_some();
    let mut member = |name: &str, old: Option<&Value>, new: Option<&Value>| {
        let Some(level) = level.member(name) else { return };
        if old.is_some() && old == new {
            return;
        }
        let inner = node.and_then(|node| node.member(name));
        let present = present && old.is_none() && always_present(node, name);
        changes.put(|| field(name), values(inner, old, new, present, level));
    };
    for (name, value) in members(new) {
        member(name, get(old, name), Some(value));
    }
    for (name, value) in members(old).filter(|(name, _)| get(new, name).is_none()) {
        member(name, Some(value), None);
    }
}

pub(super) fn items(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn sets(old: Option<&Value>, new: Option<&Value>, changes: &mut Changes) {
    let (old, new) = (items(old), items(new));
    for value in new.iter().filter(|value| !old.contains(value)) {
        changes.added.insert(set_value(value), Value::Object(Set::new()));
    }
    for value in old.iter().filter(|value| !new.contains(value)) {
        changes.removed.insert(set_value(value), Value::Object(Set::new()));
    }
}

/// The elements of one key. Several are one thing that nobody owns a part of.
enum Keyed<'a> {
    One(&'a Value),
    Several(Vec<&'a Value>),
}

impl<'a> Keyed<'a> {
    fn add(&mut self, item: &'a Value) {
        match self {
            Self::One(first) => *self = Self::Several(vec![first, item]),
            Self::Several(items) => items.push(item),
        }
    }
}

/// Elements by their keys; those without keys cannot be owned.
fn keyed<'a>(list: Ref<'_>, items: &'a [Value]) -> HashMap<String, Keyed<'a>> {
    let mut out = HashMap::with_capacity(items.len());
    for item in items {
        if let Ok(key) = list_key(list, item) {
            match out.entry(key) {
                Entry::Vacant(vacant) => {
                    vacant.insert(Keyed::One(item));
                }
                Entry::Occupied(mut known) => known.get_mut().add(item),
            }
        }
    }
    out
}

fn elements(inner: Option<Ref<'_>>, old: Option<Keyed<'_>>, new: Option<Keyed<'_>>) -> Part {
    let compared = |old, new| values(inner, old, new, false, Level::Inner);
    match (old, new) {
        (None, None) => Part::default(),
        (None, Some(Keyed::One(new))) => compared(None, Some(new)),
        (Some(Keyed::One(old)), None) => compared(Some(old), None),
        (Some(Keyed::One(old)), Some(Keyed::One(new))) => compared(Some(old), Some(new)),
        (None, Some(Keyed::Several(_))) => Part { added: Some(Set::new()), ..Part::default() },
        (Some(Keyed::Several(_)), None) => Part { removed: Some(Set::new()), ..Part::default() },
        (Some(Keyed::Several(old)), Some(Keyed::Several(new))) if old == new => Part::default(),
        (Some(Keyed::Several(_)), Some(Keyed::Several(_))) => Part { modified: Some(Set::new()), ..Part::default() },
        (Some(Keyed::Several(_)), Some(Keyed::One(new))) => compared(None, Some(new)),
        // the element stays, and what somebody owned below it is gone
        (Some(Keyed::One(old)), Some(Keyed::Several(_))) => {
            let below = compared(Some(old), None).removed.map(below);
            Part { modified: Some(Set::new()), removed: below.filter(|set| !set.is_empty()), ..Part::default() }
        }
    }
}

fn lists(list: Ref<'_>, old: Option<&Value>, new: Option<&Value>, changes: &mut Changes) {
    let inner = list.item();
    let (mut old, new) = (keyed(list, items(old)), keyed(list, items(new)));
    for (key, value) in new {
        let part = elements(inner, old.remove(&key), Some(value));
        changes.put(|| key, part);
    }
    for (key, value) in old {
        let part = elements(inner, Some(value), None);
        changes.put(|| key, part);
    }
}

/// The fields that a configuration names, which its applier owns.
pub(super) fn named(root: Ref<'_>, config: &Value, reset: &[&str]) -> Result<Set, String> {
    let mut set = Set::new();
    name_members(Some(root), config, Level::Object(reset), &mut String::new(), &mut set)?;
    Ok(set)
}

fn name_value(
    node: Option<Ref<'_>>,
    value: &Value,
    level: Level<'_>,
    path: &mut String,
    own: bool,
) -> Result<Option<Set>, String> {
    let mut set = Set::new();
    let member = match shape(node, value) {
        Shape::Leaf => true,
        _ if is_empty(Some(value)) => true,
        Shape::Object => {
            name_members(node, value, level, path, &mut set)?;
            own
        }
        Shape::Set => {
            set.extend(items(Some(value)).iter().map(|item| (set_value(item), Value::Object(Set::new()))));
            own
        }
        Shape::Map => {
            if let Some(node) = node {
                name_items(node, items(Some(value)), path, &mut set)?;
            }
            own
        }
    };
    Ok(make(set, member))
}

fn name_members(
    node: Option<Ref<'_>>,
    value: &Value,
    level: Level<'_>,
    path: &mut String,
    set: &mut Set,
) -> Result<(), String> {
    for (name, value) in members(Some(value)) {
        let Some(level) = level.member(name) else { continue };
        let length = path.len();
        path.push('.');
        path.push_str(name);
        // A key of a map, unlike a field of a structure, is there only because someone put it there.
        let is_key = node.is_none_or(|node| node.field(name).is_none());
        let inner = node.and_then(|node| node.member(name));
        if let Some(below) = name_value(inner, value, level, path, is_key)? {
            set.insert(field(name), Value::Object(below));
        }
        path.truncate(length);
    }
    Ok(())
}

fn name_items(list: Ref<'_>, items: &[Value], path: &mut String, set: &mut Set) -> Result<(), String> {
    for (at, item) in items.iter().enumerate() {
        let key = list_key(list, item).map_err(|key| {
            format!(
                "{path}: element {at}: associative list with keys has an element that omits key field {key:?} (and \
                 doesn't have default value)"
            )
        })?;
        let below = name_value(list.item(), item, Level::Inner, path, true)?.unwrap_or_default();
        if set.contains_key(&key) {
            return Err(format!("{path}: duplicate entries for key {}", &key[2..]));
        }
        set.insert(key, Value::Object(below));
    }
    Ok(())
}
