//! Cells that many kinds share.

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::duration::age;
use crate::tree::{list, map, text, text_at};

/// What stands where there is nothing.
pub(super) const NONE: &str = "<none>";
/// What stands for a field that nobody set.
pub(super) const UNSET: &str = "<unset>";
/// Most items that a cell lists before it counts the rest.
const ITEMS_MAX: usize = 3;

/// The object's name.
pub(super) fn name(object: &Value) -> Value {
    text_at(object, &["metadata", "name"]).into()
}

/// Time since the object's creation.
pub(super) fn created(object: &Value, now: Timestamp) -> Value {
    since(text_at(object, &["metadata", "creationTimestamp"]), now).into()
}

/// Time since an RFC 3339 instant, `<unknown>` when there is none.
pub(super) fn since(instant: &str, now: Timestamp) -> String {
    match instant.parse::<Timestamp>() {
        Ok(instant) => age(now.duration_since(instant).as_secs()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// `text`, or `<none>` when it is empty.
pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() { NONE.into() } else { text.into() }
}

/// The integer at `keys`, 0 when absent.
pub(super) fn count(object: &Value, keys: &[&str]) -> i64 {
    crate::tree::at(object, keys).and_then(Value::as_i64).unwrap_or(0)
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(labels: &Map<String, Value>) -> Value {
    let pairs: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    or_none(&pairs.join(","))
}

/// A label selector as kubectl takes it, or `<none>`.
pub(super) fn selector(selector: &Value) -> Value {
    let mut terms: Vec<(String, String)> = map(selector, "matchLabels")
        .iter()
        .map(|(key, value)| (key.clone(), format!("{key}={}", value.as_str().unwrap_or_default())))
        .collect();
    for expression in list(selector, "matchExpressions") {
        let key = text(expression, "key");
        let mut values: Vec<&str> = list(expression, "values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match text(expression, "operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        terms.push((key.to_owned(), term));
    }
    terms.sort();
    let terms: Vec<String> = terms.into_iter().map(|(_, term)| term).collect();
    or_none(&terms.join(","))
}

/// Names and images of the containers of a pod specification.
pub(super) fn containers(spec: Option<&Value>) -> [Value; 2] {
    let containers = spec.map_or(&[][..], |spec| list(spec, "containers"));
    ["name", "image"]
        .map(|key| containers.iter().map(|container| text(container, key)).collect::<Vec<_>>().join(",").into())
}

/// The first three items, and how many more there are; `nothing` when there are none.
pub(super) fn first_three(items: &[String], nothing: &str) -> String {
    if items.is_empty() {
        nothing.to_owned()
    } else if items.len() <= ITEMS_MAX {
        items.join(",")
    } else {
        format!("{} + {} more...", items[..ITEMS_MAX].join(","), items.len() - ITEMS_MAX)
    }
}

/// The status of the condition of type `kind`, empty when there is no such condition.
pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> &'a str {
    object
        .get("status")
        .map_or(&[][..], |status| list(status, "conditions"))
        .iter()
        .find(|condition| text(condition, "type") == kind)
        .map_or("", |condition| text(condition, "status"))
}

/// Whether the object is being deleted.
pub(super) fn is_going(object: &Value) -> bool {
    !text_at(object, &["metadata", "deletionTimestamp"]).is_empty()
}
