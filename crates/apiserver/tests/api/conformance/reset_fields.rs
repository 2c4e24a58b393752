//! What the writer of an object, and the writer of its status, can come to own: of every built-in kind with a status,
//! each only what that door lets through.

use http::Method;
use kinds::Resource;
use serde_json::{Value, json};

use crate::{
    fixture::{APPLY, Answer, Fixture, request},
    matrix::{minimal, name},
};

/// Kinds whose status changes nothing of the metadata, so that nobody owns any of it that way.
const STATUS_ALONE: [&str; 6] = [
    "apiservices",
    "customresourcedefinitions",
    "flowschemas",
    "prioritylevelconfigurations",
    "validatingadmissionpolicies",
    "volumeattachments",
];

/// Kinds with nothing that two writers could disagree about.
const WITHOUT_CONFLICT: [&str; 3] = ["certificatesigningrequests", "namespaces", "servicecidrs"];

/// Two statuses of a kind that differ in a field.
fn statuses(plural: &str) -> [Value; 2] {
    match plural {
        "persistentvolumes" => ["hello", "hello2"].map(|text| json!({"message": text})),
        "resourcequotas" => ["5M", "25M"].map(|cpu| json!({"used": {"cpu": cpu}})),
        "services" => {
            ["127.0.0.1", "127.0.0.2"].map(|ip| json!({"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]}}))
        }
        "ingresses" => ["127.0.0.1", "127.0.0.2"].map(|ip| json!({"loadBalancer": {"ingress": [{"ip": ip}]}})),
        "horizontalpodautoscalers" => [5, 25].map(|count| json!({"currentReplicas": count})),
        "cronjobs" => ["2020-01-01T00:00:00Z", "2021-01-01T00:00:00Z"].map(|time| json!({"lastScheduleTime": time})),
        "volumeattachments" => [true, false].map(|attached| json!({"attached": attached})),
        "poddisruptionbudgets" => [5, 25].map(|count| json!({"currentHealthy": count})),
        "validatingadmissionpolicies" | "servicecidrs" => ["False", "True"].map(|status| {
            json!({"conditions": [{"type": "Accepted", "status": status, "reason": "RuleApplied",
                "lastTransitionTime": "2020-01-01T00:00:00Z", "message": "Rule was applied"}]})
        }),
        "resourceclaims" => ["a", "b"]
            .map(|text| json!({"devices": [{"driver": "d.dev", "pool": "p", "device": "x", "data": {"text": text}}]})),
        _ => ["True", "False"].map(|status| json!({"conditions": [{"type": "MyStatus", "status": status}]})),
    }
}

/// Two specs of a kind, on top of what it needs, that differ in a field.
fn specs(plural: &str) -> [Value; 2] {
    let images = ["i", "j"].map(|image| json!({"containers": [{"name": "c", "image": image}]}));
    match plural {
        "resourcequotas" => ["5M", "25M"].map(|cpu| json!({"hard": {"cpu": cpu}})),
        "nodes" => [true, false].map(|flag| json!({"unschedulable": flag})),
        "persistentvolumes" => ["22M", "23M"].map(|size| json!({"capacity": {"storage": size}})),
        "persistentvolumeclaims" => ["20M", "21M"].map(|size| json!({"resources": {"requests": {"storage": size}}})),
        "pods" => images,
        "services" => [80, 81].map(|port| json!({"type": "LoadBalancer", "ports": [{"port": 80, "targetPort": port}]})),
        "replicationcontrollers" | "deployments" | "replicasets" | "daemonsets" | "statefulsets" => {
            images.map(|spec| json!({"template": {"spec": spec}}))
        }
        "jobs" => images.map(|spec| json!({"template": {"spec": spec}})),
        "cronjobs" => images.map(|spec| json!({"jobTemplate": {"spec": {"template": {"spec": spec}}}})),
        "horizontalpodautoscalers" => [3, 23].map(|count| json!({"maxReplicas": count})),
        "flowschemas" => ["p", "q"].map(|level| json!({"priorityLevelConfiguration": {"name": level}})),
        "prioritylevelconfigurations" => [5, 23].map(|shares| json!({"limited": {"nominalConcurrencyShares": shares}})),
        "ingresses" => ["s", "t"].map(|name| json!({"defaultBackend": {"service": {"name": name}}})),
        "poddisruptionbudgets" => ["b", "c"].map(|value| json!({"selector": {"matchLabels": {"a": value}}})),
        "volumeattachments" => ["n", "m"].map(|node| json!({"nodeName": node})),
        "customresourcedefinitions" => ["test.dev", "other.dev"].map(|group| json!({"group": group})),
        "apiservices" => ["g.test.dev", "other.dev"].map(|group| json!({"group": group})),
        "validatingadmissionpolicies" => ["Fail", "Ignore"].map(|policy| json!({"failurePolicy": policy})),
        "resourceclaims" => ["c", "d"]
            .map(|class| json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": class}}]}})),
        _ => [json!({}), json!({})],
    }
}

/// Lays `over` over `under`, object by object.
fn overlay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                overlay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

fn owned(object: &Value, manager: &str) -> Value {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries
        .filter(|entry| entry["manager"] == manager)
        .map(|entry| entry["fieldsV1"].clone())
        .next()
        .unwrap_or_default()
}

async fn apply(fixture: &Fixture, path: &str, manager: &str, object: &Value) -> Answer {
    fixture.send(request(Method::PATCH, &format!("{path}?fieldManager={manager}"), APPLY, &object.to_string())).await
}

async fn one(fixture: &Fixture, resource: &Resource) -> Result<(), String> {
    let plural = resource.plural.as_str();
    let root = if resource.group.is_empty() { "/api".to_owned() } else { format!("/apis/{}", resource.group) };
    let namespace = if resource.namespaced { "/namespaces/default" } else { "" };
    let path = format!("{root}/{}{namespace}/{plural}/{}", resource.version, name(resource));
    let [mut first, mut second] = [minimal(resource), minimal(resource)];
    let pairs = specs(plural).into_iter().zip(statuses(plural)).zip(["b", "c"]);
    for (object, ((spec, status), label)) in [&mut first, &mut second].into_iter().zip(pairs) {
        overlay(
            object,
            json!({"apiVersion": resource.api_version(), "kind": resource.kind, "status": status,
            "metadata": {"name": name(resource), "labels": {"a": label}}}),
        );
        if spec != json!({}) {
            overlay(object, json!({"spec": spec}));
        }
    }
    let ok = |step: &str, answer: Answer| {
        let failed = format!("{step}: {} {}", answer.status, answer.body["message"]);
        if answer.status.is_success() { Ok(answer.body) } else { Err(failed) }
    };
    let made = ok("apply", apply(fixture, &path, "main", &first).await)?;
    let main = owned(&made, "main");
    let spec_is_owned = plural != "certificatesigningrequests" && first.get("spec").is_some();
    if main.get("f:status").is_some() || main.get("f:spec").is_some() != spec_is_owned {
        return Err(format!("the writer of the object owns {main}"));
    }
    // what a status may carry of the metadata is another's label, unless that door keeps it out
    let mut report = second.clone();
    report["metadata"]["labels"] = json!({"other": "label"});
    let door = format!("{path}/status");
    let reported = ok("apply the status", apply(fixture, &door, "status", &report).await)?;
    let status = owned(&reported, "status");
    let labelled = !STATUS_ALONE.contains(&plural) && plural != "deployments";
    let wanted = if labelled { json!({"f:labels": {"f:other": {}}}) } else { Value::Null };
    let conditions_are_reset = plural == "certificatesigningrequests";
    if status.get("f:spec").is_some()
        || status["f:metadata"] != wanted
        || status.get("f:status").is_none() != conditions_are_reset
    {
        return Err(format!("the writer of the status owns {status}"));
    }
    let kept = plural == "servicecidrs" || plural == "resourceclaims" && resource.version != "v1";
    if reported["metadata"]["labels"].get("other").is_some() != (labelled && !kept) && plural != "resourceclaims" {
        return Err(format!("the status changed the labels: {}", reported["metadata"]["labels"]));
    }
    if !WITHOUT_CONFLICT.contains(&plural) {
        for (path, object) in [(&path, &second), (&door, &first)] {
            let refused = apply(fixture, path, "third", object).await;
            if refused.status != 409 {
                return Err(format!("{path} knows no conflict: {} {}", refused.status, refused.body));
            }
        }
    }
    ok("delete", fixture.delete(&format!("{path}?gracePeriodSeconds=0")).await).map(drop)
}

#[tokio::test]
async fn each_door_of_a_kind_gives_what_it_lets_through() {
    let fixture = Fixture::new().await;
    let mut failures = Vec::new();
    let mut seen = 0;
    for resource in kinds::builtin() {
        let has = |wanted: &str| resource.verbs.iter().any(|verb| verb == wanted);
        if !resource.subresources.iter().any(|known| known.name == "status") || !has("create") {
            continue;
        }
        seen += 1;
        if let Err(failure) = one(&fixture, resource).await {
            failures.push(format!("{} {}: {failure}", resource.api_version(), resource.plural));
        }
    }
    assert!(seen > 25, "{seen}");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test]
async fn pods_keep_what_only_the_object_may_say() {
    let fixture = Fixture::new().await;
    let path = "/api/v1/namespaces/default/pods/p";
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}}}]}});
    apply(&fixture, path, "main", &pod).await.ok();
    let mut report = pod.clone();
    report["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "m", "uid": "u"}]);
    report["status"] = json!({"observedGeneration": 1,
        "conditions": [{"type": "Ready", "status": "True", "observedGeneration": 1}]});
    let reported = apply(&fixture, &format!("{path}/status"), "kubelet", &report).await.ok();
    let fields = owned(&reported, "kubelet");
    assert!(fields.get("f:metadata").is_none(), "{fields}");
    assert!(reported["metadata"].get("ownerReferences").is_none());
    // a writer that knows no generations takes none back
    let patch = json!({"status": {"observedGeneration": null,
        "conditions": [{"type": "Ready", "status": "False", "observedGeneration": null}]}});
    let strategic = "application/strategic-merge-patch+json";
    let patched = fixture.patch(&format!("{path}/status"), strategic, &patch).await.ok();
    assert_eq!(patched["status"]["observedGeneration"], 1);
    assert_eq!(patched["status"]["conditions"][0]["status"], "False");
    assert_eq!(patched["status"]["conditions"][0]["observedGeneration"], 1);
    // who resizes owns the resources, whatever else the pod it applies says
    let mut larger = pod.clone();
    larger["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    let resize = format!("{path}/resize?force=true&fieldManager=resizer");
    let resized = fixture.send(request(Method::PATCH, &resize, APPLY, &larger.to_string())).await.ok();
    let resources = json!({"f:resources": {"f:limits": {"f:cpu": {}}}});
    let wanted = json!({"f:spec": {"f:containers": {"k:{\"name\":\"c\"}": resources}}});
    assert_eq!(owned(&resized, "resizer"), wanted);
}
