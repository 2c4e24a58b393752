//! Defaults of custom resources.

use serde_json::Value;

use crate::types::{Kind, Ref, Schema};

/// Fills in the defaults that a CustomResourceDefinition declares. A `null` where the schema has a default and does not
/// allow `null` counts as absent. Built-in types have no defaults in their schema: their kinds' strategies set them.
pub fn default(schema: &Schema, object: &mut Value) {
    fill(schema.root(), object);
}

fn wanted(node: Ref<'_>) -> bool {
    node.node.below.defaults
}

fn fill(node: Ref<'_>, value: &mut Value) {
    match (node.node.kind, value) {
        (Kind::Struct { .. }, Value::Object(map)) => {
            for field in node.fields() {
                let inner = node.of_field(field);
                if !wanted(inner) {
                    continue;
                }
                let name = node.arena.str(field.name);
                let default = inner.rules().and_then(|rules| rules.default.as_ref());
                match (map.get_mut(name), default) {
                    (Some(value), Some(default)) if value.is_null() && !inner.node.nullable => *value = default.clone(),
                    (Some(_), _) => {}
                    (None, Some(default)) => {
                        map.insert(name.to_owned(), default.clone());
                    }
                    (None, None) => continue,
                }
                if let Some(value) = map.get_mut(name) {
                    fill(inner, value);
                }
            }
        }
        (Kind::Map { value: inner }, Value::Object(map)) if wanted(node.at(inner)) => {
            map.values_mut().for_each(|value| fill_element(node.at(inner), value));
        }
        (Kind::List { item, .. }, Value::Array(items)) if wanted(node.at(item)) => {
            items.iter_mut().for_each(|value| fill_element(node.at(item), value));
        }
        _ => {}
    }
}

/// Elements are there, so that only a `null` becomes their default.
fn fill_element(node: Ref<'_>, value: &mut Value) {
    if value.is_null()
        && !node.node.nullable
        && let Some(default) = node.rules().and_then(|rules| rules.default.as_ref())
    {
        *value = default.clone();
    }
    fill(node, value);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_fill_what_is_absent_at_every_level() {
        let schema = Schema::from_crd(Some(&json!({"type": "object", "properties": {"spec": {
            "type": "object",
            "default": {},
            "properties": {
                "a": {"type": "integer", "default": 1},
                "n": {"type": "string", "nullable": true, "default": "x"},
                "list": {"type": "array", "items": {"type": "object", "properties": {"p": {"type": "string", "default": "TCP"}}}},
                "map": {"type": "object", "additionalProperties": {
                    "type": "object", "properties": {"q": {"type": "boolean", "default": true}}}},
                "deep": {"type": "object", "properties": {"d": {"type": "integer", "default": 2}}},
            },
        }}})))
        .unwrap();
        let mut object = json!({});
        default(&schema, &mut object);
        assert_eq!(object, json!({"spec": {"a": 1, "n": "x"}}));
        let mut object =
            json!({"spec": {"a": null, "n": null, "list": [{}, {"p": "UDP"}], "map": {"k": {}}, "deep": {}}});
        default(&schema, &mut object);
        assert_eq!(
            object,
            json!({"spec": {"a": 1, "n": null, "list": [{"p": "TCP"}, {"p": "UDP"}], "map": {"k": {"q": true}}, "deep": {"d": 2}}})
        );
    }
}
