use serde_json::{Value, json};

use super::*;

fn rules(document: &Value) -> ValidationRules {
    assert_eq!(check(document, "s").iter().map(ToString::to_string).collect::<Vec<_>>(), [""; 0]);
    compile(document).unwrap()
}

fn with(field: Value) -> Value {
    json!({"type": "object", "properties": {"f": field}})
}

/// What the rules of `field` say to `value`.
fn found(field: Value, value: Value, old: Option<Value>) -> Vec<String> {
    let old = old.map(|old| json!({"f": old}));
    let outcome = rules(&with(field)).validate(&json!({"f": value}), old.as_ref());
    outcome.errors.iter().map(ToString::to_string).collect()
}

#[test]
fn rules_see_values_as_their_schema_declares_them() {
    let holds: Vec<(Value, Value)> = vec![
        (json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1"}]}), json!(2)),
        (json!({"type": "number", "x-kubernetes-validations": [{"rule": "self > 1.5"}]}), json!(2)),
        (json!({"type": "string", "x-kubernetes-validations": [{"rule": "self.startsWith('a')"}]}), json!("ab")),
        (
            json!({"type": "string", "format": "date-time", "x-kubernetes-validations": [{"rule": "self > timestamp('2020-01-01T00:00:00Z')"}]}),
            json!("2021-01-01T00:00:00Z"),
        ),
        (
            json!({"type": "string", "format": "duration", "x-kubernetes-validations": [{"rule": "self < duration('2h')"}]}),
            json!("1h"),
        ),
        (
            json!({"type": "string", "format": "byte", "x-kubernetes-validations": [{"rule": "size(self) == 2"}]}),
            json!("aGk="),
        ),
        (
            json!({"x-kubernetes-int-or-string": true, "x-kubernetes-validations": [{"rule": "type(self) == int ? self > 1 : self == '50%'"}]}),
            json!("50%"),
        ),
        (
            json!({"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 9}, "x-kubernetes-validations": [
                {"rule": "self.all(x, x.size() > 0) && self.exists_one(x, x == 'a')"}]}),
            json!(["a", "b"]),
        ),
        (
            json!({"type": "object", "maxProperties": 5, "additionalProperties": {"type": "integer"}, "x-kubernetes-validations": [
                {"rule": "self.all(k, self[k] > 0) && 'a' in self"}]}),
            json!({"a": 1}),
        ),
        (
            json!({"type": "object", "properties": {"a-b": {"type": "integer"}, "a.b": {"type": "integer"}, "in": {"type": "integer"},
                "x__y": {"type": "integer"}, "c/d": {"type": "integer"}},
                "x-kubernetes-validations": [{"rule": "self.a__dash__b + self.a__dot__b + self.__in__ + self.x__underscores__y + self.c__slash__d == 15"}]}),
            json!({"a-b": 1, "a.b": 2, "in": 3, "x__y": 4, "c/d": 5}),
        ),
        (
            json!({"type": "object", "properties": {"a": {"type": "string"}}, "x-kubernetes-validations": [
                {"rule": "!has(self.a) || self.a == 'x'"}]}),
            json!({}),
        ),
        (
            json!({"type": "string", "x-kubernetes-validations": [
                {"rule": "quantity(self).isLessThan(quantity('2Gi')) && isQuantity(self) && quantity(self).add(1).sign() == 1"}]}),
            json!("1500Mi"),
        ),
        (
            json!({"type": "string", "maxLength": 63, "x-kubernetes-validations": [{"rule": "!format.dns1123Label().validate(self).hasValue()"}]}),
            json!("a-b"),
        ),
        (
            json!({"type": "string", "maxLength": 63, "x-kubernetes-validations": [
                {"rule": "format.named('uuid').value().validate(self).value() == ['does not match the UUID format']"}]}),
            json!("x"),
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string", "maxLength": 5}, "maxItems": 3,
                "x-kubernetes-validations": [{"rule": "self == ['b', 'a']"}]}),
            json!(["a", "b"]),
        ),
    ];
    for (field, value) in holds {
        assert_eq!(found(field.clone(), value, None), [""; 0], "{field}");
    }
}

#[test]
fn broken_rules_are_reported_as_upstream_does() {
    let spec = |rules: Value| json!({"type": "object", "properties": {"n": {"type": "integer"}}, "x-kubernetes-validations": rules});
    let cases: Vec<(Value, &str)> = vec![
        (json!([{"rule": "self.n > 5"}]), "f: Invalid value: \"object\": failed rule: self.n > 5"),
        (
            json!([{"rule": "self.n > 5", "message": " more than five "}]),
            "f: Invalid value: \"object\": more than five",
        ),
        (
            json!([{"rule": "self.n > 5", "messageExpression": "'not %d'.format([self.n])"}]),
            "f: Invalid value: \"object\": not 1",
        ),
        (
            json!([{"rule": "self.n > 5", "message": "m", "messageExpression": "'a\\nb'"}]),
            "f: Invalid value: \"object\": m",
        ),
        (json!([{"rule": "self.n > 5", "fieldPath": ".n"}]), "f.n: Invalid value: \"object\": failed rule: self.n > 5"),
        (json!([{"rule": "self.n > 5", "reason": "FieldValueRequired", "message": "m"}]), "f: Required value: m"),
        (json!([{"rule": "self.n > 5", "reason": "FieldValueDuplicate"}]), "f: Duplicate value: \"object\""),
        (
            json!([{"rule": "1 / (self.n - 1) > 5"}]),
            "f: Invalid value: \"object\": division by zero evaluating rule: 1 / (self.n - 1) > 5",
        ),
    ];
    for (rules, message) in cases {
        assert_eq!(found(spec(rules.clone()), json!({"n": 1}), None), [message], "{rules}");
    }
    let root = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self.metadata.name == 'a'"}]});
    let outcome = rules(&root).validate(&json!({"metadata": {"name": "b"}}), None);
    let message = "<nil>: Invalid value: \"object\": failed rule: self.metadata.name == 'a'";
    assert_eq!(outcome.errors[0].to_string(), message);
    let list = json!({"type": "array", "maxItems": 3, "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 1"}]}});
    assert_eq!(found(list, json!([2, 1]), None), ["f[1]: Invalid value: \"integer\": failed rule: self > 1"]);
    let map = json!({"type": "object", "maxProperties": 3, "additionalProperties": {"type": "integer",
        "x-kubernetes-validations": [{"rule": "self > 1"}]}});
    assert_eq!(found(map, json!({"k": 1}), None), ["f[k]: Invalid value: \"integer\": failed rule: self > 1"]);
}

