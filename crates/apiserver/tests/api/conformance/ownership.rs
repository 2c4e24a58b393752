//! Who owns which field: what clients set is theirs, what the server fills in is nobody's.

use serde_json::{Value, json};

use crate::fixture::{Fixture, MERGE};

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
