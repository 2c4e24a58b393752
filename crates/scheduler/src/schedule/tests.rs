use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn node(name: &str, cpu: &str, extra: serde_json::Value) -> Node {
    let mut node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
        "status": {"allocatable": {"cpu": cpu, "memory": "4Gi", "pods": "110"}}});
    for (key, value) in extra.as_object().unwrap() {
        node[key] = value.clone();
    }
    serde_json::from_value(node).unwrap()
}

fn pod(name: &str, cpu: &str, spec: serde_json::Value) -> PodInfo {
    let mut pod = json!({"metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    for (key, value) in spec.as_object().unwrap() {
        pod["spec"][key] = value.clone();
    }
    PodInfo::of(&serde_json::from_value::<Pod>(pod).unwrap())
}

fn cluster(nodes: &[Node]) -> Snapshot {
    let mut snapshot = Snapshot::new();
    for node in nodes {
        snapshot.set_node(node);
    }
    snapshot
}

fn refusal(snapshot: &Snapshot, pod: &PodInfo) -> String {
    match schedule(snapshot, pod, 1) {
        Placement::Node(node) => panic!("placed on {node}"),
        Placement::Unschedulable(why) => why.to_string(),
    }
}

#[test]
fn refusals_read_as_upstreams() {
    let taint = json!({"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]});
    let snapshot = cluster(&[
        node("a", "1", json!({})),
        node("b", "8", json!({"spec": taint})),
        node("c", "8", json!({"spec": taint})),
    ]);
    assert_eq!(
        refusal(&snapshot, &pod("p", "2", json!({}))),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint {dedicated: db}. \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
    assert_eq!(refusal(&Snapshot::new(), &pod("p", "1", json!({}))), "no nodes available to schedule pods");

    let mut full = cluster(&[node("a", "1", json!({}))]);
    full.place(Arc::new(pod("other", "900m", json!({}))), "a");
    assert_eq!(
        refusal(&full, &pod("p", "200m", json!({}))),
        "0/1 nodes are available: 1 Insufficient cpu. \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    for (spec, reason) in [
        (json!({"nodeSelector": {"disk": "ssd"}}), "node(s) didn't match Pod's node affinity/selector"),
        (json!({"nodeName": "z"}), "node(s) didn't match the requested node name"),
    ] {
        assert!(refusal(&full, &pod("p", "1m", spec)).contains(reason));
    }
    let cordoned = cluster(&[node("a", "1", json!({"spec": {"unschedulable": true}}))]);
    assert!(refusal(&cordoned, &pod("p", "1m", json!({}))).contains("1 node(s) were unschedulable"));
}

#[test]
fn filters_accept_what_they_should() {
    let snapshot = cluster(&[
        node("plain", "4", json!({})),
        node(
            "ssd",
            "4",
            json!({"metadata": {"name": "ssd", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]}}),
        ),
    ]);
    let tolerations = json!([{"key": "dedicated", "operator": "Exists"}]);
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "disk", "operator": "In", "values": ["ssd"]}]}]}}});
    for spec in [
        json!({"nodeSelector": {"disk": "ssd"}, "tolerations": tolerations}),
        json!({"affinity": affinity, "tolerations": tolerations}),
    ] {
        assert_eq!(schedule(&snapshot, &pod("p", "1", spec), 7), Placement::Node("ssd".into()));
    }
    assert_eq!(schedule(&snapshot, &pod("p", "1", json!({})), 7), Placement::Node("plain".into()));
}

#[test]
fn host_ports_conflict_on_one_node_only() {
    let with_port = |name: &str| {
        let containers = json!([{"name": "c", "ports": [{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}]}]);
        Arc::new(pod(name, "0", json!({"containers": containers})))
    };
    let mut snapshot = cluster(&[node("a", "4", json!({}))]);
    snapshot.place(with_port("first"), "a");
    assert!(refusal(&snapshot, &with_port("second")).contains("didn't have free ports"));
    snapshot.remove_pod("first");
    assert_eq!(schedule(&snapshot, &with_port("second"), 1), Placement::Node("a".into()));
}

