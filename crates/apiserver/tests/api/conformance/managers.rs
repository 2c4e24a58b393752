//! The managers of an object's fields: how clients rename, merge and forget them, and what becomes of fields that
//! appliers, updaters and the server share.

use http::Method;
use serde_json::{Value, json};

use crate::fixture::{APPLY, Answer, Fixture, MERGE, request};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const APPS: &str = "/apis/apps/v1/namespaces/default";
const JSON_PATCH: &str = "application/json-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

async fn apply(fixture: &Fixture, path: &str, manager: &str, object: &Value) -> Answer {
    fixture.send(request(Method::PATCH, &format!("{path}?fieldManager={manager}"), APPLY, &object.to_string())).await
}

fn map(metadata: Value) -> Value {
    let mut object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"key": "value"}});
    object["metadata"]["name"] = "m".into();
    object
}

fn pod() -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

/// A workload of one container with these fields.
fn workload(kind: &str, container: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "w", "labels": {"app": "a"}},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": {
            "metadata": {"labels": {"app": "a"}}, "spec": {"containers": [container]}}}})
}

fn entries(object: &Value) -> &[Value] {
    object["metadata"]["managedFields"].as_array().map_or(&[], Vec::as_slice)
}

fn owned(object: &Value, manager: &str) -> Value {
    let entry = entries(object).iter().find(|entry| entry["manager"] == manager);
    entry.map(|entry| entry["fieldsV1"].clone()).unwrap_or_default()
}

/// Gives every entry of an object another value of a field, and puts the object.
async fn rewrite(fixture: &Fixture, path: &str, field: &str, value: &str) -> Value {
    let mut object = fixture.get(path).await.ok();
    for entry in object["metadata"]["managedFields"].as_array_mut().unwrap() {
        entry[field] = value.into();
    }
    fixture.put(path, &object).await.ok()
}

#[tokio::test]
async fn of_managers_that_become_one_the_last_counts() {
    let fixture = Fixture::new().await;
    let path = format!("{PODS}/p");
    let labelled = |key: &str| json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"labels": {key: "x"}}});
    apply(&fixture, &path, "one", &pod()).await.ok();
    apply(&fixture, &path, "two", &labelled("b")).await.ok();
    let renamed = rewrite(&fixture, &path, "manager", "both").await;
    let labels = json!({"f:metadata": {"f:labels": {"f:b": {}}}});
    assert_eq!((entries(&renamed).len(), owned(&renamed, "both")), (1, labels.clone()));
    // so do updates of several managers, and writes through several doors
    for (manager, key) in [("first", "c"), ("second", "d")] {
        let patch = json!({"metadata": {"labels": {key: "x"}}});
        fixture.patch(&format!("{path}?fieldManager={manager}"), MERGE, &patch).await.ok();
    }
    let renamed = rewrite(&fixture, &path, "manager", "both").await;
    assert_eq!(entries(&renamed).len(), 2);
    assert_eq!(entries(&renamed)[1]["fieldsV1"], json!({"f:metadata": {"f:labels": {"f:d": {}}}}));
    apply(&fixture, &format!("{path}/status"), "both", &labelled("e")).await.ok();
    let renamed = rewrite(&fixture, &path, "subresource", "").await;
    assert_eq!(owned(&renamed, "both"), json!({"f:metadata": {"f:labels": {"f:e": {}}}}));
}

#[tokio::test]
async fn managers_are_forgotten_in_every_kind_of_write_and_stay_forgotten() {
    let fixture = Fixture::new().await;
    let path = format!("{MAPS}/m");
    let object = map(json!({"labels": {"l": "x"}}));
    let none = json!({"metadata": {"managedFields": [{}]}});
    let replace = json!([{"op": "replace", "path": "/metadata/managedFields", "value": [{}]}]);
    let writes =
        [(Method::PATCH, MERGE, none.clone()), (Method::PATCH, STRATEGIC, none), (Method::PATCH, JSON_PATCH, replace)];
    let puts = [json!([{}]), json!([])]
        .map(|entries| (Method::PUT, "application/json", map(json!({"labels": {"l": "x"}, "managedFields": entries}))));
    for (method, kind, body) in writes.into_iter().chain(puts) {
        apply(&fixture, &path, "applier", &object).await.ok();
        let cleared = fixture.send(request(method, &path, kind, &body.to_string())).await.ok();
        assert_eq!((entries(&cleared).len(), &cleared["metadata"]["labels"]["l"]), (0, &json!("x")), "{kind} {body}");
        let patched = fixture.patch(&path, MERGE, &json!({"metadata": {"labels": {"l": "y"}}})).await.ok();
        assert_eq!(entries(&patched).len(), 0, "nobody is tracked before the next apply");
        fixture.delete(&path).await.ok();
    }
    // who applies such an object shares it with whoever made it what it is
    let mut object = map(json!({"managedFields": [{}]}));
    fixture.post(MAPS, &object).await.ok();
    fixture.put(&path, &object).await.ok();
    object["metadata"] = json!({"name": "m"});
    let applied = apply(&fixture, &path, "applier", &object).await.ok();
    assert_eq!(entries(&applied)[1]["manager"], "before-first-apply");
}

