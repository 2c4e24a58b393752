//! What `kubectl explain` reads: descriptions of built-in types and of custom resources.

use serde_json::json;

use super::define;
use crate::fixture::Fixture;

#[tokio::test]
async fn every_served_kind_and_field_of_the_core_group_is_described() {
    let fixture = Fixture::new().await;
    let document = fixture.get("/openapi/v3/api/v1").await.ok();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let pod = &schemas["io.k8s.api.core.v1.PodSpec"];
    assert!(pod["description"].as_str().unwrap().starts_with("PodSpec is a description of a pod"));
    let affinity = &pod["properties"]["affinity"];
    assert_eq!(affinity["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.core.v1.Affinity");
    assert!(affinity["description"].as_str().unwrap().contains("scheduling constraints"), "{affinity}");
    let kinds = schemas
        .iter()
        .filter(|(name, schema)| schema.get("x-kubernetes-group-version-kind").is_some() && !name.ends_with("List"));
    for (name, schema) in kinds {
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            assert!(property["description"].is_string(), "{name}.{field}");
        }
    }
    let v2 = fixture.get("/openapi/v2").await.ok();
    let spec = &v2["definitions"]["io.k8s.api.core.v1.Pod"]["properties"]["spec"];
    assert!(spec["$ref"].is_string() && spec["description"].is_string(), "{spec}");
}

#[tokio::test]
async fn a_custom_resource_is_described_by_its_definition_and_its_head_by_the_server() {
    let fixture = Fixture::new().await;
    let schema = json!({"type": "object", "description": "Widget CRD for Testing", "properties": {
        "spec": {"type": "object", "description": "Specification of Widget"}}});
    define(&fixture, json!({"schema": {"openAPIV3Schema": schema}})).await;
    let document = fixture.get("/openapi/v3/apis/example.com/v1").await.ok();
    let widget = &document["components"]["schemas"]["com.example.v1.Widget"];
    assert_eq!(widget["description"], "Widget CRD for Testing");
    assert_eq!(widget["properties"]["spec"]["description"], "Specification of Widget");
    let version = widget["properties"]["apiVersion"]["description"].as_str().unwrap();
    assert!(version.starts_with("APIVersion defines"), "{version}");
}
