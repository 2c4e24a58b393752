//! Stricter definitions and objects that were valid before, as upstream's suite goes through them.

use http::Method;
use serde_json::{Value, json};

use super::{DEFINITIONS, define};
use crate::fixture::{APPLY, Answer, Fixture, request};

const WIDGETS: &str = "/apis/example.com/v1/widgets";
/// A field that no object has right: who sees its complaint sees the schema that has it.
const SENTINEL: &str = "__update_schema_sentinel_field__";

async fn apply(fixture: &Fixture, name: &str, object: &Value) -> Answer {
    let mut object = object.clone();
    object["apiVersion"] = "example.com/v1".into();
    object["kind"] = "Widget".into();
    object["metadata"]["name"] = name.into();
    let path = format!("{WIDGETS}/{name}?fieldManager=manager&force=false");
    fixture.send(request(Method::PATCH, &path, APPLY, &object.to_string())).await
}

/// A server whose definition takes everything, with one object.
async fn with_object(object: &Value) -> Fixture {
    let fixture = Fixture::new().await;
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    define(&fixture, json!({"schema": {"openAPIV3Schema": open}})).await;
    apply(&fixture, "test-resource", object).await.ok();
    fixture
}

/// Gives the definition a schema of these properties, in force from the next request on.
async fn restrict(fixture: &Fixture, properties: &Value) {
    let path = format!("{DEFINITIONS}/widgets.example.com");
    let mut definition = fixture.get(&path).await.ok();
    let mut schema = json!({"type": "object", "properties": properties});
    schema["properties"][SENTINEL] = json!({"type": "string", "enum": ["unique"]});
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = schema;
    fixture.put(&path, &definition).await.ok();
    let bad = json!({"metadata": {"finalizers": ["unqualified-finalizer"], "labels": {"#inv/($%)/alid=": ">htt$://"}},
        SENTINEL: "1"});
    let (code, _, message) = apply(fixture, "sentinel-resource", &bad).await.failed();
    assert!(code == 422 && message.contains("unique") && message.contains("metadata.labels"), "{message}");
}

/// An object with this value at the root, in a struct, in keyed elements and in a map.
fn everywhere(value: &str) -> Value {
    json!({"field": value, "struct": {"field": value}, "map": {"foo": {"field": value}, "bar": {"field": value}},
        "list": [{"key": "foo", "field": value}, {"key": "bar", "field": value}]})
}

/// The properties of such objects.
fn properties(field: &Value) -> Value {
    let part = json!({"type": "object", "properties": {"field": field, "otherField": {"type": "string"}}});
    let item = json!({"type": "object", "required": ["key"],
        "properties": {"key": {"type": "string"}, "field": field, "otherField": {"type": "string"}}});
    json!({"field": field, "otherField": {"type": "string"}, "struct": part,
        "map": {"type": "object", "additionalProperties": part},
        "list": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["key"], "items": item}})
}

fn of_enum(value: &str) -> Value {
    json!({"type": "string", "enum": [value]})
}

fn of_rule(rule: &str) -> Value {
    json!({"type": "string", "x-kubernetes-validations": [{"rule": rule}]})
}

#[tokio::test]
async fn what_did_not_change_and_has_a_counterpart_is_let_pass() {
    for field in [of_enum("notfoo"), of_rule("self == 'notfoo'")] {
        let object = everywhere("foo");
        let fixture = with_object(&object).await;
        restrict(&fixture, &properties(&field)).await;
        let mut labelled = object.clone();
        labelled["metadata"]["labels"] = json!({"foo": "bar"});
        labelled["otherField"] = "doesntmatter".into();
        labelled["list"].as_array_mut().unwrap().push(json!({"key": "baz", "field": "notfoo", "otherField": "x"}));
        apply(&fixture, "test-resource", &labelled).await.ok();
    }
}

#[tokio::test]
async fn elements_of_sets_and_atomic_lists_have_no_counterpart() {
    let lists = |items: &[&str]| json!({"setArray": items, "atomicArray": items});
    for item in [json!({"type": "string", "enum": ["notfoo", "notbar", "notbaz"]}), of_rule("self != 'foo'")] {
        let fixture = with_object(&lists(&["foo", "bar", "baz"])).await;
        let properties = json!({"atomicArray": {"type": "array", "items": item, "maxItems": 10},
            "setArray": {"type": "array", "x-kubernetes-list-type": "set", "items": item, "maxItems": 10}});
        restrict(&fixture, &properties).await;
        let mut changed = lists(&["foo", "bar", "baz", "notfoo"]);
        changed["metadata"]["labels"] = json!({"foo": "bar"});
        let (_, _, message) = apply(&fixture, "test-resource", &changed).await.failed();
        assert!(message.contains("atomicArray") && message.contains("setArray"), "{message}");
    }
}

/// Where the value of [`everywhere`] is, as complaints name it: schemas and rules write the keys of maps differently.
fn places(of_rules: bool) -> [&'static str; 6] {
    let maps = if of_rules { ["map[foo].field", "map[bar].field"] } else { ["map.foo.field", "map.bar.field"] };
    ["field", "struct.field", "list[0].field", "list[1].field", maps[0], maps[1]]
}

#[track_caller]
fn names_all(message: &str, places: &[&str]) {
    for place in places {
        assert!(message.contains(place), "{place}: {message}");
    }
}

#[tokio::test]
async fn what_changed_is_judged_everywhere() {
    for (field, of_rules) in [(of_enum("foo"), false), (of_rule("self == 'foo'"), true)] {
        let fixture = with_object(&everywhere("foo")).await;
        restrict(&fixture, &properties(&field)).await;
        let (_, _, message) = apply(&fixture, "test-resource", &everywhere("notfoo")).await.failed();
        names_all(&message, &places(of_rules));
    }
}

/// [`properties`], small enough for what a rule over them may cost.
fn bounded(rule: &Value) -> Value {
    let field = json!({"type": "string", "maxLength": 5, "x-kubernetes-validations": [rule]});
    let mut bounded = properties(&field);
    bounded["list"]["maxItems"] = 5.into();
    bounded["map"]["maxProperties"] = 5.into();
    bounded
}

#[tokio::test]
async fn transition_rules_are_never_let_pass() {
    let mut object = everywhere("foo");
    let fixture = with_object(&object).await;
    restrict(&fixture, &bounded(&json!({"rule": "self != oldSelf"}))).await;
    object["metadata"]["labels"] = json!({"foo": "bar"});
    let (_, _, message) = apply(&fixture, "test-resource", &object).await.failed();
    names_all(&message, &places(true));
}

#[tokio::test]
async fn a_rule_with_an_optional_old_value_judges_new_objects_too() {
    let fixture = with_object(&json!({})).await;
    let rule = json!({"rule": "!oldSelf.hasValue() || self != oldSelf.value()", "optionalOldSelf": true});
    restrict(&fixture, &bounded(&rule)).await;
    let mut object = everywhere("foo");
    apply(&fixture, "other-resource", &object).await.ok();
    object["metadata"]["labels"] = json!({"foo": "bar"});
    let (_, _, message) = apply(&fixture, "other-resource", &object).await.failed();
    names_all(&message, &places(true));
    apply(&fixture, "other-resource", &everywhere("new")).await.ok();
}