#[tokio::test]
async fn entries_that_cannot_be_read_fail_no_write() {
    let fixture = Fixture::new().await;
    let path = format!("{MAPS}/m");
    let entries = json!([{"manager": "x", "operation": "Apply", "apiVersion": "v1", "time": "2019-07-08T09:31:18Z",
        "fieldsType": "", "fieldsV1": {}}]);
    let odd = map(json!({"managedFields": entries}));
    let made = fixture.post(&format!("{MAPS}?fieldManager=creator"), &odd).await.ok();
    assert!(owned(&made, "x").is_null() && owned(&made, "creator").is_object(), "{made}");
    let put = fixture.put(&path, &odd).await.ok();
    assert!(owned(&put, "creator").is_object(), "{put}");
    let patch = json!([{"op": "replace", "path": "/metadata/managedFields", "value": entries}]);
    fixture.patch(&path, JSON_PATCH, &patch).await.ok();
}

#[tokio::test]
async fn a_subresource_takes_no_managers_from_a_request() {
    let fixture = Fixture::new().await;
    let path = format!("{PODS}/p");
    let live = apply(&fixture, &path, "applier", &pod()).await.ok();
    let entry = json!({"manager": "testing", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:spec": {"f:containers": {"k:{\"name\":\"x\"}": {".": {}, "f:image": {}}}}}});
    let patch = json!({"metadata": {"managedFields": [entry]},
        "status": {"conditions": [{"type": "MyStatus", "status": "true"}]}});
    let patched = fixture.patch(&format!("{path}/status?fieldManager=updater"), MERGE, &patch).await.ok();
    assert_eq!(entries(&patched)[0], entries(&live)[0]);
    assert_eq!((entries(&patched).len(), &entries(&patched)[1]["manager"]), (2, &json!("updater")));
}

#[tokio::test]
async fn many_updaters_become_ancient() {
    let fixture = Fixture::new().await;
    let path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/w";
    let hooks = json!({"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": "w", "labels": {"applier": "true"}}});
    apply(&fixture, path, "applier", &hooks).await.ok();
    for number in 0..20 {
        let patch = json!({"metadata": {"labels": {format!("u{number}"): "new"}}});
        fixture.patch(&format!("{path}?fieldManager=u{number}"), MERGE, &patch).await.ok();
    }
    let object = fixture.get(path).await.ok();
    let managers: Vec<&str> = entries(&object).iter().map(|entry| entry["manager"].as_str().unwrap()).collect();
    assert_eq!((managers.len(), &managers[..2]), (11, &["applier", "ancient-changes"][..]), "{managers:?}");
}

#[tokio::test]
async fn an_applier_keeps_its_entry_whatever_version_it_once_used() {
    let fixture = Fixture::new().await;
    let path = format!("{APPS}/deployments/w");
    let mut made = workload("Deployment", json!({"name": "c", "image": "i"}));
    made["metadata"]["managedFields"] = json!([{"manager": "sidecar", "operation": "Apply", "fieldsType": "FieldsV1",
        "apiVersion": "extensions/v1beta1", "fieldsV1": {"f:metadata": {"f:labels": {"f:version": {}}}}}]);
    fixture.post(&format!("{APPS}/deployments"), &made).await.ok();
    let sidecar = json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "w", "labels": {"version": "release"}},
        "spec": {"template": {"spec": {"containers": [{"name": "sidecar", "image": "s"}]}}}});
    let applied = apply(&fixture, &path, "sidecar", &sidecar).await.ok();
    assert_eq!((entries(&applied).len(), &entries(&applied)[0]["apiVersion"]), (2, &json!("apps/v1")));
    let containers = json!({"k:{\"name\":\"sidecar\"}": {".": {}, "f:image": {}, "f:name": {}}});
    let wanted = json!({"f:metadata": {"f:labels": {"f:version": {}}},
        "f:spec": {"f:template": {"f:spec": {"f:containers": containers}}}});
    assert_eq!(owned(&applied, "sidecar"), wanted);
    let other = json!({"apiVersion": "extensions/v1beta1", "kind": "Deployment", "metadata": {"name": "w"}});
    assert_eq!(apply(&fixture, &path, "sidecar", &other).await.failed().0, 400);
}

