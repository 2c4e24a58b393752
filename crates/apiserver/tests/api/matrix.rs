//! Every built-in kind that can be created goes through every verb.

use http::Method;
use kinds::Resource;
use serde_json::{Value, json};

use crate::fixture::{Fixture, JSON, Lines, MERGE, request};

/// What an object of this kind needs beyond a name.
pub(crate) fn minimal(resource: &Resource) -> Value {
    let pod = json!({"containers": [{"name": "c", "image": "i"}]});
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": pod});
    let selector = json!({"matchLabels": {"a": "b"}});
    let job_pod = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}});
    let rule = json!({"resourceRules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]});
    match resource.plural.as_str() {
        "pods" => json!({"spec": pod}),
        "podtemplates" => json!({"template": template}),
        "replicationcontrollers" => json!({"spec": {"selector": {"a": "b"}, "template": template}}),
        "services" => json!({"spec": {"ports": [{"port": 80}]}}),
        "persistentvolumes" => {
            json!({"spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}})
        }
        "persistentvolumeclaims" => {
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
        }
        "events" if resource.group.is_empty() => json!({"involvedObject": {"namespace": "default", "name": "x"}}),
        "events" => {
            json!({"regarding": {"namespace": "default", "name": "x"}, "eventTime": "2026-01-01T00:00:00.000000Z",
            "reportingController": "test.dev/c", "reportingInstance": "i", "action": "Act", "reason": "Because", "type": "Normal"})
        }
        "deployments" | "replicasets" | "daemonsets" => json!({"spec": {"selector": selector, "template": template}}),
        "statefulsets" => json!({"spec": {"selector": selector, "template": template, "serviceName": "s"}}),
        "controllerrevisions" => json!({"data": {"a": 1}, "revision": 1}),
        "jobs" => json!({"spec": {"template": job_pod}}),
        "cronjobs" => json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": job_pod}}}}),
        "horizontalpodautoscalers" => {
            json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "x", "apiVersion": "apps/v1"}}})
        }
        "ingresses" => json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        "networkpolicies" => json!({"spec": {"podSelector": {}}}),
        "ipaddresses" => json!({"spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "default"}}}),
        "servicecidrs" => json!({"spec": {"cidrs": ["10.1.0.0/24"]}}),
        "ingressclasses" => json!({"spec": {"controller": "c.dev/c"}}),
        "priorityclasses" => json!({"value": 10}),
        "runtimeclasses" => json!({"handler": "h"}),
        "endpointslices" => json!({"addressType": "IPv4", "endpoints": []}),
        "clusterrolebindings" | "rolebindings" => {
            json!({"roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "r"}})
        }
        "storageclasses" => json!({"provisioner": "p.dev/p"}),
        "csinodes" => json!({"spec": {"drivers": []}}),
        "csidrivers" => json!({"spec": {}}),
        "csistoragecapacities" => json!({"storageClassName": "s"}),
        "volumeattachments" => {
            json!({"spec": {"attacher": "a.dev", "nodeName": "n", "source": {"persistentVolumeName": "v"}}})
        }
        "volumeattributesclasses" => json!({"driverName": "d.dev", "parameters": {"a": "b"}}),
        "certificatesigningrequests" => {
            json!({"spec": {"request": CSR, "signerName": "test.dev/s", "usages": ["client auth"]}})
        }
        "customresourcedefinitions" => {
            json!({"spec": {"group": "test.dev", "scope": "Namespaced", "names": {"plural": "things", "kind": "Thing"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}})
        }
        "apiservices" => {
            json!({"spec": {"group": "g.test.dev", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
            "service": {"namespace": "default", "name": "s"}, "insecureSkipTLSVerify": true}})
        }
        "flowschemas" => json!({"spec": {"priorityLevelConfiguration": {"name": "p"}}}),
        "prioritylevelconfigurations" => {
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": "Reject"}}}})
        }
        "validatingadmissionpolicies" => {
            json!({"spec": {"matchConstraints": rule, "validations": [{"expression": "true"}]}})
        }
        "mutatingadmissionpolicies" => {
            json!({"spec": {"matchConstraints": rule, "reinvocationPolicy": "Never", "mutations": [
            {"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}})
        }
        "validatingadmissionpolicybindings" => json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        "mutatingadmissionpolicybindings" => json!({"spec": {"policyName": "p"}}),
        "leases" | "poddisruptionbudgets" => json!({"spec": {}}),
        "deviceclasses" => json!({"spec": {}}),
        "resourceclaims" => {
            json!({"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}})
        }
        "resourceclaimtemplates" => {
            json!({"spec": {"spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "c"}}]}}}})
        }
        "resourceslices" => {
            json!({"spec": {"driver": "d.dev", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}, "devices": []}})
        }
        _ => json!({}),
    }
}

/// A certificate signing request, as the API wants it: PEM in base64.
pub(crate) const CSR: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIcU1JR1JBZ0VBTUM4eEZUQVRCZ05WQkFvTURITjVjM1JsYlRwdWIyUmxjekVXTUJRR0ExVUVBd3dOYzNsegpkR1Z0T201dlpHVTZZVEJaTUJNR0J5cUdTTTQ5QWdFR0NDcUdTTTQ5QXdFSEEwSUFCS0xUTGhhaUNwclBrK1VFCktJYWdpbElqQzdWNE5Kc2JBYUQ0Vmt4RkRPVWR5STQ4cnE2aHV3M3VudGtQbnB6bCtHV214d2JqM1VKY2dFR1EKOGY0cndydWdBREFLQmdncWhrak9QUVFEQWdOSUFEQkZBaUF0TUdjZzZ1eHM5UlFtRHRJN0NxK3ZXRG9Hd1ZLUgpHUy9JZGVlUlBnUVU4UUloQU83UlZxbjZtREwydTgyVUZ2Z25CKzNTY205UHpWYkRsTElBMHpQdEpSRXIKLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVTVC0tLS0tCg==";

pub(crate) fn name(resource: &Resource) -> &'static str {
    match resource.plural.as_str() {
        "customresourcedefinitions" => "things.test.dev",
        "apiservices" => "v1.g.test.dev",
        "ipaddresses" => "10.0.0.1",
        "csidrivers" => "d.test.dev",
        _ => "matrix",
    }
}

#[tokio::test]
async fn every_kind_goes_through_every_verb() {
    let fixture = Fixture::new().await;
    let mut failures = Vec::new();
    let (mut seen, mut skipped) = (0, Vec::new());
    for resource in kinds::builtin() {
        if !resource.verbs.iter().any(|verb| verb == "get") || !resource.verbs.iter().any(|verb| verb == "create") {
            skipped.push(resource.group_resource());
            continue;
        }
        seen += 1;
        if let Err(failure) = one(&fixture, resource).await {
            failures.push(format!("{} {}: {failure}", resource.api_version(), resource.plural));
        }
    }
    println!("{seen} kinds; without create and get: {}", skipped.join(" "));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

async fn one(fixture: &Fixture, resource: &Resource) -> Result<(), String> {
    let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
    let namespace = if resource.namespaced { "/namespaces/default" } else { "" };
    let collection = format!("{root}/{}{namespace}/{}", resource.version, resource.plural);
    let path = format!("{collection}/{}", name(resource));
    let mut object = minimal(resource);
    object["apiVersion"] = resource.api_version().into();
    object["kind"] = resource.kind.as_str().into();
    object["metadata"] = json!({"name": name(resource), "labels": {"matrix": "yes"}});
    let check = |step: &str, answer: crate::fixture::Answer| {
        if answer.status.is_success() {
            Ok(answer.body)
        } else {
            Err(format!("{step}: {} {}", answer.status, answer.body["message"]))
        }
    };
    let created = check("create", fixture.post(&collection, &object).await)?;
    if created["kind"] != resource.kind.as_str() || created["apiVersion"] != resource.api_version() {
        return Err(format!("create answered with {} {}", created["apiVersion"], created["kind"]));
    }
    let read = check("get", fixture.get(&path).await)?;
    if read != created {
        return Err(format!("get differs from create: {read} {created}"));
    }
    let since = created["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    let patch = json!({"metadata": {"annotations": {"a": "b"}}});
    let patched = check("patch", fixture.patch(&path, MERGE, &patch).await)?;
    let updated = check("update", fixture.put(&path, &patched).await)?;
    if updated["metadata"]["resourceVersion"] != patched["metadata"]["resourceVersion"] {
        return Err("an update without a change was stored".into());
    }
    let listed = check("list", fixture.get(&format!("{collection}?labelSelector=matrix%3Dyes")).await)?;
    if listed["items"].as_array().map(Vec::len) != Some(1) || listed["kind"] != resource.list_kind.as_str() {
        return Err(format!("list answered with {listed}"));
    }
    let table = request(Method::GET, &collection, JSON, "");
    let (mut parts, body) = table.into_parts();
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    parts.headers.insert(http::header::ACCEPT, http::HeaderValue::from_static(accept));
    let table = check("table", fixture.send(http::Request::from_parts(parts, body)).await)?;
    let columns = table["columnDefinitions"].as_array().map_or(0, Vec::len);
    if table["rows"]
        .as_array()
        .is_none_or(|rows| rows.iter().any(|row| row["cells"].as_array().map(Vec::len) != Some(columns)))
    {
        return Err(format!("rows and columns differ: {table}"));
    }
    let mut watch =
        Lines::open(fixture, &format!("{collection}?watch=1&resourceVersion={since}&labelSelector=matrix%3Dyes")).await;
    let (kind, _) = watch.named().await;
    if kind != "MODIFIED" {
        return Err(format!("watch began with {kind}"));
    }
    let deleted = check("delete", fixture.delete(&format!("{path}?gracePeriodSeconds=0")).await)?;
    // a definition without objects lets go by itself
    let held = deleted["metadata"]["deletionTimestamp"].is_string() && resource.plural != "customresourcedefinitions";
    if held {
        // finalizers hold it: a client takes them off
        let finalized = json!({"metadata": {"finalizers": null}});
        check("finalize", fixture.patch(&path, MERGE, &finalized).await)?;
        if resource.plural == "namespaces" {
            let mut held = check("get", fixture.get(&path).await)?;
            held["spec"]["finalizers"] = json!([]);
            check("finalize", fixture.put(&format!("{path}/finalize"), &held).await)?;
        }
    }
    loop {
        match watch.named().await.0.as_str() {
            "DELETED" => break,
            "MODIFIED" => {}
            other => return Err(format!("watch saw {other}")),
        }
    }
    match fixture.get(&path).await.status.as_u16() {
        404 => Ok(()),
        other => Err(format!("get after delete: {other}")),
    }
}
