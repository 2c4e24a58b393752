//! Rules about the node itself: names, labels, taints, ports, images.

use serde_json::{Value, json};

use crate::config::Configuration;
use crate::node::NodeChange;
use crate::plugin::Event;
use crate::testing::{Cluster, labelled, node, pod, pod_with};

fn affinity(terms: &Value) -> Value {
    json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
}

#[test]
fn a_pod_goes_where_its_selector_and_affinity_say() {
    let nodes = [
        labelled("a", &json!({"zone": "east", "cores": "4"})),
        labelled("b", &json!({"zone": "west", "cores": "16"})),
        labelled("c", &json!({"zone": "west", "disk": "ssd"})),
    ];
    let expression = |key: &str, operator: &str, values: Value| {
        let mut expression = json!({"key": key, "operator": operator});
        if !values.is_null() {
            expression["values"] = values;
        }
        json!({"matchExpressions": [expression]})
    };
    let named = |name: &str| json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
    for (what, spec, expected) in [
        ("no wish", json!({}), vec!["a", "b", "c"]),
        ("selector", json!({"nodeSelector": {"zone": "west"}}), vec!["b", "c"]),
        ("selector nobody matches", json!({"nodeSelector": {"zone": "north"}}), vec![]),
        ("selector of a missing label", json!({"nodeSelector": {"gpu": "yes"}}), vec![]),
        ("In", affinity(&json!([expression("zone", "In", json!(["east", "north"]))])), vec!["a"]),
        (
            "NotIn holds where the label is absent",
            affinity(&json!([expression("disk", "NotIn", json!(["ssd"]))])),
            vec!["a", "b"],
        ),
        ("Exists", affinity(&json!([expression("cores", "Exists", Value::Null)])), vec!["a", "b"]),
        ("DoesNotExist", affinity(&json!([expression("cores", "DoesNotExist", Value::Null)])), vec!["c"]),
        ("Gt", affinity(&json!([expression("cores", "Gt", json!(["8"]))])), vec!["b"]),
        ("Lt", affinity(&json!([expression("cores", "Lt", json!(["8"]))])), vec!["a"]),
        (
            "terms are alternatives",
            affinity(&json!([expression("zone", "In", json!(["east"])), expression("disk", "Exists", Value::Null)])),
            vec!["a", "c"],
        ),
        ("an empty term matches nothing", affinity(&json!([{}])), vec![]),
        ("a node by name", affinity(&json!([named("b")])), vec!["b"]),
        ("a node that is not there", affinity(&json!([named("z")])), vec![]),
        ("names and other terms", affinity(&json!([named("z"), expression("zone", "In", json!(["east"]))])), vec!["a"]),
        (
            "both selector and affinity",
            {
                let mut spec = affinity(&json!([expression("zone", "In", json!(["west"]))]));
                spec["nodeSelector"] = json!({"disk": "ssd"});
                spec
            },
            vec!["c"],
        ),
    ] {
        assert_eq!(Cluster::of(&nodes).nodes_for(&pod_with("p", &json!({}), &spec)), expected, "{what}");
    }
}

#[test]
fn preferred_nodes_score_by_the_weights_they_match() {
    let nodes =
        [labelled("a", &json!({"zone": "east"})), labelled("b", &json!({"disk": "ssd"})), labelled("c", &json!({}))];
    let term = |weight: i32, key: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}});
    let spec = |terms: Value| json!({"affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": terms}}});
    for (terms, expected) in [
        (json!([term(2, "zone")]), vec![100, 0, 0]),
        (json!([term(2, "zone"), term(8, "disk")]), vec![25, 100, 0]),
        (json!([term(2, "gpu")]), vec![0, 0, 0]),
    ] {
        let pod = pod_with("p", &json!({}), &spec(terms));
        assert_eq!(Cluster::of(&nodes).scores("NodeAffinity", &pod), expected);
    }
}