#[tokio::test]
async fn an_apply_that_says_the_same_changes_nothing() {
    let fixture = Fixture::new().await;
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    let mut deployment = workload("Deployment", json!({"name": "c", "image": "i", "ports": [{"containerPort": 80}]}));
    deployment["spec"]["template"]["metadata"]["annotations"] = json!({});
    let unset = map(json!({"creationTimestamp": null, "resourceVersion": null}));
    let mut set =
        workload("StatefulSet", json!({"name": "c", "image": "i", "resources": {"limits": {"memory": "2048Mi"}}}));
    set["spec"]["serviceName"] = "s".into();
    set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "v"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1024Mi"}}}}]);
    for (path, object) in [
        (format!("{APPS}/deployments/w"), &deployment),
        (format!("{MAPS}/m"), &unset),
        (format!("{APPS}/statefulsets/w"), &set),
    ] {
        let first = apply(&fixture, &path, "applier", object).await.ok();
        let second = apply(&fixture, &path, "applier", object).await.ok();
        assert_eq!(first, second, "{path}");
        assert_eq!(version(&fixture.put(&path, &first).await.ok()), version(&first), "{path}");
    }
    let plain = apply(
        &fixture,
        &format!("{MAPS}/bare"),
        "applier",
        &json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "bare"}}),
    )
    .await
    .ok();
    assert_eq!(entries(&plain).len(), 0, "who names no field owns none");
    // leaving out a structure that was only marked is a change
    let mut marked = pod();
    marked["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    let path = format!("{PODS}/p");
    let first = apply(&fixture, &path, "applier", &marked).await.ok();
    marked["spec"]["volumes"] = json!([{"name": "v"}]);
    assert_ne!(version(&apply(&fixture, &path, "applier", &marked).await.ok()), version(&first));
}

