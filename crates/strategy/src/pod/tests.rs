use serde_json::{Value, json};

use super::*;
use crate::fixture::*;

fn pod() -> Value {
    prepared(
        &resource("", "pods"),
        json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {"containers": [{"name": "c", "image": "i:1"}],
            "tolerations": [{"operator": "Exists"}]}}),
    )
}

#[test]
fn a_new_pod_is_pending_and_has_its_class() {
    let pod = pod();
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(pod["metadata"]["generation"], 1);
    for (resources, class) in [
        (json!({}), "BestEffort"),
        (json!({"requests": {"cpu": "1"}}), "Burstable"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}), "Guaranteed"),
        (json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"}}), "Burstable"),
        (json!({"limits": {"cpu": "1"}}), "Burstable"),
    ] {
        assert_eq!(qos_class(&json!({"containers": [{ "resources": resources }]})), class, "{resources}");
    }
}

#[test]
fn only_a_few_fields_may_change() {
    let pods = resource("", "pods");
    let old = pod();
    let change = |pointer: &str, value: Value| {
        let mut new = old.clone();
        *new.pointer_mut(pointer).unwrap() = value;
        updated(&pods, new, &old)
    };
    assert_eq!(change("/spec/containers/0/image", json!("i:2")), "[]");
    assert_eq!(change("/spec/tolerations", json!([{"operator": "Exists"}, {"key": "a", "operator": "Exists"}])), "[]");
    for (pointer, value, field) in [
        ("/spec/restartPolicy", json!("Never"), "restartPolicy"),
        ("/spec/tolerations", json!([]), "tolerations"),
        ("/spec/containers/0/name", json!("d"), "containers"),
    ] {
        let errors = change(pointer, value);
        assert!(
            errors.starts_with(
                "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"
            )
        );
        assert!(errors.ends_with(&format!("\nchanged: {field}")), "{errors}");
    }
    let mut bound = old.clone();
    bound["spec"]["nodeName"] = "node".into();
    assert!(!updated(&pods, bound, &old).is_empty());
}

#[test]
fn grace_periods() {
    let grace = |spec: Value, phase: &str, requested| {
        Pod.grace_period_seconds(&json!({"spec": spec, "status": {"phase": phase}}), requested)
    };
    let spec = json!({"nodeName": "n", "terminationGracePeriodSeconds": 10});
    assert_eq!(grace(spec.clone(), "Running", None), Some(10));
    assert_eq!(grace(spec.clone(), "Running", Some(3)), Some(3));
    assert_eq!(grace(spec.clone(), "Running", Some(0)), None);
    assert_eq!(grace(spec.clone(), "Succeeded", None), None);
    assert_eq!(grace(json!({"terminationGracePeriodSeconds": 10}), "Pending", None), None);
    assert_eq!(grace(json!({"nodeName": "n"}), "Pending", None), Some(30));
}

#[test]
fn label_keys_become_part_of_the_selectors_of_a_new_pod() {
    let keyed = |keys: Value| {
        let mut term = json!({"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "web"}}});
        for (field, keys) in keys.as_object().unwrap() {
            term[field] = keys.clone();
        }
        term
    };
    let mut spread = keyed(json!({"matchLabelKeys": ["pod-template-hash", "absent"]}));
    spread["maxSkew"] = 1.into();
    spread["whenUnsatisfiable"] = "DoNotSchedule".into();
    let pod = prepared(
        &resource("", "pods"),
        json!({"metadata": {"name": "a", "namespace": "n", "labels": {"pod-template-hash": "x", "tenant": "t"}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}], "topologySpreadConstraints": [spread],
            "affinity": {
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    keyed(json!({"matchLabelKeys": ["tenant"]})),
                    {"topologyKey": "zone", "matchLabelKeys": ["tenant"]}]},
                "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 1, "podAffinityTerm": keyed(json!({"mismatchLabelKeys": ["tenant"]}))}]}}}}),
    );
    let expressions =
        |pointer: &str| pod["spec"].pointer(pointer).unwrap()["labelSelector"]["matchExpressions"].clone();
    assert_eq!(
        expressions("/topologySpreadConstraints/0"),
        json!([{"key": "pod-template-hash", "operator": "In", "values": ["x"]}])
    );
    let terms = "/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution";
    let tenant = |operator: &str| json!([{"key": "tenant", "operator": operator, "values": ["t"]}]);
    assert_eq!(expressions(&format!("{terms}/0")), tenant("In"));
    assert_eq!(pod["spec"].pointer(&format!("{terms}/1/labelSelector")), None, "no selector selects no pod");
    let terms = "/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution";
    assert_eq!(expressions(&format!("{terms}/0/podAffinityTerm")), tenant("NotIn"));
}

#[test]
fn a_label_key_must_not_be_selected_by_otherwise() {
    let pods = resource("", "pods");
    let pod = |labels: Value, term: Value| {
        let mut term = term;
        term["topologyKey"] = "zone".into();
        let pod = json!({"metadata": {"name": "a", "namespace": "n", "labels": labels},
            "spec": {"containers": [{"name": "c", "image": "i:1"}], "affinity": {
                "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}}});
        created(&pods, pod)
    };
    let labels = || json!({"app": "web"});
    let term = "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0]";
    assert_eq!(pod(labels(), json!({"matchLabelKeys": ["app"], "labelSelector": {}})), "[]");
    assert_eq!(
        pod(labels(), json!({"matchLabelKeys": ["app"], "labelSelector": {"matchLabels": {"app": "web"}}})),
        format!("{term}[0]: Invalid value: \"app\": exists in both matchLabelKeys and labelSelector")
    );
    assert_eq!(
        pod(json!({}), json!({"matchLabelKeys": ["app"], "mismatchLabelKeys": ["app"], "labelSelector": {}})),
        format!(
            "{term}.matchLabelKeys[0]: Invalid value: \"app\": exists in both matchLabelKeys and mismatchLabelKeys"
        )
    );
}
