//! Namespaces: their status, finalizers, and the lifecycle of a ServiceAccount in them.

use serde_json::json;

use crate::fixture::{Fixture, JSON, MERGE, request};

const STRATEGIC: &str = "application/strategic-merge-patch+json";

#[tokio::test]
async fn a_namespaces_status_is_patched_and_updated() {
    let fixture = Fixture::new().await;
    fixture.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.ok();
    let path = "/api/v1/namespaces/team/status";
    let read = fixture.get(path).await.ok();
    assert_eq!(read["status"]["phase"], "Active");
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "E2E", "message": "Set by a test"});
    let patch = json!({"metadata": {"annotations": {"e2e": "patched"}}, "status": {"conditions": [condition("One")]}});
    let patched = fixture.patch(path, MERGE, &patch).await.ok();
    assert_eq!(patched["status"]["conditions"][0]["type"], "One");
    assert_eq!(patched["metadata"]["annotations"]["e2e"], "patched");
    let mut live = fixture.get("/api/v1/namespaces/team").await.ok();
    live["status"]["conditions"].as_array_mut().unwrap().push(condition("Two"));
    let updated = fixture.put(path, &live).await.ok();
    assert_eq!(updated["status"]["conditions"][1]["type"], "Two");
    let replaced = fixture.patch(path, STRATEGIC, &json!({"status": {"conditions": [condition("Two")]}})).await.ok();
    assert_eq!(replaced["status"]["conditions"].as_array().unwrap().len(), 2, "conditions merge by their type");
}

#[tokio::test]
async fn a_namespaces_finalizers_change_through_finalize() {
    let fixture = Fixture::new().await;
    fixture.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.ok();
    let mut live = fixture.get("/api/v1/namespaces/team").await.ok();
    assert_eq!(live["spec"]["finalizers"], json!(["kubernetes"]));
    live["spec"]["finalizers"] = json!(["kubernetes", "e2e.example.com/fakeFinalizer"]);
    let finalized = fixture.put("/api/v1/namespaces/team/finalize", &live).await.ok();
    assert_eq!(finalized["spec"]["finalizers"].as_array().unwrap().len(), 2);
    let mut plain = finalized.clone();
    plain["spec"]["finalizers"] = json!(["kubernetes"]);
    let unchanged = fixture.put("/api/v1/namespaces/team", &plain).await.ok();
    assert_eq!(unchanged["spec"]["finalizers"].as_array().unwrap().len(), 2, "an ordinary update leaves them alone");
    let deleted = fixture.delete("/api/v1/namespaces/team").await.ok();
    assert_eq!(deleted["status"]["phase"], "Terminating");
    assert_eq!(deleted["metadata"].get("deletionGracePeriodSeconds"), None);
    let mut last = fixture.get("/api/v1/namespaces/team").await.ok();
    last["spec"]["finalizers"] = json!([]);
    fixture.put("/api/v1/namespaces/team/finalize", &last).await.ok();
    assert_eq!(fixture.get("/api/v1/namespaces/team").await.status, 404);
}

#[tokio::test]
async fn a_namespace_is_labelled_by_its_name_and_updated_in_place() {
    let fixture = Fixture::new().await;
    let made = fixture.post("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await.ok();
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "team");
    let label = json!({"metadata": {"labels": {"testLabel": "testValue"}}});
    let patched = fixture.patch("/api/v1/namespaces/team", STRATEGIC, &label).await.ok();
    assert_eq!(patched["metadata"]["labels"]["testLabel"], "testValue");
    let mut live = fixture.get("/api/v1/namespaces/team").await.ok();
    live["metadata"]["labels"]["team"] = "updated".into();
    assert_eq!(fixture.put("/api/v1/namespaces/team", &live).await.ok()["metadata"]["labels"]["team"], "updated");
}

#[tokio::test]
async fn a_service_account_lives_from_post_to_deletecollection() {
    let fixture = Fixture::new().await;
    const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
    let account = json!({"metadata": {"name": "sa", "labels": {"static": "true"}}});
    fixture.post(ACCOUNTS, &account).await.ok();
    let patch = json!({"automountServiceAccountToken": false});
    assert_eq!(
        fixture.patch(&format!("{ACCOUNTS}/sa"), STRATEGIC, &patch).await.ok()["automountServiceAccountToken"],
        false
    );
    let found = fixture.get("/api/v1/serviceaccounts?labelSelector=static=true").await.ok();
    assert_eq!(found["items"].as_array().unwrap().len(), 1);
    let mut live = fixture.get(&format!("{ACCOUNTS}/sa")).await.ok();
    live["automountServiceAccountToken"] = true.into();
    fixture.send(request(http::Method::PUT, &format!("{ACCOUNTS}/sa"), JSON, &live.to_string())).await.ok();
    fixture.delete(&format!("{ACCOUNTS}?labelSelector=static=true")).await.ok();
    assert_eq!(fixture.get(&format!("{ACCOUNTS}/sa")).await.status, 404);
}
