//! The life of an object of each kind whose operations upstream's suite goes through: found in discovery, created, read,
//! listed, watched, patched, updated, its status written, deleted alone and as a collection.

use serde_json::{Value, json};

use crate::{
    fixture::{Fixture, Lines, MERGE},
    matrix::CSR,
};

/// A kind, and what changes in an object of it.
struct Case {
    /// `GROUP/VERSION`, or `v1`.
    api: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    /// The object without its name and labels.
    object: Value,
    /// A field that may change, with what a patch and an update make of it.
    field: Option<(&'static str, Value, Value)>,
    /// What a patch sets in the status.
    status: Option<Value>,
}

fn case(
    api: &'static str,
    plural: &'static str,
    kind: &'static str,
    namespaced: bool,
    object: Value,
    field: Option<(&'static str, Value, Value)>,
    status: Option<Value>,
) -> Case {
    Case { api, plural, kind, namespaced, object, field, status }
}

fn condition() -> Value {
    json!({"conditions": [{"type": "StatusPatched", "status": "False", "reason": "E2E", "message": "Set by a test",
        "lastTransitionTime": "2024-01-01T00:00:00Z"}]})
}

fn policies() -> Vec<Case> {
    let flow = "flowcontrol.apiserver.k8s.io/v1";
    let subjects = json!([{"kind": "User", "user": {"name": "example-e2e-non-existent-user"}}]);
    let schema = json!({"spec": {"matchingPrecedence": 10000, "priorityLevelConfiguration": {"name": "global-default"},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": subjects, "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}]}});
    let level = json!({"spec": {"type": "Limited",
        "limited": {"nominalConcurrencyShares": 2, "limitResponse": {"type": "Reject"}}}});
    let shares = "/spec/limited/nominalConcurrencyShares";
    let admission = "admissionregistration.k8s.io/v1";
    let rules =
        json!([{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]);
    let policy = json!({"spec": {"validations": [{"expression": "object.spec.replicas <= 100"}],
        "matchConstraints": {"resourceRules": rules}}});
    let mutations = json!([{"patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": "Object{spec: Object.spec{replicas: 3}}"}}]);
    let mutating = json!({"spec": {"reinvocationPolicy": "Never", "mutations": mutations,
        "matchConstraints": {"resourceRules": rules}}});
    let mutating_binding = json!({"spec": {"policyName": "policy.example.com"}});
    let binding = json!({"spec": {"policyName": "replicalimit-policy.example.com", "validationActions": ["Deny"]}});
    let change = |field, patched: Value, updated: Value| Some((field, patched, updated));
    vec![
        case(
            flow,
            "flowschemas",
            "FlowSchema",
            false,
            schema,
            change("/spec/matchingPrecedence", json!(9999), json!(9000)),
            Some(condition()),
        ),
        case(
            flow,
            "prioritylevelconfigurations",
            "PriorityLevelConfiguration",
            false,
            level,
            change(shares, json!(4), json!(6)),
            Some(condition()),
        ),
        case(
            admission,
            "validatingadmissionpolicies",
            "ValidatingAdmissionPolicy",
            false,
            policy,
            change("/spec/failurePolicy", json!("Ignore"), json!("Fail")),
            Some(condition()),
        ),
        case(
            admission,
            "validatingadmissionpolicybindings",
            "ValidatingAdmissionPolicyBinding",
            false,
            binding,
            change("/spec/validationActions", json!(["Warn"]), json!(["Deny"])),
            None,
        ),
        case(
            admission,
            "mutatingadmissionpolicies",
            "MutatingAdmissionPolicy",
            false,
            mutating,
            change("/spec/failurePolicy", json!("Ignore"), json!("Fail")),
            None,
        ),
        case(
            admission,
            "mutatingadmissionpolicybindings",
            "MutatingAdmissionPolicyBinding",
            false,
            mutating_binding,
            change("/spec/policyName", json!("patched.example.com"), json!("updated.example.com")),
            None,
        ),
    ]
}

