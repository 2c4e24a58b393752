use serde_json::{Value, json};

use super::*;

fn found(document: &Value) -> Vec<String> {
    check(document, "s", false).iter().map(ToString::to_string).collect()
}

/// A document whose `spec.f` is `field`.
fn with(field: Value) -> Value {
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"f": field}}}})
}

#[test]
fn documents_of_the_right_form_pass() {
    for field in [
        json!({"type": "string", "default": "x", "enum": ["x"]}),
        json!({"x-kubernetes-int-or-string": true, "anyOf": [{"type": "integer"}, {"type": "string"}], "pattern": "^1"}),
        json!({"x-kubernetes-int-or-string": true,
            "allOf": [{"anyOf": [{"type": "integer"}, {"type": "string"}]}, {"pattern": "^1"}]}),
        json!({"x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
        json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
            "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "string"}}}}),
        json!({"type": "object", "properties": {"a": {"type": "string"}}, "oneOf": [{"required": ["a"]},
            {"properties": {"a": {"enum": ["b"]}}}]}),
        json!({"type": "object", "default": {"a": 1}, "properties": {"a": {"type": "integer"}}}),
    ] {
        assert_eq!(found(&with(field.clone())), [""; 0], "{field}");
    }
    let names = json!({"type": "object", "properties": {"metadata": {"type": "object",
        "properties": {"name": {"type": "string", "maxLength": 5}}}}});
    assert_eq!(found(&names), [""; 0]);
}

#[test]
fn each_rule_for_a_field_has_upstreams_message() {
    let cases: Vec<(Value, &str)> = vec![
        (json!({}), "type: Required value: must not be empty for specified object fields"),
        (
            json!({"type": "thing"}),
            r#"type: Unsupported value: "thing": supported values: "array", "boolean", "integer", "number", "object", "string""#,
        ),
        (json!({"type": "array"}), "items: Required value: must be specified"),
        (
            json!({"type": "array", "items": {}}),
            "items.type: Required value: must not be empty for specified array items",
        ),
        (json!({"type": "string", "$ref": "#/x"}), "$ref: Forbidden: $ref is not supported"),
        (
            json!({"type": "array", "items": {"type": "string"}, "uniqueItems": true}),
            "uniqueItems: Forbidden: uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": false}),
            "additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            json!({"type": "string", "anyOf": [{"type": "string"}]}),
            "anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            json!({"type": "string", "not": {"nullable": true, "default": "x"}}),
            "not.default: Forbidden: must be undefined to be structural",
        ),
        (
            json!({"type": "string", "x-kubernetes-preserve-unknown-fields": false}),
            "x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            json!({"x-kubernetes-int-or-string": true, "x-kubernetes-preserve-unknown-fields": true}),
            "x-kubernetes-preserve-unknown-fields: Invalid value: true: must be false if x-kubernetes-int-or-string is true",
        ),
        (
            json!({"type": "object", "x-kubernetes-embedded-resource": true}),
            "properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ),
        (
            json!({"type": "string", "x-kubernetes-list-type": "atomic"}),
            r#"type: Invalid value: "string": must be array if x-kubernetes-list-type is specified"#,
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-type": "bag"}),
            r#"x-kubernetes-list-type: Unsupported value: "bag": supported values: "atomic", "set", "map""#,
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-list-map-keys": ["a"]}),
            "x-kubernetes-list-type: Required value: must be map if x-kubernetes-list-map-keys is non-empty",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}}),
            "x-kubernetes-list-map-keys: Required value: must not be empty if x-kubernetes-list-type is map",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["a"],
                "items": {"type": "object", "properties": {"a": {"type": "string"}}}}),
            "items.properties[a].default: Required value: this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["b"],
                "items": {"type": "object", "properties": {"a": {"type": "string"}}}}),
            r#"x-kubernetes-list-map-keys: Invalid value: ["b"]: entries must all be names of item properties"#,
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}}),
            r#"items.x-kubernetes-map-type: Invalid value: "null": must be atomic as item of a list with x-kubernetes-list-type=set"#,
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string", "nullable": true}}),
            "items.nullable: Forbidden: cannot be nullable when x-kubernetes-list-type is set",
        ),
        (
            json!({"type": "object", "x-kubernetes-map-type": "loose"}),
            r#"x-kubernetes-map-type: Unsupported value: "loose": supported values: "atomic", "granular""#,
        ),
        (
            json!({"type": "integer", "default": "x"}),
            r#"default: Invalid value: "string":  in body must be of type integer: "string""#,
        ),
        (
            json!({"type": "object", "default": {"b": 1}, "properties": {"a": {"type": "integer"}}}),
            r#"default: Invalid value: {"b":1}: must not have unknown fields"#,
        ),
        (
            json!({"type": "object", "default": {"a": "x"}, "properties": {"a": {"type": "integer"}}}),
            r#"default.a: Invalid value: "string": a in body must be of type integer: "string""#,
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": " "}]}),
            "x-kubernetes-validations[0].rule: Required value: rule is not specified",
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "true\n&& true"}]}),
            "x-kubernetes-validations[0].message: Required value: message must be specified if rule contains line breaks",
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [{"rule": "true", "reason": "Odd"}]}),
            r#"x-kubernetes-validations[0].reason: Unsupported value: "Odd": supported values: "FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired""#,
        ),
        (
            json!({"type": "object", "x-kubernetes-validations": [{"rule": "true", "fieldPath": ".a"}]}),
            r#"x-kubernetes-validations[0].fieldPath: Invalid value: ".a": fieldPath must be a valid path"#,
        ),
    ];
    for (field, message) in cases {
        let found = found(&with(field.clone()));
        let wanted = format!("s.properties[spec].properties[f].{message}");
        assert!(found.contains(&wanted), "{field}\n{found:#?}\n{wanted}");
    }
    let found = found(&with(json!({"type": "string", "pattern": "("})));
    let message = r#"s.properties[spec].properties[f].pattern: Invalid value: "(": must be a valid regular expression, but isn't: error parsing regexp: missing closing ): `(`"#;
    assert_eq!(found[0], message);
}

