//! The part of a stored object that field selectors read, without the rest.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::status::ApiError;

/// `spec` and `spec.nodeName`.
const OUTLINE_LEVELS: usize = 2;

/// The outline of an object: its members and the members of those, without the lists and objects further in. All that
/// field selectors of built-in kinds read lies there, and making it costs a fraction of the whole tree.
pub(crate) fn of(stored: &[u8]) -> Result<Value, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(stored);
    let outline = Outline { levels: OUTLINE_LEVELS }.deserialize(&mut deserializer);
    outline.map_err(unreadable)
}

fn unreadable(error: serde_json::Error) -> ApiError {
    ApiError::internal(format!("decoding a stored object: {error}"))
}

/// The outline with the whole metadata but for who owns which field: what most deletions are decided by.
pub(crate) fn of_deletion(stored: &[u8]) -> Result<Value, ApiError> {
    let mut outline = of(stored)?;
    if let Some(place) = splice::find(stored, &["metadata"]) {
        let mut deserializer = serde_json::Deserializer::from_slice(&stored[place]);
        outline["metadata"] = Unowned.deserialize(&mut deserializer).map_err(unreadable)?;
    }
    Ok(outline)
}

/// Reads an object without the managed fields in it.
struct Unowned;

impl<'de> DeserializeSeed<'de> for Unowned {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Unowned {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if name == "managedFields" {
                members.next_value::<IgnoredAny>()?;
            } else {
                map.insert(name, members.next_value()?);
            }
        }
        Ok(Value::Object(map))
    }
}

/// Reads a value of which only so many levels of objects are wanted.
struct Outline {
    levels: usize,
}

impl<'de> DeserializeSeed<'de> for Outline {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Outline {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        let Some(levels) = self.levels.checked_sub(1) else {
            while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            return Ok(Value::Null);
        };
        while let Some(name) = members.next_key::<String>()? {
            map.insert(name, members.next_value_seed(Self { levels })?);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_outline_has_two_levels_and_no_lists() {
        let object = json!({"kind": "Pod", "spec": {"nodeName": "n", "hostNetwork": true, "containers": [{"name": "c"}],
            "securityContext": {"runAsUser": 1}, "x": null, "n": [-1, 1.5]}, "items": ["a"]});
        let outline = of(object.to_string().as_bytes()).unwrap();
        assert_eq!(
            outline,
            json!({"kind": "Pod", "spec": {"nodeName": "n", "hostNetwork": true, "containers": null,
                "securityContext": null, "x": null, "n": null}, "items": null})
        );
    }
    #[test]
    fn what_a_deletion_is_decided_by_is_there() {
        let metadata = json!({"name": "p", "uid": "u", "finalizers": ["a/b"], "annotations": {"x": "y"},
            "ownerReferences": [{"uid": "o"}], "deletionGracePeriodSeconds": 30});
        let spec = json!({"nodeName": "n", "terminationGracePeriodSeconds": 5, "containers": [{"name": "c"}]});
        let mut pod = json!({"metadata": metadata, "spec": spec, "status": {"phase": "Running", "conditions": []}});
        pod["metadata"]["managedFields"] = json!([{"manager": "m", "fieldsV1": {"f:metadata": {}}}]);
        let outline = of_deletion(pod.to_string().as_bytes()).unwrap();
        assert_eq!(outline["metadata"], metadata);
        assert_eq!(outline["spec"], json!({"nodeName": "n", "terminationGracePeriodSeconds": 5, "containers": null}));
        assert_eq!(outline["status"]["phase"], "Running");
        assert!(of_deletion(b"{\"metadata\": 7}").is_err());
    }
}