fn networking() -> Vec<Case> {
    let networking = "networking.k8s.io/v1";
    let ingress = json!({"spec": {"ingressClassName": "e2e", "defaultBackend": {"service": {"name": "default-backend",
        "port": {"number": 80}}}, "rules": [{"host": "test.e2e", "http": {"paths": [{"path": "/", "pathType": "Prefix",
        "backend": {"service": {"name": "test-backend", "port": {"number": 8080}}}}]}}]}});
    let balanced = json!({"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}});
    let slice = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["1.2.3.4", "5.6.7.8"],
        "conditions": {"ready": true}}], "ports": [{"name": "http", "port": 80}]});
    let reference =
        json!({"spec": {"parentRef": {"group": "", "resource": "services", "namespace": "default", "name": "s"}}});
    let range = json!({"spec": {"cidrs": ["2001:db8::/64"]}});
    vec![
        case(
            networking,
            "ingresses",
            "Ingress",
            true,
            ingress,
            Some(("/spec/ingressClassName", json!("patched"), json!("updated"))),
            Some(balanced),
        ),
        case(
            networking,
            "ingressclasses",
            "IngressClass",
            false,
            json!({"spec": {"controller": "example.com/controller"}}),
            Some((
                "/spec/parameters",
                json!({"kind": "A", "name": "a", "scope": "Cluster"}),
                json!({"kind": "B", "name": "b", "scope": "Cluster"}),
            )),
            None,
        ),
        case(
            "discovery.k8s.io/v1",
            "endpointslices",
            "EndpointSlice",
            true,
            slice,
            Some(("/endpoints/0/conditions/ready", json!(true), json!(false))),
            None,
        ),
        case(networking, "servicecidrs", "ServiceCIDR", false, range, None, Some(condition())),
        case(networking, "ipaddresses", "IPAddress", false, reference, None, None),
    ]
}

fn workloads() -> Vec<Case> {
    let pod = || json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]});
    let cron = json!({"spec": {"schedule": "* */1 * * ?", "suspend": true, "jobTemplate": {"spec": {"template":
        {"spec": pod()}}}}});
    let scheduled = json!({"lastScheduleTime": "2024-01-01T00:00:00Z"});
    let budget = json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    let lease = json!({"spec": {"holderIdentity": "holder", "leaseDurationSeconds": 30, "leaseTransitions": 0,
        "acquireTime": "2024-01-01T00:00:00.000000Z", "renewTime": "2024-01-01T00:00:05.000000Z"}});
    let template = json!({"template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "nginx", "image": "i"}]}}});
    vec![
        case(
            "batch/v1",
            "cronjobs",
            "CronJob",
            true,
            cron,
            Some(("/spec/concurrencyPolicy", json!("Forbid"), json!("Replace"))),
            Some(scheduled),
        ),
        case(
            "batch/v1",
            "jobs",
            "Job",
            true,
            json!({"spec": {"suspend": true, "template": {"spec": pod()}}}),
            Some(("/spec/parallelism", json!(2), json!(3))),
            Some(json!({"conditions": [{"type": "CustomConditionType", "status": "True"}]})),
        ),
        case(
            "policy/v1",
            "poddisruptionbudgets",
            "PodDisruptionBudget",
            true,
            budget,
            Some(("/spec/minAvailable", json!(2), json!("50%"))),
            Some(condition()),
        ),
        case(
            "coordination.k8s.io/v1",
            "leases",
            "Lease",
            true,
            lease,
            Some(("/spec/leaseDurationSeconds", json!(40), json!(50))),
            None,
        ),
        case(
            "v1",
            "podtemplates",
            "PodTemplate",
            true,
            template,
            Some(("/template/metadata/labels/a", json!("c"), json!("d"))),
            None,
        ),
        case(
            "apps/v1",
            "controllerrevisions",
            "ControllerRevision",
            true,
            json!({"revision": 1, "data": {"a": 1}}),
            Some(("/revision", json!(2), json!(3))),
            None,
        ),
        case("node.k8s.io/v1", "runtimeclasses", "RuntimeClass", false, json!({"handler": "handler"}), None, None),
        case(
            "scheduling.k8s.io/v1",
            "priorityclasses",
            "PriorityClass",
            false,
            json!({"value": 1}),
            Some(("/description", json!("patched"), json!("updated"))),
            None,
        ),
        case(
            "v1",
            "limitranges",
            "LimitRange",
            true,
            json!({"spec": {"limits": [{"type": "Container", "min": {"cpu": "50m"}}]}}),
            Some(("/spec/limits/0/min/cpu", json!("40m"), json!("30m"))),
            None,
        ),
        case(
            "v1",
            "resourcequotas",
            "ResourceQuota",
            true,
            json!({"spec": {"hard": {"cpu": "500m"}}}),
            Some(("/spec/hard/cpu", json!("600m"), json!("700m"))),
            Some(json!({"hard": {"memory": "400Mi"}})),
        ),
        case(
            "v1",
            "services",
            "Service",
            true,
            json!({"spec": {"type": "LoadBalancer", "ports": [{"name": "http", "port": 80}]}}),
            Some(("/spec/ports/0/port", json!(80), json!(81))),
            Some(json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}})),
        ),
    ]
}

