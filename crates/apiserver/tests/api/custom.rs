//! CustomResourceDefinitions: from creation to the last object, and the Gateway API's real ones.

use std::path::Path;

use serde_json::{Value, json};

use crate::fixture::{APPLY, Fixture, Lines, MERGE};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const WIDGETS: &str = "/apis/test.dev/v1/namespaces/default/widgets";

fn definition() -> Value {
    let schema = json!({"type": "object", "properties": {
        "spec": {"type": "object", "required": ["size"], "properties": {
            "size": {"type": "integer", "minimum": 1}, "color": {"type": "string", "default": "red"}}},
        "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}});
    let version = |name: &str, storage: bool| {
        json!({"name": name, "served": true, "storage": storage,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]})
    };
    json!({"metadata": {"name": "widgets.test.dev"}, "spec": {"group": "test.dev", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget", "shortNames": ["wd"]},
        "versions": [version("v1", true), version("v1beta1", false)]}})
}

fn widget(name: &str, size: i64) -> Value {
    json!({"apiVersion": "test.dev/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": size}})
}

#[tokio::test]
async fn a_definition_serves_its_objects_with_schema_status_scale_and_columns() {
    let fixture = Fixture::new().await;
    let created = fixture.post(DEFINITIONS, &definition()).await.ok();
    let conditions = created["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True"));
    assert_eq!(fixture.get("/apis/test.dev/v1").await.ok()["resources"][0]["shortNames"], json!(["wd"]));
    let mut object = widget("a", 3);
    object["spec"]["unknown"] = 1.into();
    let stored = fixture.post(WIDGETS, &object).await.ok();
    assert_eq!(stored["spec"], json!({"size": 3, "color": "red"}));
    assert_eq!(stored["metadata"]["generation"], 1);
    let (code, _, message) = fixture.post(WIDGETS, &widget("b", 0)).await.failed();
    assert_eq!(code, 422);
    assert!(message.contains("spec.size") && message.starts_with("Widget.test.dev \"b\" is invalid"), "{message}");
    let path = format!("{WIDGETS}/a");
    fixture.patch(&format!("{path}/status"), MERGE, &json!({"status": {"size": 2}, "spec": {"size": 9}})).await.ok();
    let scale = fixture.get(&format!("{path}/scale")).await.ok();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(3), &json!(2)));
    fixture.patch(&format!("{path}/scale"), MERGE, &json!({"spec": {"replicas": 5}})).await.ok();
    let other = fixture.get("/apis/test.dev/v1beta1/namespaces/default/widgets/a").await.ok();
    assert_eq!((&other["apiVersion"], &other["spec"]["size"]), (&json!("test.dev/v1beta1"), &json!(5)));
    let applied = fixture.patch(&format!("{WIDGETS}/c?fieldManager=m"), APPLY, &widget("c", 1)).await;
    assert_eq!(applied.status, 201);
    let strategic = fixture.patch(&path, "application/strategic-merge-patch+json", &json!({})).await;
    assert_eq!(strategic.failed().0, 415);
}

#[tokio::test]
async fn deleting_a_definition_takes_its_objects_along() {
    let fixture = Fixture::new().await;
    fixture.post(DEFINITIONS, &definition()).await.ok();
    for i in 0..20 {
        fixture.post(WIDGETS, &widget(&format!("w{i}"), 1)).await.ok();
    }
    let mut held = widget("held", 1);
    held["metadata"]["finalizers"] = json!(["test.dev/hold"]);
    fixture.post(WIDGETS, &held).await.ok();
    let mut watch = Lines::open(&fixture, &format!("{WIDGETS}?watch=1&fieldSelector=metadata.name%3Dw7")).await;
    assert_eq!(watch.named().await.0, "ADDED");
    let path = format!("{DEFINITIONS}/widgets.test.dev");
    fixture.delete(&path).await.ok();
    assert_eq!(watch.named().await.0, "DELETED");
    assert_eq!(fixture.get(WIDGETS).await.ok()["items"].as_array().unwrap().len(), 1);
    assert_eq!(fixture.post(WIDGETS, &widget("late", 1)).await.failed().0, 405);
    fixture.patch(&format!("{WIDGETS}/held"), MERGE, &json!({"metadata": {"finalizers": null}})).await.ok();
    assert_eq!(fixture.get(&path).await.failed().0, 404);
    assert_eq!(fixture.get(WIDGETS).await.failed().0, 404);
}

#[tokio::test]
async fn a_short_name_in_use_keeps_a_definition_from_being_served() {
    let fixture = Fixture::new().await;
    fixture.post(DEFINITIONS, &definition()).await.ok();
    let mut second = definition();
    second["metadata"]["name"] = "gadgets.test.dev".into();
    second["spec"]["names"] = json!({"plural": "gadgets", "kind": "Gadget", "shortNames": ["wd"]});
    let created = fixture.post(DEFINITIONS, &second).await.ok();
    let names = created["status"]["conditions"].as_array().unwrap();
    assert!(names.iter().any(|c| c["type"] == "NamesAccepted" && c["status"] == "False"));
    assert_eq!(fixture.get("/apis/test.dev/v1/gadgets").await.failed().0, 404);
}

#[tokio::test]
async fn a_schema_that_does_not_compile_is_refused() {
    let fixture = Fixture::new().await;
    let mut broken = definition();
    let schema = &mut broken["spec"]["versions"][1]["schema"]["openAPIV3Schema"];
    schema["properties"]["spec"]["properties"]["color"]["pattern"] = "(".into();
    let (code, _, message) = fixture.post(DEFINITIONS, &broken).await.failed();
    assert_eq!(code, 422);
    assert!(message.contains("spec.versions[1].schema.openAPIV3Schema"), "{message}");
}

#[tokio::test]
async fn the_gateway_apis_own_definitions_are_established() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/crds/gateway-api");
    let Ok(files) = std::fs::read_dir(&directory) else {
        println!("skipped: {} is not there", directory.display());
        return;
    };
    let fixture = Fixture::new().await;
    let mut count = 0;
    for file in files.map(|file| file.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "yaml")) {
        for document in std::fs::read_to_string(&file).unwrap().split("\n---") {
            let Ok((object, _)) = schema::yaml::parse(document.as_bytes()) else { continue };
            if object["kind"] != "CustomResourceDefinition" {
                continue;
            }
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let path = format!("{DEFINITIONS}/{name}?fieldManager=test");
            let applied = fixture.patch(&path, APPLY, &object).await.ok();
            let conditions = applied["status"]["conditions"].as_array().unwrap();
            assert!(conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True"), "{name}");
            count += 1;
        }
    }
    assert!(count >= 4, "{count} definitions in {}", directory.display());
    let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "k"},
        "spec": {"controllerName": "keelson.dev/gateway"}});
    fixture.post("/apis/gateway.networking.k8s.io/v1/gatewayclasses", &class).await.ok();
}
