//! Server-side apply, as upstream's suite goes through it: typed objects, subresources, shared fields, and custom resources.

use http::Method;
use serde_json::{Value, json};

use super::DEFINITIONS;
use crate::fixture::{APPLY, Answer, Fixture, JSON, MERGE, request};

const PODS: &str = "/api/v1/namespaces/default/pods";
const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

async fn apply(fixture: &Fixture, path: &str, manager: &str, body: &str) -> Answer {
    let sign = if path.contains('?') { '&' } else { '?' };
    fixture.send(request(Method::PATCH, &format!("{path}{sign}fieldManager={manager}"), APPLY, body)).await
}

/// What a manager owns.
fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().unwrap();
    entries.iter().find(|entry| entry["manager"] == manager).expect("the manager has an entry")["fieldsV1"].clone()
}

#[tokio::test]
async fn two_managers_may_apply_the_same_and_both_own_it() {
    let fixture = Fixture::new().await;
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "test-pod"},
        "spec": {"containers": [{"name": "test-container", "image": "test-image"}]}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "test-svc"},
        "spec": {"ports": [{"port": 8080, "protocol": "UDP"}]}});
    let container = json!({"k:{\"name\":\"test-container\"}": {".": {}, "f:image": {}, "f:name": {}}});
    let port = json!({"k:{\"port\":8080,\"protocol\":\"UDP\"}": {".": {}, "f:port": {}, "f:protocol": {}}});
    for (kind, name, object, fields) in [
        ("pods", "test-pod", pod, json!({"f:spec": {"f:containers": container}})),
        ("services", "test-svc", service, json!({"f:spec": {"f:ports": port}})),
    ] {
        let path = format!("/api/v1/namespaces/default/{kind}/{name}");
        apply(&fixture, &path, "apply_test", &object.to_string()).await.ok();
        let both = apply(&fixture, &path, "apply_test_2", &object.to_string()).await.ok();
        for manager in ["apply_test", "apply_test_2"] {
            assert_eq!(owned(&both, manager), fields, "{manager}");
        }
    }
}

#[tokio::test]
async fn a_status_is_applied_through_its_own_door_only() {
    let fixture = Fixture::new().await;
    let path = format!("{PODS}/test-pod");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "test-pod"},
        "spec": {"containers": [{"name": "nginx", "image": "i"}]}});
    apply(&fixture, &path, "apply_test", &pod.to_string()).await.ok();
    let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "test-pod"},
        "status": {"conditions": [{"type": "MyStatus", "status": "True"}]}})
    .to_string();
    let has = |pod: &Value| pod["status"]["conditions"].to_string().contains("MyStatus");
    assert!(!has(&apply(&fixture, &path, "apply_test2", &status).await.ok()));
    assert!(has(&apply(&fixture, &format!("{path}/status"), "apply_test2", &status).await.ok()));
}

fn deployment(spec: Value, pod: Value, container: Value) -> String {
    let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "deployment", "labels": {"app": "nginx"}},
        "spec": {"selector": {"matchLabels": {"app": "nginx"}}, "template": {
            "metadata": {"labels": {"app": "nginx"}}, "spec": {"containers": [{"name": "nginx", "image": "i"}]}}}});
    for (pointer, more) in
        [("/spec", spec), ("/spec/template/spec", pod), ("/spec/template/spec/containers/0", container)]
    {
        object.pointer_mut(pointer).unwrap().as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    }
    object.to_string()
}

#[tokio::test]
async fn what_one_manager_leaves_out_goes_and_what_two_hold_stays() {
    let fixture = Fixture::new().await;
    let path = format!("{DEPLOYMENTS}/deployment");
    let replicas = || json!({"replicas": 3});
    let ports = json!({"ports": [{"containerPort": 80, "protocol": "TCP"}]});
    apply(&fixture, &path, "apply_test", &deployment(replicas(), json!({}), ports)).await.ok();
    let without = deployment(replicas(), json!({}), json!({}));
    let removed = apply(&fixture, &path, "apply_test", &without).await.ok();
    assert_eq!(removed["spec"]["template"]["spec"]["containers"][0]["ports"], Value::Null);
    fixture.delete(&path).await.ok();
    let shared = deployment(replicas(), json!({"hostname": "test-hostname"}), json!({}));
    for manager in ["shared_owner_1", "shared_owner_2"] {
        apply(&fixture, &path, manager, &shared).await.ok();
    }
    let bare = deployment(json!({}), json!({}), json!({}));
    let kept = apply(&fixture, &path, "shared_owner_1", &bare).await.ok();
    assert_eq!(kept["spec"]["replicas"], 3);
    assert_eq!(kept["spec"]["template"]["spec"]["hostname"], "test-hostname");
}

#[tokio::test]
async fn a_conflict_names_its_fields_and_force_takes_them() {
    let fixture = Fixture::new().await;
    let path = format!("{DEPLOYMENTS}/deployment");
    let three = deployment(json!({"replicas": 3}), json!({}), json!({}));
    apply(&fixture, &path, "apply_test", &three).await.ok();
    fixture.patch(&path, MERGE, &json!({"spec": {"replicas": 5}})).await.ok();
    let refused = apply(&fixture, &path, "apply_test", &three).await;
    assert_eq!(refused.body["details"]["causes"][0]["field"], ".spec.replicas");
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "FieldManagerConflict");
    assert_eq!(refused.failed().1, "Conflict");
    let forced = apply(&fixture, &format!("{path}?force=true"), "apply_test", &three).await.ok();
    assert_eq!(forced["spec"]["replicas"], 3);
    // an update takes over what it changes: who leaves the field out afterwards does not reset it
    let mut live = forced;
    live["spec"]["replicas"] = 4.into();
    fixture.put(&path, &live).await.ok();
    let bare = deployment(json!({}), json!({}), json!({}));
    assert_eq!(apply(&fixture, &path, "apply_test", &bare).await.ok()["spec"]["replicas"], 4);
}

