use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::testing::{Cluster, node, pod, pod_of, pod_with};

#[test]
fn refusals_read_as_upstreams() {
    let taint = json!({"spec": {"taints": [{"key": "dedicated", "value": "db", "effect": "NoSchedule"}]}});
    let small = json!({"status": {"allocatable": {"cpu": "1"}}});
    let mut cluster = Cluster::of(&[node("a", &small), node("b", &taint), node("c", &taint)]);
    assert_eq!(
        cluster.refusal(&pod_of("p", "2", &json!({}))),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) had untolerated taint(s). \
         preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
    assert_eq!(Cluster::of(&[]).refusal(&pod("p", &json!({}))), "no nodes available to schedule pods");

    let mut full = Cluster::of(&[node("a", &small)]);
    full.place(&pod_of("other", "900m", &json!({})), "a");
    assert_eq!(
        full.refusal(&pod_of("p", "200m", &json!({}))),
        "0/1 nodes are available: 1 Insufficient cpu. \
         preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    );
    assert_eq!(
        full.refusal(&pod_of("p", "200m", &json!({"spec": {"preemptionPolicy": "Never"}}))),
        "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
    );
    assert_eq!(
        full.refusal(&pod_of("p", "200m", &json!({"spec": {"priority": 10}}))),
        "0/1 nodes are available: 1 Insufficient cpu.",
        "who makes room says nothing more"
    );
    let several = json!({"spec": {"containers": [{"name": "c", "resources": {
        "requests": {"cpu": "8", "memory": "64Gi", "example.com/gpu": "1"}}}]}});
    assert_eq!(
        full.refusal(&pod("p", &several)),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, 1 Insufficient memory. \
         preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    );
}

#[test]
fn what_no_node_can_change_is_said_once() {
    let mut cluster = Cluster::of(&[node("a", &json!({})), node("b", &json!({}))]);
    let volumes = json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}});
    assert_eq!(
        cluster.refusal(&pod("p", &volumes)),
        "0/2 nodes are available: persistentvolumeclaim \"data\" not found. \
         preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn pods_of_one_service_are_spread() {
    let nodes: Vec<_> = ["a", "b", "c"].iter().map(|name| node(name, &json!({}))).collect();
    let mut cluster = Cluster::of(&nodes);
    let labels = json!({"app": "web"});
    cluster.snapshot.workloads.set_service("default", "web", serde_json::from_value(labels.clone()).unwrap());
    for at in 0..9 {
        let pod = pod_with(&format!("p{at}"), &labels, &json!({}));
        let name = cluster.node_for(&pod);
        cluster.place(&pod, &name);
    }
    for node in cluster.snapshot.nodes() {
        assert_eq!(node.pod_count(), 3, "{}", node.name);
    }
}

#[test]
fn a_node_that_vanishes_and_returns_still_counts_its_pods() {
    let small = node("a", &json!({"status": {"allocatable": {"cpu": "1"}}}));
    let mut cluster = Cluster::of(std::slice::from_ref(&small));
    cluster.place(&pod_of("one", "900m", &json!({})), "a");
    cluster.snapshot.remove_node("a");
    assert!(cluster.snapshot.node("a").is_none());
    cluster.snapshot.set_node(&small);
    assert!(cluster.refusal(&pod_of("two", "200m", &json!({}))).contains("Insufficient cpu"));
    cluster.snapshot.remove_pod("one");
    cluster.snapshot.remove_node("a");
    assert!(cluster.snapshot.nodes().iter().all(|node| node.name.is_empty()), "nothing is left of it");
}

#[test]
fn room_made_for_a_pod_is_kept_from_pods_of_lower_priority() {
    let mut cluster = Cluster::of(&[node("a", &json!({"status": {"allocatable": {"cpu": "1"}}}))]);
    let urgent = pod_of("urgent", "800m", &json!({"spec": {"priority": 10}}));
    cluster.snapshot.nominate(&urgent, "a");
    assert!(cluster.nodes_for(&pod_of("lower", "500m", &json!({}))).is_empty());
    assert_eq!(cluster.nodes_for(&pod_of("small", "200m", &json!({}))), ["a"]);
    let higher = pod_of("higher", "500m", &json!({"spec": {"priority": 20}}));
    assert_eq!(cluster.nodes_for(&higher), ["a"], "what is more important does not wait");
    assert_eq!(cluster.nodes_for(&urgent), ["a"]);
    assert_eq!(cluster.snapshot.node("a").unwrap().requested, crate::Resources::default(), "trials leave no trace");
}

#[test]
fn large_clusters_are_searched_in_part() {
    for (nodes, percent, expected) in [
        (50, 0, 50),
        (100, 0, 100),
        (200, 0, 100),
        (1000, 0, 420),
        (5000, 0, 500),
        (6000, 0, 300),
        (6000, 100, 6000),
        (2000, 10, 200),
        (500, 10, 100),
    ] {
        assert_eq!(nodes_to_find(nodes, percent), expected, "{percent} % of {nodes}");
    }
}