fn storage() -> Vec<Case> {
    let storage = "storage.k8s.io/v1";
    let volume = json!({"spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
        "storageClassName": "sc", "hostPath": {"path": "/tmp/data"}}});
    let claim = json!({"spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "sc",
        "resources": {"requests": {"storage": "1Gi"}}}});
    let attachment = json!({"spec": {"attacher": "e2e.io", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
    let request = json!({"spec": {"request": CSR, "signerName": "example.com/e2e", "expirationSeconds": 86400,
        "usages": ["digital signature", "key encipherment", "server auth"]}});
    vec![
        case(
            "v1",
            "persistentvolumes",
            "PersistentVolume",
            false,
            volume,
            Some(("/spec/persistentVolumeReclaimPolicy", json!("Retain"), json!("Delete"))),
            Some(json!({"message": "StatusPatched", "reason": "E2E"})),
        ),
        case("v1", "persistentvolumeclaims", "PersistentVolumeClaim", true, claim, None, Some(condition())),
        case(
            storage,
            "storageclasses",
            "StorageClass",
            false,
            json!({"provisioner": "e2e-fake"}),
            Some(("/allowVolumeExpansion", json!(true), json!(false))),
            None,
        ),
        case(storage, "csinodes", "CSINode", false, json!({"spec": {"drivers": []}}), None, None),
        case(
            storage,
            "csidrivers",
            "CSIDriver",
            false,
            json!({"spec": {"attachRequired": true}}),
            Some(("/spec/requiresRepublish", json!(true), json!(false))),
            None,
        ),
        case(
            storage,
            "csistoragecapacities",
            "CSIStorageCapacity",
            true,
            json!({"storageClassName": "sc"}),
            Some(("/capacity", json!("1Gi"), json!("2Gi"))),
            None,
        ),
        case(
            storage,
            "volumeattachments",
            "VolumeAttachment",
            false,
            attachment,
            None,
            Some(json!({"attached": true})),
        ),
        case(
            storage,
            "volumeattributesclasses",
            "VolumeAttributesClass",
            false,
            json!({"driverName": "e2e-fake", "parameters": {"a": "b"}}),
            None,
            None,
        ),
        case(
            "certificates.k8s.io/v1",
            "certificatesigningrequests",
            "CertificateSigningRequest",
            false,
            request,
            None,
            Some(json!({"certificate": null})),
        ),
    ]
}

#[tokio::test]
async fn an_object_of_each_kind_lives_from_create_to_deletecollection() {
    let fixture = Fixture::new().await;
    for case in [policies(), networking(), workloads(), storage()].into_iter().flatten() {
        println!("{} {}", case.api, case.plural);
        is_found(&fixture, &case).await;
        lives(&fixture, &case).await;
    }
}

fn root(case: &Case) -> String {
    if case.api.contains('/') { format!("/apis/{}", case.api) } else { format!("/api/{}", case.api) }
}

/// The kind and its status are in all three levels of discovery.
async fn is_found(fixture: &Fixture, case: &Case) {
    if let Some((group, version)) = case.api.split_once('/') {
        let groups = fixture.get("/apis").await.ok();
        let groups = groups["groups"].as_array().unwrap().clone();
        let known = groups.iter().find(|known| known["name"] == group).expect("the group is listed").clone();
        assert_eq!(fixture.get(&format!("/apis/{group}")).await.ok()["versions"], known["versions"]);
        assert!(known["versions"].as_array().unwrap().iter().any(|known| known["version"] == version));
    }
    let resources = fixture.get(&root(case)).await.ok();
    let has = |name: &str| resources["resources"].as_array().unwrap().iter().any(|known| known["name"] == name);
    assert!(has(case.plural));
    assert_eq!(has(&format!("{}/status", case.plural)), case.status.is_some(), "{} has a status", case.plural);
}

async fn lives(fixture: &Fixture, case: &Case) {
    let all = format!("{}/{}", root(case), case.plural);
    let namespace = if case.namespaced { "/namespaces/default" } else { "" };
    let collection = format!("{}{namespace}/{}", root(case), case.plural);
    let selected = |path: &str| format!("{path}?labelSelector=e2e%3Dlife");
    let count = async |path: &str| fixture.get(&selected(path)).await.ok()["items"].as_array().map(Vec::len);
    let mut object = case.object.clone();
    // the names of addresses are the addresses
    let names: [&str; 3] =
        if case.plural == "ipaddresses" { ["192.168.1.2", "192.168.1.3", "192.168.1.4"] } else { [""; 3] };
    let mut made = Value::Null;
    for name in names {
        object["metadata"] = json!({"name": name, "generateName": "e2e-example-", "labels": {"e2e": "life"}});
        made = fixture.post(&collection, &object).await.ok();
        assert!(!made["metadata"]["name"].as_str().unwrap().is_empty());
    }
    let path = format!("{collection}/{}", made["metadata"]["name"].as_str().unwrap());
    assert_eq!(fixture.get(&path).await.ok()["metadata"]["uid"], made["metadata"]["uid"]);
    let list = fixture.get(&selected(&all)).await.ok();
    assert_eq!((list["items"].as_array().map(Vec::len), count(&collection).await), (Some(3), Some(3)));
    let since = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = Lines::open(fixture, &format!("{}&watch=1&resourceVersion={since}", selected(&all))).await;
    let updated = changed(fixture, case, &path, &made).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["type"], "MODIFIED");
    assert_eq!(event["object"]["metadata"]["annotations"]["patched"], "true");
    assert_eq!(watch.next().await.unwrap()["object"], updated);
    status_written(fixture, case, &path, &made).await;
    let gone = async |path: &str| {
        let deleted = fixture.delete(path).await.ok();
        // a finalizer of the server's holds what may be in use: the client takes it off
        for object in deleted["items"].as_array().cloned().unwrap_or_else(|| vec![deleted]) {
            if object["metadata"]["finalizers"].is_array() {
                let path = format!("{collection}/{}", object["metadata"]["name"].as_str().unwrap());
                fixture.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}})).await.ok();
            }
        }
    };
    gone(&path).await;
    assert_eq!(fixture.get(&path).await.failed().1, "NotFound");
    assert_eq!(count(&all).await, Some(2));
    gone(&selected(&collection)).await;
    assert_eq!(count(&all).await, Some(0));
    loop {
        let event = watch.next().await.unwrap();
        if event["type"] == "DELETED" {
            assert_eq!(event["object"]["metadata"]["uid"], made["metadata"]["uid"]);
            break;
        }
        assert_eq!(event["type"], "MODIFIED");
    }
}