#[tokio::test]
async fn elements_go_with_their_applier_whoever_added_to_them() {
    let fixture = Fixture::new().await;
    let path = format!("{APPS}/deployments/w");
    let mut made =
        apply(&fixture, &path, "applier", &workload("Deployment", json!({"name": "a", "image": "i"}))).await.ok();
    made["spec"]["template"]["spec"]["containers"][0]["workingDir"] = "/home".into();
    fixture.put(&format!("{path}?fieldManager=updater"), &made).await.ok();
    let other =
        apply(&fixture, &path, "applier", &workload("Deployment", json!({"name": "b", "image": "i"}))).await.ok();
    let containers = other["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    assert_eq!((containers.len(), &containers[0]["name"]), (1, &json!("b")));
    // a key that was left out has its default
    let ported = |port: Value| workload("Deployment", json!({"name": "b", "image": "i", "ports": [port]}));
    apply(&fixture, &path, "applier", &ported(json!({"name": "foo", "containerPort": 80}))).await.ok();
    let named = ported(json!({"name": "bar", "containerPort": 80, "protocol": "TCP"}));
    let refused = apply(&fixture, &path, "other", &named).await;
    assert_eq!(refused.body["details"]["causes"].as_array().map(Vec::len), Some(1), "{}", refused.body);
}

/// What `manager` owns of the one container of a workload.
fn of_container(object: &Value, manager: &str) -> Value {
    owned(object, manager)["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"].clone()
}

#[tokio::test]
async fn elements_with_the_same_key_are_one_thing_to_own() {
    let fixture = Fixture::new().await;
    let path = format!("{APPS}/daemonsets/w");
    let env = |name: &str, value: &str| json!({"name": name, "value": value});
    let port = |name: &str, number: i32| json!({"name": name, "containerPort": number});
    let set = |env: Value, ports: Value| {
        workload("DaemonSet", json!({"name": "c", "image": "i", "env": env, "ports": ports}))
    };
    let twice = set(
        json!([env("ENV0", "0"), env("PATH", "/bin"), env("PATH", "$PATH:/usr/bin")]),
        json!([port("port0", 1), port("port1", 80), port("port2", 80)]),
    );
    let made = fixture.post(&format!("{APPS}/daemonsets?fieldManager=create"), &twice).await.ok();
    let whole = json!({".": {}, "f:name": {}, "f:value": {}});
    let created = of_container(&made, "create");
    assert_eq!(created["f:env"], json!({".": {}, "k:{\"name\":\"ENV0\"}": whole, "k:{\"name\":\"PATH\"}": {}}));
    let key = |number: i32| format!("k:{{\"containerPort\":{number},\"protocol\":\"TCP\"}}");
    assert_eq!(created["f:ports"][key(80)], json!({}));
    assert_eq!(made["metadata"]["annotations"]["deprecated.daemonset.template.generation"], "1");
    assert!(owned(&made, "create")["f:metadata"]["f:annotations"].is_object());
    // another element changes nothing of them
    let more = set(json!([env("HOME", "/h")]), json!([port("port3", 443)]));
    let added = apply(&fixture, &path, "apply", &more).await.ok();
    let container = &added["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((container["env"].as_array().unwrap().len(), container["ports"].as_array().unwrap().len()), (4, 4));
    assert_eq!(of_container(&added, "create"), created);
    // who changes one of them has them
    let changed = set(
        json!([env("ENV0", "0"), env("PATH", "/bin"), env("PATH", "/other"), env("HOME", "/h")]),
        json!([port("port0", 1), port("port3", 443), port("port4", 80), port("port5", 80)]),
    );
    let updated = fixture.put(&format!("{path}?fieldManager=update"), &changed).await.ok();
    let wanted = json!({"f:env": {"k:{\"name\":\"PATH\"}": {}}, "f:ports": {(key(80)): {}}});
    assert_eq!(of_container(&updated, "update"), wanted);
    assert_eq!(updated["metadata"]["annotations"]["deprecated.daemonset.template.generation"], "3");
    // one takes the place of several
    let one = set(json!([env("PATH", "/one")]), json!([port("port80", 80)]));
    let forced = format!("{path}?force=true&fieldManager=apply");
    let replaced = fixture.send(request(Method::PATCH, &forced, APPLY, &one.to_string())).await.ok();
    let container = &replaced["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((container["env"].as_array().unwrap().len(), container["ports"].as_array().unwrap().len()), (2, 2));
    assert_eq!(of_container(&replaced, "apply")["f:env"], json!({"k:{\"name\":\"PATH\"}": whole}));
    assert!(of_container(&replaced, "update").is_null());
}

#[tokio::test]
async fn fields_that_once_were_one_value_are_shared_again() {
    let fixture = Fixture::new().await;
    let path = "/api/v1/persistentvolumes/v";
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "name": "c", "namespace": "default",
        "resourceVersion": "15499", "uid": "2018e302-7b12-406c-9fa2-e52535d29e48"});
    let spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "16Mi"}, "hostPath": {"path": "/d"}});
    let mut volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "v"}, "spec": spec});
    volume["spec"]["claimRef"] = claim.clone();
    fixture.post("/api/v1/persistentvolumes", &volume).await.ok();
    let entry = |manager: &str, operation: &str, fields: Value| {
        json!({"apiVersion": "v1", "fieldsType": "FieldsV1", "fieldsV1": fields, "manager": manager,
            "operation": operation, "time": "2022-06-08T23:46:32Z"})
    };
    let fields =
        json!({"f:spec": {"f:accessModes": {}, "f:capacity": {"f:storage": {}}, "f:hostPath": {"f:path": {}}}});
    let managers =
        json!([entry("applier", "Apply", fields), entry("binder", "Update", json!({"f:spec": {"f:claimRef": {}}}))]);
    fixture.patch(path, STRATEGIC, &json!({"metadata": {"managedFields": managers}})).await.ok();
    volume["spec"]["claimRef"] = json!({"name": "c", "namespace": "default"});
    let applied = apply(&fixture, path, "applier", &volume).await.ok();
    assert_eq!(applied["spec"]["claimRef"], claim);
    assert_eq!(owned(&applied, "applier")["f:spec"]["f:claimRef"], json!({"f:name": {}, "f:namespace": {}}));
    assert_eq!(owned(&applied, "binder"), json!({"f:spec": {"f:claimRef": {}}}));
}
