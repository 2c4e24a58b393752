use serde_json::{Value, json};

use crate::fixture::{created, prepared, resource, updated};

fn definition() -> Value {
    json!({"metadata": {"name": "widgets.test.dev"}, "spec": {"group": "test.dev", "scope": "Namespaced",
        "names": {"plural": "widgets", "kind": "Widget"},
        "versions": [{"name": "v1", "served": true, "storage": true,
            "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
}

#[test]
fn each_rule_has_upstreams_message() {
    let row = resource("apiextensions.k8s.io", "customresourcedefinitions");
    let cases: Vec<(&str, Value, &str)> = vec![
        ("/spec/group", json!("dev"), r#"spec.group: Invalid value: "dev": should be a domain with at least one dot"#),
        ("/spec/scope", json!(""), "spec.scope: Required value"),
        (
            "/spec/scope",
            json!("Wide"),
            r#"spec.scope: Unsupported value: "Wide": supported values: "Cluster", "Namespaced""#,
        ),
        (
            "/spec/names/listKind",
            json!("Widget"),
            r#"spec.names.listKind: Invalid value: "Widget": kind and listKind may not be the same"#,
        ),
        (
            "/spec/versions/0/storage",
            json!(false),
            r#"spec.versions: Invalid value: ["v1"]: must have exactly one version marked as storage version"#,
        ),
        (
            "/spec/versions/0/schema",
            json!({}),
            "spec.versions[0].schema.openAPIV3Schema: Required value: schemas are required",
        ),
        (
            "/spec/versions/0/deprecationWarning",
            json!("x"),
            r#"spec.versions[0].deprecationWarning: Invalid value: "x": can only be set for deprecated versions"#,
        ),
        (
            "/spec/versions/0/subresources",
            json!({"scale": {"specReplicasPath": ".status.a", "statusReplicasPath": "b"}}),
            r#"spec.versions[0].subresources.scale.specReplicasPath: Invalid value: ".status.a": should be a json path under .spec"#,
        ),
        (
            "/spec/versions/0/additionalPrinterColumns",
            json!([{"name": "A", "type": "text", "jsonPath": ".a"}]),
            r#"spec.versions[0].additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string"#,
        ),
        (
            "/spec/versions/0/additionalPrinterColumns",
            json!([{"name": "A", "type": "string", "jsonPath": "a"}]),
            r#"spec.versions[0].additionalPrinterColumns[0].JSONPath: Invalid value: "a": must be a simple json path starting with ."#,
        ),
        (
            "/spec/versions/0/selectableFields",
            json!([{"jsonPath": ".metadata"}]),
            r#"spec.versions[0].selectableFields[0].jsonPath: Invalid value: ".metadata": is an invalid path: does not refer to a valid field"#,
        ),
        (
            "/spec/conversion",
            json!({"strategy": "None", "webhook": {"conversionReviewVersions": ["v1"]}}),
            "spec.conversion.conversionReviewVersions: Forbidden: should not be set when strategy is not set to Webhook",
        ),
        (
            "/spec/conversion",
            json!({"strategy": "Webhook", "webhook": {"conversionReviewVersions": ["v2"], "clientConfig": {"url": "https://a"}}}),
            r#"spec.conversion.conversionReviewVersions: Invalid value: ["v2"]: must include at least one of v1, v1beta1"#,
        ),
        (
            "/spec/preserveUnknownFields",
            json!(true),
            "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
        ),
    ];
    assert_eq!(created(&row, definition()), "[]");
    for (pointer, value, message) in cases {
        let mut object = definition();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value;
        let found = created(&row, object);
        assert!(found.contains(message), "{pointer}: {found}");
    }
}

#[test]
fn what_objects_are_stored_by_cannot_change() {
    let row = resource("apiextensions.k8s.io", "customresourcedefinitions");
    let mut old = prepared(&row, definition());
    old["metadata"]["generation"] = 1.into();
    old["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    let mut new = old.clone();
    new["spec"]["scope"] = "Cluster".into();
    assert_eq!(updated(&row, new, &old), r#"spec.scope: Invalid value: "Cluster": field is immutable"#);
    let mut new = old.clone();
    new["spec"]["versions"][0]["name"] = "v2".into();
    let found = updated(&row, new, &old);
    assert!(
        found.starts_with(r#"status.storedVersions[0]: Invalid value: "v1": missing from spec.versions; v1 was"#),
        "{found}"
    );
    let mut new = old.clone();
    new["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(updated(&row, new, &old), "[]");
}
