//! Custom resources in several versions, converted by a webhook.

use serde_json::{Value, json};

use crate::{
    fixture::{APPLY, Fixture, Lines, MERGE},
    webhook_server::{Reply, WebhookServer, allow},
};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

pub(crate) fn things(version: &str) -> String {
    format!("/apis/conv.dev/{version}/namespaces/default/things")
}

/// v1 has `host: "name:port"`, v2 has `name` and `port`.
pub(crate) fn definition(server: &WebhookServer) -> Value {
    let text = json!({"type": "string"});
    let version = |name: &str, storage: bool, properties: Value| {
        json!({"name": name, "served": true, "storage": storage,
            "schema": {"openAPIV3Schema": {"type": "object", "properties": properties}}})
    };
    let v1 = version("v1", true, json!({"host": text}));
    let v2 = version("v2", false, json!({"name": text, "port": text, "extra": {"type": "string", "default": "d"}}));
    json!({"metadata": {"name": "things.conv.dev"}, "spec": {"group": "conv.dev", "scope": "Namespaced",
        "names": {"plural": "things", "kind": "Thing"}, "versions": [v1, v2],
        "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": server.client("/convert"),
            "conversionReviewVersions": ["v1", "v1beta1"]}}}})
}

fn converted(object: &Value, desired: &str) -> Value {
    let mut new = json!({"apiVersion": desired, "kind": object["kind"], "metadata": object["metadata"]});
    new["metadata"]["labels"]["converted-to"] = desired.rsplit('/').next().unwrap().into();
    match desired {
        "conv.dev/v2" => {
            let (name, port) = object["host"].as_str().unwrap_or_default().split_once(':').unwrap_or_default();
            (new["name"], new["port"], new["unknown"]) = (name.into(), port.into(), 1.into());
        }
        _ => {
            let text = |field: &str| object[field].as_str().unwrap_or_default();
            new["host"] = format!("{}:{}", text("name"), text("port")).into();
        }
    }
    new
}

pub(crate) async fn server() -> WebhookServer {
    WebhookServer::new(|path, asked| {
        if path != "/convert" {
            return allow(asked);
        }
        let request = &asked["request"];
        let desired = request["desiredAPIVersion"].as_str().unwrap();
        let objects = request["objects"].as_array().unwrap();
        let refuses = objects.iter().any(|object| object["host"] == "bad:bad");
        let result =
            if refuses { json!({"status": "Failure", "message": "too bad"}) } else { json!({"status": "Success"}) };
        let objects: Vec<Value> = objects.iter().map(|object| converted(object, desired)).collect();
        Reply::Json(json!({"apiVersion": asked["apiVersion"], "kind": "ConversionReview",
            "response": {"uid": request["uid"], "result": result, "convertedObjects": objects}}))
    })
    .await
}

fn v1(name: &str, host: &str) -> Value {
    json!({"apiVersion": "conv.dev/v1", "kind": "Thing", "metadata": {"name": name}, "host": host})
}

#[tokio::test]
async fn every_version_is_read_and_written_as_what_it_is() {
    let (fixture, server) = (Fixture::new().await, server().await);
    fixture.post(DEFINITIONS, &definition(&server)).await.ok();
    fixture.post(&things("v1"), &v1("a", "h:1")).await.ok();
    assert_eq!(server.seen("/convert").len(), 0, "the stored version needs no conversion");
    let a = format!("{}/a", things("v2"));
    let read = fixture.get(&a).await.ok();
    assert_eq!((&read["name"], &read["port"], &read["extra"]), (&json!("h"), &json!("1"), &json!("d")));
    assert_eq!((&read["unknown"], &read["metadata"]["labels"]), (&Value::Null, &json!({"converted-to": "v2"})));
    fixture.get(&a).await.ok();
    fixture.get(&things("v2")).await.ok();
    assert_eq!(server.seen("/convert").len(), 1, "one revision is converted once");
    let changed = fixture.patch(&a, MERGE, &json!({"port": "2"})).await.ok();
    assert_eq!((&changed["apiVersion"], &changed["port"]), (&json!("conv.dev/v2"), &json!("2")));
    assert_eq!(fixture.get(&format!("{}/a", things("v1"))).await.ok()["host"], "h:2");
    let b = json!({"apiVersion": "conv.dev/v2", "kind": "Thing", "metadata": {"name": "b"}, "name": "x", "port": "9"});
    assert_eq!(fixture.post(&things("v2"), &b).await.ok()["name"], "x");
    let applied = fixture.patch(&format!("{}/c?fieldManager=m", things("v2")), APPLY, &b_named("c")).await.ok();
    assert_eq!(applied["port"], "9");
    let selected = fixture.get(&format!("{}?labelSelector=converted-to=v2", things("v2"))).await.ok();
    assert_eq!(selected["items"].as_array().unwrap().len(), 3);
    fixture.delete(&a).await.ok();
    assert_eq!(fixture.delete(&things("v2")).await.ok()["items"].as_array().unwrap().len(), 2);
}

