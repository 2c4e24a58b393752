//! Rules about what nodes have and pods ask for.

use serde_json::{Value, json};

use crate::config::Configuration;
use crate::node::NodeChange;
use crate::plugin::Event;
use crate::testing::{Cluster, node, pod, pod_of};

fn with_args(plugin: &str, args: &Value) -> Configuration {
    Configuration::read(&json!({"apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{"schedulerName": "default-scheduler", "pluginConfig": [{"name": plugin, "args": args}]}]}))
    .unwrap()
}

fn asking(name: &str, requests: &Value) -> crate::PodInfo {
    pod(name, &json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}}))
}

fn having(name: &str, allocatable: &Value) -> k8s_openapi::api::core::v1::Node {
    let mut all = json!({"cpu": "4", "memory": "8Gi", "pods": "110"});
    for (resource, amount) in allocatable.as_object().unwrap() {
        all[resource] = amount.clone();
    }
    node(name, &json!({"status": {"allocatable": all}}))
}

#[test]
fn a_node_takes_a_pod_only_if_everything_is_free() {
    let nodes = [having(
        "a",
        &json!({"ephemeral-storage": "10Gi", "example.com/gpu": "2", "hugepages-2Mi": "8Mi", "pods": "2"}),
    )];
    for (what, requests, expected) in [
        ("nothing", json!({}), None),
        ("all that is left", json!({"cpu": "3", "memory": "7Gi"}), None),
        ("too much CPU", json!({"cpu": "3001m"}), Some("1 Insufficient cpu")),
        ("too much memory", json!({"memory": "7169Mi"}), Some("1 Insufficient memory")),
        ("too much storage", json!({"ephemeral-storage": "11Gi"}), Some("1 Insufficient ephemeral-storage")),
        ("devices left", json!({"example.com/gpu": "1"}), None),
        ("too many devices", json!({"example.com/gpu": "2"}), Some("1 Insufficient example.com/gpu")),
        ("devices the node does not have", json!({"example.com/tpu": "1"}), Some("1 Insufficient example.com/tpu")),
        ("huge pages", json!({"hugepages-2Mi": "10Mi"}), Some("1 Insufficient hugepages-2Mi")),
    ] {
        let mut cluster = Cluster::of(&nodes);
        cluster.place(&asking("other", &json!({"cpu": "1", "memory": "1Gi", "example.com/gpu": "1"})), "a");
        let pod = asking("p", &requests);
        match expected {
            None => assert_eq!(cluster.nodes_for(&pod), ["a"], "{what}"),
            Some(reason) => assert!(cluster.refusal(&pod).contains(reason), "{what}"),
        }
        cluster.place(&asking("second", &json!({})), "a");
        assert!(cluster.refusal(&asking("third", &json!({}))).contains("1 Too many pods"), "{what}");
    }
}

#[test]
fn ignored_resources_are_somebody_elses_business() {
    let configuration = with_args(
        "NodeResourcesFit",
        &json!({"ignoredResources": ["example.com/gpu"], "ignoredResourceGroups": ["other.com"]}),
    );
    let mut cluster = Cluster::with(&configuration, &[having("a", &json!({}))]);
    assert_eq!(cluster.nodes_for(&asking("p", &json!({"example.com/gpu": "1", "other.com/x": "1"}))), ["a"]);
    assert!(cluster.nodes_for(&asking("q", &json!({"example.com/tpu": "1"}))).is_empty());
}

