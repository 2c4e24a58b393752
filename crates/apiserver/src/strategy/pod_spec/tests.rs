use serde_json::{Value, json};

use super::*;
use crate::field_error::{FieldErrors, Path};

fn errors(change: impl FnOnce(&mut Value)) -> String {
    let mut spec = json!({
        "containers": [{"name": "web", "image": "web:1"}],
        "volumes": [{"name": "data", "emptyDir": {}}],
    });
    change(&mut spec);
    default_spec(&mut spec);
    default_pod(&mut spec);
    let mut errors = FieldErrors::default();
    validate_spec(&spec, &Path::new("spec"), &mut errors);
    errors.to_string()
}

fn container(field: &str, value: Value) -> String {
    errors(|spec| spec["containers"][0][field] = value)
}

#[test]
fn containers_that_break_rules() {
    for (field, value, message) in [
        ("name", json!(""), "spec.containers[0].name: Required value"),
        ("image", json!(""), "spec.containers[0].image: Required value"),
        (
            "image",
            json!(" a"),
            r#"spec.containers[0].image: Invalid value: " a": must not have leading or trailing whitespace"#,
        ),
        (
            "imagePullPolicy",
            json!("Sometimes"),
            r#"spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", "IfNotPresent", "Never""#,
        ),
        ("ports", json!([{"protocol": "TCP"}]), "spec.containers[0].ports[0].containerPort: Required value"),
        (
            "ports",
            json!([{"containerPort": 70000}]),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "ports",
            json!([{"name": "a", "containerPort": 1}, {"name": "a", "containerPort": 2}]),
            r#"spec.containers[0].ports[1].name: Duplicate value: "a""#,
        ),
        ("env", json!([{"value": "x"}]), "spec.containers[0].env[0].name: Required value"),
        (
            "env",
            json!([{"name": "A", "value": "x", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
            r#"spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty"#,
        ),
        (
            "env",
            json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s"}}}]),
            "spec.containers[0].env[0].valueFrom.secretKeyRef.key: Required value",
        ),
        (
            "volumeMounts",
            json!([{"name": "nope", "mountPath": "/x"}]),
            r#"spec.containers[0].volumeMounts[0].name: Not found: "nope""#,
        ),
        (
            "volumeMounts",
            json!([{"name": "data", "mountPath": "/x"}, {"name": "data", "mountPath": "/x"}]),
            r#"spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/x": must be unique"#,
        ),
        (
            "resources",
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1"#,
        ),
        (
            "livenessProbe",
            json!({"httpGet": {"path": "/", "port": 80}, "successThreshold": 2}),
            "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
        ),
        (
            "readinessProbe",
            json!({"periodSeconds": 1}),
            "spec.containers[0].readinessProbe: Required value: must specify a handler type",
        ),
        (
            "securityContext",
            json!({"runAsUser": -1}),
            "spec.containers[0].securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            "lifecycle",
            json!({"preStop": {"exec": {}}}),
            "spec.containers[0].lifecycle.preStop.exec.command: Required value",
        ),
    ] {
        assert_eq!(container(field, value.clone()), message, "{field} {value}");
    }
}

#[test]
fn specifications_that_break_rules() {
    for (field, value, message) in [
        ("containers", json!([]), "spec.containers: Required value"),
        (
            "restartPolicy",
            json!("Maybe"),
            r#"spec.restartPolicy: Unsupported value: "Maybe": supported values: "Always", "OnFailure", "Never""#,
        ),
        (
            "terminationGracePeriodSeconds",
            json!(-1),
            "spec.terminationGracePeriodSeconds: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "volumes",
            json!([{"name": "a", "emptyDir": {}, "secret": {"secretName": "s"}}]),
            "spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type",
        ),
        ("volumes", json!([{"name": "a", "secret": {}}]), "spec.volumes[0].secret.secretName: Required value"),
        (
            "volumes",
            json!([{"name": "a", "configMap": {"name": "c", "defaultMode": 512}}]),
            "spec.volumes[0].configMap.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            "tolerations",
            json!([{"effect": "NoSchedule"}]),
            r#"spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means "match all values and all keys""#,
        ),
        (
            "initContainers",
            json!([{"name": "web", "image": "x"}]),
            r#"spec.initContainers[0].name: Duplicate value: "web""#,
        ),
        (
            "initContainers",
            json!([{"name": "i", "image": "x", "livenessProbe": {}}]),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            "topologySpreadConstraints",
            json!([{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
    ] {
        assert_eq!(errors(|spec| spec[field] = value.clone()), message, "{field} {value}");
    }
    assert_eq!(errors(|_| ()), "[]");
}

#[test]
fn defaults() {
    let mut spec = json!({
        "serviceAccountName": "robot",
        "hostNetwork": true,
        "containers": [{
            "name": "a", "image": "a",
            "ports": [{"containerPort": 80}],
            "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            "readinessProbe": {"httpGet": {"port": 80}},
            "resources": {"limits": {"cpu": "1"}},
        }],
        "volumes": [
            {"name": "e"}, {"name": "s", "secret": {"secretName": "s"}}, {"name": "h", "hostPath": {"path": "/"}},
            {"name": "p", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
        ],
    });
    default_spec(&mut spec);
    assert!(spec["containers"][0]["resources"].get("requests").is_none(), "templates keep their requests");
    default_pod(&mut spec);
    assert_eq!(
        spec,
        json!({
            "serviceAccountName": "robot",
            "serviceAccount": "robot",
            "hostNetwork": true,
            "dnsPolicy": "ClusterFirst",
            "restartPolicy": "Always",
            "schedulerName": "default-scheduler",
            "securityContext": {},
            "terminationGracePeriodSeconds": 30,
            "enableServiceLinks": true,
            "containers": [{
                "name": "a", "image": "a", "imagePullPolicy": "Always",
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}],
                "env": [{"name": "A", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}}],
                "readinessProbe": {
                    "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3
                },
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
            }],
            "volumes": [
                {"name": "e", "emptyDir": {}},
                {"name": "s", "secret": {"secretName": "s", "defaultMode": 420}},
                {"name": "h", "hostPath": {"path": "/", "type": ""}},
                {"name": "p", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}
                ]}},
            ],
        })
    );
}
