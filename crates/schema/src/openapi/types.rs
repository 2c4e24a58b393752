//! Types in the documents.

use std::collections::BTreeMap;

use kinds::Resource;
use serde_json::{Map, Value, json};

use super::{LIST_META, OBJECT_META, Version, type_name};
use crate::types::{Field, Kind, ListKind, Ref, builtin};

const GVK: &str = "x-kubernetes-group-version-kind";

pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// The definition of a built-in type; the types that it refers to are added to `wanted`.
pub(super) fn built_in(name: &str, version: Version, wanted: &mut Vec<String>) -> Option<Value> {
    let schema = builtin().get(name)?;
    let node = schema.root();
    let mut out = body(node, version, wanted);
    let kind = builtin().iter().find(|(other, _)| other.type_name() == name).map(|(_, kind)| kind);
    if let Some([group, version, kind]) = kind.map(|kind| kind.split('/').collect::<Vec<_>>()).as_deref() {
        out[GVK] = json!([gvk(group, version, kind)]);
    }
    let listed = kinds::builtin().iter().find(|row| name.strip_suffix("List") == Some(row.schema.as_str()));
    if let (Some(row), true) = (listed, out["properties"]["items"].is_object()) {
        out["properties"]["items"]["description"] = format!("List of {}", row.plural).into();
    }
    if node.node.atomic {
        out["x-kubernetes-map-type"] = Value::from("atomic");
    }
    Some(out)
}

/// A reference to a named type, else the type itself.
fn usage(node: Ref<'_>, version: Version, wanted: &mut Vec<String>) -> Value {
    let name = node.type_name();
    if name.is_empty() {
        return body(node, version, wanted);
    }
    wanted.push(name.to_owned());
    version.reference(name)
}

fn body(node: Ref<'_>, version: Version, wanted: &mut Vec<String>) -> Value {
    match node.node.kind {
        Kind::Any | Kind::ObjectOr { .. } | Kind::Link(_) => json!({}),
        Kind::AnyObject => json!({"type": "object"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::Int32 => json!({"type": "integer", "format": "int32"}),
        Kind::Int64 => json!({"type": "integer", "format": "int64"}),
        Kind::Double => json!({"type": "number", "format": "double"}),
        Kind::String => json!({"type": "string"}),
        Kind::Bytes => json!({"type": "string", "format": "byte"}),
        Kind::Time | Kind::MicroTime => json!({"type": "string", "format": "date-time"}),
        Kind::Quantity if version == Version::V2 => json!({"type": "string"}),
        Kind::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Kind::IntOrString if version == Version::V2 => json!({"type": "string", "format": "int-or-string"}),
        Kind::IntOrString => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
        Kind::Map { value } => {
            json!({"type": "object", "additionalProperties": usage(node.at(value), version, wanted)})
        }
        Kind::List { item, list } => {
            let mut out = json!({"type": "array", "items": usage(node.at(item), version, wanted)});
            out["x-kubernetes-list-type"] = Value::from(match list {
                ListKind::Atomic => "atomic",
                ListKind::Set => "set",
                ListKind::Map { .. } => "map",
            });
            if matches!(list, ListKind::Map { .. }) {
                out["x-kubernetes-list-map-keys"] = node.keys().map(Value::from).collect();
            }
            out
        }
        Kind::Struct { .. } => structure(node, version, wanted),
    }
}

fn structure(node: Ref<'_>, version: Version, wanted: &mut Vec<String>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in node.fields() {
        let name = node.arena.str(field.name);
        properties.insert(name.to_owned(), property(node, field, version, wanted));
        if field.required {
            required.push(Value::from(name));
        }
    }
    let mut out = json!({"type": "object"});
    if !properties.is_empty() {
        out["properties"] = Value::Object(properties);
    }
    if !required.is_empty() {
        out["required"] = Value::Array(required);
    }
    out
}

fn property(node: Ref<'_>, field: &Field, version: Version, wanted: &mut Vec<String>) -> Value {
    let mut extensions = Map::new();
    let rule = &field.patch;
    let strategies = [(rule.merge, "merge"), (rule.replace, "replace"), (rule.retain_keys, "retainKeys")];
    let strategies: Vec<&str> = strategies.into_iter().filter(|(set, _)| *set).map(|(_, name)| name).collect();
    if !strategies.is_empty() {
        extensions.insert("x-kubernetes-patch-strategy".to_owned(), Value::from(strategies.join(",")));
    }
    let key = node.arena.str(rule.key);
    if !key.is_empty() {
        extensions.insert("x-kubernetes-patch-merge-key".to_owned(), Value::from(key));
    }
    if let Some(atomic) = field.atomic {
        let kind = if atomic { "atomic" } else { "granular" };
        extensions.insert("x-kubernetes-map-type".to_owned(), Value::from(kind));
    }
    let mut out = usage(node.of_field(field), version, wanted);
    // Beside a reference v3 ignores everything else.
    if version == Version::V3 && !extensions.is_empty() && out.get("$ref").is_some() {
        out = json!({"allOf": [out]});
    }
    if let Value::Object(map) = &mut out {
        map.extend(extensions);
    }
    out
}

/// The definitions of a custom resource and its list.
pub(super) fn custom(resource: &Resource, document: &Value, version: Version, schemas: &mut BTreeMap<String, Value>) {
    let name = type_name(resource);
    let kind = |kind: &str| json!([gvk(&resource.group, &resource.version, kind)]);
    let open = |schema: &Value| schema["x-kubernetes-preserve-unknown-fields"] == true;
    // readers of v2 take fields that are named for all there are, so that an open type must not name any
    let bare = !document.is_object() || (version == Version::V2 && open(document));
    let mut object = if bare { json!({"type": "object"}) } else { document.clone() };
    if version == Version::V2 {
        reduce(&mut object);
    }
    if !bare {
        embed(&mut object, version);
        let properties = object.as_object_mut().map(|map| map.entry("properties").or_insert_with(|| json!({})));
        if let Some(properties) = properties.and_then(Value::as_object_mut) {
            head(properties, version);
        }
    }
    object[GVK] = kind(&resource.kind);
    let list = json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": version.reference(LIST_META),
            "items": {"type": "array", "items": version.reference(&name)},
        },
        GVK: kind(&resource.list_kind),
    });
    schemas.insert(format!("{name}List"), list);
    schemas.insert(name, object);
}

