//! Bodies of another type than the resource's: of subresources, and of deletions.

use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, JSON, request};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

#[tokio::test]
async fn bodies_of_subresources_are_of_their_own_type() {
    let fixture = Fixture::new().await;
    fixture.post(PODS, &pod("p")).await.ok();
    let refused = async |path: &str, body: &Value| fixture.post(path, body).await.failed().2;
    let binding = |target: Value| json!({"kind": "Binding", "metadata": {"name": "p"}, "target": target});
    let path = format!("{PODS}/p/binding");
    let why = "json: cannot unmarshal string into Go struct field Binding.target of type v1.ObjectReference";
    assert!(refused(&path, &binding("n".into())).await.ends_with(why));
    assert!(refused(&path, &binding(json!({"kind": "Node"}))).await.ends_with("target.name: Required value"));
    assert!(
        refused(&path, &binding(json!({"kind": "Pod", "name": "n"}))).await.contains("target.kind: Unsupported value")
    );
    let unnamed = json!({"kind": "Binding", "target": {"name": "n"}});
    assert_eq!(refused(&path, &unnamed).await, "name in URL does not match name in Binding object");
    let path = format!("{PODS}/p/eviction");
    assert_eq!(
        refused(&path, &json!({"kind": "Eviction"})).await,
        "name in URL does not match name in Eviction object"
    );
    let eviction = json!({"metadata": {"name": "p"}, "deleteOptions": {"gracePeriodSeconds": "0"}});
    assert!(refused(&path, &eviction).await.contains("DeleteOptions.deleteOptions.gracePeriodSeconds of type int64"));
    let token = "/api/v1/namespaces/default/serviceaccounts/default/token";
    assert!(refused(token, &json!({"metadata": "none"})).await.contains("TokenRequest.metadata of type v1.ObjectMeta"));
    let options = json!({"gracePeriodSeconds": "0"}).to_string();
    let (code, _, message) = fixture.send(request(Method::DELETE, &format!("{PODS}/p"), JSON, &options)).await.failed();
    assert_eq!(code, 400);
    assert!(message.contains("DeleteOptions.gracePeriodSeconds of type int64"), "{message}");
}