#[test]
fn the_strategy_says_whether_emptier_or_fuller_nodes_are_better() {
    let nodes =
        [having("a", &json!({"cpu": "4", "memory": "10Gi"})), having("b", &json!({"cpu": "6", "memory": "10Gi"}))];
    let pod = asking("p", &json!({"cpu": "3", "memory": "5Gi"}));
    let ratio = json!({"scoringStrategy": {"type": "RequestedToCapacityRatio", "resources": [{"name": "cpu"}],
        "requestedToCapacityRatio": {"shape": [{"utilization": 0, "score": 0}, {"utilization": 100, "score": 10}]}}});
    for (what, args, expected) in [
        ("least: (25 + 50) / 2 and (50 + 50) / 2", json!({}), [37, 50]),
        ("most: (75 + 50) / 2 and (50 + 50) / 2", json!({"scoringStrategy": {"type": "MostAllocated"}}), [62, 50]),
        (
            "weights: (25 * 3 + 50) / 4 and 50",
            json!({"scoringStrategy": {"type": "LeastAllocated",
                "resources": [{"name": "cpu", "weight": 3}, {"name": "memory", "weight": 1}]}}),
            [31, 50],
        ),
        ("a curve over CPU", ratio, [75, 50]),
    ] {
        let mut cluster = Cluster::with(&with_args("NodeResourcesFit", &args), &nodes);
        assert_eq!(cluster.scores("NodeResourcesFit", &pod), expected, "{what}");
    }
}

#[test]
fn pods_that_ask_for_nothing_are_spread_by_what_they_will_use() {
    let mut cluster = Cluster::of(&[having("a", &json!({})), having("b", &json!({}))]);
    for at in 0..4 {
        cluster.place(&asking(&format!("p{at}"), &json!({})), "a");
    }
    let scores = cluster.scores("NodeResourcesFit", &asking("p", &json!({})));
    assert!(scores[0] < scores[1], "{scores:?}");
}

#[test]
fn evenly_used_nodes_are_better() {
    let nodes =
        [having("a", &json!({"cpu": "10", "memory": "20Gi"})), having("b", &json!({"cpu": "10", "memory": "50Gi"}))];
    let pod = asking("p", &json!({"cpu": "3", "memory": "5Gi"}));
    // cpu 30 % and memory 25 %: 100 - 2.5; cpu 30 % and memory 10 %: 100 - 10
    assert_eq!(Cluster::of(&nodes).scores("NodeResourcesBalancedAllocation", &pod), [97, 90]);
    let best_effort = asking("q", &json!({}));
    assert_eq!(Cluster::of(&nodes).scores("NodeResourcesBalancedAllocation", &best_effort), [0, 0]);
    let three = with_args(
        "NodeResourcesBalancedAllocation",
        &json!({"resources": [
        {"name": "cpu", "weight": 1}, {"name": "memory", "weight": 1}, {"name": "example.com/gpu", "weight": 1}]}),
    );
    let nodes = [having("a", &json!({"cpu": "10", "memory": "20Gi", "example.com/gpu": "10"}))];
    let pod = asking("p", &json!({"cpu": "3", "memory": "5Gi", "example.com/gpu": "8"}));
    // 30, 25 and 80 %: a deviation of 0.248
    assert_eq!(Cluster::with(&three, &nodes).scores("NodeResourcesBalancedAllocation", &pod), [75]);
}

#[test]
fn room_on_another_node_or_for_other_resources_wakes_nobody() {
    let mut cluster = Cluster::of(&[having("a", &json!({"cpu": "1"})), having("b", &json!({"cpu": "1"}))]);
    cluster.place(&pod_of("large", "900m", &json!({})), "a");
    cluster.place(&pod_of("small", "300m", &json!({})), "b");
    cluster.place(&pod_of("other", "300m", &json!({})), "b");
    let waiting = pod_of("p", "800m", &json!({}));
    let gone = |uid: &'static str| {
        move |snapshot: &mut crate::Snapshot| {
            let shape = snapshot.placed_shape(uid).unwrap();
            let slot = snapshot.remove_pod(uid).and_then(|name| snapshot.node(&name).map(|node| node.slot));
            Event::PodGone { shape, slot }
        }
    };
    assert!(!cluster.helps(&waiting, gone("small")), "300m are not enough");
    assert!(cluster.helps(&waiting, gone("large")));
    let change = NodeChange { allocatable: true, ..NodeChange::default() };
    let huge = pod_of("q", "2", &json!({}));
    assert!(!cluster.helps(&huge, |_| Event::Node { slot: 0, change }), "even empty the node is too small");
    assert!(cluster.helps(&huge, |snapshot| {
        snapshot.set_node(&having("a", &json!({"cpu": "3"})));
        Event::Node { slot: 0, change }
    }));
}
