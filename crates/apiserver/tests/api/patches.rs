//! The four kinds of patch, and server-side apply's ownership.

use serde_json::json;

use crate::fixture::{APPLY, Fixture, MERGE};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
async fn json_and_merge_patches_change_what_they_name() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &json!({"metadata": {"name": "a"}, "data": {"x": "1", "y": "2"}})).await.ok();
    let path = format!("{MAPS}/a");
    let merged = fixture.patch(&path, MERGE, &json!({"data": {"x": null, "z": "3"}})).await.ok();
    assert_eq!(merged["data"], json!({"y": "2", "z": "3"}));
    let operations =
        json!([{"op": "test", "path": "/data/y", "value": "2"}, {"op": "replace", "path": "/data/y", "value": "4"}]);
    let patched = fixture.patch(&path, "application/json-patch+json", &operations).await.ok();
    assert_eq!(patched["data"]["y"], "4");
    assert_eq!(fixture.patch(&path, "application/json-patch+json", &operations).await.failed().0, 422);
    assert_eq!(fixture.patch(&path, "text/plain", &json!({})).await.failed().0, 415);
    assert_eq!(fixture.patch(&format!("{MAPS}/none"), MERGE, &json!({})).await.failed().0, 404);
    let stale = json!({"metadata": {"resourceVersion": "1"}, "data": {"x": "9"}});
    assert_eq!(fixture.patch(&path, MERGE, &stale).await.failed().0, 409);
}

#[tokio::test]
async fn a_strategic_merge_meets_list_elements_by_their_key() {
    let fixture = Fixture::new().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
    fixture.post(PODS, &pod).await.ok();
    let patch = json!({"spec": {"containers": [{"name": "b", "image": "2"}]}});
    let patched = fixture.patch(&format!("{PODS}/p"), "application/strategic-merge-patch+json", &patch).await.ok();
    let images: Vec<&str> =
        patched["spec"]["containers"].as_array().unwrap().iter().map(|c| c["image"].as_str().unwrap()).collect();
    assert_eq!(images, ["1", "2"]);
}

#[tokio::test]
async fn apply_creates_owns_conflicts_and_lets_go() {
    let fixture = Fixture::new().await;
    let path = |manager: &str, force: &str| format!("{MAPS}/a?fieldManager={manager}{force}");
    let config = |data: serde_json::Value| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
    let created = fixture.patch(&path("one", ""), APPLY, &config(json!({"x": "1", "y": "1"}))).await;
    assert_eq!(created.status, 201);
    let created = created.ok();
    assert_eq!(created["metadata"]["managedFields"][0]["operation"], "Apply");
    let again = fixture.patch(&path("one", ""), APPLY, &config(json!({"x": "1", "y": "1"}))).await.ok();
    assert_eq!(again["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    let (code, _, message) = fixture.patch(&path("two", ""), APPLY, &config(json!({"x": "2"}))).await.failed();
    assert_eq!(code, 409);
    assert_eq!(message, "Apply failed with 1 conflict: conflict with \"one\": .data.x");
    let forced = fixture.patch(&path("two", "&force=true"), APPLY, &config(json!({"x": "2"}))).await.ok();
    assert_eq!(forced["data"]["x"], "2");
    let dropped = fixture.patch(&path("one", ""), APPLY, &config(json!({}))).await.ok();
    assert_eq!(dropped["data"], json!({"x": "2"}));
    assert_eq!(fixture.patch(&format!("{MAPS}/a"), APPLY, &config(json!({}))).await.failed().0, 422);
}

#[tokio::test]
async fn concurrent_patches_all_take_effect() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &json!({"metadata": {"name": "a"}})).await.ok();
    let path = format!("{MAPS}/a");
    let patches: Vec<_> = (0..16).map(|i| json!({"data": {format!("k{i}"): "v"}})).collect();
    let all = futures::future::join_all(patches.iter().map(|patch| fixture.patch(&path, MERGE, patch))).await;
    all.into_iter().for_each(|answer| {
        answer.ok();
    });
    assert_eq!(fixture.get(&path).await.ok()["data"].as_object().unwrap().len(), 16);
}
