//! `keelson simulate -f`: what of some manifests fits on so many nodes, found out without a cluster.

use std::path::Path;

use serde_json::{Value, json};
use system_tests::instance::run;

fn write(folder: &Path, name: &str, documents: &[Value]) {
    let text: Vec<String> = documents.iter().map(|document| format!("---\n{document}\n")).collect();
    std::fs::write(folder.join(name), text.concat()).unwrap();
}

fn pod_spec(requests: &Value) -> Value {
    json!({"containers": [{"name": "c", "image": "any", "resources": {"requests": requests}}]})
}

/// A workload in the namespace `shop`, with `more` beside its replicas and template.
fn workload(kind: &str, name: &str, replicas: usize, requests: &Value, more: &Value) -> Value {
    let labels = json!({"app": name});
    let mut spec = json!({"replicas": replicas, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod_spec(requests)}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name, "namespace": "shop"}, "spec": spec})
}

/// How a workload fared: wanted, placed, and why the rest is not.
fn fared(fit: &Value, kind: &str, name: &str) -> (i64, i64, Vec<String>) {
    let all = fit["workloads"].as_array().expect("workloads");
    let one = all.iter().find(|one| one["kind"] == kind && one["name"] == name);
    let one = one.unwrap_or_else(|| panic!("{kind} {name} is not in {fit:#}"));
    let reasons = one["unplaced"].as_array().expect("reasons").iter();
    let reasons = reasons.map(|reason| format!("{}: {}", reason["pods"], reason["message"].as_str().unwrap_or("?")));
    (one["wanted"].as_i64().unwrap(), one["placed"].as_i64().unwrap(), reasons.collect())
}

#[test]
fn manifests_are_planned_with_and_nothing_of_it_stays() {
    let folder = tempfile::tempdir().unwrap();
    let (small, big) = (json!({"cpu": "500m", "memory": "1Gi"}), json!({"cpu": "5"}));
    let claim = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}}]);
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few", "namespace": "tight"},
        "spec": {"hard": {"pods": "2"}}});
    let mut limited = workload("Deployment", "limited", 3, &json!({}), &json!({}));
    limited["metadata"]["namespace"] = json!("tight");
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "count", "namespace": "shop"},
        "spec": {"completions": 10, "parallelism": 3,
            "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "any"}]}}}});
    let unknown = json!({"apiVersion": "example.org/v1", "kind": "Thing", "metadata": {"name": "x"}});
    write(
        folder.path(),
        "a.yaml",
        &[
            workload("Deployment", "web", 4, &small, &json!({})),
            workload("StatefulSet", "db", 3, &small, &json!({"serviceName": "db", "volumeClaimTemplates": claim})),
            workload("Deployment", "heavy", 3, &big, &json!({})),
            job,
        ],
    );
    write(folder.path(), "b.yml", &[limited, quota, unknown]);
    std::fs::write(folder.path().join("notes.txt"), "no manifest").unwrap();
    let path = folder.path().display().to_string();

    // no node has room for one that is big
    let output = run(&["simulate", "--nodes", "3", "--cpu", "4", "--memory", "16Gi", "-f", &path, "-o", "json"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    let summary: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {error}"));
    let fit = &summary["fit"];
    assert_eq!(fared(fit, "Deployment", "web"), (4, 4, vec![]));
    assert_eq!(fared(fit, "StatefulSet", "db"), (3, 3, vec![]), "its claims get volumes");
    assert_eq!(fared(fit, "Job", "count"), (3, 3, vec![]), "what runs at a time");
    let (wanted, placed, why) = fared(fit, "Deployment", "heavy");
    assert_eq!((wanted, placed, why.len()), (3, 0, 1));
    assert!(why[0].starts_with("3: 0/3 nodes are available: 3 Insufficient cpu"), "{why:?}");
    let (wanted, placed, why) = fared(fit, "Deployment", "limited");
    assert_eq!((wanted, placed, why.len()), (3, 2, 1));
    assert!(why[0].starts_with("1: ") && why[0].contains("exceeded quota: few"), "{why:?}");
    let refused = &fit["refused"][0];
    assert!(refused["object"] == "Thing x" && refused["source"].as_str().is_some_and(|file| file.ends_with("b.yml")));
    assert_eq!(fit["nodes"].as_array().map(Vec::len), Some(3));
    assert!(error.contains("not everything fits: "), "{error}");

    let output = run(&["simulate", "--nodes", "9", "--cpu", "8", "-f", &format!("{path}/a.yaml")]);
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    assert!(printed.starts_with("13 of 13 pods have one of 9 nodes\n"), "{printed}");
}

#[test]
fn what_is_no_manifest_is_refused_before_anything_is_begun() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    std::fs::write(folder.path().join("a.yaml"), "kind: Pod\nmetadata: {name: a}\n").unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let cases = [
        (vec![path.clone()], "document 1: apiVersion is missing"),
        (vec![format!("{path}/empty")], "there is no manifest in "),
        (vec![format!("{path}/none.yaml")], "none.yaml"),
        (vec![path.clone(), "--keep".to_owned()], "cannot be used with"),
    ];
    for (rest, reason) in cases {
        let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
        let output = run(&[&["simulate", "--nodes", "1", "-f"][..], &rest].concat());
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}
