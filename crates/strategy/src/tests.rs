mod rules;

use serde_json::json;

use super::{fixture::*, *};

fn with_metadata(metadata: Value) -> Value {
    json!({ "metadata": metadata })
}

#[test]
fn names_and_namespaces_of_new_objects() {
    let pods = resource("example.io", "widgets");
    for (metadata, errors) in [
        (json!({"name": "a.b", "namespace": "n"}), "[]"),
        (json!({"namespace": "n"}), "metadata.name: Required value: name or generateName is required"),
        (json!({"name": "a"}), "metadata.namespace: Required value"),
        (json!({"name": "a", "namespace": "n", "labels": {"a": "x".repeat(64)}}), "too long"),
        (json!({"name": "a", "namespace": "n", "annotations": {"Some.Domain/Key": "ä b"}}), "[]"),
        (
            json!({"name": "a", "namespace": "n", "annotations": {"a": "x".repeat(262_145)}}),
            "metadata.annotations: Too long: may not be more than 262144 bytes",
        ),
        (
            json!({"name": "a", "namespace": "n", "finalizers": ["mine"]}),
            r#"metadata.finalizers[0]: Invalid value: "mine": name is neither a standard finalizer name nor is it fully qualified"#,
        ),
        (
            json!({"name": "a", "namespace": "n", "ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "p"}]}),
            r#"metadata.ownerReferences[0].uid: Invalid value: "": must not be empty"#,
        ),
    ] {
        let found = created(&pods, with_metadata(metadata.clone()));
        if errors == "too long" {
            assert!(found.ends_with("must be no more than 63 bytes"), "{found}");
        } else {
            assert_eq!(found, errors, "{metadata}");
        }
    }
    assert!(created(&pods, with_metadata(json!({"name": "A", "namespace": "n"}))).starts_with(
        r#"metadata.name: Invalid value: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric"#
    ));
    let nodes = resource("", "nodes");
    assert_eq!(
        created(&nodes, with_metadata(json!({"name": "a", "namespace": "n"}))),
        "metadata.namespace: Forbidden: not allowed on this type"
    );
}

#[test]
fn metadata_that_may_not_change() {
    let widgets = resource("example.io", "widgets");
    let old =
        with_metadata(json!({"name": "a", "namespace": "n", "uid": "1", "deletionTimestamp": "2020-01-01T00:00:00Z",
        "finalizers": ["a.io/x"]}));
    let mut new = old.clone();
    new["metadata"]["uid"] = "2".into();
    assert_eq!(updated(&widgets, new, &old), r#"metadata.uid: Invalid value: "2": field is immutable"#);
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!(["a.io/x", "a.io/y"]);
    assert_eq!(
        updated(&widgets, new, &old),
        r#"metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{"a.io/y"}"#
    );
    let mut new = old.clone();
    new["metadata"]["finalizers"] = json!([]);
    assert_eq!(updated(&widgets, new, &old), "[]");
}

#[test]
fn status_is_isolated_both_ways_and_generation_counts_desired_changes() {
    let deployments = resource("apps", "deployments");
    let old = json!({"metadata": {"name": "a", "namespace": "n", "generation": 3}, "spec": {"replicas": 1},
        "status": {"replicas": 1}});
    with(&deployments, |strategy, cx| {
        let mut new = old.clone();
        new["spec"]["replicas"] = 2.into();
        new["status"]["replicas"] = 9.into();
        strategy.prepare_update(cx, &mut new, &old);
        assert_eq!((&new["status"]["replicas"], &new["metadata"]["generation"]), (&json!(1), &json!(4)));
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        strategy.prepare_update(cx, &mut new, &old);
        assert_eq!(new["metadata"]["generation"], 3);
        let mut new = old.clone();
        new["spec"]["replicas"] = 2.into();
        new["status"]["replicas"] = 9.into();
        let cx = WriteContext { subresource: Some("status"), ..*cx };
        strategy.prepare_update(&cx, &mut new, &old);
        assert_eq!((&new["status"]["replicas"], &new["spec"]["replicas"]), (&json!(9), &json!(1)));
        assert_eq!(new["metadata"]["generation"], 3);
    });
    let fresh = prepared(&deployments, json!({"metadata": {"name": "a"}, "spec": {}, "status": {"replicas": 5}}));
    assert_eq!((&fresh["status"], &fresh["metadata"]["generation"]), (&json!({}), &json!(1)));
}

#[test]
fn namespaces_are_born_active() {
    let namespaces = resource("", "namespaces");
    let made = prepared(&namespaces, json!({"metadata": {"name": "a"}}));
    assert_eq!(made["status"], json!({"phase": "Active"}));
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "a");
    let mut emptied = made.clone();
    emptied["spec"]["finalizers"] = json!([]);
    with(&namespaces, |strategy, cx| {
        let mut new = emptied.clone();
        strategy.prepare_update(cx, &mut new, &made);
        assert_eq!(new["spec"], made["spec"]);
        let cx = WriteContext { subresource: Some("finalize"), ..*cx };
        strategy.prepare_update(&cx, &mut emptied, &made);
        assert_eq!(emptied["spec"]["finalizers"], json!([]));
    });
}

#[test]
fn rules_of_the_smaller_kinds() {
    let meta = json!({"name": "a", "namespace": "n"});
    let cluster = json!({"name": "a"});
    let rbac = "rbac.authorization.k8s.io";
    for (group, plural, object, errors) in [
        (
            rbac,
            "roles",
            json!({"metadata": meta, "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]}),
            "[]",
        ),
        (
            rbac,
            "roles",
            json!({"metadata": meta, "rules": [{"apiGroups": [""], "resources": ["pods"]}]}),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            rbac,
            "roles",
            json!({"metadata": meta, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}),
            r#"rules[0].nonResourceURLs: Invalid value: ["/x"]: namespaced rules cannot apply to non-resource URLs"#,
        ),
        (
            rbac,
            "clusterrolebindings",
            json!({"metadata": {"name": "system:x"}, "roleRef": {"kind": "Role", "name": "r"}, "subjects": [{"kind": "User", "name": "u"}]}),
            r#"roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole""#,
        ),
        (
            "scheduling.k8s.io",
            "priorityclasses",
            json!({"metadata": cluster, "value": 1_000_000_001}),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        ),
        (
            "coordination.k8s.io",
            "leases",
            json!({"metadata": meta, "spec": {"leaseDurationSeconds": 0}}),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            "",
            "persistentvolumeclaims",
            json!({"metadata": meta, "spec": {"accessModes": ["ReadWriteOnce"]}}),
            "spec.resources[storage]: Required value",
        ),
        (
            "networking.k8s.io",
            "ingresses",
            json!({"metadata": meta, "spec": {"rules": [{"http": {"paths": [{"path": "/", "backend": {"service": {"name": "s", "port": {"number": 1}}}}]}}]}}),
            "spec.rules[0].http.paths[0].pathType: Required value: pathType must be specified",
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"metadata": meta, "spec": {"maxReplicas": 0, "minReplicas": 0, "scaleTargetRef": {"kind": "D", "name": "d"}}}),
            "[spec.minReplicas: Invalid value: 0: must be greater than or equal to 1, spec.maxReplicas: Invalid value: 0: must be greater than 0, spec.metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas]",
        ),
        (
            "policy",
            "poddisruptionbudgets",
            json!({"metadata": meta, "spec": {"minAvailable": 1, "maxUnavailable": 1}}),
            r#"spec: Invalid value: {"maxUnavailable":1,"minAvailable":1}: minAvailable and maxUnavailable cannot be both set"#,
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"metadata": meta, "addressType": "IPv4", "endpoints": [{"addresses": []}]}),
            "endpoints[0].addresses: Required value: must contain at least 1 address",
        ),
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            json!({"metadata": {"name": "b.x.io"}, "spec": {"group": "x.io", "scope": "Cluster", "names": {"plural": "as", "kind": "A"},
                "versions": [{"name": "v1", "storage": true, "served": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}}),
            r#"metadata.name: Invalid value: "b.x.io": must be spec.names.plural+"."+spec.group"#,
        ),
    ] {
        assert_eq!(created(&resource(group, plural), object.clone()), errors, "{plural} {object}");
    }
}

#[test]
fn defaults_of_the_smaller_kinds() {
    for (group, plural, object, pointer, value) in [
        (
            "networking.k8s.io",
            "networkpolicies",
            json!({"spec": {"egress": [{}]}}),
            "/spec/policyTypes",
            json!(["Ingress", "Egress"]),
        ),
        ("networking.k8s.io", "networkpolicies", json!({"spec": {}}), "/spec/policyTypes", json!(["Ingress"])),
        ("storage.k8s.io", "storageclasses", json!({}), "/volumeBindingMode", json!("Immediate")),
        (
            "rbac.authorization.k8s.io",
            "rolebindings",
            json!({"roleRef": {}}),
            "/roleRef/apiGroup",
            json!("rbac.authorization.k8s.io"),
        ),
        (
            "",
            "limitranges",
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}),
            "/spec/limits/0/defaultRequest",
            json!({"cpu": "1"}),
        ),
        (
            "apiextensions.k8s.io",
            "customresourcedefinitions",
            json!({"spec": {"names": {"kind": "Abc"}}}),
            "/spec/names/listKind",
            json!("AbcList"),
        ),
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations",
            json!({"webhooks": [{}]}),
            "/webhooks/0/reinvocationPolicy",
            json!("Never"),
        ),
    ] {
        let made = prepared(&resource(group, plural), object);
        assert_eq!(made.pointer(pointer), Some(&value), "{plural}");
    }
}
