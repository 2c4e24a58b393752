use serde_json::{Value, json};

use super::*;
use crate::Schema;

fn messages(properties: Value, spec: Value) -> Vec<String> {
    let document = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": properties}}});
    let schema = Schema::from_crd(Some(&document)).unwrap();
    validate(&schema, &json!({"spec": spec})).iter().map(ToString::to_string).collect()
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
        (json!({"type": "string", "maxLength": 1}), json!("ab"), "spec.f: Too long: may not be more than 1 bytes"),
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
            "spec.f[k]: Invalid value: \"integer\": spec.f[k] in body must be of type boolean: \"integer\"",
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
            "spec.f: Invalid value: {}: \"spec.f\" must validate one and only one schema (oneOf). Found none valid",
        ),
    ];
    for (property, value, message) in cases {
        assert_eq!(messages(json!({"f": property}), json!({"f": value})), [message]);
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
    assert_eq!(messages(properties.clone(), json!({"port": true})).len(), 1);
    assert_eq!(messages(properties, json!({"f": 1.2})).len(), 1);
}

#[test]
fn malformed_schemas_are_refused() {
    let refused = |document: Value| Schema::from_crd(Some(&document)).unwrap_err().to_string();
    assert!(refused(json!({"type": "string", "pattern": "("})).starts_with("openAPIV3Schema.pattern: Invalid value"));
    assert_eq!(refused(json!({"type": "thing"})), "openAPIV3Schema.type: must be a JSON type");
    assert!(refused(json!({"type": "array", "x-kubernetes-list-type": "map"})).contains("x-kubernetes-list-map-keys"));
}
