//! Field selectors over the fields a definition names.

use serde_json::json;

use super::{DEFINITIONS, define};
use crate::{
    conversion::{definition, server, things},
    fixture::{Fixture, Lines, MERGE},
};

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

#[tokio::test]
async fn every_version_is_selected_by_its_own_fields_after_conversion() {
    let (fixture, webhook) = (Fixture::new().await, server().await);
    let mut definition = definition(&webhook);
    definition["spec"]["versions"][0]["selectableFields"] = json!([{"jsonPath": ".host"}]);
    definition["spec"]["versions"][1]["selectableFields"] = json!([{"jsonPath": ".name"}, {"jsonPath": ".port"}]);
    fixture.post(DEFINITIONS, &definition).await.ok();
    let v2 = things("v2");
    let selected = |version: &str, selector: &str| format!("{}?fieldSelector={selector}", things(version));
    let mut by_name = Lines::open(&fixture, &format!("{}&watch=1", selected("v2", "name=host1"))).await;
    let mut by_both = Lines::open(&fixture, &format!("{}&watch=1", selected("v2", "name=host1,port=80"))).await;
    let mut by_host = Lines::open(&fixture, &format!("{}&watch=1", selected("v1", "host=host1:80"))).await;
    for (object, name, port) in [("a", "host1", "80"), ("b", "host1", "8080"), ("c", "host2", "80")] {
        let thing = json!({"apiVersion": "conv.dev/v2", "kind": "Thing", "metadata": {"name": object},
            "name": name, "port": port});
        fixture.post(&v2, &thing).await.ok();
    }
    let listed = async |version: &str, selector: &str| -> Vec<String> {
        let list = fixture.get(&selected(version, selector)).await.ok();
        let items = list["items"].as_array().unwrap().iter();
        items.map(|item| item["metadata"]["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(listed("v2", "name=host1").await, ["a", "b"]);
    assert_eq!(listed("v2", "name=host1,port=80").await, ["a"]);
    assert_eq!(listed("v1", "host=host1:80").await, ["a"]);
    assert_eq!(listed("v1", "host=host1:8080").await, ["b"]);
    fixture.delete(&format!("{}&gracePeriodSeconds=0", selected("v2", "name=host1,port=80"))).await.ok();
    let mut second = fixture.get(&format!("{v2}/b")).await.ok();
    second["name"] = "host2".into();
    fixture.put(&format!("{v2}/b"), &second).await.ok();
    assert_eq!(listed("v2", "name=host1").await, [""; 0]);
    let event = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    for expected in [event("ADDED", "a"), event("ADDED", "b"), event("DELETED", "a"), event("DELETED", "b")] {
        assert_eq!(by_name.named().await, expected);
    }
    for watch in [&mut by_both, &mut by_host] {
        assert_eq!(watch.named().await, event("ADDED", "a"));
        assert_eq!(watch.named().await, event("DELETED", "a"));
    }
}
