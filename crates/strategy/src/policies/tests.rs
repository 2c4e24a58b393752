use serde_json::json;

use super::*;
use crate::User;

fn policy() -> Value {
    json!({"metadata": {"name": "p"}, "spec": {
        "matchConstraints": {"resourceRules": [
            {"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]},
        "validations": [{"expression": "object.metadata.name != 'x'"}]}})
}

fn check(strategy: &dyn Strategy, mut object: Value, change: impl FnOnce(&mut Value)) -> String {
    strategy.default(&mut object);
    change(&mut object["spec"]);
    let (resource, user) = (super::super::fixture::resource("", "x"), User::new("u", &[]));
    let now = jiff::Timestamp::UNIX_EPOCH;
    let cx = WriteContext { now, resource: &resource, subresource: None, user: &user, dry_run: false };
    let mut errors = FieldErrors::default();
    strategy.check(&cx, &object, None, &mut errors);
    if errors.is_empty() { String::new() } else { errors.to_string() }
}

#[test]
fn a_plain_policy_is_valid_and_defaulted() {
    assert_eq!(check(&Policy, policy(), |_| {}), "");
    let mut object = policy();
    Policy.default(&mut object);
    assert_eq!(object["spec"]["failurePolicy"], "Fail");
    assert_eq!(object["spec"]["matchConstraints"]["matchPolicy"], "Equivalent");
    assert_eq!(object["spec"]["matchConstraints"]["resourceRules"][0]["scope"], "*");
}

#[test]
fn expressions_have_to_compile() {
    let table = [
        (
            "validations",
            json!([{"expression": "object.x < "}]),
            "spec.validations[0].expression: Invalid value: \"object.x < \": compilation failed: ERROR: <input>:1:12: \
             Syntax error",
        ),
        (
            "validations",
            json!([{"expression": "object.spec.replicas + 1"}]),
            "spec.validations[0].expression: Invalid value: \"object.spec.replicas + 1\": must evaluate to bool but got int",
        ),
        (
            "validations",
            json!([{"expression": "true", "messageExpression": "1"}]),
            "spec.validations[0].messageExpression: Invalid value: \"1\": must evaluate to string but got int",
        ),
        (
            "validations",
            json!([{"expression": "variables.none > 1"}]),
            "spec.validations[0].expression: Invalid value: \"variables.none > 1\": compilation failed: ERROR: \
             <input>:1:10: undefined field 'none'",
        ),
        (
            "matchConditions",
            json!([{"name": "n", "expression": "params.x"}]),
            "spec.matchConditions[0].expression: Invalid value: \"params.x\": compilation failed: ERROR: <input>:1:1: \
             undeclared reference to 'params'",
        ),
        (
            "variables",
            json!([{"name": "if", "expression": "1"}]),
            "spec.variables[0].name: Invalid value: \"if\": name is",
        ),
        (
            "auditAnnotations",
            json!([{"key": "k", "valueExpression": "1"}]),
            "spec.auditAnnotations[0].valueExpression: Invalid value: \"1\": must evaluate to one of [string null] but",
        ),
        ("failurePolicy", json!("Maybe"), "spec.failurePolicy: Unsupported value: \"Maybe\""),
        ("validations", json!([]), "[spec.validations: Required value: validations or auditAnnotations must"),
        (
            "paramKind",
            json!({"apiVersion": "a/b/c", "kind": "K"}),
            "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
        ),
    ];
    for (field, value, wanted) in table {
        let found = check(&Policy, policy(), |spec| spec[field] = value);
        assert!(found.starts_with(wanted), "{field}\nwanted {wanted}\nfound  {found}");
    }
}

#[test]
fn variables_see_those_before_them_with_their_types() {
    let variables = json!([{"name": "a", "expression": "object.spec.replicas"}, {"name": "b", "expression": "'x'"}]);
    let used = |expression: &str| {
        check(&Policy, policy(), |spec| {
            spec["variables"] = variables.clone();
            spec["validations"] = json!([{"expression": expression}]);
        })
    };
    assert_eq!(used("variables.a > 1 && variables.b.size() == 1"), "");
    assert!(used("variables.b > 1").contains("found no matching overload for '_>_' applied to '(string, int)'"));
}

#[test]
fn bindings_name_a_policy_and_what_to_do() {
    let binding = || json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    assert_eq!(check(&Binding, binding(), |_| {}), "");
    let table = [
        ("policyName", Value::Null, "spec.policyName: Required value"),
        ("validationActions", json!([]), "spec.validationActions: Required value: at least one validation action is"),
        (
            "validationActions",
            json!(["Deny", "Warn"]),
            "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must",
        ),
        ("validationActions", json!(["X"]), "spec.validationActions[0]: Unsupported value: \"X\": supported values: "),
        (
            "paramRef",
            json!({"parameterNotFoundAction": "Deny"}),
            "spec.paramRef: Required value: one of name or selector",
        ),
        ("paramRef", json!({"name": "x"}), "spec.paramRef.parameterNotFoundAction: Required value"),
    ];
    for (field, value, wanted) in table {
        let found = check(&Binding, binding(), |spec| spec[field] = value);
        assert!(found.starts_with(wanted), "{field}\nwanted {wanted}\nfound  {found}");
    }
}
