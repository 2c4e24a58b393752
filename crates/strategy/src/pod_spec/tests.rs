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
        (
            "volumeDevices",
            json!([{"name": "data", "devicePath": "/dev/x"}]),
            r#"spec.containers[0].volumeDevices[0].name: Invalid value: "data": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"#,
        ),
        (
            "volumeMounts",
            json!([{"name": "data", "mountPath": "/x", "recursiveReadOnly": "Enabled"}]),
            "spec.containers[0].volumeMounts[0].recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
        ),
        (
            "ports",
            json!([{"containerPort": 1, "hostPort": 1, "hostIP": "x"}]),
            r#"spec.containers[0].ports[0].hostIP: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"#,
        ),
        (
            "resizePolicy",
            json!([{"resourceName": "disk", "restartPolicy": "NotRequired"}]),
            r#"spec.containers[0].resizePolicy[0].resourceName: Unsupported value: "disk": supported values: "cpu", "memory""#,
        ),
        (
            "resources",
            json!({"limits": {"hugepages-2Mi": "2Mi"}}),
            "spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
        ),
        (
            "resources",
            json!({"claims": [{"name": "gpu"}]}),
            r#"spec.containers[0].resources.claims[0]: Not found: "gpu""#,
        ),
        (
            "env",
            json!([{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}]),
            r#"spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "2": only divisor's values 1m and 1 are supported with the cpu resource"#,
        ),
        (
            "lifecycle",
            json!({"stopSignal": "SIGUSR1"}),
            "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
        ),
        (
            "livenessProbe",
            json!({"httpGet": {"port": 80, "httpHeaders": [{"name": "a b", "value": "x"}]}}),
            r#"spec.containers[0].livenessProbe.httpGet.httpHeaders: Invalid value: "a b": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')"#,
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
            "activeDeadlineSeconds",
            json!(0),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
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
        (
            "topologySpreadConstraints",
            json!([
                {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule", "matchLabelKeys": ["a"]}
            ]),
            "spec.topologySpreadConstraints[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
        ),
        (
            "topologySpreadConstraints",
            json!([
                {"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"},
                {"maxSkew": 2, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}
            ]),
            r#"spec.topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: "{z, DoNotSchedule}""#,
        ),
        (
            "affinity",
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": "metadata.uid", "operator": "In", "values": ["a"]}]}
            ]}}}),
            r#"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key: Invalid value: "metadata.uid": not a valid field selector key"#,
        ),
        (
            "securityContext",
            json!({"sysctls": [{"name": "net.ipv4.x", "value": "1"}, {"name": "net/ipv4/x", "value": "1"}]}),
            r#"spec.securityContext.sysctls[1].name: Duplicate value: "net/ipv4/x""#,
        ),
        (
            "securityContext",
            json!({"windowsOptions": {"runAsUserName": ""}}),
            r#"spec.securityContext.windowsOptions.runAsUserName: Invalid value: "": runAsUserName cannot be an empty string"#,
        ),
        (
            "os",
            json!({"name": "plan9"}),
            r#"spec.os.name: Unsupported value: "plan9": supported values: "linux", "windows""#,
        ),
        (
            "readinessGates",
            json!([{"conditionType": "a b"}]),
            r#"spec.readinessGates[0].conditionType: Invalid value: "a b": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"#,
        ),
        ("schedulingGates", json!([{"name": "a"}, {"name": "a"}]), r#"spec.schedulingGates[1]: Duplicate value: "a""#),
        (
            "volumes",
            json!([{"name": "data", "projected": {"sources": [
                {"secret": {"name": "a", "items": [{"key": "k", "path": "p"}]}},
                {"configMap": {"name": "b", "items": [{"key": "k", "path": "p"}]}}
            ]}}]),
            r#"spec.volumes[0].projected.sources: Invalid value: "b": conflicting duplicate paths"#,
        ),
        (
            "volumes",
            json!([{"name": "data", "csi": {"driver": "a b"}}]),
            r#"spec.volumes[0].csi.driver: Invalid value: "a b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#,
        ),
        (
            "volumes",
            json!([{"name": "data", "iscsi": {"targetPortal": "p", "iqn": "x"}}]),
            r#"spec.volumes[0].iscsi.iqn: Invalid value: "x": must be valid format starting with iqn, eui, or naa"#,
        ),
        (
            "volumes",
            json!([{"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"]}}}}]),
            "spec.volumes[0].ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
        ),
        (
            "dnsConfig",
            json!({"searches": ["a..b"]}),
            r#"spec.dnsConfig.searches[0]: Invalid value: "a..b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#,
        ),
        (
            "ephemeralContainers",
            json!([{"name": "e", "image": "i", "targetContainerName": "none", "ports": [{"containerPort": 1}]}]),
            r#"[spec.ephemeralContainers[0].targetContainerName: Not found: "none", spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container]"#,
        ),
        (
            "resourceClaims",
            json!([{"name": "a"}]),
            r#"spec.resourceClaims[0]: Invalid value: {"name":"a"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"#,
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

#[test]
fn warnings_name_what_does_nothing() {
    let spec = json!({
        "nodeSelector": {"beta.kubernetes.io/os": "linux"},
        "terminationGracePeriodSeconds": -1,
        "imagePullSecrets": [{}],
        "volumes": [{"name": "r", "gitRepo": {"repository": "x"}}],
        "containers": [
            {"name": "a", "ports": [{"containerPort": 1, "protocol": "TCP"}], "resources": {"limits": {"memory": "100m"}},
             "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}, {"name": "B"}, {"name": "B", "value": "$(B)x"}]},
            {"name": "b", "ports": [{"containerPort": 1, "protocol": "TCP"}]},
        ],
    });
    let annotations = json!({"container.apparmor.security.beta.kubernetes.io/a": "x"});
    let found = warnings(&spec, &Path::new("spec"), annotations.as_object().unwrap(), "metadata");
    assert_eq!(
        found,
        [
            r#"spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead"#,
            r#"metadata.annotations[container.apparmor.security.beta.kubernetes.io/a]: deprecated since v1.30; use the "appArmorProfile" field instead"#,
            "spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+",
            r#"spec.imagePullSecrets[0].name: invalid empty name """#,
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
            r#"spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer"#,
            r#"spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply (first defined at spec.containers[0].env[0])"#,
            "spec.containers[1].ports[0]: duplicate port definition with spec.containers[0].ports[0]",
        ]
    );
}
