//! Deletion: finalizers, grace, propagation, preconditions, collections, namespaces, eviction.

use http::Method;
use serde_json::json;

use crate::fixture::{Fixture, JSON, MERGE, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> serde_json::Value {
    json!({"metadata": {"name": name, "labels": {"app": "x"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let fixture = Fixture::new().await;
    fixture.post(MAPS, &json!({"metadata": {"name": "a", "finalizers": ["x.dev/1", "x.dev/2"]}})).await.ok();
    let path = format!("{MAPS}/a");
    let held = fixture.delete(&path).await.ok();
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let added = json!({"metadata": {"finalizers": ["x.dev/1", "x.dev/2", "x.dev/3"]}});
    assert_eq!(fixture.patch(&path, MERGE, &added).await.failed().0, 422);
    fixture.patch(&path, MERGE, &json!({"metadata": {"finalizers": ["x.dev/2"]}})).await.ok();
    fixture.get(&path).await.ok();
    fixture.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(fixture.get(&path).await.failed().0, 404);
}

#[tokio::test]
async fn a_scheduled_pod_is_given_time_and_goes_at_the_second_word() {
    let fixture = Fixture::new().await;
    fixture.post(PODS, &pod("p")).await.ok();
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    fixture.post(&format!("{PODS}/p/binding"), &binding).await.ok();
    let path = format!("{PODS}/p");
    let going = fixture.delete(&path).await.ok();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    let again = fixture.delete(&path).await.ok();
    assert_eq!(again["metadata"]["resourceVersion"], going["metadata"]["resourceVersion"]);
    fixture.delete(&format!("{path}?gracePeriodSeconds=0")).await.ok();
    assert_eq!(fixture.get(&path).await.failed().0, 404);
    // nobody runs an unscheduled pod, so nobody needs time
    fixture.post(PODS, &pod("q")).await.ok();
    fixture.delete(&format!("{PODS}/q")).await.ok();
    assert_eq!(fixture.get(&format!("{PODS}/q")).await.failed().0, 404);
}

#[tokio::test]
async fn propagation_and_preconditions_are_honoured() {
    let fixture = Fixture::new().await;
    let created = fixture.post(MAPS, &json!({"metadata": {"name": "a"}})).await.ok();
    let path = format!("{MAPS}/a");
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": {"uid": "other"}});
    let (code, ..) = fixture.send(request(Method::DELETE, &path, JSON, &options.to_string())).await.failed();
    assert_eq!(code, 409);
    let options = json!({"preconditions": {"uid": created["metadata"]["uid"]}, "propagationPolicy": "Foreground"});
    let held = fixture.send(request(Method::DELETE, &path, JSON, &options.to_string())).await.ok();
    assert_eq!(held["metadata"]["finalizers"], json!(["foregroundDeletion"]));
    let status = fixture.delete(&format!("{path}?propagationPolicy=Background")).await.ok();
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    assert_eq!(status["details"]["uid"], created["metadata"]["uid"]);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let fixture = Fixture::new().await;
    for i in 0..300 {
        let object = json!({"metadata": {"name": format!("m{i}"), "labels": {"odd": (i % 2).to_string()}}});
        fixture.post(MAPS, &object).await.ok();
    }
    let deleted = fixture.delete(&format!("{MAPS}?labelSelector=odd%3D1")).await.ok();
    assert_eq!(deleted["items"].as_array().unwrap().len(), 150);
    assert_eq!(fixture.get(MAPS).await.ok()["items"].as_array().unwrap().len(), 150);
}

#[tokio::test]
async fn a_namespace_waits_for_its_finalizer_and_takes_nothing_new() {
    let fixture = Fixture::new().await;
    fixture.post("/api/v1/namespaces", &json!({"metadata": {"name": "gone"}})).await.ok();
    let path = "/api/v1/namespaces/gone";
    let going = fixture.delete(path).await.ok();
    assert_eq!(going["status"]["phase"], "Terminating");
    let refused = fixture.post(&format!("{path}/configmaps"), &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(refused.failed().0, 403);
    let mut finalized = going;
    finalized["spec"]["finalizers"] = json!([]);
    fixture.put(&format!("{path}/finalize"), &finalized).await.ok();
    assert_eq!(fixture.get(path).await.failed().0, 404);
}

#[tokio::test]
async fn an_eviction_asks_the_disruption_budget() {
    let fixture = Fixture::new().await;
    fixture.post(PODS, &pod("p")).await.ok();
    fixture.patch(&format!("{PODS}/p/status"), MERGE, &json!({"status": {"phase": "Running"}})).await.ok();
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    fixture.post(budgets, &budget).await.ok();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let refused = fixture.post(&format!("{PODS}/p/eviction"), &eviction).await;
    assert_eq!(refused.headers["retry-after"], "10");
    let (code, reason, _) = refused.failed();
    assert_eq!((code, reason.as_str()), (429, "TooManyRequests"));
    let status = async |status: serde_json::Value| {
        fixture.patch(&format!("{budgets}/b/status"), MERGE, &json!({"status": status})).await.ok()
    };
    status(json!({"observedGeneration": 1, "desiredHealthy": 1})).await;
    let refused = fixture.post(&format!("{PODS}/p/eviction"), &eviction).await;
    assert!(!refused.headers.contains_key("retry-after"));
    let message = refused.body["details"]["causes"][0]["message"].clone();
    assert_eq!(message, "The disruption budget b needs 1 healthy pods and has 0 currently");
    status(json!({"disruptionsAllowed": 1})).await;
    // the pod is not ready and one more than enough are: nothing is spent
    status(json!({"currentHealthy": 1})).await;
    let held = json!({"metadata": {"finalizers": ["example.com/held"]}});
    fixture.patch(&format!("{PODS}/p"), MERGE, &held).await.ok();
    assert_eq!(fixture.post(&format!("{PODS}/p/eviction"), &eviction).await.status, 201);
    let evicted = fixture.get(&format!("{PODS}/p")).await.ok();
    assert_eq!(evicted["status"]["conditions"][0]["reason"], "EvictionByEvictionAPI");
    assert!(evicted["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(fixture.get(&format!("{budgets}/b")).await.ok()["status"]["disruptionsAllowed"], 1);
    fixture.patch(&format!("{PODS}/p"), MERGE, &json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(fixture.get(&format!("{PODS}/p")).await.failed().0, 404);
}

#[tokio::test]
async fn a_collection_of_many_goes_and_what_is_held_stays() {
    const OBJECTS: usize = 600;
    const HELD: usize = 300;
    let fixture = Fixture::new().await;
    for number in 0..OBJECTS {
        let finalizers = if number == HELD { json!(["example.com/held"]) } else { json!([]) };
        let metadata = json!({"name": format!("m-{number:03}"), "labels": {"all": "go"}, "finalizers": finalizers});
        fixture.post(MAPS, &json!({"metadata": metadata})).await.ok();
    }
    let before = fixture.get(MAPS).await.ok()["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let answer = fixture.delete(&format!("{MAPS}?labelSelector=all%3Dgo")).await.ok();
    let names: Vec<&str> =
        answer["items"].as_array().unwrap().iter().map(|map| map["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, (0..OBJECTS).map(|number| format!("m-{number:03}")).collect::<Vec<_>>(), "in their order");
    let left = fixture.get(&format!("{MAPS}?labelSelector=all%3Dgo")).await.ok();
    let [held] = left["items"].as_array().unwrap().as_slice() else { panic!("{left}") };
    assert_eq!(held["metadata"]["name"], format!("m-{HELD:03}"));
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(held, &answer["items"][HELD]);
    // as with upstream, each is a change of its own
    let after: usize = left["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert_eq!(after, before.parse::<usize>().unwrap() + OBJECTS);
}