#[test]
fn defaults_keep_to_the_rules_of_their_schema() {
    let at_least_two = json!([{"rule": "self >= 2", "message": "too few"}]);
    let cases: Vec<(Value, &[&str])> = vec![
        (json!({"type": "integer", "default": 2, "x-kubernetes-validations": at_least_two}), &[]),
        (
            json!({"type": "integer", "default": 1, "x-kubernetes-validations": at_least_two}),
            &[r#"default: Invalid value: "integer": too few"#],
        ),
        (
            json!({"type": "object", "default": {"a": 1, "b": [3, 1]}, "properties": {
                "a": {"type": "integer", "x-kubernetes-validations": at_least_two},
                "b": {"type": "array", "maxItems": 5, "items": {"type": "integer", "x-kubernetes-validations": at_least_two}}}}),
            &[r#"default.a: Invalid value: "integer": too few"#, r#"default.b[1]: Invalid value: "integer": too few"#],
        ),
        (
            json!({"type": "array", "maxItems": 5, "items": {"type": "integer", "default": 0, "x-kubernetes-validations": at_least_two}}),
            &[r#"items.default: Invalid value: "integer": too few"#],
        ),
        // a default is compared with itself where a rule is about changes
        (json!({"type": "integer", "default": 1, "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}), &[]),
        (
            json!({"type": "integer", "default": 1, "x-kubernetes-validations": [{"rule": "self > oldSelf"}]}),
            &[r#"default: Invalid value: "integer": failed rule: self > oldSelf"#],
        ),
    ];
    for (field, messages) in cases {
        let wanted: Vec<String> =
            messages.iter().map(|message| format!("s.properties[spec].properties[f].{message}")).collect();
        assert_eq!(found(&with(field.clone())), wanted, "{field}");
    }
}

#[test]
fn the_root_has_rules_of_its_own() {
    let cases: Vec<(Value, bool, &str)> = vec![
        (json!({}), false, "s.type: Required value: must not be empty at the root"),
        (json!({"type": "string"}), false, r#"s.type: Invalid value: "string": must be object at the root"#),
        (
            json!({"type": "object", "nullable": true}),
            false,
            "s.nullable: Forbidden: nullable cannot be true at the root",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            false,
            "s.additionalProperties: Forbidden: must not be used at the root",
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "required": ["name"]}}}),
            false,
            "s.properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ),
        (
            json!({"type": "object", "properties": {"kind": {"type": "integer"}}}),
            false,
            r#"s.properties[kind].type: Invalid value: "integer": must be string"#,
        ),
        (
            json!({"type": "object", "properties": {"kind": {"type": "string", "default": "x"}}}),
            false,
            "s.properties[kind].default: Forbidden: must not be set in top-level kind",
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"metadata": {"minProperties": 1}}}]}),
            false,
            "s.anyOf[0].properties[metadata]: Forbidden: must not be specified in a nested context",
        ),
        (
            json!({"type": "object", "allOf": [{"properties": {"b": {"minLength": 1}}}]}),
            false,
            "s.properties[b]: Required value: because it is defined in s.allOf[0].properties[b]",
        ),
        (
            json!({"type": "object", "minProperties": 1}),
            true,
            "s: Invalid value: \"minProperties\": only [Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations] fields are allowed at the root of the schema if the status subresource is enabled",
        ),
    ];
    for (document, has_status, message) in cases {
        let found: Vec<String> = check(&document, "s", has_status).iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|found| found == message), "{document}\n{found:#?}\n{message}");
    }
}
