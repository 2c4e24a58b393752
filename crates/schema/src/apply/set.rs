//! Sets of field paths in the form in which objects store them.
//!
//! `FieldsV1` is already a trie: an object whose keys are path elements (`f:` field, `k:` list key, `v:` set value,
//! `i:` index). An empty node is a member, a node with children is one when it holds `"."`. The set operations work on
//! that form, so that tracking an update converts nothing.

use std::fmt::Write as _;

use serde::de::IgnoredAny;
use serde_json::{Map, Value};

/// Objects nest no deeper than the decoder allows; deeper sets cannot name anything.
const MAX_DEPTH: usize = 128;

const SELF: &str = ".";

/// A set of field paths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FieldSet(pub(super) Map<String, Value>);

/// The JSON is no `FieldsV1`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldSetError {
    /// A key that is no path element.
    #[error("invalid path element {0:?} in fieldsV1")]
    Element(String),
    /// A value that is no object.
    #[error("fieldsV1 must consist of objects, found {0}")]
    Form(String),
    /// Nested more deeply than objects can be.
    #[error("fieldsV1 is nested more than {MAX_DEPTH} levels deep")]
    Depth,
}

impl FieldSet {
    /// Reads `FieldsV1`.
    pub fn parse(value: &Value) -> Result<Self, FieldSetError> {
        check(value, 0)?;
        Ok(Self(value.as_object().cloned().unwrap_or_default()))
    }

    /// The `FieldsV1` form.
    pub fn to_value(&self) -> Value {
        Value::Object(self.0.clone())
    }

    /// Whether no path is in the set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the paths of another set.
    pub fn union(&mut self, other: &Self) {
        union(&mut self.0, &other.0);
    }

    /// Takes away the paths of another set.
    pub fn subtract(&mut self, other: &Self) {
        subtract(&mut self.0, &other.0);
    }

    /// The paths in both sets.
    pub fn intersection(&self, other: &Self) -> Self {
        Self(intersection(&self.0, &other.0))
    }

    /// Every path as messages print it: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        collect(&self.0, &mut String::new(), &mut paths);
        paths
    }
}

/// Whether a value is `FieldsV1`.
pub(super) fn check(value: &Value, depth: usize) -> Result<(), FieldSetError> {
    if depth > MAX_DEPTH {
        return Err(FieldSetError::Depth);
    }
    let map = value.as_object().ok_or_else(|| FieldSetError::Form(value.to_string()))?;
    for (element, value) in map {
        let known = match element.split_once(':') {
            Some(("f", _)) => true,
            Some(("k", keys)) => keys.trim_start().starts_with('{') && is_json(keys),
            Some(("v", value)) => is_json(value),
            Some(("i", index)) => index.parse::<u32>().is_ok(),
            _ => element == SELF,
        };
        if !known {
            return Err(FieldSetError::Element(element.clone()));
        }
        check(value, depth + 1)?;
    }
    Ok(())
}

fn is_json(text: &str) -> bool {
    serde_json::from_str::<IgnoredAny>(text).is_ok()
}

fn node(value: &Value) -> Option<&Map<String, Value>> {
    value.as_object()
}

pub(super) fn is_member(node: &Map<String, Value>) -> bool {
    node.is_empty() || node.contains_key(SELF)
}

/// The children of a node, without the node itself.
pub(super) fn below(mut node: Map<String, Value>) -> Map<String, Value> {
    node.remove(SELF);
    node
}

/// Makes a node of children and membership; nothing when it would hold no path.
pub(super) fn make(mut children: Map<String, Value>, member: bool) -> Option<Map<String, Value>> {
    match (children.is_empty(), member) {
        (true, false) => None,
        (false, true) => {
            children.insert(SELF.to_owned(), Value::Object(Map::new()));
            Some(children)
        }
        _ => Some(children),
    }
}

/// Keeps what lies at or below one of the paths, whose names are fields and whose `*` is any element of a list. No path
/// at all keeps everything.
pub(super) fn limit(set: &mut Map<String, Value>, only: &[&str]) {
    if only.is_empty() {
        return;
    }
    set.retain(|element, below| {
        let mut inner = Vec::new();
        for path in only {
            let (name, rest) = path.split_once('.').unwrap_or((path, ""));
            let fits = match element.strip_prefix("f:") {
                Some(field) => field == name,
                None => name == "*" && element != SELF,
            };
            match (fits, rest) {
                (true, "") => return true,
                (true, rest) => inner.push(rest),
                _ => {}
            }
        }
        let Some(below) = below.as_object_mut().filter(|_| !inner.is_empty()) else { return false };
        limit(below, &inner);
        !below.is_empty()
    });
}

pub(super) fn union(into: &mut Map<String, Value>, other: &Map<String, Value>) {
    for (element, theirs) in other {
        match (into.get_mut(element), theirs) {
            (None, _) => {
                into.insert(element.clone(), theirs.clone());
            }
            (Some(Value::Object(ours)), Value::Object(theirs)) if element != SELF => {
                let member = is_member(ours) || is_member(theirs);
                union(ours, theirs);
                ours.remove(SELF);
                if let Some(whole) = make(std::mem::take(ours), member) {
                    *ours = whole;
                }
            }
            _ => {}
        }
    }
}

