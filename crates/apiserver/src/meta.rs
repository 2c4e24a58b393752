//! `metadata` of objects: what the server sets, and the small questions everybody asks.

use jiff::Timestamp;
use serde_json::{Map, Value, json};
pub(crate) use strategy::metadata::time;

/// `metadata.name`.
pub(crate) fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// `metadata.uid`.
pub(crate) fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// Whether the object's deletion has begun.
pub(crate) fn is_terminating(object: &Value) -> bool {
    object["metadata"]["deletionTimestamp"].is_string()
}

/// `metadata.finalizers`.
pub(crate) fn finalizers(object: &Value) -> &[Value] {
    object["metadata"]["finalizers"].as_array().map_or(&[], Vec::as_slice)
}

/// `metadata`, made when absent; also of what is no object yet.
pub(crate) fn of(object: &mut Value) -> &mut Map<String, Value> {
    map(map(object).entry("metadata").or_insert(Value::Null))
}

/// A value as a map, an empty one when it is anything else.
fn map(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut().expect("invariant: it was just made an object")
}

/// Fields of `metadata` that only the server writes.
const OWNED: [&str; 6] =
    ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "generation"];

/// Gives a new object its identity.
pub(crate) fn begin(object: &mut Value, now: Timestamp) {
    let metadata = of(object);
    for field in OWNED {
        metadata.remove(field);
    }
    metadata.remove("resourceVersion");
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), time(now).into());
}

/// Takes what only the server writes from the state before.
pub(crate) fn carry_over(new: &mut Value, old: &Value) {
    let metadata = of(new);
    for field in OWNED {
        match &old["metadata"][field] {
            Value::Null => metadata.remove(field),
            value => metadata.insert(field.into(), value.clone()),
        };
    }
    // a name the server once generated stays explained, also when the client leaves it out
    if let (None, Some(base)) = (metadata.get("generateName"), old["metadata"].get("generateName")) {
        metadata.insert("generateName".into(), base.clone());
    }
}

/// Drops empty values that Go's encoder would leave out.
pub(crate) fn tidy(object: &mut Value) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    metadata.retain(|_, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::String(text) => !text.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    });
}

/// Puts a condition into a status, in the place of the one of its type. It begins now, unless its status was the same.
pub(crate) fn put_condition(status: &mut Value, mut condition: Value, now: &str) {
    condition["lastTransitionTime"] = now.into();
    let Some(conditions) = status["conditions"].as_array_mut() else {
        status["conditions"] = Value::Array(vec![condition]);
        return;
    };
    let Some(known) = conditions.iter_mut().find(|known| known["type"] == condition["type"]) else {
        conditions.push(condition);
        return;
    };
    if known["status"] == condition["status"] && known["lastTransitionTime"].is_string() {
        condition["lastTransitionTime"] = known["lastTransitionTime"].take();
    }
    *known = condition;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_whole_seconds_in_utc() {
        let time_with_nanos = "2026-01-02T03:04:05.678+01:00".parse().unwrap();
        assert_eq!(time(time_with_nanos), "2026-01-02T02:04:05Z");
    }

    #[test]
    fn whatever_a_client_sends_has_metadata_to_write_to() {
        for mut odd in [json!([1]), json!("x"), Value::Null, json!({"metadata": ["a"]})] {
            of(&mut odd).insert("name".into(), "a".into());
            assert_eq!(odd, json!({"metadata": {"name": "a"}}));
        }
    }

    #[test]
    fn clients_cannot_choose_what_the_server_owns() {
        let mut object =
            json!({"metadata": {"name": "a", "uid": "mine", "deletionTimestamp": "x", "resourceVersion": "4"}});
        begin(&mut object, Timestamp::UNIX_EPOCH);
        assert_ne!(uid(&object), "mine");
        assert!(!is_terminating(&object));
        let old = object.clone();
        let mut new = json!({"metadata": {"name": "a", "uid": "other", "labels": {}}});
        carry_over(&mut new, &old);
        tidy(&mut new);
        assert_eq!(new["metadata"]["uid"], old["metadata"]["uid"]);
        assert!(new["metadata"].get("labels").is_none());
    }
}