fn b_named(name: &str) -> Value {
    json!({"apiVersion": "conv.dev/v2", "kind": "Thing", "metadata": {"name": name}, "name": "x", "port": "9"})
}

#[tokio::test]
async fn a_list_of_objects_stored_in_different_versions_is_of_one() {
    let (fixture, server) = (Fixture::new().await, server().await);
    let mut definition = definition(&server);
    fixture.post(DEFINITIONS, &definition).await.ok();
    let old = fixture.post(&things("v1"), &v1("old", "o:1")).await.ok();
    let old_revision = old["metadata"]["resourceVersion"].as_str().unwrap();
    let watch = Lines::open(&fixture, &format!("{}?watch=1&resourceVersion={}", things("v1"), old_revision)).await;
    let path = format!("{DEFINITIONS}/things.conv.dev");
    let live = fixture.get(&path).await.ok();
    definition["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
    for (index, storage) in [(0, false), (1, true)] {
        definition["spec"]["versions"][index]["storage"] = storage.into();
    }
    let switched = fixture.put(&path, &definition).await.ok();
    assert_eq!(switched["status"]["storedVersions"], json!(["v1", "v2"]));
    let new =
        json!({"apiVersion": "conv.dev/v2", "kind": "Thing", "metadata": {"name": "new"}, "name": "n", "port": "2"});
    fixture.post(&things("v2"), &new).await.ok();
    let mut outdated = watch;
    assert!(outdated.next().await.is_none(), "a watch of what was stored verbatim ends");
    for (version, field, expected) in [("v1", "host", ["n:2", "o:1"]), ("v2", "name", ["n", "o"])] {
        let list = fixture.get(&things(version)).await.ok();
        let items = list["items"].as_array().unwrap();
        assert!(items.iter().all(|item| item["apiVersion"] == format!("conv.dev/{version}")), "{items:?}");
        assert_eq!(items.iter().map(|item| item[field].as_str().unwrap()).collect::<Vec<_>>(), expected);
        assert!(list["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().is_ok());
    }
}

#[tokio::test]
async fn a_watch_speaks_the_version_it_was_opened_in() {
    let (fixture, server) = (Fixture::new().await, server().await);
    fixture.post(DEFINITIONS, &definition(&server)).await.ok();
    fixture.post(&things("v1"), &v1("a", "h:1")).await.ok();
    let mut watch = Lines::open(&fixture, &format!("{}?watch=1", things("v2"))).await;
    let first = watch.next().await.unwrap();
    assert_eq!((&first["type"], &first["object"]["name"]), (&json!("ADDED"), &json!("h")));
    fixture.patch(&format!("{}/a", things("v1")), MERGE, &json!({"host": "i:2"})).await.ok();
    let second = watch.next().await.unwrap();
    assert_eq!((&second["type"], &second["object"]["port"]), (&json!("MODIFIED"), &json!("2")));
    fixture.delete(&format!("{}/a", things("v1"))).await.ok();
    assert_eq!(watch.named().await, ("DELETED".into(), "a".into()));
}

#[tokio::test]
async fn a_webhook_that_refuses_leaves_the_other_version_readable() {
    let (fixture, server) = (Fixture::new().await, server().await);
    fixture.post(DEFINITIONS, &definition(&server)).await.ok();
    fixture.post(&things("v1"), &v1("a", "bad:bad")).await.ok();
    let (code, _, message) = fixture.get(&format!("{}/a", things("v2"))).await.failed();
    assert_eq!(code, 500);
    assert_eq!(message, "conversion webhook for conv.dev/v1, Kind=Thing failed: too bad");
    assert_eq!(fixture.get(&things("v2")).await.failed().0, 500);
    fixture.get(&format!("{}/a", things("v1"))).await.ok();
    // a definition goes, whatever its webhook says
    fixture.delete(&format!("{DEFINITIONS}/things.conv.dev")).await.ok();
    assert_eq!(fixture.get(&things("v1")).await.failed().0, 404);
}
