use serde_json::{Value, json};

use crate::fixture::*;

fn deployment() -> Value {
    json!({"metadata": {"name": "a", "namespace": "n"}, "spec": {
        "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    }})
}

#[test]
fn defaults_of_each_workload() {
    let made = prepared(&resource("apps", "deployments"), deployment());
    let spec = &made["spec"];
    assert_eq!(
        (&spec["replicas"], &spec["revisionHistoryLimit"], &spec["progressDeadlineSeconds"]),
        (&json!(1), &json!(10), &json!(600))
    );
    assert_eq!(
        spec["strategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
    );
    assert_eq!(spec["template"]["spec"]["restartPolicy"], "Always");
    let made = prepared(&resource("apps", "daemonsets"), deployment());
    assert_eq!(
        made["spec"]["updateStrategy"],
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
    );
    assert!(made["spec"].get("replicas").is_none());
    let made = prepared(&resource("apps", "statefulsets"), deployment());
    assert_eq!(made["spec"]["podManagementPolicy"], "OrderedReady");
    assert_eq!(made["spec"]["updateStrategy"]["rollingUpdate"]["partition"], 0);
    let mut controller = deployment();
    controller["spec"].as_object_mut().unwrap().remove("selector");
    let made = prepared(&resource("", "replicationcontrollers"), controller);
    assert_eq!(made["spec"]["selector"], json!({"app": "a"}));
}

#[test]
fn deployments_that_break_rules() {
    let deployments = resource("apps", "deployments");
    let errors = |pointer: &str, value: Value| {
        let mut object = deployment();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value;
        created(&deployments, object)
    };
    assert_eq!(created(&deployments, deployment()), "[]");
    for (pointer, value, message) in [
        ("/spec/replicas", json!(-1), "spec.replicas: Invalid value: -1: must be greater than or equal to 0"),
        ("/spec/selector", json!(null), "spec.selector: Required value"),
        (
            "/spec/selector/matchLabels",
            json!({"app": "b"}),
            r#"spec.template.metadata.labels: Invalid value: {"app":"a"}: `selector` does not match template `labels`"#,
        ),
        (
            "/spec/template/spec/restartPolicy",
            json!("Never"),
            r#"spec.template.spec.restartPolicy: Unsupported value: "Never": supported values: "Always""#,
        ),
        (
            "/spec/strategy",
            json!({"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}}),
            "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
        ),
        (
            "/spec/strategy",
            json!({"type": "Recreate", "rollingUpdate": {"maxSurge": 1}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            "/spec/minReadySeconds",
            json!(600),
            "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
        ),
    ] {
        assert_eq!(errors(pointer, value), message, "{pointer}");
    }
}

#[test]
fn selectors_are_fixed() {
    let deployments = resource("apps", "deployments");
    let old = prepared(&deployments, deployment());
    let mut new = old.clone();
    new["spec"]["selector"]["matchLabels"]["x"] = "y".into();
    new["spec"]["template"]["metadata"]["labels"]["x"] = "y".into();
    assert_eq!(
        updated(&deployments, new, &old),
        r#"spec.selector: Invalid value: {"matchLabels":{"app":"a","x":"y"}}: field is immutable"#
    );
    let sets = resource("apps", "statefulsets");
    let old = prepared(&sets, deployment());
    let mut new = old.clone();
    new["spec"]["serviceName"] = "x".into();
    assert!(
        updated(&sets, new, &old).starts_with("spec: Forbidden: updates to statefulset spec for fields other than")
    );
    let mut new = old.clone();
    new["spec"]["replicas"] = 3.into();
    assert_eq!(updated(&sets, new, &old), "[]");
}

#[test]
fn claims_of_a_stateful_set_are_volumes_of_its_pods() {
    let sets = resource("apps", "statefulsets");
    let mut set = deployment();
    set["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    let missing = created(&sets, set.clone());
    assert!(missing.contains(r#"volumeMounts[0].name: Not found: "data""#), "{missing}");
    let claim = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    set["spec"]["volumeClaimTemplates"] = json!([{"metadata": {"name": "data"}, "spec": claim}]);
    assert_eq!(created(&sets, set.clone()), "[]");
    // its own volume of that name is not used
    set["spec"]["template"]["spec"]["volumes"] = json!([{"name": "data", "hostPath": {"path": "/x"}}]);
    assert_eq!(created(&sets, set), "[]");
}
