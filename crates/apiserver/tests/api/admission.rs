//! What the cluster's state adds to objects and refuses them.

use serde_json::json;

use crate::fixture::Fixture;

#[tokio::test]
async fn a_pod_waits_for_the_default_account_of_its_young_namespace() {
    let fixture = Fixture::new().await;
    fixture.post("/api/v1/namespaces", &json!({"metadata": {"name": "young"}})).await.ok();
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let account = json!({"metadata": {"name": "default"}});
    let (made, _) = tokio::join!(
        fixture.post("/api/v1/namespaces/young/pods", &pod),
        fixture.post("/api/v1/namespaces/young/serviceaccounts", &account),
    );
    let made = made.ok();
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["priority"], 0);
    assert_eq!(made["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
}

#[tokio::test]
async fn a_pod_of_an_unknown_account_is_refused_at_once() {
    let fixture = Fixture::new().await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"serviceAccountName": "robot", "containers": [{"name": "c", "image": "i"}]}});
    let (code, reason, message) = fixture.post("/api/v1/namespaces/default/pods", &pod).await.failed();
    assert_eq!((code, reason.as_str()), (403, "Forbidden"));
    assert_eq!(
        message,
        "pods \"p\" is forbidden: error looking up service account default/robot: serviceaccount \"robot\" not found"
    );
}

#[tokio::test]
async fn a_role_may_not_grant_more_than_its_writer_holds() {
    let fixture = Fixture::new().await;
    let roles = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles";
    let bindings = "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings";
    let bind = |name: &str, user: &str, role: &str| {
        json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": user}]})
    };
    fixture.post(bindings, &bind("ann", "ann", "admin")).await.ok();
    let ann = fixture.server.service(Some(apiserver::User::new("ann", &["system:authenticated"])));
    let write = |path: &str, object: serde_json::Value| {
        let request = crate::fixture::request(http::Method::POST, path, crate::fixture::JSON, &object.to_string());
        crate::fixture::send(ann.clone(), request)
    };
    let role = |name: &str, resource: &str| json!({"metadata": {"name": name}, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]});
    write(roles, role("fine", "pods")).await.ok();
    write(bindings, bind("viewer", "bob", "view")).await.ok();
    let (code, _, message) = write(roles, role("greedy", "nodes")).await.failed();
    assert_eq!(code, 403);
    assert!(message.contains("is attempting to grant RBAC permissions not currently held"), "{message}");
    assert_eq!(write(bindings, bind("root", "bob", "cluster-admin")).await.failed().0, 403);
}