#[test]
fn a_profile_can_add_to_the_affinity_of_every_pod() {
    let configuration = Configuration::read(&json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{"schedulerName": "default-scheduler", "pluginConfig": [{"name": "NodeAffinity", "args": {
            "addedAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["east"]}]}]}}}}]}]}))
    .unwrap();
    let nodes = [labelled("a", &json!({"zone": "east"})), labelled("b", &json!({"zone": "west"}))];
    let mut cluster = Cluster::with(&configuration, &nodes);
    assert_eq!(cluster.nodes_for(&pod("p", &json!({}))), ["a"]);
    let mut west = Cluster::with(&configuration, &nodes[1..]);
    assert!(west.refusal(&pod("p", &json!({}))).contains("1 node(s) didn't match scheduler-enforced node affinity"));
}

#[test]
fn taints_keep_pods_away_unless_tolerated() {
    let tainted = |effect: &str| json!({"spec": {"taints": [{"key": "dedicated", "value": "db", "effect": effect}]}});
    let cordoned = json!({"spec": {"unschedulable": true}});
    let toleration = |toleration: Value| json!({"tolerations": [toleration]});
    for (what, extra, spec, takes) in [
        ("NoSchedule", tainted("NoSchedule"), json!({}), false),
        ("NoExecute", tainted("NoExecute"), json!({}), false),
        ("PreferNoSchedule", tainted("PreferNoSchedule"), json!({}), true),
        ("equal", tainted("NoSchedule"), toleration(json!({"key": "dedicated", "value": "db"})), true),
        ("another value", tainted("NoSchedule"), toleration(json!({"key": "dedicated", "value": "web"})), false),
        ("exists", tainted("NoSchedule"), toleration(json!({"key": "dedicated", "operator": "Exists"})), true),
        (
            "another effect",
            tainted("NoSchedule"),
            toleration(json!({"key": "dedicated", "operator": "Exists", "effect": "NoExecute"})),
            false,
        ),
        ("everything", tainted("NoSchedule"), toleration(json!({"operator": "Exists"})), true),
        ("cordoned", cordoned.clone(), json!({}), false),
        (
            "cordoned and tolerated",
            cordoned,
            toleration(json!({"key": "node.kubernetes.io/unschedulable", "operator": "Exists"})),
            true,
        ),
    ] {
        let taken = !Cluster::of(&[node("a", &extra)]).nodes_for(&pod_with("p", &json!({}), &spec)).is_empty();
        assert_eq!(taken, takes, "{what}");
    }
}

#[test]
fn nodes_with_fewer_untolerated_taints_score_better() {
    let taints = |count: usize| {
        let taint = |at| json!({"key": format!("k{at}"), "value": "v", "effect": "PreferNoSchedule"});
        json!({"spec": {"taints": (0..count).map(taint).collect::<Vec<_>>()}})
    };
    let nodes = [node("a", &taints(0)), node("b", &taints(1)), node("c", &taints(2))];
    let tolerant = json!({"tolerations": [{"key": "k0", "value": "v", "effect": "PreferNoSchedule"}]});
    assert_eq!(Cluster::of(&nodes).scores("TaintToleration", &pod("p", &json!({}))), [100, 50, 0]);
    assert_eq!(Cluster::of(&nodes).scores("TaintToleration", &pod_with("p", &json!({}), &tolerant)), [100, 100, 0]);
    assert_eq!(Cluster::of(&nodes[..1]).scores("TaintToleration", &pod("p", &json!({}))), [100]);
}

#[test]
fn host_ports_conflict_by_address_protocol_and_number() {
    let with_port = |name: &str, ip: &str, protocol: &str, port: i32| {
        let ports = json!([{"containerPort": 80, "hostPort": port, "hostIP": ip, "protocol": protocol}]);
        pod(name, &json!({"spec": {"containers": [{"name": "c", "ports": ports}]}}))
    };
    for (ip, protocol, port, takes) in [
        ("127.0.0.1", "TCP", 8080, false),
        ("127.0.0.2", "TCP", 8080, true),
        ("0.0.0.0", "TCP", 8080, false),
        ("", "TCP", 8080, false),
        ("", "UDP", 8080, true),
        ("", "TCP", 8081, true),
    ] {
        let mut cluster = Cluster::of(&[node("a", &json!({}))]);
        cluster.place(&with_port("first", "127.0.0.1", "TCP", 8080), "a");
        let second = with_port("second", ip, protocol, port);
        assert_eq!(!cluster.nodes_for(&second).is_empty(), takes, "{ip} {protocol} {port}");
        if !takes {
            let refusal = cluster.refusal(&second);
            assert!(refusal.contains("1 node(s) didn't have free ports for the requested pod ports"), "{refusal}");
            assert!(cluster.helps(&second, |snapshot| {
                let shape = snapshot.placed_shape("first").unwrap();
                snapshot.remove_pod("first");
                Event::PodGone { shape, slot: Some(0) }
            }));
        }
    }
}

#[test]
fn nodes_that_have_the_images_score_better() {
    let images = |list: &[(&str, i64)]| {
        let image = |(name, bytes): &(&str, i64)| json!({"names": [name], "sizeBytes": bytes});
        json!({"status": {"images": list.iter().map(image).collect::<Vec<_>>()}})
    };
    let mib = 1i64 << 20;
    let nodes = [
        node("a", &images(&[("gcr.io/40:latest", 40 * mib), ("gcr.io/300:latest", 300 * mib)])),
        node("b", &images(&[("gcr.io/250:latest", 250 * mib)])),
    ];
    let uses = |images: &[&str]| {
        let container = |(at, image): (usize, &&str)| json!({"name": format!("c{at}"), "image": image});
        pod("p", &json!({"spec": {"containers": images.iter().enumerate().map(container).collect::<Vec<_>>()}}))
    };
    // Sizes are halved, because one of two nodes has each image; then scaled between 23 MiB and 1000 MiB per container.
    let score = |bytes: i64, containers: i64| {
        let (least, most) = (23 * mib, 1000 * mib * containers);
        100 * (bytes.clamp(least, most) - least) / (most - least)
    };
    let cluster = || Cluster::of(&nodes);
    let expected = [score(20 * mib, 2), score(125 * mib, 2)];
    assert_eq!(cluster().scores("ImageLocality", &uses(&["gcr.io/40", "gcr.io/250"])), expected);
    let expected = [score(170 * mib, 2), 0];
    assert_eq!(cluster().scores("ImageLocality", &uses(&["gcr.io/40", "gcr.io/300:latest"])), expected);
    assert_eq!(cluster().scores("ImageLocality", &uses(&["gcr.io/other"])), [0, 0]);
}

#[test]
fn only_changes_that_matter_wake_pods() {
    let extra = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
    let mut cluster = Cluster::of(&[node("a", &extra)]);
    let refused = pod("p", &json!({}));
    let taints = NodeChange { taints: true, ..NodeChange::default() };
    let labels = NodeChange { labels: true, ..NodeChange::default() };
    assert!(cluster.helps(&refused, |_| Event::Node { slot: 0, change: taints }));
    assert!(!cluster.helps(&refused, |_| Event::Node { slot: 0, change: labels }));
    let selective =
        pod_with("q", &json!({}), &json!({"nodeSelector": {"zone": "x"}, "tolerations": [{"operator": "Exists"}]}));
    assert!(!cluster.helps(&selective, |_| Event::Node { slot: 0, change: taints }));
    assert!(cluster.helps(&selective, |_| Event::Node { slot: 0, change: labels }));
    assert!(!cluster.helps(&selective, |_| Event::NodeGone));
}
