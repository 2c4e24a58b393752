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