#[test]
fn transition_rules_run_where_there_is_a_state_before() {
    let grows = json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]});
    assert_eq!(found(grows.clone(), json!(1), None), [""; 0]);
    assert_eq!(found(grows.clone(), json!(2), Some(json!(1))), [""; 0]);
    assert_eq!(found(grows, json!(1), Some(json!(2))).len(), 1);
    let optional = json!({"type": "integer", "x-kubernetes-validations": [
        {"rule": "oldSelf.hasValue() ? self >= oldSelf.value() : self == 1", "optionalOldSelf": true}]});
    assert_eq!(found(optional.clone(), json!(1), None), [""; 0]);
    assert_eq!(found(optional.clone(), json!(3), None).len(), 1);
    assert_eq!(found(optional, json!(3), Some(json!(2))), [""; 0]);
    let keyed = json!({"type": "array", "maxItems": 9, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "maxLength": 5},
            "v": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}});
    let old = json!([{"k": "a", "v": 1}, {"k": "b", "v": 5}]);
    assert_eq!(
        found(keyed, json!([{"k": "b", "v": 4}, {"k": "a", "v": 2}, {"k": "c", "v": 0}]), Some(old)),
        ["f[0].v: Invalid value: \"integer\": failed rule: self >= oldSelf"]
    );
}

#[test]
fn what_did_not_change_is_forgiven_with_a_warning() {
    let document = json!({"type": "object", "properties": {
        "a": {"type": "object", "properties": {"n": {"type": "integer"}}, "x-kubernetes-validations": [{"rule": "self.n > 5"}]},
        "b": {"type": "integer"}}});
    let (old, new) = (json!({"a": {"n": 1}, "b": 1}), json!({"a": {"n": 1}, "b": 2}));
    let outcome = rules(&document).validate(&new, Some(&old));
    assert_eq!((outcome.errors.len(), outcome.forgiven.len()), (0, 1));
    let outcome = rules(&document).validate(&json!({"a": {"n": 2}}), Some(&old));
    assert_eq!((outcome.errors.len(), outcome.forgiven.len()), (1, 0));
}

#[test]
fn rules_that_cannot_be_stored_are_refused_with_upstreams_reasons() {
    let cases: Vec<(Value, &str)> = vec![
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self.x"}]}),
            "compilation failed: ERROR: <input>:1:5: type 'int' does not support field selection",
        ),
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self + 1"}]}),
            "x-kubernetes-validations[0].rule: Invalid value: {\"rule\":\"self + 1\"}: cel expression must evaluate to a bool",
        ),
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "true", "messageExpression": "self"}]}),
            "x-kubernetes-validations[0].messageExpression: Invalid value: {\"messageExpression\":\"self\",\"rule\":\"true\"}: messageExpression must evaluate to a string",
        ),
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "true", "messageExpression": "("}]}),
            "messageExpression compilation failed: ERROR",
        ),
        (
            json!({"type": "integer", "x-kubernetes-validations": [{"rule": "true", "optionalOldSelf": true}]}),
            "x-kubernetes-validations[0].optionalOldSelf: Invalid value: true: may not be set if oldSelf is not used in rule",
        ),
        (
            json!({"type": "array", "maxItems": 2, "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > oldSelf"}]}}),
            "s.properties[f].items.x-kubernetes-validations[0].rule: Invalid value: \"self > oldSelf\": oldSelf cannot be used on the uncorrelatable portion of the schema within s.properties[f]",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}),
            "s.properties[f].x-kubernetes-validations[0].rule: Forbidden: estimated rule cost exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "x-kubernetes-validations": [{"rule": "self.all(x, self.all(y, x == y))"}]}),
            "s: Forbidden: x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema exceeds budget by factor of more than 100x (try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)",
        ),
    ];
    for (field, message) in cases {
        let found: Vec<String> = check(&with(field.clone()), "s").iter().map(ToString::to_string).collect();
        assert!(found.iter().any(|found| found.contains(message)), "{field}\n{found:#?}");
    }
}

#[test]
fn a_rule_that_costs_too_much_ends_the_evaluation() {
    let document =
        with(json!({"type": "array", "maxItems": 2000, "items": {"type": "integer"}, "x-kubernetes-validations": [
        {"rule": "self.all(x, self.exists(y, y == x))"}]}));
    let numbers: Vec<i64> = (0..2000).collect();
    let outcome = compile(&document).unwrap().validate(&json!({"f": numbers}), None);
    let message = "f: Invalid value: \"array\": 'operation cancelled: actual cost limit exceeded': no further validation rules will be run due to call cost exceeds limit for rule: self.all(x, self.exists(y, y == x))";
    assert_eq!(outcome.errors.iter().map(ToString::to_string).collect::<Vec<_>>(), [message]);
}