/// The fields that every object has.
fn head(properties: &mut Map<String, Value>, version: Version) {
    properties.entry("apiVersion").or_insert_with(|| json!({"type": "string"}));
    properties.entry("kind").or_insert_with(|| json!({"type": "string"}));
    properties.insert("metadata".to_owned(), version.reference(OBJECT_META));
}

/// Gives objects embedded in others the fields that every object has.
fn embed(schema: &mut Value, version: Version) {
    let Value::Object(map) = schema else { return };
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = map.get_mut(below) {
            embed(schema, version);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(|property| embed(property, version));
    }
    let is = |name: &str| map.get(name) == Some(&Value::Bool(true));
    if !is("x-kubernetes-embedded-resource") || (version == Version::V2 && is("x-kubernetes-preserve-unknown-fields")) {
        return;
    }
    if let Some(properties) = map.entry("properties").or_insert_with(|| json!({})).as_object_mut() {
        head(properties, version);
    }
    if let Some(required) = map.entry("required").or_insert_with(|| json!([])).as_array_mut() {
        for name in ["kind", "apiVersion"].map(Value::from) {
            if !required.contains(&name) {
                required.push(name);
            }
        }
    }
}

/// Takes away what v2 does not know, and what its readers misunderstand: a type that may be null or anything has neither
/// type nor parts.
fn reduce(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for unknown in ["allOf", "anyOf", "oneOf", "not"] {
        map.remove(unknown);
    }
    let nullable = map.remove("nullable") == Some(Value::Bool(true));
    let open = map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true));
    if nullable || open {
        map.remove("items");
        map.remove("properties");
    }
    let is_list = map.get("type").is_some_and(|kind| kind == "array");
    let is_open_object = open && map.get("type").is_some_and(|kind| kind == "object");
    if nullable || is_open_object || (is_list && !map.contains_key("items")) {
        map.remove("type");
    }
    let may_be_null: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, property)| property["nullable"] == true)
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !may_be_null.iter().any(|null| name == null.as_str()));
        if required.is_empty() {
            map.remove("required");
        }
    }
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = map.get_mut(below) {
            reduce(schema);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(reduce);
    }
}
