use serde_json::json;

use super::*;
use crate::fixture::resource;

const NOW: &str = "2026-01-01T01:00:00Z";
const BORN: &str = "2026-01-01T00:54:57Z";

fn row(group: &str, plural: &str, mut object: Value) -> Vec<String> {
    object["metadata"]["name"] = "x".into();
    object["metadata"]["creationTimestamp"] = BORN.into();
    let resource = resource(group, plural);
    let cells = cells(&resource, &object, NOW.parse().unwrap());
    assert_eq!(cells.len(), columns(&resource).len(), "{plural}");
    cells.iter().map(|cell| cell.as_str().map_or_else(|| cell.to_string(), str::to_owned)).collect()
}

fn pod(status: Value, spec: Value) -> Vec<String> {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "c"}]);
    }
    row("", "pods", json!({"metadata": {}, "spec": spec, "status": status})).drain(1..4).collect()
}

#[test]
fn the_status_of_a_pod() {
    let running = json!({"ready": true, "restartCount": 0, "state": {"running": {}}});
    let crash = json!({"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"finishedAt": "2026-01-01T00:55:00Z"}}});
    let done = json!({"restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
    for (status, spec, cells) in [
        (json!({"phase": "Pending"}), json!({}), ["0/1", "Pending", "0"]),
        (json!({"phase": "Running", "containerStatuses": [running]}), json!({}), ["1/1", "Running", "0"]),
        (
            json!({"phase": "Running", "containerStatuses": [crash]}),
            json!({}),
            ["0/1", "CrashLoopBackOff", "3 (5m ago)"],
        ),
        (json!({"phase": "Succeeded", "containerStatuses": [done]}), json!({}), ["0/1", "Completed", "0"]),
        (
            json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}),
            json!({}),
            ["0/1", "ContainerCreating", "0"],
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 2}}}]}),
            json!({}),
            ["0/1", "ExitCode:2", "0"],
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "a", "state": {"terminated": {"exitCode": 0}}}, {"name": "b", "state": {"running": {}}}
            ]}),
            json!({"initContainers": [{"name": "a"}, {"name": "b"}]}),
            ["0/1", "Init:1/2", "0"],
        ),
        (
            json!({"phase": "Pending", "initContainerStatuses": [
                {"name": "a", "restartCount": 2, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
            ]}),
            json!({"initContainers": [{"name": "a"}]}),
            ["0/1", "Init:CrashLoopBackOff", "2"],
        ),
        (
            json!({"phase": "Running", "containerStatuses": [running], "initContainerStatuses": [
                {"name": "s", "started": true, "ready": true, "restartCount": 1, "state": {"running": {}}}
            ]}),
            json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}]}),
            ["2/2", "Running", "1"],
        ),
        (
            json!({"phase": "Running", "containerStatuses": [done, running], "conditions": [{"type": "Ready", "status": "False"}]}),
            json!({"containers": [{}, {}]}),
            ["1/2", "NotReady", "0"],
        ),
        (json!({"phase": "Failed", "reason": "Evicted"}), json!({}), ["0/1", "Evicted", "0"]),
    ] {
        assert_eq!(pod(status.clone(), spec), cells, "{status}");
    }
    let going =
        row("", "pods", json!({"metadata": {"deletionTimestamp": NOW}, "spec": {}, "status": {"phase": "Running"}}));
    assert_eq!(going[2], "Terminating");
    assert_eq!(going[4], "5m3s");
}

