//! Field selectors over the fields a definition names.

use serde_json::json;

use super::define;
use crate::fixture::{Fixture, Lines, MERGE};

#[tokio::test]
async fn custom_resources_are_listed_watched_and_deleted_by_their_selectable_fields() {
    let fixture = Fixture::new().await;
    let text = || json!({"type": "string"});
    let schema = json!({"type": "object", "properties": {"hostPort": text(), "spec": {"type": "object",
        "properties": {"color": text(), "size": {"type": "integer"}, "on": {"type": "boolean"}}}}});
    let fields = json!([{"jsonPath": ".spec.color"}, {"jsonPath": ".spec.size"}, {"jsonPath": ".spec.on"},
        {"jsonPath": ".hostPort"}]);
    let path = define(&fixture, json!({"schema": {"openAPIV3Schema": schema}, "selectableFields": fields})).await;
    let widget = |name: &str, color: &str, size: i64| {
        json!({"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": name}, "hostPort": "h:80",
            "spec": {"color": color, "size": size, "on": size > 1}})
    };
    let mut blue = Lines::open(&fixture, &format!("{path}?watch=1&fieldSelector=spec.color=blue")).await;
    for (name, color, size) in [("a", "blue", 1), ("b", "green", 2), ("c", "blue", 3)] {
        fixture.post(path, &widget(name, color, size)).await.ok();
    }
    let listed = async |selector: &str| -> Vec<String> {
        let list = fixture.get(&format!("{path}?fieldSelector={selector}")).await.ok();
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed("spec.color=blue").await, ["a", "c"]);
    assert_eq!(listed("spec.color=blue,spec.size=3").await, ["c"]);
    assert_eq!(listed("spec.on=true").await, ["b", "c"]);
    assert_eq!(listed("spec.color!=blue,hostPort=h:80").await, ["b"]);
    for name in ["a", "c"] {
        assert_eq!(blue.named().await, ("ADDED".to_owned(), name.to_owned()));
    }
    // what leaves the selection is gone for its watcher
    fixture.patch(&format!("{path}/a"), MERGE, &json!({"spec": {"color": "green"}})).await.ok();
    assert_eq!(blue.named().await, ("DELETED".to_owned(), "a".to_owned()));
    fixture.delete(&format!("{path}?fieldSelector=spec.color=green")).await.ok();
    assert_eq!(listed("spec.color=green").await, [""; 0]);
    let (code, _, message) = fixture.get(&format!("{path}?fieldSelector=spec.other=x")).await.failed();
    assert!(code == 400 && message.contains("field label not supported: spec.other"), "{message}");
}