/// Defines `noxus.mygroup.example.com` in two versions with this schema of its spec.
async fn define(fixture: &Fixture, properties: Value) -> [&'static str; 2] {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "x-kubernetes-preserve-unknown-fields": true, "properties": properties}}});
    let version = |name: &str, storage: bool| json!({"name": name, "served": true, "storage": storage, "schema": {"openAPIV3Schema": schema}});
    let definition = json!({"metadata": {"name": "noxus.mygroup.example.com"}, "spec": {"group": "mygroup.example.com",
        "scope": "Cluster", "names": {"plural": "noxus", "kind": "Noxu"},
        "versions": [version("v1beta1", true), version("v1beta2", false)]}});
    fixture.post(DEFINITIONS, &definition).await.ok();
    ["/apis/mygroup.example.com/v1beta1/noxus/mytest", "/apis/mygroup.example.com/v1beta2/noxus/mytest"]
}

fn noxu(version: &str, meta: &str, spec: &str) -> String {
    format!("\napiVersion: mygroup.example.com/{version}\nkind: Noxu\nmetadata:\n  name: mytest\n{meta}spec:\n{spec}")
}

fn port(name: &str, number: u16) -> String {
    format!("  ports:\n  - name: \"{name}\"\n    containerPort: {number}\n    protocol: TCP")
}

fn ports_schema() -> Value {
    let port = json!({"type": "object", "required": ["containerPort", "protocol"], "properties": {
        "containerPort": {"type": "integer", "format": "int32"}, "name": {"type": "string"}, "protocol": {"type": "string"}}});
    json!({"cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "items": port,
            "x-kubernetes-list-map-keys": ["containerPort", "protocol"]}})
}

#[tokio::test]
async fn custom_resources_are_applied_in_every_version() {
    let fixture = Fixture::new().await;
    let [path, beta] = define(&fixture, ports_schema()).await;
    let spec = format!("  cronSpec: \"* * * * */5\"\n  replicas: 1\n{}", port("x", 80));
    let finalized = noxu("v1beta1", "  finalizers:\n  - test-finalizer\n", &spec);
    let made = apply(&fixture, path, "apply_test", &finalized).await.ok();
    assert_eq!((&made["metadata"]["finalizers"], &made["spec"]["replicas"]), (&json!(["test-finalizer"]), &json!(1)));
    let other = apply(&fixture, beta, "apply_test", &noxu("v1beta2", "", &spec)).await.ok();
    assert_eq!((&other["spec"]["replicas"], other["spec"]["ports"].as_array().map(Vec::len)), (&json!(1), Some(1)));
    // finalizers are a set: another's stay
    let more = json!({"metadata": {"finalizers": ["test-finalizer", "another-one"]}});
    fixture.patch(path, MERGE, &more).await.ok();
    let again = apply(&fixture, path, "apply_test", &finalized).await.ok();
    assert_eq!(again["metadata"]["finalizers"].as_array().map(Vec::len), Some(2));
    fixture.patch(path, MERGE, &json!({"spec": {"replicas": 5}})).await.ok();
    let refused = apply(&fixture, path, "apply_test", &finalized).await;
    assert_eq!(refused.body["details"]["causes"].as_array().map(Vec::len), Some(1));
    assert_eq!(refused.failed().0, 409);
    let forced = apply(&fixture, &format!("{path}?force=true"), "apply_test", &finalized).await.ok();
    assert_eq!(forced["spec"]["replicas"], 1);
    // another manager may add an element, and not change one
    let refused = apply(&fixture, path, "apply_test_2", &noxu("v1beta1", "", &port("y", 80))).await;
    assert_eq!(refused.body["details"]["causes"].as_array().map(Vec::len), Some(1));
    assert_eq!(refused.failed().0, 409);
    let added = apply(&fixture, path, "apply_test_2", &noxu("v1beta1", "", &port("y", 8080))).await.ok();
    assert_eq!(added["spec"]["ports"].as_array().map(Vec::len), Some(2));
    let absent = json!({"apiVersion": "mygroup.example.com/v1beta1", "kind": "Noxu", "metadata": {"name": "absent"}});
    let put = request(Method::PUT, &path.replace("mytest", "absent"), JSON, &absent.to_string());
    assert_eq!(fixture.send(put).await.failed().1, "NotFound");
}

#[tokio::test]
async fn atomic_lists_are_replaced_as_a_whole() {
    let fixture = Fixture::new().await;
    let list =
        json!({"atomicList": {"type": "array", "x-kubernetes-list-type": "atomic", "items": {"type": "string"}}});
    let [path, _] = define(&fixture, list).await;
    let spec = |item: &str| noxu("v1beta1", "", &format!("  atomicList:\n  - \"{item}\""));
    let one = apply(&fixture, path, "apply_test", &spec("item1")).await.ok();
    assert_eq!(one["spec"]["atomicList"], json!(["item1"]));
    let two = apply(&fixture, &format!("{path}?force=true"), "apply_test_2", &spec("item2")).await.ok();
    assert_eq!(two["spec"]["atomicList"], json!(["item2"]));
}
