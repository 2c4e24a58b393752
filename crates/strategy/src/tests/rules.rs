//! Rules that cross fields, one row each: resource, object, what is wrong with it.

use serde_json::{Value, json};

use crate::fixture::{created, resource, updated};

fn object(mut body: Value) -> Value {
    body["metadata"] = json!({"name": "a", "namespace": "n"});
    body
}

fn cluster(mut body: Value) -> Value {
    body["metadata"] = json!({"name": "a"});
    body
}

/// What is wrong with a new object, without the value an error shows.
fn check(group: &str, plural: &str, namespaced: bool, body: Value, expected: &str) {
    let mut resource = resource(group, plural);
    resource.namespaced = namespaced;
    let body = if namespaced { object(body) } else { cluster(body) };
    let found = created(&resource, body.clone());
    let fits = match expected {
        "" => found == "[]",
        expected => {
            let parts: Vec<&str> = expected.split(" … ").collect();
            found.starts_with(parts[0]) && parts.iter().all(|part| found.contains(part))
        }
    };
    assert!(fits, "{plural} {body}\n  expected {expected:?}\n  found    {found}");
}

#[test]
fn namespaced_kinds() {
    let http = json!({"number": 80});
    let rows = [
        // Services
        (
            "",
            "services",
            json!({"spec": {"ports": [{"port": 1}], "loadBalancerClass": "x"}}),
            "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}], "loadBalancerSourceRanges": ["10.0.0.0"]}}),
            "spec.loadBalancerSourceRanges[0]: Invalid value: \"10.0.0.0\"",
        ),
        (
            "",
            "services",
            json!({"spec": {"ports": [{"port": 1}], "externalIPs": ["127.0.0.1"]}}),
            "spec.externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            "",
            "services",
            json!({"spec": {"ports": [{"port": 1}], "trafficDistribution": "X"}}),
            "spec.trafficDistribution: Unsupported value: \"X\"",
        ),
        (
            "",
            "services",
            json!({"spec": {"ports": [{"port": 1, "appProtocol": "a b"}]}}),
            "spec.ports[0].appProtocol: Invalid value: \"a b\"",
        ),
        // Endpoints and slices
        (
            "",
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "0.0.0.0"}], "ports": [{"port": 1}]}]}),
            "subsets[0].addresses[0].ip: Invalid value: \"0.0.0.0\": may not be unspecified",
        ),
        (
            "",
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 1}, {"port": 2, "name": "b"}]}]}),
            "subsets[0].ports[0].name: Required value",
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "endpoints": [{"addresses": ["::1"]}]}),
            "endpoints[0].addresses[0]: Invalid value: \"::1\": must be a valid IPv4 address",
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "endpoints": [], "ports": [{"name": "A"}]}),
            "ports[0].name: Invalid value: \"A\"",
        ),
        // Ingresses and policies
        (
            "networking.k8s.io",
            "ingresses",
            json!({"spec": {"defaultBackend": {}}}),
            "spec.defaultBackend: Invalid value: \"\": resource or service backend is required",
        ),
        (
            "networking.k8s.io",
            "ingresses",
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": http}}, "tls": [{"secretName": "A"}]}}),
            "spec.tls[0].secretName: Invalid value: \"A\"",
        ),
        (
            "networking.k8s.io",
            "networkpolicies",
            json!({"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}]}}),
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
        ),
        // autoscaling
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"apiVersion": "autoscaling/v2", "spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [{"type": "Pods"}]}}),
            "spec.metrics[0].pods: Required value: must populate information for the given metric source",
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"apiVersion": "autoscaling/v2", "spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]}}),
            "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"apiVersion": "autoscaling/v2", "spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "behavior": {"scaleUp": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 9999}]}}}}),
            "[spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero … periodSeconds: Invalid value: 9999: must be less than or equal to 1800",
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"apiVersion": "autoscaling/v2", "spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}}}}),
            "",
        ),
        // quotas and limits
        (
            "",
            "resourcequotas",
            json!({"spec": {"hard": {"pods": "1.5"}}}),
            "spec.hard[pods]: Invalid value: \"1.5\": must be an integer",
        ),
        (
            "",
            "resourcequotas",
            json!({"spec": {"hard": {"cats": "1"}}}),
            "spec.hard[cats]: Invalid value: \"cats\": must be a standard resource for quota",
        ),
        (
            "",
            "resourcequotas",
            json!({"spec": {"hard": {"pods": "1"}, "scopes": ["BestEffort", "NotBestEffort"]}}),
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ),
        (
            "",
            "resourcequotas",
            json!({"spec": {"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}}),
            "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
        ),
        (
            "",
            "resourcequotas",
            json!({"spec": {"hard": {"pods": "1", "count/x.y": "2", "requests.cpu": "1", "gpu.io/x": "1"}}}),
            "",
        ),
        (
            "",
            "limitranges",
            json!({"spec": {"limits": [{"type": "Pod", "default": {"cpu": "1"}}]}}),
            "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
        ),
        (
            "",
            "limitranges",
            json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}]}}),
            "[spec.limits[0] … min value 2 is greater than max value 1",
        ),
        (
            "",
            "limitranges",
            json!({"spec": {"limits": [{"type": "PersistentVolumeClaim", "default": {"storage": "1"}}]}}),
            "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided",
        ),
        (
            "",
            "limitranges",
            json!({"spec": {"limits": [{"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}}]}}),
            "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1",
        ),
        // storage
        (
            "",
            "persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "A"}}),
            "spec.storageClassName: Invalid value: \"A\"",
        ),
        (
            "",
            "persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}, "dataSource": {"kind": "Pod", "name": "x"}}}),
            "spec.dataSource: Invalid value: \"Pod\"",
        ),
        (
            "storage.k8s.io",
            "csistoragecapacities",
            json!({"storageClassName": "a", "capacity": "-1"}),
            "capacity: Invalid value: \"-1\"",
        ),
        // events
        (
            "events.k8s.io",
            "events",
            json!({"type": "Normal", "regarding": {"namespace": "n"}}),
            "eventTime: Required value",
        ),
        (
            "events.k8s.io",
            "events",
            json!({"type": "Normal", "eventTime": "2026-01-01T00:00:00.000000Z", "regarding": {"namespace": "n"}, "reportingController": "c", "reportingInstance": "i", "action": "a", "reason": "r", "deprecatedCount": 2}),
            "count: Invalid value: \"\": needs to be unset",
        ),
        (
            "",
            "events",
            json!({"involvedObject": {"namespace": "other"}}),
            "involvedObject.namespace: Invalid value: \"other\": does not match event.namespace",
        ),
        // batch
        (
            "batch",
            "cronjobs",
            json!({"spec": {"schedule": "* * * * *", "timeZone": "Local", "jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}}}}}}),
            "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone",
        ),
        (
            "apps",
            "controllerrevisions",
            json!({"revision": -1}),
            "[revision: Invalid value: -1 … data: Required value: data is mandatory",
        ),
    ];
    for (group, plural, body, expected) in rows {
        check(group, plural, true, body, expected);
    }
}

#[test]
fn cluster_wide_kinds() {
    let volume = |source: Value| {
        let mut spec = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}});
        spec.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
        json!({ "spec": spec })
    };
    let rows = [
        ("", "persistentvolumes", volume(json!({"csi": {"driver": "a.io"}})), "spec.csi.volumeHandle: Required value"),
        (
            "",
            "persistentvolumes",
            volume(json!({"csi": {"driver": "a.io", "volumeHandle": "h", "nodeStageSecretRef": {"name": "s"}}})),
            "spec.csi.nodeStageSecretRef.namespace: Required value",
        ),
        (
            "",
            "persistentvolumes",
            volume(json!({"nfs": {"server": "s", "path": "x"}})),
            "spec.nfs.path: Invalid value: \"x\": must be an absolute path",
        ),
        (
            "",
            "persistentvolumes",
            volume(json!({"hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"})),
            "spec.persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
        ),
        (
            "",
            "persistentvolumes",
            volume(json!({"local": {"path": "/d"}})),
            "spec.nodeAffinity: Required value: Local volume requires node affinity",
        ),
        (
            "",
            "persistentvolumes",
            volume(json!({"hostPath": {"path": "/d"}, "nodeAffinity": {}})),
            "spec.nodeAffinity.required: Required value: must specify required node constraints",
        ),
        ("storage.k8s.io", "storageclasses", json!({"provisioner": "a b"}), "provisioner: Invalid value: \"a b\""),
        (
            "storage.k8s.io",
            "volumeattributesclasses",
            json!({"driverName": "a.io"}),
            "parameters: Required value: must contain at least one key/value pair",
        ),
        (
            "storage.k8s.io",
            "csidrivers",
            json!({"spec": {"fsGroupPolicy": "X"}}),
            "spec.fsGroupPolicy: Unsupported value: \"X\"",
        ),
        (
            "storage.k8s.io",
            "csinodes",
            json!({"spec": {"drivers": [{"name": "a", "nodeID": ""}]}}),
            "spec.drivers[0].nodeID: Required value",
        ),
        (
            "storage.k8s.io",
            "volumeattachments",
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {}}}),
            "spec.source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
        ),
        (
            "node.k8s.io",
            "runtimeclasses",
            json!({"handler": "a", "overhead": {"podFixed": {"cpu": "-1"}}}),
            "overhead.podFixed[cpu]: Invalid value: \"-1\"",
        ),
        (
            "",
            "nodes",
            json!({"spec": {"podCIDRs": ["10.0.0.0/24", "10.1.0.0/24"]}}),
            "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.1.0.0/24\"]: may specify no more than one CIDR for each IP family",
        ),
        (
            "networking.k8s.io",
            "ingressclasses",
            json!({"spec": {"controller": "a.io/b", "parameters": {"kind": "K", "name": "x", "scope": "Namespace"}}}),
            "spec.parameters.namespace: Required value",
        ),
        (
            "networking.k8s.io",
            "servicecidrs",
            json!({"spec": {"cidrs": ["10.0.0.1/24"]}}),
            "spec.cidrs[0]: Invalid value: \"10.0.0.1/24\"",
        ),
        ("networking.k8s.io", "servicecidrs", json!({"spec": {"cidrs": ["10.0.0.0/24", "fd00::/112"]}}), ""),
        (
            "networking.k8s.io",
            "ipaddresses",
            json!({"spec": {"parentRef": {"name": "x", "resource": "services"}}}),
            "metadata.name: Invalid value: \"a\": must be a valid IP address",
        ),
    ];
    for (group, plural, body, expected) in rows {
        check(group, plural, false, body, expected);
    }
}

