//! The rules of CustomResourceDefinitions in CEL, as upstream's suite goes through them.

use serde_json::{Value, json};

use super::{DEFINITIONS, define};
use crate::fixture::Fixture;

const WIDGETS: &str = "/apis/example.com/v1/widgets";

fn rules() -> Value {
    let numbers = |most: u32| json!({"type": "array", "maxItems": most, "items": {"type": "integer"}});
    json!({"type": "object", "properties": {
        "spec": {"type": "object", "x-kubernetes-validations": [
            {"rule": "self.x + self.y > 0"},
            {"rule": "self.firstArray.isSorted() && self.secondArray.isSorted() && ((self.firstArray.sum() + self.secondArray.sum()) % 2 == 0)"},
            {"rule": "self.largeArray.all(x, self.largeArray.all(y, y == x))"}],
            "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}, "firstArray": numbers(1000),
                "secondArray": numbers(1000), "largeArray": numbers(725)}},
        "status": {"type": "object", "properties": {"health": {"type": "string"}},
            "x-kubernetes-validations": [{"rule": "self.health == 'ok' || self.health == 'unhealthy'"}]}}})
}

fn widget(name: &str, spec: Value) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "spec": spec})
}

#[tokio::test]
async fn objects_satisfy_the_rules_or_are_refused() {
    let fixture = Fixture::new().await;
    define(&fixture, json!({"schema": {"openAPIV3Schema": rules()}})).await;
    let right = json!({"x": 1, "y": 0, "firstArray": [3, 4], "secondArray": [5, 10], "largeArray": [2, 2]});
    fixture.post(WIDGETS, &widget("right", right)).await.ok();
    let (code, _, message) = fixture.post(WIDGETS, &widget("wrong", json!({"x": 0, "y": 0}))).await.failed();
    assert!(code == 422 && message.contains("failed rule"), "{message}");
    let large = json!({"largeArray": vec![20; 725]});
    let (code, _, message) = fixture.post(WIDGETS, &widget("large", large)).await.failed();
    assert!(code == 422 && message.contains("call cost exceeds limit"), "{message}");
}

#[tokio::test]
async fn rules_that_cannot_hold_are_refused_with_their_definition() {
    let fixture = Fixture::new().await;
    let spec = |spec: Value| json!({"type": "object", "properties": {"spec": spec}});
    let absent = json!({"type": "object", "properties": {"x": {"type": "integer"}},
        "x-kubernetes-validations": [{"rule": "self.z == 100"}]});
    let syntax = json!({"type": "object", "x-kubernetes-validations": [{"rule": "self = 42"}]});
    let expensive = json!({"type": "object", "properties": {"x": {"type": "array", "items": {"type": "array",
        "items": {"type": "string"}, "x-kubernetes-validations": [{"rule": "self.all(s, s == 'string constant')"}]}}}});
    for (schema, why) in [(absent, "undefined field 'z'"), (syntax, "Syntax error"), (expensive, "exceeds budget")] {
        let version =
            json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": spec(schema)}});
        let definition = json!({"metadata": {"name": "widgets.example.com"}, "spec": {"group": "example.com",
            "scope": "Cluster", "names": {"plural": "widgets", "kind": "Widget"}, "versions": [version]}});
        let (code, _, message) = fixture.post(DEFINITIONS, &definition).await.failed();
        assert!(code == 422 && message.contains(why), "{message}");
    }
}

#[tokio::test]
async fn a_transition_rule_judges_updates_only() {
    let fixture = Fixture::new().await;
    let number = json!({"type": "integer", "x-kubernetes-validations": [{"rule": "self > oldSelf"}]});
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {"num": number}}}});
    define(&fixture, json!({"schema": {"openAPIV3Schema": schema}})).await;
    let mut made = fixture.post(WIDGETS, &widget("w", json!({"num": 10}))).await.ok();
    made["spec"]["num"] = 9.into();
    let (code, _, message) = fixture.put(&format!("{WIDGETS}/w"), &made).await.failed();
    assert!(code == 422 && message.contains("failed rule"), "{message}");
    made["spec"]["num"] = 11.into();
    fixture.put(&format!("{WIDGETS}/w"), &made).await.ok();
}