#[test]
fn an_unchanged_refusal_is_not_worked_out_again() {
    let mut cluster = Cluster::of(&[node("a", &json!({"status": {"allocatable": {"cpu": "1"}}}))]);
    let first = cluster.decide(&pod_of("p", "2", &json!({})));
    assert_eq!(cluster.decide(&pod_of("q", "2", &json!({}))), first);
    cluster.snapshot.set_node(&node("a", &json!({"status": {"allocatable": {"cpu": "2"}}})));
    assert_eq!(cluster.node_for(&pod_of("r", "2", &json!({}))), "a");
}

/// Pods of a few kinds, each with rules that depend on others.
fn kind(at: usize, kind: u8, cpu: i64, priority: i32) -> PodInfo {
    let name = format!("p{at}");
    let app = format!("app-{}", kind % 3);
    let selector = json!({"matchLabels": {"app": app}});
    let spec = match kind {
        0 => json!({}),
        1 => json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}]}}}),
        2 => json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]}),
        3 => json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": selector, "topologyKey": "zone"}]}}}),
        _ => json!({"affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 10, "podAffinityTerm": {"labelSelector": selector, "topologyKey": "zone"}}]}}}),
    };
    let extra = json!({"metadata": {"labels": {"app": app}}, "spec": {"priority": priority}});
    let mut base = extra;
    for (key, value) in spec.as_object().unwrap() {
        base["spec"][key] = value.clone();
    }
    pod_of(&name, &format!("{cpu}m"), &base)
}

/// The hard rules of a pod on its node, looked up the slow way.
fn keeps_its_rules(cluster: &Cluster, placed: &[(PodInfo, String)], new: &PodInfo, name: &str, kind: u8) {
    let zone = |name: &str| cluster.snapshot.node(name).unwrap().labels.get("zone").cloned();
    let alike = |other: &PodInfo| other.shape.labels == new.shape.labels;
    match kind {
        1 => assert!(!placed.iter().any(|(other, node)| node == name && alike(other)), "anti-affinity"),
        2 => {
            let zones: std::collections::BTreeSet<_> =
                cluster.snapshot.nodes().iter().map(|node| node.labels["zone"].clone()).collect();
            let count = |at: &str| placed.iter().filter(|(p, n)| alike(p) && zone(n).as_deref() == Some(at)).count();
            let least = zones.iter().map(|zone| count(zone)).min().unwrap();
            assert!(count(&zone(name).unwrap()) + 1 - least <= 1, "spread");
        }
        3 => {
            let beside = placed.iter().any(|(other, node)| alike(other) && zone(node) == zone(name));
            assert!(beside || !placed.iter().any(|(other, _)| alike(other)), "affinity");
        }
        _ => {}
    }
    let forbids = |other: &PodInfo| !other.shape.affinities.forbidden.is_empty() && alike(other);
    assert!(!placed.iter().any(|(other, node)| node == name && forbids(other)), "anti-affinity of placed pods");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn placements_break_no_hard_rule_exceed_no_node_and_are_deterministic(
        cpus in proptest::collection::vec(1i64..8, 1..6),
        pods in proptest::collection::vec((0u8..5, 0i64..2000, 0i32..3, any::<bool>()), 1..40),
        seed in any::<u64>(),
    ) {
        let nodes: Vec<_> = cpus.iter().enumerate().map(|(at, cpu)| node(&format!("n{at}"), &json!({
            "metadata": {"labels": {"zone": format!("z{}", at % 2)}},
            "status": {"allocatable": {"cpu": cpu.to_string()}}}))).collect();
        let mut cluster = Cluster::of(&nodes);
        let mut twin = Cluster::of(&nodes);
        let mut placed: Vec<(PodInfo, String)> = Vec::new();
        for (at, (what, cpu, priority, leave)) in pods.iter().enumerate() {
            let pod = kind(at, *what, *cpu, *priority);
            let choice = cluster.planner.decide(&mut cluster.snapshot, &pod, seed);
            prop_assert_eq!(&choice, &twin.planner.decide(&mut twin.snapshot, &pod, seed));
            let fresh = Planner::new(&Configuration::default()).decide(&mut twin.snapshot.clone(), &pod, seed);
            prop_assert_eq!(&choice, &fresh, "what was kept decides as what was found out anew");
            if let Placement::Node { name, .. } = choice {
                keeps_its_rules(&cluster, &placed, &pod, &name, *what);
                cluster.place(&pod, &name);
                twin.place(&pod, &name);
                placed.push((pod, name));
            }
            if *leave && let Some((pod, _)) = placed.pop() {
                cluster.snapshot.remove_pod(&pod.uid);
                twin.snapshot.remove_pod(&pod.uid);
            }
            for node in cluster.snapshot.nodes() {
                prop_assert!(node.requested.cpu_milli <= node.allocatable.cpu_milli);
                prop_assert!(node.requested.pods <= node.allocatable.pods);
            }
        }
        for (pod, _) in placed {
            cluster.snapshot.remove_pod(&pod.uid);
        }
        for node in cluster.snapshot.nodes() {
            prop_assert_eq!(&node.requested, &crate::Resources::default());
        }
    }
}