/// Patches an object, and updates it.
async fn changed(fixture: &Fixture, case: &Case, path: &str, made: &Value) -> Value {
    let mut patch = json!({"metadata": {"annotations": {"patched": "true"}}});
    let whole = fixture.get(path).await.ok();
    if let Some((field, patched, _)) = &case.field {
        let (top, _) = field[1..].split_once('/').unwrap_or((&field[1..], ""));
        // arrays are replaced as a whole by a merge patch
        let mut copy = whole.clone();
        place(&mut copy, field, patched.clone());
        patch[top] = copy[top].clone();
    }
    let patched = fixture.patch(path, MERGE, &patch).await.ok();
    assert_eq!(patched["metadata"]["annotations"]["patched"], "true");
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(version(&patched) > version(made));
    let mut live = fixture.get(path).await.ok();
    live["metadata"]["annotations"]["updated"] = "true".into();
    if let Some((field, value, updated)) = &case.field {
        assert_eq!(patched.pointer(field), Some(value));
        place(&mut live, field, updated.clone());
    }
    let updated = fixture.put(path, &live).await.ok();
    assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
    if let Some((field, _, value)) = &case.field {
        assert_eq!(updated.pointer(field), Some(value));
    }
    updated
}

fn place(object: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[key] = value;
}

/// Kinds whose status leaves the metadata as it is.
const STATUS_ALONE: [&str; 5] =
    ["FlowSchema", "PriorityLevelConfiguration", "ServiceCIDR", "ValidatingAdmissionPolicy", "VolumeAttachment"];

/// Reads, patches and updates the status of an object.
async fn status_written(fixture: &Fixture, case: &Case, path: &str, made: &Value) {
    let Some(status) = &case.status else { return };
    let path = format!("{path}/status");
    let read = fixture.get(&path).await.ok();
    assert_eq!((&read["kind"], &read["apiVersion"]), (&case.kind.into(), &case.api.into()));
    assert_eq!(read["metadata"]["uid"], made["metadata"]["uid"]);
    let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}}, "status": status});
    let mut patched = fixture.patch(&path, MERGE, &patch).await.ok();
    let alone = STATUS_ALONE.contains(&case.kind);
    assert_eq!(patched["metadata"]["annotations"]["patchedstatus"].is_null(), alone, "{}", case.kind);
    for (field, value) in status.as_object().unwrap() {
        let written = &patched["status"][field];
        assert!(written == value || written[0]["type"] == value[0]["type"] || value.is_object(), "{field}: {written}");
    }
    if let Some(conditions) = patched["status"]["conditions"].as_array_mut() {
        let mut second = conditions[0].clone();
        second["type"] = "StatusUpdated".into();
        conditions.push(second);
        let updated = fixture.put(&path, &patched).await.ok();
        let kinds: Vec<&Value> =
            updated["status"]["conditions"].as_array().unwrap().iter().map(|known| &known["type"]).collect();
        assert!(kinds.contains(&&json!("StatusUpdated")), "{kinds:?}");
    }
}
