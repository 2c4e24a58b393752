//! The four kinds of patch, and server-side apply's ownership.

use http::Method;
use serde_json::json;

use crate::fixture::{APPLY, Fixture, MERGE, request};

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
async fn a_patch_that_leaves_no_object_of_the_type_is_refused_in_upstreams_words() {
    const STRATEGIC: &str = "application/strategic-merge-patch+json";
    let fixture = Fixture::new().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "1"}]}});
    fixture.post(PODS, &pod).await.ok();
    let path = format!("{PODS}/p");
    let (code, reason, message) =
        fixture.patch(&path, STRATEGIC, &json!({"metadata": {"labels": "invalid"}})).await.failed();
    assert_eq!((code, reason.as_str()), (422, "Invalid"));
    let wanted =
        r#" "" is invalid: patch: Invalid value: "map[metadata:map[labels:invalid]]": cannot restore map from string"#;
    assert_eq!(message, wanted);
    for (spec, wanted) in [
        (json!({"priority": "high"}), "unrecognized type: int32"),
        (json!({"hostname": 5}), "cannot convert int64 to string"),
        (json!({"containers": [{"name": "a", "args": {"x": "y"}}]}), "cannot restore slice from map"),
        (json!({"securityContext": [1]}), "cannot restore struct from: slice"),
    ] {
        let (_, _, message) = fixture.patch(&path, STRATEGIC, &json!({"spec": spec})).await.failed();
        assert!(message.ends_with(wanted), "{message}");
    }
    let (code, _, message) = fixture.patch(&path, MERGE, &json!({"metadata": {"labels": "invalid"}})).await.failed();
    assert_eq!(code, 422);
    assert!(message.starts_with(r#" "" is invalid: patch: Invalid value: "{\"apiVersion\":\"v1\","#), "{message}");
    assert!(
        message.contains("json: cannot unmarshal string into Go struct field ObjectMeta.metadata.labels"),
        "{message}"
    );
}

#[tokio::test]
async fn a_strict_patch_may_neither_repeat_nor_invent_fields() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &json!({"metadata": {"name": "a"}})).await.ok();
    let patch = |level: &str, kind: &str, body: &str| {
        request(Method::PATCH, &format!("{MAPS}/a?fieldValidation={level}"), kind, body)
    };
    let odd = r#"{"data": {"x": "1", "x": "2"}, "dat": {}}"#;
    let (code, _, message) = fixture.send(patch("Strict", MERGE, odd)).await.failed();
    let wanted = r#"strict decoding error: duplicate field "data.x", unknown field "dat""#;
    assert!(code == 422 && message.ends_with(wanted), "{message}");
    let operations = r#"[{"op": "add", "path": "/data", "path": "/data", "value": {}}]"#;
    let (_, _, message) = fixture.send(patch("Strict", "application/json-patch+json", operations)).await.failed();
    assert!(message.ends_with(r#"strict decoding error: json patch duplicate field "[0].path""#), "{message}");
    assert_eq!(fixture.send(patch("Ignore", MERGE, odd)).await.ok()["data"]["x"], "2");
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
