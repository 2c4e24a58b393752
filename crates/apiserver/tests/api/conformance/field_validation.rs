//! Unknown and duplicate fields, of typed objects and of custom resources.

use http::Method;
use serde_json::{Value, json};

use super::define;
use crate::fixture::{APPLY, Answer, Fixture, JSON, request};

const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";

fn deployment(meta: &str, spec: &str) -> String {
    format!(
        r#"{{"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {{"name": "my-dep", {meta} "labels": {{"app": "nginx"}}}},
        "spec": {{{spec} "selector": {{"matchLabels": {{"app": "nginx"}}}}, "template": {{
            "metadata": {{"labels": {{"app": "nginx"}}}},
            "spec": {{"containers": [{{"name": "nginx", "image": "nginx:latest"}}]}}}}}}}}"#
    )
}

async fn create(fixture: &Fixture, body: &str) -> (u16, String, String) {
    let path = format!("{DEPLOYMENTS}?fieldManager=mgr&fieldValidation=Strict");
    fixture.send(request(Method::POST, &path, JSON, body)).await.failed()
}

#[tokio::test]
async fn unknown_and_duplicate_fields_of_a_typed_object_are_named() {
    let fixture = Fixture::new().await;
    let odd = deployment("", r#""unknownField": "foo", "replicas": 2, "replicas": 3,"#);
    let (code, _, message) = create(&fixture, &odd).await;
    let wanted = r#"strict decoding error: unknown field "spec.unknownField", duplicate field "spec.replicas""#;
    assert!(code == 400 && message.contains(wanted), "{code} {message}");
    let (_, _, message) = create(&fixture, &deployment(r#""unknownMeta": "foo","#, "")).await;
    assert!(message.contains(r#"strict decoding error: unknown field "metadata.unknownMeta""#), "{message}");
}

fn schema() -> Value {
    let port = json!({"type": "object", "required": ["containerPort", "protocol"], "properties": {
        "containerPort": {"type": "integer", "format": "int32"}, "hostIP": {"type": "string"},
        "hostPort": {"type": "integer", "format": "int32"}, "name": {"type": "string"},
        "protocol": {"type": "string"}}});
    json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
        "foo": {"type": "string"},
        "cronSpec": {"type": "string", "pattern": "^(\\d+|\\*)(/\\d+)?(\\s+(\\d+|\\*)(/\\d+)?){4}$"},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "items": port,
            "x-kubernetes-list-map-keys": ["containerPort", "protocol"]}}}}})
}

async fn apply(fixture: &Fixture, path: &str, meta: &str, root: &str, spec: &str) -> Answer {
    let body = format!(
        "\napiVersion: example.com/v1\nkind: Widget\nmetadata:\n  name: mytest\n{meta}  finalizers:\n  - test-finalizer\n\
         {root}spec:\n{spec}  cronSpec: \"* * * * */5\"\n  ports:\n  - name: x\n    containerPort: 80\n    protocol: TCP"
    );
    let path = format!("{path}/mytest?fieldManager=mgr&fieldValidation=Strict");
    fixture.send(request(Method::PATCH, &path, APPLY, &body)).await
}

#[tokio::test]
async fn a_valid_custom_resource_is_applied_and_an_extra_field_is_not() {
    let fixture = Fixture::new().await;
    let path = define(&fixture, json!({"schema": {"openAPIV3Schema": schema()}})).await;
    apply(&fixture, path, "", "", "  foo: foo1\n").await.ok();
    let (_, _, message) = apply(&fixture, path, "", "unknownField: unknown\n", "  foo: foo1\n").await.failed();
    let wanted = "failed to create typed patch object (/mytest; example.com/v1, Kind=Widget): \
        .unknownField: field not declared in schema";
    assert_eq!(message, wanted);
}

#[tokio::test]
async fn without_a_schema_any_field_is_taken() {
    let fixture = Fixture::new().await;
    let open = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let path = define(&fixture, json!({"schema": {"openAPIV3Schema": open}})).await;
    let applied = apply(&fixture, path, "", "", "  unknown: uk1\n").await.ok();
    assert_eq!(applied["spec"]["unknown"], "uk1");
}

#[tokio::test]
async fn unknown_metadata_is_found_in_the_root_and_in_embedded_objects() {
    let fixture = Fixture::new().await;
    let mut schema = schema();
    schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = true.into();
    schema["properties"]["spec"]["properties"]["template"] = json!({"type": "object",
        "x-kubernetes-embedded-resource": true, "properties": {"spec": {"type": "object"},
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}}}});
    let path = define(&fixture, json!({"schema": {"openAPIV3Schema": schema}})).await;
    let template = "  template:\n    apiversion: foo/v1\n    kind: Sub\n    metadata:\n        unknownSubMeta: unknown\n        \
        name: subobject\n        namespace: default\n  foo: foo1\n";
    let (_, _, message) = apply(&fixture, path, "  unknownMeta: unknown\n", "", template).await.failed();
    for field in [".spec.template.metadata.unknownSubMeta", ".metadata.unknownMeta"] {
        assert!(message.contains(&format!("{field}: field not declared in schema")), "{message}");
    }
}

#[tokio::test]
async fn a_repeated_key_is_found_where_unknown_fields_are_kept() {
    let fixture = Fixture::new().await;
    let mut schema = schema();
    schema["properties"]["spec"]["x-kubernetes-preserve-unknown-fields"] = true.into();
    let path = define(&fixture, json!({"schema": {"openAPIV3Schema": schema}})).await;
    let spec = "  unknown: uk1\n  foo: foo1\n  foo: foo2\n";
    let (code, _, message) = apply(&fixture, path, "", "", spec).await.failed();
    assert!(code == 400 && message.contains("line 11: key \"foo\" already set in map"), "{code} {message}");
}