pub(super) fn subtract(from: &mut Map<String, Value>, other: &Map<String, Value>) {
    if other.is_empty() {
        return;
    }
    from.retain(|element, ours| {
        let (Value::Object(ours), Some(theirs)) = (ours, other.get(element).and_then(node)) else { return true };
        if element == SELF {
            return false;
        }
        let member = is_member(ours) && !is_member(theirs);
        ours.remove(SELF);
        subtract(ours, theirs);
        match make(std::mem::take(ours), member) {
            Some(whole) => {
                *ours = whole;
                true
            }
            None => false,
        }
    });
}

pub(super) fn intersection(a: &Map<String, Value>, b: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    for (element, ours) in a {
        let (Some(ours), Some(theirs)) = (node(ours), b.get(element).and_then(node)) else { continue };
        if element == SELF {
            continue;
        }
        let member = is_member(ours) && is_member(theirs);
        if let Some(whole) = make(intersection(ours, theirs), member) {
            out.insert(element.clone(), Value::Object(whole));
        }
    }
    out
}

fn collect(map: &Map<String, Value>, path: &mut String, paths: &mut Vec<String>) {
    for (element, below) in map {
        let Some(below) = node(below) else { continue };
        if element == SELF {
            continue;
        }
        let length = path.len();
        print_element(element, path);
        if is_member(below) {
            paths.push(path.clone());
        }
        collect(below, path, paths);
        path.truncate(length);
    }
}

fn print_element(element: &str, out: &mut String) {
    // Writing into a string cannot fail.
    let _ = match element.split_once(':') {
        Some(("f", name)) => write!(out, ".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            write!(out, "[{}]", keys.join(","))
        }
        Some(("v", value)) => write!(out, "[={value}]"),
        Some(("i", index)) => write!(out, "[{index}]"),
        _ => write!(out, ".{element}"),
    };
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn sets() -> impl Strategy<Value = FieldSet> {
        let element = prop_oneof![
            "[a-c]".prop_map(|name| format!("f:{name}")),
            "[a-b]".prop_map(|name| format!("k:{{\"name\":\"{name}\"}}")),
            "[a-b]".prop_map(|name| format!("v:\"{name}\"")),
        ];
        let leaf = Just(Map::new());
        let node = leaf.prop_recursive(3, 16, 3, move |inner| {
            (proptest::collection::vec((element.clone(), inner), 1..4), any::<bool>()).prop_map(|(children, member)| {
                let children = children.into_iter().map(|(name, below)| (name, Value::Object(below))).collect();
                make(children, member).unwrap_or_default()
            })
        });
        node.prop_map(|mut map| {
            map.remove(SELF);
            FieldSet(map)
        })
    }

    fn joined(a: &FieldSet, b: &FieldSet) -> FieldSet {
        let mut out = a.clone();
        out.union(b);
        out
    }

    fn without(a: &FieldSet, b: &FieldSet) -> FieldSet {
        let mut out = a.clone();
        out.subtract(b);
        out
    }

    proptest! {
        #[test]
        fn sets_print_what_they_parse(set in sets()) {
            prop_assert_eq!(FieldSet::parse(&set.to_value()).unwrap(), set);
        }

        #[test]
        fn operations_obey_the_laws_of_sets(a in sets(), b in sets()) {
            prop_assert_eq!(joined(&a, &b), joined(&b, &a));
            prop_assert_eq!(joined(&a, &a), a.clone());
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert_eq!(without(&a, &a), FieldSet::default());
            prop_assert!(without(&a, &b).intersection(&b).is_empty());
            prop_assert_eq!(joined(&without(&a, &b), &a.intersection(&b)), a.clone());
            let mut all: Vec<String> = [a.paths(), b.paths()].concat();
            all.sort();
            all.dedup();
            let mut union = joined(&a, &b).paths();
            union.sort();
            prop_assert_eq!(union, all);
        }
    }

    #[test]
    fn paths_print_as_upstream_prints_them() {
        let set = FieldSet::parse(&json!({"f:spec": {
            "f:replicas": {},
            "f:containers": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:image": {}}},
            "f:finalizers": {"v:\"x\"": {}},
        }}))
        .unwrap();
        let mut paths = set.paths();
        paths.sort();
        let port = "[containerPort=80,protocol=\"TCP\"]";
        assert_eq!(
            paths,
            [
                format!(".spec.containers{port}"),
                format!(".spec.containers{port}.image"),
                ".spec.finalizers[=\"x\"]".to_owned(),
                ".spec.replicas".to_owned(),
            ]
        );
    }

    #[test]
    fn malformed_sets_are_refused() {
        for bad in [json!([]), json!({"x": {}}), json!({"f:a": 1}), json!({"k:{": {}}), json!({"i:x": {}})] {
            assert!(FieldSet::parse(&bad).is_err(), "{bad}");
        }
    }
}
