//! Rules about topology spread constraints.

use serde_json::{Value, json};

use crate::config::Configuration;
use crate::node::NodeChange;
use crate::plugin::Event;
use crate::pod::PodInfo;
use crate::testing::{Cluster, labelled, node, pod_with};

/// Two zones of two nodes each.
fn four() -> [k8s_openapi::api::core::v1::Node; 4] {
    ["a", "b", "x", "y"].map(|name| labelled(name, &json!({"zone": if name < "c" { "zone1" } else { "zone2" }})))
}

fn constraint(max_skew: i32, key: &str, when: &str) -> Value {
    json!({"maxSkew": max_skew, "topologyKey": key, "whenUnsatisfiable": when,
        "labelSelector": {"matchLabels": {"foo": ""}}})
}

fn hard(max_skew: i32, key: &str) -> Value {
    constraint(max_skew, key, "DoNotSchedule")
}

fn spread(constraints: &Value) -> PodInfo {
    pod_with("p", &json!({"foo": ""}), &json!({"topologySpreadConstraints": constraints}))
}

/// A cluster in which nodes have so many pods that count.
fn cluster(nodes: &[k8s_openapi::api::core::v1::Node], pods: &[(&str, usize)]) -> Cluster {
    let mut cluster = Cluster::of(nodes);
    for (node, count) in pods {
        for at in 0..*count {
            cluster.place(&pod_with(&format!("{node}-{at}"), &json!({"foo": ""}), &json!({})), node);
        }
    }
    cluster
}

#[test]
fn hard_constraints_bound_the_skew() {
    let with = |mut constraint: Value, more: Value| {
        for (key, value) in more.as_object().unwrap() {
            constraint[key] = value.clone();
        }
        json!([constraint])
    };
    for (what, pods, constraints, expected) in [
        ("an empty cluster", vec![], json!([hard(1, "zone")]), vec!["a", "b", "x", "y"]),
        ("zones with 2 and 1", vec![("a", 2), ("x", 1)], json!([hard(1, "zone")]), vec!["x", "y"]),
        ("zones with 1 and 1", vec![("a", 1), ("x", 1)], json!([hard(1, "zone")]), vec!["a", "b", "x", "y"]),
        ("a larger skew", vec![("a", 2), ("x", 1)], json!([hard(2, "zone")]), vec!["a", "b", "x", "y"]),
        ("nodes", vec![("a", 2), ("b", 1), ("x", 1)], json!([hard(1, "kubernetes.io/hostname")]), vec!["y"]),
        (
            "zones and nodes",
            vec![("a", 1), ("x", 1)],
            json!([hard(1, "zone"), hard(1, "kubernetes.io/hostname")]),
            vec!["b", "y"],
        ),
        (
            "zones and nodes that exclude each other",
            vec![("a", 2), ("b", 1), ("x", 1), ("y", 1)],
            json!([hard(1, "zone"), hard(1, "kubernetes.io/hostname")]),
            vec!["x", "y"],
        ),
        ("a label no node has", vec![], json!([hard(1, "rack")]), vec![]),
        (
            "soft constraints forbid nothing",
            vec![("a", 9)],
            json!([constraint(1, "zone", "ScheduleAnyway")]),
            vec!["a", "b", "x", "y"],
        ),
        (
            "enough domains",
            vec![("a", 1), ("x", 1)],
            with(hard(1, "zone"), json!({"minDomains": 2})),
            vec!["a", "b", "x", "y"],
        ),
        ("too few domains", vec![("a", 1), ("x", 1)], with(hard(1, "zone"), json!({"minDomains": 3})), vec![]),
        (
            "an empty selector counts nothing",
            vec![("a", 5)],
            with(hard(1, "zone"), json!({"labelSelector": {}})),
            vec!["a", "b", "x", "y"],
        ),
    ] {
        assert_eq!(cluster(&four(), &pods).nodes_for(&spread(&constraints)), expected, "{what}");
    }
}