#[test]
fn pods_of_one_group_are_spread() {
    let nodes: Vec<Node> = ["a", "b", "c"].iter().map(|name| node(name, "8", json!({}))).collect();
    let mut snapshot = cluster(&nodes);
    for at in 0..9 {
        let pod = Arc::new(pod(&format!("p{at}"), "100m", json!({})));
        let Placement::Node(name) = schedule(&snapshot, &pod, at) else { panic!("must fit") };
        snapshot.place(pod, &name);
    }
    for node in snapshot.nodes() {
        assert_eq!(node.requested.pods, 3, "{}", node.name);
    }
}

#[test]
fn shunned_nodes_are_the_last_choice() {
    let shunned = json!({"taints": [{"key": "old", "effect": "PreferNoSchedule"}]});
    let snapshot = cluster(&[node("old", "64", json!({"spec": shunned})), node("new", "2", json!({}))]);
    assert_eq!(schedule(&snapshot, &pod("p", "1", json!({})), 3), Placement::Node("new".into()));
}

#[test]
fn init_containers_sidecars_and_overhead_count() {
    let containers = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
    let mut sidecar = containers("side", "200m");
    sidecar["restartPolicy"] = json!("Always");
    let info = pod(
        "p",
        "300m",
        json!({
        "initContainers": [containers("first", "1"), sidecar, containers("second", "900m")],
        "overhead": {"cpu": "50m"}}),
    );
    assert_eq!(info.requests.cpu_milli, 1150, "second init container beside the sidecar, plus overhead");
}

#[test]
fn a_node_that_vanishes_and_returns_still_counts_its_pods() {
    let mut snapshot = cluster(&[node("a", "1", json!({}))]);
    snapshot.place(Arc::new(pod("one", "900m", json!({}))), "a");
    snapshot.remove_node("a");
    assert!(snapshot.node("a").is_none());
    snapshot.set_node(&node("a", "1", json!({})));
    assert!(refusal(&snapshot, &pod("two", "200m", json!({}))).contains("Insufficient cpu"));
    snapshot.remove_pod("one");
    snapshot.remove_node("a");
    assert!(snapshot.nodes().is_empty());
}

proptest! {
    #[test]
    fn placements_never_exceed_a_node_and_are_deterministic(
        cpus in proptest::collection::vec(1i64..8, 1..6),
        pods in proptest::collection::vec((0i64..3000, any::<bool>()), 1..60),
        seed in any::<u64>(),
    ) {
        let nodes: Vec<Node> =
            cpus.iter().enumerate().map(|(at, cpu)| node(&format!("n{at}"), &cpu.to_string(), json!({}))).collect();
        let mut snapshot = cluster(&nodes);
        let mut placed: Vec<String> = Vec::new();
        for (at, (cpu, leave)) in pods.iter().enumerate() {
            let pod = Arc::new(pod(&format!("p{at}"), &format!("{cpu}m"), json!({})));
            let choice = schedule(&snapshot, &pod, seed);
            prop_assert_eq!(&choice, &schedule(&snapshot, &pod, seed));
            if let Placement::Node(name) = choice {
                snapshot.place(Arc::clone(&pod), &name);
                placed.push(pod.uid.clone());
            }
            if *leave && let Some(uid) = placed.pop() {
                snapshot.remove_pod(&uid);
            }
            for node in snapshot.nodes() {
                prop_assert!(node.requested.cpu_milli <= node.allocatable.cpu_milli);
                prop_assert!(node.requested.pods <= node.allocatable.pods);
            }
        }
        for uid in placed {
            snapshot.remove_pod(&uid);
        }
        for node in snapshot.nodes() {
            prop_assert_eq!(&node.requested, &crate::Resources::default());
        }
    }
}