#[test]
fn rows_of_other_kinds() {
    let template =
        json!({"metadata": {}, "spec": {"containers": [{"name": "a", "image": "i:1"}, {"name": "b", "image": "j"}]}});
    let selector = json!({"matchLabels": {"b": "c", "a": "b"}, "matchExpressions": [{"key": "z", "operator": "In", "values": ["y", "x"]}]});
    for (group, plural, object, cells) in [
        (
            "apps",
            "deployments",
            json!({"spec": {"replicas": 3, "template": template, "selector": selector},
                "status": {"readyReplicas": 2, "updatedReplicas": 3, "availableReplicas": 1}}),
            vec!["x", "2/3", "3", "1", "5m3s", "a,b", "i:1,j", "a=b,b=c,z in (x,y)"],
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "NodePort", "clusterIP": "10.0.0.1", "ports": [
                {"port": 80, "protocol": "TCP", "nodePort": 30001}, {"port": 53, "protocol": "UDP"}]}}),
            vec!["x", "NodePort", "10.0.0.1", "<none>", "80:30001/TCP,53/UDP", "5m3s", "<none>"],
        ),
        (
            "",
            "services",
            json!({"spec": {"type": "LoadBalancer", "clusterIP": "None"}}),
            vec!["x", "LoadBalancer", "None", "<pending>", "<none>", "5m3s", "<none>"],
        ),
        (
            "",
            "nodes",
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}, "spec": {"unschedulable": true},
                "status": {"conditions": [{"type": "Ready", "status": "True"}], "nodeInfo": {"kubeletVersion": "v1"},
                    "addresses": [{"type": "InternalIP", "address": "1.2.3.4"}]}}),
            vec![
                "x",
                "Ready,SchedulingDisabled",
                "control-plane",
                "5m3s",
                "v1",
                "1.2.3.4",
                "<none>",
                "<unknown>",
                "<unknown>",
                "<unknown>",
            ],
        ),
        (
            "",
            "endpoints",
            json!({"subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "1.1.1.2"}], "ports": [{"port": 80}, {"port": 81}]}]}),
            vec!["x", "1.1.1.1:80,1.1.1.2:80,1.1.1.1:81 + 1 more...", "5m3s"],
        ),
        (
            "discovery.k8s.io",
            "endpointslices",
            json!({"addressType": "IPv4", "ports": [], "endpoints": [{"addresses": ["1.1.1.1"]}]}),
            vec!["x", "IPv4", "<unset>", "1.1.1.1", "5m3s"],
        ),
        (
            "",
            "events",
            json!({"type": "Normal", "reason": "Pulled", "message": " m\n", "lastTimestamp": BORN, "firstTimestamp": BORN,
                "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "f"}, "source": {"component": "c", "host": "h"}}),
            vec!["5m3s", "Normal", "Pulled", "pod/p", "f", "c, h", "m", "5m3s", "1", "x"],
        ),
        (
            "batch",
            "jobs",
            json!({"spec": {"completions": 2, "template": template}, "status": {"succeeded": 1, "startTime": BORN}}),
            vec!["x", "Running", "1/2", "5m3s", "5m3s", "a,b", "i:1,j", "<none>"],
        ),
        (
            "networking.k8s.io",
            "ingresses",
            json!({"spec": {"rules": [{"host": "a"}, {}], "tls": [{}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}}),
            vec!["x", "<none>", "a", "1.1.1.1", "80, 443", "5m3s"],
        ),
        (
            "storage.k8s.io",
            "storageclasses",
            json!({"metadata": {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}, "provisioner": "p"}),
            vec!["x (default)", "p", "", "", "false", "5m3s"],
        ),
        (
            "autoscaling",
            "horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 3, "minReplicas": 1, "scaleTargetRef": {"kind": "Deployment", "name": "d"},
                "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 80}}}]}}),
            vec!["x", "Deployment/d", "cpu: <unknown>/80%", "1", "3", "0", "5m3s"],
        ),
        ("", "limitranges", json!({}), vec!["x", BORN]),
        (
            "",
            "componentstatuses",
            json!({"conditions": [{"type": "Healthy", "status": "False", "message": "gone"}]}),
            vec!["x", "Unhealthy", "gone", ""],
        ),
        (
            "networking.k8s.io",
            "servicecidrs",
            json!({"spec": {"cidrs": ["10.0.0.0/24", "f::/64"]}}),
            vec!["x", "10.0.0.0/24,f::/64", "5m3s"],
        ),
        (
            "networking.k8s.io",
            "ipaddresses",
            json!({"spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": "s"}}}),
            vec!["x", "services/default/s", "5m3s"],
        ),
        (
            "networking.k8s.io",
            "ipaddresses",
            json!({"spec": {"parentRef": {"group": "g.io", "resource": "Gates", "name": "s"}}}),
            vec!["x", "gates.g.io/s", "5m3s"],
        ),
        (
            "storage.k8s.io",
            "csidrivers",
            json!({"spec": {"volumeLifecycleModes": ["Persistent", "Ephemeral"], "tokenRequests": [{"audience": "a"}, {"audience": "b"}]}}),
            vec!["x", "true", "false", "false", "a,b", "false", "Persistent,Ephemeral", "5m3s"],
        ),
        (
            "storage.k8s.io",
            "csidrivers",
            json!({"spec": {"attachRequired": false}}),
            vec!["x", "false", "false", "false", "<unset>", "false", "<none>", "5m3s"],
        ),
        ("storage.k8s.io", "csinodes", json!({"spec": {"drivers": [{}, {}]}}), vec!["x", "2", "5m3s"]),
        (
            "storage.k8s.io",
            "volumeattachments",
            json!({"spec": {"attacher": "a", "nodeName": "n", "source": {"persistentVolumeName": "v"}}, "status": {"attached": true}}),
            vec!["x", "a", "v", "n", "true", "5m3s"],
        ),
        (
            "storage.k8s.io",
            "csistoragecapacities",
            json!({"storageClassName": "c", "capacity": "1Gi"}),
            vec!["x", "c", "1Gi"],
        ),
        ("storage.k8s.io", "volumeattributesclasses", json!({"driverName": "d"}), vec!["x", "d", "5m3s"]),
        (
            "admissionregistration.k8s.io",
            "validatingadmissionpolicies",
            json!({"spec": {"validations": [{}], "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}}}),
            vec!["x", "1", "v1/ConfigMap", "5m3s"],
        ),
        (
            "admissionregistration.k8s.io",
            "validatingadmissionpolicybindings",
            json!({"spec": {"policyName": "p", "paramRef": {"namespace": "n", "name": "m"}}}),
            vec!["x", "p", "n/m", "5m3s"],
        ),
        (
            "admissionregistration.k8s.io",
            "validatingadmissionpolicybindings",
            json!({"spec": {"policyName": "p"}}),
            vec!["x", "p", "<unset>", "5m3s"],
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "flowschemas",
            json!({"spec": {"priorityLevelConfiguration": {"name": "l"}, "matchingPrecedence": 9, "distinguisherMethod": {"type": "ByUser"}},
                "status": {"conditions": [{"type": "Dangling", "status": "False"}]}}),
            vec!["x", "l", "9", "ByUser", "5m3s", "False"],
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "prioritylevelconfigurations",
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 5,
                "limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 6, "queueLengthLimit": 50}}}}}),
            vec!["x", "Limited", "5", "64", "6", "50", "5m3s"],
        ),
        (
            "flowcontrol.apiserver.k8s.io",
            "prioritylevelconfigurations",
            json!({"spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0}}}),
            vec!["x", "Exempt", "<none>", "<none>", "<none>", "<none>", "5m3s"],
        ),
        ("example.io", "widgets", json!({}), vec!["x", "5m3s"]),
        ("", "configmaps", json!({"data": {"a": "b"}, "binaryData": {"c": ""}}), vec!["x", "2", "5m3s"]),
    ] {
        assert_eq!(row(group, plural, object), cells, "{plural}");
    }
}

#[test]
fn every_kind_has_a_cell_for_each_column() {
    for (group, plural) in [
        ("", "podtemplates"),
        ("", "replicationcontrollers"),
        ("apps", "replicasets"),
        ("apps", "statefulsets"),
        ("apps", "daemonsets"),
        ("apps", "controllerrevisions"),
        ("batch", "cronjobs"),
        ("", "namespaces"),
        ("networking.k8s.io", "ingressclasses"),
        ("networking.k8s.io", "networkpolicies"),
        ("", "secrets"),
        ("", "serviceaccounts"),
        ("", "resourcequotas"),
        ("coordination.k8s.io", "leases"),
        ("scheduling.k8s.io", "priorityclasses"),
        ("node.k8s.io", "runtimeclasses"),
        ("", "persistentvolumes"),
        ("", "persistentvolumeclaims"),
        ("policy", "poddisruptionbudgets"),
        ("rbac.authorization.k8s.io", "rolebindings"),
        ("certificates.k8s.io", "certificatesigningrequests"),
        ("admissionregistration.k8s.io", "mutatingwebhookconfigurations"),
    ] {
        row(group, plural, json!({}));
    }
}

#[test]
fn custom_columns() {
    let version = json!({"additionalPrinterColumns": [
        {"name": "Phase", "type": "string", "jsonPath": ".status.phase"},
        {"name": "Count", "type": "integer", "jsonPath": ".spec.count"},
        {"name": "Seen", "type": "date", "jsonPath": ".status.seen", "priority": 1},
        {"name": "Odd", "type": "string", "jsonPath": ".a["},
        {"name": "All", "type": "string", "jsonPath": ".spec.list"},
    ]});
    let object = json!({"metadata": {"name": "x"}, "spec": {"count": 3, "list": ["a"]}, "status": {"seen": BORN}});
    let columns = CustomColumns::of_version(&version);
    assert_eq!(
        columns.cells(&object, NOW.parse().unwrap()),
        [json!("x"), Value::Null, json!(3), json!("5m3s"), Value::Null, json!("[\"a\"]")]
    );
    assert_eq!(CustomColumns::of_version(&json!({})).0[0].name, "Age");
}
