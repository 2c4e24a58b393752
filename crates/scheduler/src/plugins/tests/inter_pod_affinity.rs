//! Rules about pods beside pods.

use serde_json::{Value, json};

use crate::config::Configuration;
use crate::plugin::Event;
use crate::pod::PodInfo;
use crate::testing::{Cluster, labelled, pod, pod_with};

const HOST: &str = "kubernetes.io/hostname";

/// Two nodes of zone `z1`, one of `z2`.
fn three() -> [k8s_openapi::api::core::v1::Node; 3] {
    [("a", "z1"), ("b", "z1"), ("c", "z2")].map(|(name, zone)| labelled(name, &json!({"zone": zone})))
}

fn term(labels: &Value, key: &str) -> Value {
    json!({"labelSelector": {"matchLabels": labels}, "topologyKey": key})
}

fn required(kind: &str, terms: &Value) -> Value {
    json!({"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": terms}}})
}

fn preferred(kind: &str, weight: i32, term: &Value) -> Value {
    json!({"affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": weight, "podAffinityTerm": term}]}}})
}

fn web(name: &str) -> PodInfo {
    pod_with(name, &json!({"app": "web"}), &json!({}))
}

fn cluster(placed: &[(PodInfo, &str)]) -> Cluster {
    let mut cluster = Cluster::of(&three());
    for (pod, node) in placed {
        cluster.place(pod, node);
    }
    cluster
}

#[test]
fn required_affinity_and_anti_affinity_hold_over_the_topology() {
    let app = json!({"app": "web"});
    let db = json!({"app": "db"});
    for (what, labels, spec, expected) in [
        ("beside it on the node", db.clone(), required("podAffinity", &json!([term(&app, HOST)])), vec!["a"]),
        ("beside it in the zone", db.clone(), required("podAffinity", &json!([term(&app, "zone")])), vec!["a", "b"]),
        ("away on the node", db.clone(), required("podAntiAffinity", &json!([term(&app, HOST)])), vec!["b", "c"]),
        ("away in the zone", db.clone(), required("podAntiAffinity", &json!([term(&app, "zone")])), vec!["c"]),
        ("beside nobody", db.clone(), required("podAffinity", &json!([term(&json!({"app": "none"}), "zone")])), vec![]),
        (
            "the first of its kind",
            json!({"app": "none"}),
            required("podAffinity", &json!([term(&json!({"app": "none"}), "zone")])),
            vec!["a", "b", "c"],
        ),
        (
            "the first of its kind still needs the label",
            json!({"app": "none"}),
            required("podAffinity", &json!([term(&json!({"app": "none"}), "rack")])),
            vec![],
        ),
        (
            "the second of its kind goes to the first",
            app.clone(),
            required("podAffinity", &json!([term(&app, "zone")])),
            vec!["a", "b"],
        ),
        (
            "pods must match all terms",
            db.clone(),
            required("podAffinity", &json!([term(&app, "zone"), term(&json!({"tier": "front"}), "zone")])),
            vec![],
        ),
        (
            "a selector by expression",
            db.clone(),
            required(
                "podAntiAffinity",
                &json!([{"topologyKey": "zone", "labelSelector": {"matchExpressions": [
                {"key": "app", "operator": "In", "values": ["web", "api"]}]}}]),
            ),
            vec!["c"],
        ),
        (
            "no selector means nobody",
            db,
            required("podAntiAffinity", &json!([{"topologyKey": "zone"}])),
            vec!["a", "b", "c"],
        ),
    ] {
        let mut cluster = cluster(&[(web("first"), "a")]);
        assert_eq!(cluster.nodes_for(&pod_with("p", &labels, &spec)), expected, "{what}");
    }
}

#[test]
fn placed_pods_keep_others_away() {
    let shy = |key: &str| {
        pod_with(
            "shy",
            &json!({"app": "db"}),
            &required("podAntiAffinity", &json!([term(&json!({"app": "web"}), key)])),
        )
    };
    assert_eq!(cluster(&[(shy(HOST), "a")]).nodes_for(&web("p")), ["b", "c"]);
    assert_eq!(cluster(&[(shy("zone"), "a")]).nodes_for(&web("p")), ["c"]);
    assert_eq!(cluster(&[(shy("zone"), "a")]).nodes_for(&pod("p", &json!({}))), ["a", "b", "c"]);
    let mut both = cluster(&[(shy("zone"), "a")]);
    both.place(
        &pod_with("other", &json!({}), &required("podAntiAffinity", &json!([term(&json!({"app": "web"}), HOST)]))),
        "c",
    );
    assert_eq!(
        both.refusal(&web("p")),
        "0/3 nodes are available: 3 node(s) didn't satisfy existing pods anti-affinity rules. \
         preemption: 0/3 nodes are available: 3 No preemption victims found for incoming pod."
    );
    both.snapshot.remove_pod("shy");
    assert_eq!(both.nodes_for(&web("p")), ["a", "b"], "counts follow the pods");
}

#[test]
fn refusals_name_the_rule() {
    let mut all = Cluster::of(&three()[..1]);
    all.place(&web("first"), "a");
    let away = required("podAntiAffinity", &json!([term(&json!({"app": "web"}), "zone")]));
    let beside = required("podAffinity", &json!([term(&json!({"app": "none"}), "zone")]));
    let refusal = all.refusal(&pod_with("p", &json!({}), &away));
    assert!(refusal.contains("1 node(s) didn't match pod anti-affinity rules"), "{refusal}");
    let refusal = all.refusal(&pod_with("p", &json!({}), &beside));
    assert!(refusal.contains("1 node(s) didn't match pod affinity rules"), "{refusal}");
}

