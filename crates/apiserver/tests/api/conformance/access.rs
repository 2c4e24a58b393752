//! Questions about access: SubjectReview and its relatives.

use apiserver::User;
use http::Method;
use serde_json::json;

use crate::fixture::{Fixture, JSON, request, send};

#[tokio::test]
async fn reviews_agree_with_what_requests_meet() {
    let fixture = Fixture::new().await;
    let account = "system:serviceaccount:default:sa-1";
    let asked = json!({"spec": {"user": account,
        "resourceAttributes": {"namespace": "default", "verb": "list", "version": "v1", "resource": "configmaps"}}});
    let all = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let local = "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews";
    let allowed = async |path: &str| fixture.post(path, &asked).await.ok()["status"]["allowed"].clone();
    let list = async || {
        let user = User::new(account, &["system:authenticated"]);
        let path = "/api/v1/namespaces/default/configmaps";
        send(fixture.server.service(Some(user)), request(Method::GET, path, JSON, "")).await.status.as_u16()
    };
    assert_eq!((allowed(all).await, allowed(local).await, list().await), (json!(false), json!(false), 403));
    let binding = json!({"metadata": {"name": "sa-1"}, "subjects": [{"kind": "ServiceAccount", "name": "sa-1",
        "namespace": "default"}], "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"}});
    fixture.post("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", &binding).await.ok();
    assert_eq!((allowed(all).await, allowed(local).await, list().await), (json!(true), json!(true), 200));
    let elsewhere = "/apis/authorization.k8s.io/v1/namespaces/kube-system/localsubjectaccessreviews";
    assert_eq!(fixture.post(elsewhere, &asked).await.status.as_u16() / 100, 4);
}

#[tokio::test]
async fn component_statuses_come_from_the_health_checks() {
    let fixture = Fixture::new().await;
    let answer = fixture.get("/api/v1/componentstatuses").await;
    assert_eq!(answer.headers["warning"], "299 - \"v1 ComponentStatus is deprecated in v1.19+\"");
    let list = answer.ok();
    let names: Vec<&str> =
        list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["controller-manager", "etcd-0", "scheduler"]);
    let store = fixture.get("/api/v1/componentstatuses/etcd-0").await.ok();
    assert_eq!(store["conditions"][0], json!({"type": "Healthy", "status": "True", "message": "ok"}));
    assert_eq!(fixture.get("/api/v1/componentstatuses/none").await.status, 404);
    let one = fixture.get("/api/v1/componentstatuses?fieldSelector=metadata.name=scheduler").await.ok();
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_requested_token_is_reviewed_as_its_accounts() {
    let fixture = Fixture::new().await;
    const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
    let account = fixture.post(ACCOUNTS, &json!({"metadata": {"name": "e2e-sa"}})).await.ok();
    let issued = fixture.post(&format!("{ACCOUNTS}/e2e-sa/token"), &json!({"spec": {}})).await.ok();
    let token = issued["status"]["token"].as_str().unwrap();
    assert!(!token.is_empty());
    let path = "/apis/authentication.k8s.io/v1/tokenreviews";
    let reviewed = fixture.post(path, &json!({"spec": {"token": token}})).await.ok();
    let status = &reviewed["status"];
    assert_eq!((&status["authenticated"], &status["error"]), (&json!(true), &serde_json::Value::Null));
    assert_eq!(status["user"]["username"], "system:serviceaccount:default:e2e-sa");
    assert_eq!(status["user"]["uid"], account["metadata"]["uid"]);
    for group in ["system:authenticated", "system:serviceaccounts", "system:serviceaccounts:default"] {
        assert!(status["user"]["groups"].as_array().unwrap().contains(&json!(group)), "{status}");
    }
}
