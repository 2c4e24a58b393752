//! Who owns which field: what clients set is theirs, what the server fills in is nobody's.

use http::Method;
use serde_json::{Value, json};

use crate::fixture::{APPLY, Fixture, MERGE, request};

fn owned(object: &Value, manager: &str, subresource: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap().iter();
    let mut own = entries.filter(|entry| {
        entry["manager"] == manager && entry["subresource"].as_str().unwrap_or_default() == subresource
    });
    own.next().map(|entry| entry["fieldsV1"].clone()).unwrap_or_default()
}

#[tokio::test]
async fn what_the_server_fills_in_is_nobodys() {
    let fixture = Fixture::new().await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}});
    let made = fixture.post("/api/v1/namespaces/default/services", &service).await.ok();
    assert!(made["spec"]["clusterIP"].is_string());
    let fields = &owned(&made, "test", "")["f:spec"];
    assert!(fields["f:ports"].is_object() && fields["f:type"].is_object(), "{fields}");
    assert!(fields.get("f:clusterIP").is_none() && fields.get("f:clusterIPs").is_none(), "{fields}");
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let made = fixture.post("/api/v1/namespaces/default/pods", &pod).await.ok();
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    let fields = &owned(&made, "test", "")["f:spec"];
    assert!(fields["f:restartPolicy"].is_object(), "defaults of the type are the creator's: {fields}");
    assert!(fields.get("f:serviceAccountName").is_none() && fields.get("f:tolerations").is_none(), "{fields}");
    let path = "/api/v1/namespaces/default/services/s";
    let changed = fixture.patch(path, MERGE, &json!({"spec": {"type": "NodePort"}})).await.ok();
    assert!(changed["spec"]["ports"][0]["nodePort"].is_number());
    let ports = owned(&changed, "test", "")["f:spec"]["f:ports"].to_string();
    assert!(!ports.contains("nodePort"), "{ports}");
}

#[tokio::test]
async fn who_scales_owns_the_replicas_through_that_door() {
    let fixture = Fixture::new().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    fixture.post(deployments, &deployment).await.ok();
    let scale = json!({"spec": {"replicas": 3}});
    fixture.patch(&format!("{deployments}/web/scale"), MERGE, &scale).await.ok();
    let live = fixture.get(&format!("{deployments}/web")).await.ok();
    assert_eq!(owned(&live, "test", "scale"), json!({"f:spec": {"f:replicas": {}}}));
    assert!(owned(&live, "test", "")["f:spec"].get("f:replicas").is_none());
}

/// Who owns the replicas, in the order of names.
fn owners(object: &Value) -> Vec<&str> {
    let entries = object["metadata"]["managedFields"].as_array().unwrap().iter();
    let owning = entries.filter(|entry| entry["fieldsV1"]["f:spec"].get("f:replicas").is_some());
    let mut names: Vec<&str> = owning.map(|entry| entry["manager"].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn the_replicas_of_every_kind_change_hands_through_the_scale() {
    let fixture = Fixture::new().await;
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let labels = json!({"matchLabels": {"a": "b"}});
    for (kind, path, selector) in [
        ("Deployment", "/apis/apps/v1/namespaces/default/deployments/w", labels.clone()),
        ("ReplicaSet", "/apis/apps/v1/namespaces/default/replicasets/w", labels.clone()),
        ("StatefulSet", "/apis/apps/v1/namespaces/default/statefulsets/w", labels),
        ("ReplicationController", "/api/v1/namespaces/default/replicationcontrollers/w", json!({"a": "b"})),
    ] {
        let version = if path.starts_with("/apis") { "apps/v1" } else { "v1" };
        let workload = json!({"apiVersion": version, "kind": kind, "metadata": {"name": "w"},
            "spec": {"replicas": 1, "selector": selector, "template": template}});
        let scale = |count: i32| {
            json!({"apiVersion": "autoscaling/v1", "kind": "Scale",
            "metadata": {"name": "w", "namespace": "default"}, "spec": {"replicas": count}})
        };
        let apply = async |path: &str, query: &str, object: &Value| {
            let path = format!("{path}?fieldManager={query}");
            fixture.send(request(Method::PATCH, &path, APPLY, &object.to_string())).await
        };
        let door = format!("{path}/scale");
        let is = async |count: i32, managers: &[&str]| {
            let live = fixture.get(path).await.ok();
            assert_eq!((&live["spec"]["replicas"], owners(&live)), (&json!(count), managers.to_vec()), "{kind}");
        };
        apply(path, "applier", &workload).await.ok();
        is(1, &["applier"]).await;
        let patch = json!({"spec": {"replicas": 5}});
        fixture.patch(&format!("{door}?fieldManager=scaler"), MERGE, &patch).await.ok();
        is(5, &["scaler"]).await;
        assert_eq!(apply(path, "applier", &workload).await.failed().1, "Conflict");
        apply(path, "applier&force=true", &workload).await.ok();
        is(1, &["applier"]).await;
        assert_eq!(apply(&door, "scale-applier", &scale(17)).await.failed().1, "Conflict");
        apply(&door, "scale-applier&force=true", &scale(17)).await.ok();
        is(17, &["scale-applier"]).await;
        fixture.put(&format!("{door}?fieldManager=replacer"), &scale(7)).await.ok();
        is(7, &["replacer"]).await;
        apply(&door, "owner-too", &scale(7)).await.ok();
        is(7, &["owner-too", "replacer"]).await;
        fixture.patch(&format!("{door}?fieldManager=scaler"), MERGE, &patch).await.ok();
        is(5, &["scaler"]).await;
    }
}