fn job(change: impl FnOnce(&mut Value)) -> Value {
    let mut job = json!({"spec": {
        "completionMode": "Indexed", "completions": 5, "parallelism": 5,
        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}},
    }});
    change(&mut job["spec"]);
    job
}

#[test]
fn when_jobs_are_done() {
    let failure = |rule: Value| job(|spec| spec["podFailurePolicy"] = json!({ "rules": [rule] }));
    let success = |rule: Value| job(|spec| spec["successPolicy"] = json!({ "rules": [rule] }));
    for (body, expected) in [
        (job(|_| ()), ""),
        (
            job(|spec| spec["completions"] = Value::Null),
            "spec.completions: Required value: when completion mode is Indexed",
        ),
        (
            job(|spec| spec["maxFailedIndexes"] = 2.into()),
            "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
        ),
        (
            job(|spec| {
                spec["completionMode"] = "NonIndexed".into();
                spec["backoffLimitPerIndex"] = 1.into();
            }),
            "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
        ),
        (
            job(|spec| spec["managedBy"] = "x".into()),
            "spec.managedBy: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
        (failure(json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]})), ""),
        (
            failure(json!({"action": "Ignore"})),
            "spec.podFailurePolicy.rules[0]: Invalid value: \"null\": specifying one of OnExitCodes and OnPodConditions is required",
        ),
        (
            failure(json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [0]}})),
            "spec.podFailurePolicy.rules[0].onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator",
        ),
        (
            failure(json!({"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3, 2]}})),
            "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,2]: must be ordered",
        ),
        (
            failure(json!({"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [3]}})),
            "spec.podFailurePolicy.rules[0].action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set",
        ),
        (success(json!({"succeededIndexes": "0,2-3", "succeededCount": 2})), ""),
        (
            success(json!({"succeededIndexes": "0,2-3", "succeededCount": 4})),
            "spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3",
        ),
        (
            success(json!({"succeededIndexes": "3,1"})),
            "spec.successPolicy.rules[0].succeededIndexes: Invalid value: \"3,1\": error parsing succeededIndexes: non-increasing order",
        ),
        (
            success(json!({})),
            "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
        ),
    ] {
        check("batch", "jobs", true, body, expected);
    }
}

#[test]
fn claims_change_only_where_they_may() {
    let claims = resource("", "persistentvolumeclaims");
    let claim = |size: &str, phase: &str| {
        object(json!({
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "volumeName": "v", "volumeMode": "Filesystem"},
            "status": {"phase": phase, "capacity": {"storage": "2Gi"}},
        }))
    };
    let change = |size: &str, phase: &str| updated(&claims, claim(size, phase), &claim("3Gi", phase));
    assert_eq!(change("4Gi", "Bound"), "[]");
    assert!(change("4Gi", "Pending").starts_with("spec: Forbidden: spec is immutable after creation"));
    assert!(
        change("1Gi", "Bound").starts_with("spec.resources.requests.storage: Forbidden: field can not be less than")
    );
}
