use serde_json::{Value, json};

use super::*;
use crate::Schema;

fn messages(properties: Value, spec: Value) -> Vec<String> {
    let document = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}});
    let schema = Schema::from_crd(Some(&document)).unwrap();
    validate(&schema, &json!({"spec": spec}), None).iter().map(ToString::to_string).collect()
}

#[test]
fn each_rule_has_upstreams_message() {
    let cases = [
        (
            json!({"type": "integer"}),
            json!("x"),
            "spec.f: Invalid value: \"string\": spec.f in body must be of type integer: \"string\"",
        ),
        (
            json!({"type": "string", "enum": ["a", "b"]}),
            json!("c"),
            "spec.f: Unsupported value: \"c\": supported values: \"a\", \"b\"",
        ),
        (
            json!({"type": "integer", "maximum": 3}),
            json!(5),
            "spec.f: Invalid value: 5: spec.f in body should be less than or equal to 3",
        ),
        (
            json!({"type": "integer", "minimum": 3, "exclusiveMinimum": true}),
            json!(3),
            "spec.f: Invalid value: 3: spec.f in body should be greater than 3",
        ),
        (
            json!({"type": "string", "pattern": "^a+$"}),
            json!("b"),
            "spec.f: Invalid value: \"b\": spec.f in body should match '^a+$'",
        ),
        (
            json!({"type": "string", "minLength": 1}),
            json!(""),
            "spec.f: Invalid value: \"\": spec.f in body should be at least 1 chars long",
        ),
        (json!({"type": "string", "maxLength": 1}), json!("ab"), "spec.f: Too long: may not be more than 1 byte"),
        (
            json!({"type": "array", "items": {"type": "string"}, "maxItems": 1}),
            json!(["a", "b"]),
            "spec.f: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "set"}),
            json!(["a", "a"]),
            "spec.f[1]: Duplicate value: \"a\"",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
                "items": {"type": "object", "properties": {"n": {"type": "string"}, "v": {"type": "string"}}}}),
            json!([{"n": "a", "v": "1"}, {"n": "a", "v": "2"}]),
            "spec.f[1]: Duplicate value: {\"n\":\"a\"}",
        ),
        (json!({"type": "object", "required": ["a"]}), json!({}), "spec.f.a: Required value"),
        (
            json!({"type": "object", "additionalProperties": {"type": "boolean"}}),
            json!({"k": 1}),
            "spec.f.k: Invalid value: \"integer\": spec.f.k in body must be of type boolean: \"integer\"",
        ),
        (
            json!({"type": "string", "format": "ipv4"}),
            json!("x"),
            "spec.f: Invalid value: \"x\": spec.f in body must be of type ipv4: \"x\"",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}]}),
            json!({}),
            "<nil>: Invalid value: \"\": \"spec.f\" must validate one and only one schema (oneOf). Found none valid",
        ),
        (
            json!({"type": "integer"}),
            json!(null),
            "spec.f: Invalid value: \"null\": spec.f in body must be of type integer: \"null\"",
        ),
        (
            json!({"type": "string", "format": "date"}),
            json!(1),
            "spec.f: Invalid value: \"int64\": spec.f in body must be of type date: \"int64\"",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": 1}),
            json!({"a": "", "b": ""}),
            "spec.f: Too many: 2: must have at most 1 item",
        ),
        (
            json!({"type": "string", "not": {"enum": ["a"]}}),
            json!("a"),
            "<nil>: Invalid value: \"\": \"spec.f\" must not validate the schema (not)",
        ),
        (
            json!({"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}),
            json!([{}, {"a": 1}]),
            "spec.f[1].a: Invalid value: \"integer\": spec.f[1].a in body must be of type string: \"integer\"",
        ),
    ];
    for (property, value, message) in cases {
        let found = messages(json!({"f": property}), json!({"f": value}));
        assert_eq!(found.first().map(String::as_str), Some(message), "{found:?}");
    }
}

#[test]
fn valid_objects_pass() {
    let properties = json!({
        "port": {"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}]},
        "n": {"type": "string", "nullable": true},
        "f": {"type": "number", "multipleOf": 0.5},
        "free": {"x-kubernetes-preserve-unknown-fields": true},
    });
    for spec in [json!({"port": 1}), json!({"port": "http"}), json!({"n": null}), json!({"f": 1.5, "free": [{"a": 1}]})]
    {
        assert_eq!(messages(properties.clone(), spec), [""; 0]);
    }
    assert!(!messages(properties.clone(), json!({"port": true})).is_empty());
    assert_eq!(messages(properties, json!({"f": 1.2})).len(), 1);
}

#[test]
fn malformed_schemas_are_refused() {
    let refused = |document: Value| Schema::from_crd(Some(&document)).unwrap_err().to_string();
    assert!(refused(json!({"type": "string", "pattern": "("})).starts_with("openAPIV3Schema.pattern: Invalid value"));
    assert_eq!(refused(json!({"type": "thing"})), "openAPIV3Schema.type: must be a JSON type");
    assert!(refused(json!({"type": "array", "x-kubernetes-list-type": "map"})).contains("x-kubernetes-list-map-keys"));
}

#[test]
fn what_did_not_change_is_not_held_against_an_update() {
    let document = json!({"type": "object", "properties": {
        "a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "properties": {"n": {"type": "string"}, "v": {"type": "string", "maxLength": 1}}}},
        "plain": {"type": "array", "items": {"type": "string", "maxLength": 1}},
        "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
    }});
    let schema = Schema::from_crd(Some(&document)).unwrap();
    let old = json!({"a": "long", "b": "x", "list": [{"n": "1", "v": "long"}, {"n": "2"}], "plain": ["long", "x"],
        "set": ["a", "a"]});
    let paths = |new: &Value| -> Vec<String> {
        validate(&schema, new, Some(&old)).into_iter().map(|error| error.path).collect()
    };
    assert_eq!(validate(&schema, &old, None).len(), 4);
    assert_eq!(paths(&old), [""; 0]);
    let mut new = old.clone();
    new["b"] = "other".into();
    assert_eq!(paths(&new), ["b"]);
    let mut new = old.clone();
    new["list"] = json!([{"n": "2", "v": "more"}, {"n": "1", "v": "long"}]);
    assert_eq!(paths(&new), ["list[0].v"]);
    let mut new = old.clone();
    new["plain"] = json!(["long", "y"]);
    assert_eq!(paths(&new), ["plain[0]"]);
    let mut new = old.clone();
    new["set"] = json!(["a", "a", "b"]);
    assert_eq!(paths(&new), [""; 0]);
}

#[test]
fn the_names_of_objects_may_be_restricted() {
    let document = json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {
        "name": {"type": "string", "pattern": "^a"}}}}});
    let schema = Schema::from_crd(Some(&document)).unwrap();
    let found = |name: &str| validate(&schema, &json!({"metadata": {"name": name}}), None);
    assert!(found("ab").is_empty());
    assert_eq!(
        found("b")[0].to_string(),
        "metadata.name: Invalid value: \"b\": metadata.name in body should match '^a'"
    );
}

#[test]
fn embedded_resources_are_found() {
    let document = json!({"type": "object", "properties": {"list": {"type": "array", "items": {"type": "object",
        "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}});
    let schema = Schema::from_crd(Some(&document)).unwrap();
    let object = json!({"list": [{"kind": "A"}, {}]});
    let found: Vec<String> = embedded(&schema, &object).into_iter().map(|found| found.path).collect();
    assert_eq!(found, ["list[0]", "list[1]"]);
}