#[test]
fn namespaces_are_chosen_by_name_or_by_labels() {
    let foreign = pod("first", &json!({"metadata": {"labels": {"app": "web"}, "namespace": "other"}}));
    let away = |more: Value| {
        let mut term = term(&json!({"app": "web"}), "zone");
        for (key, value) in more.as_object().unwrap() {
            term[key] = value.clone();
        }
        pod_with("p", &json!({}), &required("podAntiAffinity", &json!([term])))
    };
    for (what, more, expected) in [
        ("its own by default", json!({}), vec!["a", "b", "c"]),
        ("by name", json!({"namespaces": ["other"]}), vec!["c"]),
        ("by labels", json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}), vec!["c"]),
        ("by other labels", json!({"namespaceSelector": {"matchLabels": {"team": "y"}}}), vec!["a", "b", "c"]),
        ("all", json!({"namespaceSelector": {}}), vec!["c"]),
    ] {
        let mut cluster = cluster(&[]);
        cluster.snapshot.set_namespace("other", [("team".to_owned(), "x".to_owned())].into());
        cluster.place(&foreign, "a");
        assert_eq!(cluster.nodes_for(&away(more)), expected, "{what}");
    }
    let mut cluster = cluster(&[(foreign, "a")]);
    let by_labels = away(json!({"namespaceSelector": {"matchLabels": {"team": "x"}}}));
    assert_eq!(cluster.nodes_for(&by_labels), ["a", "b", "c"]);
    cluster.snapshot.set_namespace("other", [("team".to_owned(), "x".to_owned())].into());
    assert_eq!(cluster.nodes_for(&by_labels), ["c"], "labels of namespaces are followed");
}

#[test]
fn label_keys_tell_revisions_apart() {
    let revision = |name: &str, hash: &str, field: &str| {
        let mut term = term(&json!({"app": "web"}), "zone");
        term[field] = json!(["hash"]);
        pod_with(name, &json!({"app": "web", "hash": hash}), &required("podAntiAffinity", &json!([term])))
    };
    let mut cluster = cluster(&[(revision("old", "1", "matchLabelKeys"), "a")]);
    assert_eq!(cluster.nodes_for(&revision("new", "2", "matchLabelKeys")), ["a", "b", "c"]);
    assert_eq!(cluster.nodes_for(&revision("same", "1", "matchLabelKeys")), ["c"]);
    assert_eq!(cluster.nodes_for(&revision("new", "2", "mismatchLabelKeys")), ["c"]);
}

#[test]
fn preferences_of_both_sides_score() {
    let app = json!({"app": "web"});
    let likes = |name: &str, kind: &str, weight: i32| {
        pod_with(name, &json!({"app": "db"}), &preferred(kind, weight, &term(&app, "zone")))
    };
    for (what, placed, pod, expected) in [
        ("nobody wants anything", vec![], web("p"), vec![0, 0, 0]),
        ("the pod wants to be beside", vec![(web("w"), "a")], likes("p", "podAffinity", 5), vec![100, 100, 0]),
        ("the pod wants to be away", vec![(web("w"), "a")], likes("p", "podAntiAffinity", 5), vec![0, 0, 100]),
        ("a placed pod wants it beside", vec![(likes("d", "podAffinity", 5), "c")], web("p"), vec![0, 0, 100]),
        ("a placed pod wants it away", vec![(likes("d", "podAntiAffinity", 5), "c")], web("p"), vec![100, 100, 0]),
        (
            "more pods count more",
            vec![(web("v"), "a"), (web("w"), "b"), (web("x"), "c")],
            likes("p", "podAffinity", 5),
            vec![100, 100, 0],
        ),
        (
            "a placed pod that needs it",
            vec![
                (web("w"), "c"),
                (pod_with("d", &json!({}), &required("podAffinity", &json!([term(&app, "zone")]))), "c"),
            ],
            web("p"),
            vec![0, 0, 100],
        ),
    ] {
        assert_eq!(cluster(&placed).scores("InterPodAffinity", &pod), expected, "{what}");
    }
}

#[test]
fn preferences_of_placed_pods_can_be_ignored() {
    let configuration = Configuration::read(&json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "profiles": [{"schedulerName": "default-scheduler", "pluginConfig": [{"name": "InterPodAffinity",
            "args": {"ignorePreferredTermsOfExistingPods": true, "hardPodAffinityWeight": 0}}]}]}))
    .unwrap();
    let mut cluster = Cluster::with(&configuration, &three());
    let likes = pod_with("d", &json!({}), &preferred("podAffinity", 5, &term(&json!({"app": "web"}), "zone")));
    cluster.place(&likes, "c");
    assert_eq!(cluster.scores("InterPodAffinity", &web("p")), [0, 0, 0]);
}

#[test]
fn only_pods_the_rules_are_about_wake_pods() {
    let mut cluster = Cluster::of(&three()[..1]);
    let beside = pod_with("p", &json!({}), &required("podAffinity", &json!([term(&json!({"app": "web"}), "zone")])));
    assert!(cluster.helps(&beside, |_| Event::PodPlaced { shape: web("w").shape }));
    assert!(!cluster.helps(&beside, |_| Event::PodPlaced { shape: pod("w", &json!({})).shape }));
    cluster.place(&web("first"), "a");
    let away = pod_with("q", &json!({}), &required("podAntiAffinity", &json!([term(&json!({"app": "web"}), "zone")])));
    assert!(cluster.helps(&away, |_| Event::PodGone { shape: web("w").shape, slot: None }));
    assert!(!cluster.helps(&away, |_| Event::PodGone { shape: pod("w", &json!({})).shape, slot: None }));
    assert!(!cluster.helps(&away, |_| Event::PodPlaced { shape: web("w").shape }));
}
