//! From what the API shows to what is printed.

use serde_json::{Value, json};

use super::*;

fn maker(kind: &'static str, name: &str, made_by: Option<&str>, wanted: i64) -> Maker {
    let uid = format!("{kind}-{name}");
    Maker { kind, namespace: "shop".into(), name: name.into(), uid, made_by: made_by.map(Into::into), wanted }
}

fn pod(name: &str, owner: Option<&str>, node: Option<&str>, rest: Value) -> Pod {
    let (kind, of) = owner.and_then(|owner| owner.split_once('-')).unwrap_or_default();
    let owners: Vec<Value> = owner
        .map(|uid| json!({"apiVersion": "x/v1", "kind": kind, "name": of, "uid": uid, "controller": true}))
        .into_iter()
        .collect();
    let mut pod = json!({"metadata": {"name": name, "namespace": "shop", "ownerReferences": owners},
        "spec": {"schedulerName": "default-scheduler", "nodeName": node, "containers": [{"name": "c",
            "resources": {"requests": {"cpu": "1500m", "memory": "1Gi"}}}]}});
    pod["status"] = rest;
    serde_json::from_value(pod).unwrap()
}

fn waiting(message: &str) -> Value {
    json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": message}]})
}

fn node(name: &str) -> Node {
    let allocatable = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    serde_json::from_value(json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}})).unwrap()
}

fn seen() -> Seen {
    let full = "0/2 nodes are available: 2 Insufficient cpu.";
    let running = || json!({"phase": "Running"});
    Seen {
        nodes: vec![node("b"), node("a")],
        makers: vec![
            maker("Deployment", "web", None, 3),
            maker("ReplicaSet", "web-1", Some("Deployment-web"), 3),
            maker("ReplicaSet", "web-0", Some("Deployment-web"), 0),
            maker("StatefulSet", "db", None, 4),
        ],
        pods: vec![
            pod("web-1-a", Some("ReplicaSet-web-1"), Some("a"), running()),
            pod("web-1-b", Some("ReplicaSet-web-1"), Some("a"), running()),
            pod("web-1-c", Some("ReplicaSet-web-1"), None, waiting(full)),
            pod("db-0", Some("StatefulSet-db"), Some("b"), running()),
            pod("db-1", Some("StatefulSet-db"), None, waiting(full)),
            pod("run", Some("Workflow-w"), None, json!({"phase": "Pending"})),
            pod("alone", None, Some("b"), running()),
            pod("over", None, Some("b"), json!({"phase": "Succeeded"})),
        ],
        failures: [("StatefulSet-db".to_owned(), "exceeded quota: few".to_owned())].into(),
        refused: vec![Refused { source: "x.yaml".into(), object: "Pod shop/x".into(), message: "no".into() }],
    }
}

#[test]
fn pods_count_for_the_workload_at_the_root_and_those_without_a_node_say_why() {
    let fit = seen().fit(true);
    let rows: Vec<_> = fit
        .workloads
        .iter()
        .map(|one| (one.kind.as_str(), one.name.as_str(), one.wanted, one.placed, one.unplaced.len(), one.nodes))
        .collect();
    let expected = [
        ("Deployment", "web", 3, 2, 1, 1),
        ("Pod", "alone", 1, 1, 0, 1),
        ("StatefulSet", "db", 4, 1, 2, 1),
        ("Workflow", "w", 1, 0, 1, 0),
    ];
    assert_eq!(rows, expected);
    let db = &fit.workloads[2].unplaced;
    assert_eq!((db[0].pods, db[0].message.as_str()), (2, "exceeded quota: few"), "those that were never created");
    assert_eq!(fit.pods(), (4, 9));
    assert!(!fit.is_complete());
    let rest = Seen { refused: Vec::new(), pods: seen().pods.split_off(6), nodes: seen().nodes, ..Seen::default() };
    assert!(rest.fit(true).is_complete());
    let refused = Seen { refused: seen().refused, ..Seen::default() };
    assert!(!refused.fit(true).is_complete());
}

#[test]
fn it_is_printed_for_people() {
    let expected = "\
4 of 9 pods have one of 2 nodes
pods were still on their way when the time was over: --for gives them more
refused: x.yaml: Pod shop/x: no

WORKLOAD             WANTED  PLACED  NODES
Deployment shop/web  3       2       1
    1 not placed: 0/2 nodes are available: 2 Insufficient cpu.
Pod shop/alone       1       1       1
StatefulSet shop/db  4       1       1
    2 not placed: exceeded quota: few
    1 not placed: 0/2 nodes are available: 2 Insufficient cpu.
Workflow shop/w      1       0       0
    1 not placed: scheduler default-scheduler has not looked at it

NODE  PODS   CPU          MEMORY
a     2/110  3.0/4.0 75%  2.0/8.0Gi 25%
b     2/110  3.0/4.0 75%  2.0/8.0Gi 25%
all   4/220  6.0/8.0 75%  4.0/16.0Gi 25%
0 nodes have no pod";
    assert_eq!(seen().fit(false).to_string(), expected);
}