#[test]
fn refusals_tell_a_missing_label_from_a_skew() {
    let pod = spread(&json!([hard(1, "zone")]));
    let mut skewed = cluster(&four()[..2], &[("a", 2)]);
    skewed.snapshot.set_node(&node("other", &json!({})));
    skewed.snapshot.set_node(&labelled("far", &json!({"zone": "zone2"})));
    skewed.snapshot.set_node(&labelled("far", &json!({"zone": "zone2"})));
    let mut far = labelled("far", &json!({"zone": "zone2"}));
    far.spec.as_mut().unwrap().unschedulable = Some(true);
    skewed.snapshot.set_node(&far);
    assert_eq!(
        skewed.refusal(&pod),
        "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), \
         1 node(s) were unschedulable, 2 node(s) didn't match pod topology spread constraints. \
         preemption: 0/4 nodes are available: 2 No preemption victims found for incoming pod, \
         2 Preemption is not helpful for scheduling."
    );
}

#[test]
fn pods_on_their_way_out_and_of_other_namespaces_do_not_count() {
    let mut cluster = cluster(&four(), &[]);
    let leaving = json!({"metadata": {"labels": {"foo": ""}, "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    cluster.place(&crate::testing::pod("leaving", &leaving), "a");
    let foreign = json!({"metadata": {"labels": {"foo": ""}, "namespace": "other"}});
    cluster.place(&crate::testing::pod("foreign", &foreign), "a");
    assert_eq!(cluster.nodes_for(&spread(&json!([hard(1, "zone")]))), ["a", "b", "x", "y"]);
    cluster.place(&pod_with("staying", &json!({"foo": ""}), &json!({})), "a");
    assert_eq!(cluster.nodes_for(&spread(&json!([hard(1, "zone")]))), ["x", "y"]);
    let leaving = json!({"metadata": {"labels": {"foo": ""}, "deletionTimestamp": "2026-01-01T00:00:00Z"}});
    cluster.place(&crate::testing::pod("staying", &leaving), "a");
    assert_eq!(cluster.nodes_for(&spread(&json!([hard(1, "zone")]))), ["a", "b", "x", "y"]);
}

#[test]
fn policies_say_which_nodes_count() {
    let tainted = |name: &str, zone: &str| {
        node(
            name,
            &json!({"metadata": {"labels": {"zone": zone}},
            "spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}}),
        )
    };
    let nodes = [labelled("a", &json!({"zone": "z1"})), labelled("b", &json!({"zone": "z2"})), tainted("c", "z3")];
    let policy = |policies: Value| {
        let mut constraint = hard(1, "zone");
        for (key, value) in policies.as_object().unwrap() {
            constraint[key] = value.clone();
        }
        json!([constraint])
    };
    let pods = [("a", 1), ("b", 1)];
    for (what, policies, expected) in [
        ("taints are ignored: the third zone is empty", json!({}), vec![]),
        ("taints are honored: the third zone does not count", json!({"nodeTaintsPolicy": "Honor"}), vec!["a", "b"]),
    ] {
        assert_eq!(cluster(&nodes, &pods).nodes_for(&spread(&policy(policies))), expected, "{what}");
    }
    let choosy = |policies: Value| {
        pod_with(
            "p",
            &json!({"foo": ""}),
            &json!({"topologySpreadConstraints": policy(policies),
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z1", "z2"]}]}]}}}}),
        )
    };
    assert_eq!(cluster(&nodes, &pods).nodes_for(&choosy(json!({}))), ["a", "b"], "affinity is honored");
    assert!(cluster(&nodes, &pods).nodes_for(&choosy(json!({"nodeAffinityPolicy": "Ignore"}))).is_empty());
}

#[test]
fn match_label_keys_narrow_what_counts() {
    let revision = |name: &str, hash: &str| {
        let mut constraint = hard(1, "zone");
        constraint["matchLabelKeys"] = json!(["pod-template-hash"]);
        pod_with(
            name,
            &json!({"foo": "", "pod-template-hash": hash}),
            &json!({"topologySpreadConstraints": [constraint]}),
        )
    };
    let mut cluster = cluster(&four(), &[]);
    cluster.place(&revision("old-1", "1"), "a");
    cluster.place(&revision("old-2", "1"), "b");
    assert_eq!(cluster.nodes_for(&revision("new", "2")), ["a", "b", "x", "y"]);
    assert_eq!(cluster.nodes_for(&revision("old-3", "1")), ["x", "y"]);
}

#[test]
fn soft_constraints_score_emptier_domains_better() {
    let soft = |key: &str| constraint(1, key, "ScheduleAnyway");
    for (what, pods, constraints, expected) in [
        ("nobody anywhere", vec![], json!([soft("kubernetes.io/hostname")]), vec![100, 100, 100, 100]),
        ("by node", vec![("a", 2), ("b", 1), ("y", 3)], json!([soft("kubernetes.io/hostname")]), vec![20, 60, 100, 0]),
        ("by zone", vec![("a", 2), ("b", 1), ("x", 1)], json!([soft("zone")]), vec![25, 25, 100, 100]),
    ] {
        assert_eq!(cluster(&four(), &pods).scores("PodTopologySpread", &spread(&constraints)), expected, "{what}");
    }
}

#[test]
fn nodes_without_the_label_score_nothing_under_the_pods_own_constraints() {
    let nodes = [labelled("a", &json!({"zone": "z1"})), labelled("b", &json!({}))];
    let pod = spread(&json!([constraint(1, "zone", "ScheduleAnyway")]));
    assert_eq!(cluster(&nodes, &[]).scores("PodTopologySpread", &pod), [100, 0]);
}

#[test]
fn pods_without_constraints_are_spread_with_their_service_by_default() {
    let mut cluster = cluster(&four(), &[("a", 3)]);
    let plain = pod_with("p", &json!({"foo": ""}), &json!({}));
    assert_eq!(cluster.scores("PodTopologySpread", &plain), [0, 0, 0, 0], "it belongs to nothing");
    let selector = [("foo".to_owned(), String::new())].into();
    cluster.snapshot.workloads.set_service("default", "web", Some(selector));
    let scores = cluster.scores("PodTopologySpread", &plain);
    assert!(
        scores[0] < scores[1] && scores[1] == scores[2],
        "nodes without a zone label count by host name: {scores:?}"
    );
    let configuration = Configuration::read(&json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{"schedulerName": "default-scheduler", "pluginConfig": [{"name": "PodTopologySpread", "args": {
            "defaultingType": "List", "defaultConstraints": [
                {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]}}]}]}))
    .unwrap();
    let mut listed = Cluster::with(&configuration, &four());
    listed.snapshot.workloads.set_service("default", "web", Some([("foo".to_owned(), String::new())].into()));
    listed.place(&pod_with("first", &json!({"foo": ""}), &json!({})), "a");
    assert_eq!(listed.nodes_for(&plain), ["x", "y"]);
}

#[test]
fn pods_that_count_and_labels_of_nodes_wake_pods() {
    let mut cluster = cluster(&four()[..1], &[("a", 1)]);
    let mut far = labelled("x", &json!({"zone": "zone2"}));
    far.spec.as_mut().unwrap().unschedulable = Some(true);
    cluster.snapshot.set_node(&far);
    let waiting = spread(&json!([hard(1, "zone")]));
    let shape = |pod: PodInfo| pod.shape;
    let counted = shape(pod_with("q", &json!({"foo": ""}), &json!({})));
    let other = shape(pod_with("q", &json!({"bar": ""}), &json!({})));
    assert!(cluster.helps(&waiting, |_| Event::PodPlaced { shape: counted.clone() }));
    assert!(!cluster.helps(&waiting, |_| Event::PodPlaced { shape: other.clone() }));
    assert!(cluster.helps(&waiting, |_| Event::PodGone { shape: counted, slot: None }));
    assert!(!cluster.helps(&waiting, |_| Event::PodGone { shape: other, slot: None }));
    assert!(cluster.helps(&waiting, |_| Event::NodeGone));
    let images = NodeChange { images: true, ..NodeChange::default() };
    assert!(!cluster.helps(&waiting, |_| Event::Node { slot: 0, change: images }));
}
